# make report | shrink | compare | test | test-all | lab | store | verify | metrics | bench | formats
#     EXPERIMENT=digits  SET="sparsity=0.5,0.8 seed=0,1"  CORES=2  MODEL=mine.keras  DATA=mine.npz
EXPERIMENT ?= digits
SET ?=
CORES ?= all
NOTEBOOKS ?=
PROFILE ?=
PRUNE ?=
PARTS ?=
SEEDS ?=
PYTHON ?=
MODEL ?=
DATA ?=
TASK ?=
TARGET ?=
DATASET ?=
NAME ?=
TRUST_CODE ?=
CUSTOM_OBJECTS ?=
A ?=
B ?=
export A B EXPERIMENT SET CORES NOTEBOOKS PROFILE PRUNE PARTS SEEDS PYTHON MODEL DATA TASK TARGET DATASET NAME

.PHONY: report shrink compare test test-all lint lab store verify metrics bench bench-accuracy setup formats lock

report: setup
	@.venv/bin/python -m collabopt report --experiment "$$EXPERIMENT" --set "$$SET" --cores "$$CORES" --profile "$$PROFILE" \
	    --notebooks "$$NOTEBOOKS"

# From a trained model and data to the file to deploy.
shrink: setup
	@.venv/bin/python -m collabopt shrink "$$MODEL" "$$DATA" --task "$$TASK" --target "$$TARGET" --dataset "$$DATASET" \
	    --name "$$NAME" --cores "$$CORES" $(if $(filter-out 0,$(TRUST_CODE)),--trust-code) $(foreach place,$(CUSTOM_OBJECTS),--custom-object "$(place)")

# A page that compares two reports: make compare A=digits B="digits/sparsity=0.8"
compare: setup
	@.venv/bin/python -m collabopt compare "$$A" "$$B"

# Without the slow tests of real components. Each kind of them has a fast representative here.
test: lint
	@.venv/bin/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --durations 10 -m "not slow"

test-all: lint
	@.venv/bin/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --durations 10

lint: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/lint-imports --no-logo --no-cache

metrics: setup
	@.venv/bin/python benchmarks/structure.py

lab: setup
	@.venv/bin/jupyter lab --config=lib/jupyter_lab_config.py --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/overview.ipynb

# List the store; PRUNE="experiment=digits unused_days=30" removes unused stages.
store: setup
	@.venv/bin/python -m collabopt store --prune "$$PRUNE"

verify: setup
	@.venv/bin/python -m collabopt verify --experiment "$$EXPERIMENT"

bench: setup
	@.venv/bin/python benchmarks/bench.py $$PARTS

bench-accuracy: setup
	@.venv/bin/python benchmarks/accuracy.py $$PARTS --seeds $$SEEDS

# The whole set-up. It does nothing if the lock file and pyproject.toml are unchanged.
setup:
	@lib/install.sh

# The packages that further formats need: int4, and OpenVINO.
formats: setup
	@.venv/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements-formats.lock

# Resolve the lock files again; needs uv. The second one changes no version of the first. Extras stay, because pip before
# 23.3 refuses those of a pinned package that has a newer version.
COMPILE = uv pip compile --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-annotate --no-header \
    --no-emit-index-url --no-emit-find-links
lock:
	$(COMPILE) pyproject.toml --group dev -o requirements.lock
	$(COMPILE) --group pyproject.toml:formats --constraint requirements.lock -o requirements-formats.lock

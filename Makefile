# make report | test | lab | store | verify | bench    EXPERIMENT=digits  SET="sparsity=0.5,0.8 seed=0,1"  CORES=2
EXPERIMENT ?= digits
SET ?=
CORES ?= all
NOTEBOOKS ?=
PROFILE ?=
PRUNE ?=
PARTS ?=
PYTHON ?=
export EXPERIMENT SET CORES NOTEBOOKS PROFILE PRUNE PARTS PYTHON

.PHONY: report test lab store verify bench bench-accuracy setup lock

report: setup
	@.venv/bin/python -m collabopt report --experiment "$$EXPERIMENT" --set "$$SET" --cores "$$CORES" --profile "$$PROFILE" \
	    --notebooks "$$NOTEBOOKS"

test: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/python -m pytest --numprocesses auto --dist loadfile

lab: setup
	@.venv/bin/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks

# PRUNE="experiment=digits unused_days=30": what to remove.
store: setup
	@.venv/bin/python -m collabopt store --prune "$$PRUNE"

verify: setup
	@.venv/bin/python -m collabopt verify --experiment "$$EXPERIMENT"

bench: setup
	@.venv/bin/python benchmarks/bench.py $$PARTS

bench-accuracy: setup
	@.venv/bin/python benchmarks/accuracy.py

# All the set-up; a moment when nothing changed.
setup:
	@lib/install.sh

# Solve the lock file anew; needs uv.
lock:
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
	    --no-annotate --no-header --no-emit-index-url --no-emit-find-links -o requirements.lock

# make report | test | lab | verify | bench      EXPERIMENT=digits  SET="sparsity=0.8"  CORES=2
EXPERIMENT ?= digits
SET ?=
CORES ?= all
PYTHON ?=
export EXPERIMENT SET CORES PYTHON

.PHONY: report test lab verify bench bench-accuracy setup lock

report: setup
	@.venv/bin/python -m collabopt.batch report --experiment "$$EXPERIMENT" --set "$$SET" --cores "$$CORES"

test: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/python -m pytest

lab: setup
	@.venv/bin/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks

verify: setup
	@.venv/bin/python -m collabopt.comparison verify --experiment "$$EXPERIMENT"

bench: setup
	@.venv/bin/python benchmarks/bench.py

bench-accuracy: setup
	@.venv/bin/python benchmarks/accuracy.py

# All the set-up; a moment when nothing changed.
setup:
	@lib/install.sh

# Solve the lock file anew; needs uv.
lock:
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
	    --no-annotate --no-header --no-emit-index-url --no-emit-find-links -o requirements.lock

# Two commands do everything, and either can be the first: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: demo demo-page live test test-slow test-browser test-e2e setup check preflight prefect deploy worker lint lock deps golden drill bench bench-step bench-gpu runs prune audit fuzz exp clean

demo: setup
	dvc repro
	python -m stages.report --summary

# Ask a trained model about an image, in a browser on this machine: make demo-page [ASKED=finetuned] (after `make demo`)
ASKED ?= student
demo-page: setup
	exec python -m stages.demo_page $(ASKED)

# What runs now, what it took and will take, what is stale: in a browser on this machine, while anything runs or nothing does.
live: setup
	exec python -m stages.report --live

# A process a core, four at most: the tests start processes of their own. A file's tests stay together, as they share what they set up.
test: setup lint
	python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --timeout 400 --timeout-method thread

# Longer than the default suite allows: the whole pipeline, killed and resumed, on the embedded set.
test-slow: setup
	python -m pytest -m slow

# Pages as a person meets them, in the distribution's Chromium (Debian: apt-get install chromium); skipped where there is none.
test-browser: setup
	python -m pytest -m browser -rs

# A real Prefect server, workers with clones of their own, an S3 server on loopback, and a browser where there is one.
test-e2e: setup
	python -m pytest -m e2e

setup: $(VENV)/installed

$(VENV)/installed: requirements.lock
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	awk '/^uv==/ { mine = 1; print; next } /^[^ ]/ { mine = 0 } mine' requirements.lock > $(VENV)/uv.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/python -m stages.lib.core.native
	$(BIN)/python -m stages.lib.reporting.plots_page
	touch $@

# Is params.yaml right? The same as the pipeline's first stage, without DVC, whose templating would stumble over a typo first.
check: setup
	python -m stages.check --dry

lint: setup
	ruff check .
	ruff format --check --quiet .
	mypy

# Break things on a small copy beside the run folders, and see that what should happen does: make drill [DRILL=--short]
drill: setup
	python -m flows.drill $(DRILL)

# What will it take? The first steps of every stage that trains, nothing kept: make preflight [PRESET=presets/cifar10.yaml]
preflight: setup
	python -m stages.preflight $(PRESET)

# Prefect on this machine: server, deployments, a worker; opens at the address it prints, Ctrl-C stops it. make prefect [PORT=4201]
PORT ?= 4200
prefect: setup
	exec python -m flows.embedded --port $(PORT)

# For a team's server: tell it about the deployments (once, and after a change), and start a worker on each host.
# PREFECT_API_URL=http://<host>:4200/api make deploy; PREFECT_API_URL=... make worker POOL=tutelage-gpu
POOL ?= tutelage
deploy: setup
	python -m flows.deploy
worker: setup
	exec python -m flows.worker --pool $(POOL)

# Rewrite the lists in dvc.yaml: the code, params and versions every stage uses.
deps: setup
	python -m tests.closure --fix

# Compare our numerics with a folder of reference numbers: make golden FOLDER=path
golden: setup
	python -m tests.golden $(FOLDER)

# Our loader beside the ones people use: make bench IMAGES=path CORES=2 (docs/performance.md)
CORES ?= 2
bench: setup
	python -m benchmarks.loader --images $(IMAGES) --cores $(CORES)

# Our training step beside the ones people run: make bench-step MODEL=deit-tiny DEVICE=cpu
MODEL ?= micro-deit
DEVICE ?= cpu
bench-step: setup
	python -m benchmarks.step --model $(MODEL) --device $(DEVICE)

# All of it that needs a GPU, within 25 minutes: make bench-gpu IMAGES=<tar of JPEGs>. Installs nothing: run `make setup` before.
RESULTS ?= gpu.jsonl
bench-gpu:
	python -m benchmarks.gpu --results $(RESULTS) $(if $(IMAGES),--images $(IMAGES))

# Experiments in a table as wide as a screen: what varies, top-1 of each model, nothing else. make exp [SHOW="-n 5 --all-commits"]
SHOW ?=
exp: setup
	@dvc exp show --only-changed --precision 4 --csv --drop '$(DROP)' $(SHOW) | sed -e 's#data/metrics/##g; s#[.]json:heads##g' \
	| awk -F, '{for (i = 1; i <= NF; i++) {cell[NR, i] = $$i; if (length($$i) > wide[i]) wide[i] = length($$i)}; if (NF > last) last = NF} \
	  END {for (row = 1; row <= NR; row++) {for (i = 1; i <= last; i++) printf "%-" wide[i] + 2 "s", cell[row, i]; print ""}}'
DROP = (Created|parent|State|Executor|typ|fused_probs|heads.dist|nll|_low|_high|ece|top5|per_class|agreement|stamp|images|classes|macs|parameters|image_size|versions|reconstruction)

# Run folders (checkpoints, live logs): list them, or remove all but each stage's newest and those in use.
runs: setup
	python -m stages.lib.core.run_folders list
prune: setup
	python -m stages.lib.core.run_folders prune

lock: setup
	uv pip compile pyproject.toml --extra dev --universal --generate-hashes --quiet --no-header --output-file requirements.lock

# Known weaknesses of what requirements.lock pins. Asks a database on the network, and fails where it got no answer.
audit: setup
	pip-audit --requirement requirements.lock --require-hashes --disable-pip --strict --progress-spinner off

# Damaged and hostile files, made in thousands, for whatever reads what others wrote: make fuzz [TARGET=tar] [MINUTES=10] [SEED=0]
TARGET ?= all
MINUTES ?= 10
SEED ?= 0
fuzz: setup
	python -m tests.fuzz $(TARGET) --minutes $(MINUTES) --seed $(SEED)

clean:
	rm -rf data/runs

# `make help` lists everything. Every target first creates the environment from pyproject.toml and constraints.txt, once.

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
# Extra arguments for a run: make vit_cifar10 ARGS="--seed_everything 1 --trainer.max_epochs 1"
ARGS ?=

# The environment is installed without byte code; Python writes it at the first import. In a container that forbids that,
# every start would compile torch, sympy, … again: eleven seconds of processor time instead of five.
unexport PYTHONDONTWRITEBYTECODE

RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
EXPERIMENTS := $(notdir $(basename $(wildcard experiments/*.yaml)))
STUDIES := $(notdir $(basename $(wildcard experiments/studies/*.yaml)))

.DEFAULT_GOAL := help
.PHONY: help install quickstart docs gallery claims speedrun-times dashboard wandb-sync test lint types unit elsewhere lowest benchmark gpu wheels $(EXPERIMENTS) $(STUDIES)

help:  ## List targets, experiments and studies
	@echo "Targets:"
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "  %-24s %s\n", $$1, $$2}'
	@echo "Experiments (python -m vitlab fit --config experiments/<name>.yaml):"
	@for name in $(EXPERIMENTS); do printf "  %-24s %s\n" $$name "$$(head -1 experiments/$$name.yaml | cut -c3-)"; done
	@echo "  imagenet/<name>          $(words $(wildcard experiments/imagenet/*.yaml)) published ImageNet recipes in experiments/imagenet/; docs/recipes.md has their values"
	@echo "Studies (python -m vitlab compare --config experiments/studies/<name>.yaml):"
	@for name in $(STUDIES); do printf "  %-24s %s\n" $$name "$$(head -1 experiments/studies/$$name.yaml | cut -c3-)"; done

install: $(INSTALLED)  ## Create the environment in .venv

$(INSTALLED): pyproject.toml referee/pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"vitlab needs Python 3.11 or newer, this is {sys.version.split()[0]}; make PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile --constraint $(CONSTRAINTS) --editable ./referee --editable '.[dev]'
	@touch $@

test: lint types unit  ## Lint, type check and tests

lint: $(INSTALLED)  ## ruff: rules and format
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(INSTALLED)  ## mypy on vitlab/ and referee/
	$(RUN) -m mypy

# Shapes in signatures are checked at every call, except where torch.compile traces: there a check is a graph break. The
# ViT's `forward` is not annotated: as in timm, it may return a pair.
SHAPES := vitlab.models,vitlab.objectives,vitlab.data,tests.shapes.check
COMPILED := tests/models/test_compile.py
PARALLEL := --numprocesses auto --maxprocesses 8

unit: $(INSTALLED)  ## Tests only; ARGS="-m 'not slow'" for the quick ones
	$(RUN) -m pytest $(PARALLEL) --dist loadfile --no-loadscope-reorder --ignore $(COMPILED) --jaxtyping-packages=$(SHAPES) $(ARGS)
	$(RUN) -m pytest $(PARALLEL) $(COMPILED) $(ARGS) || [ $$? -eq 5 ]  # 5: ARGS chose none of them
	$(RUN) -m pytest referee/tests $(ARGS) || [ $$? -eq 5 ]

# Tests that count, draw, format or compare floats, in reverse order, with the plainest kernels, two threads, another time
# zone and another language: a result that depends on one of these is a property of the machine.
SENSITIVE := analysis/test_measures data/test_counter_rng data/test_mixup data/test_multi_crop \
	evaluation models/test_parity models/test_swin models/test_vit models/test_windows \
	objectives/test_dino objectives/test_msn objectives/test_mae studies/test_comparison studies/test_power \
	studies/test_verdict objectives/test_masking objectives/test_ema test_config test_optim
LANGUAGE = $(firstword $(shell locale -a | grep -E '^tr_TR.utf8') C)

elsewhere: $(INSTALLED)  ## Numerically sensitive quick tests with other kernels, threads, locale and order
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 OMP_WAIT_POLICY=passive VITLAB_TEST_THREADS=2 \
	TZ=Asia/Kathmandu LC_ALL=$(LANGUAGE) PYTHONHASHSEED=1 $(RUN) -m pytest $(PARALLEL) --dist loadfile -m 'not slow' \
	$$(printf '%s\n' $(foreach name,$(SENSITIVE),$(wildcard tests/$(name) tests/$(name).py)) | tac) $(ARGS)

# constraints.txt has the newest versions; this tests the lowest that pyproject.toml allows. Their own dependencies are the
# newest, of which they may use deprecated features.
LOWEST := .venv/lowest

lowest: $(LOWEST)/constraints.txt  ## Quick tests with the lowest package versions that pyproject.toml allows
	$(MAKE) unit VENV=$(LOWEST) CONSTRAINTS=$< ARGS="-m 'not slow' -W default $(ARGS)"

$(LOWEST)/constraints.txt: pyproject.toml
	@mkdir -p $(LOWEST)
	sed -nE 's/^    "([a-zA-Z0-9_-]+)(\[.*\])?>=([0-9.]+).*/\1==\3/p' $< > $@

benchmark: $(INSTALLED)  ## Measure the claimed speed ratios on this machine; takes minutes, needs it idle
	$(RUN) -m pytest -m benchmarks -s $(ARGS)

# Results in runs/gpu and benchmarks/gpu.md. A machine without a network takes what it lacks from the folder WHEELS, and its own
# torch; then nothing is installed into .venv.
STEPS ?=
DATA ?= data
WHEELS ?=

gpu: $(if $(WHEELS),,$(INSTALLED))  ## Measure all there is to measure on a GPU, benchmarks/gpu.md: STEPS="speed" DATA=data WHEELS=wheels
	@python=$(if $(WHEELS),$$($(PYTHON) benchmarks/gpu/install.py $(WHEELS)),$(RUN)) && \
	  PYTHONPATH=referee/src $$python -m benchmarks.gpu $(STEPS) --data $(DATA) $(ARGS)

# For the Python of the GPU's machine; torch, torchvision and what they bring are there.
GPU_PYTHON ?= 3.12
# Packages that are there, or that the measurements do without, a line for each as pip list --format=freeze prints them.
HAVE ?= /dev/null

gallery: $(INSTALLED)  ## Train the studies of docs/gallery.yaml that are missing, for the site; hours
	$(RUN) docs/gallery.py build/gallery --train

# The pages keep their places, so that links are what they are in the repository.
DOCS := build/docs

docs: build/env/installed  ## Build the site into build/site, offline; a warning or a broken link is an error
	@rm -rf $(DOCS) && mkdir -p $(DOCS)
	@git ls-files -z '*.md' '*.png' experiments examples referee/examples LICENSE ':!docs/records' | tar --null -T - -cf - | tar -xf - -C $(DOCS)
	@build/env/bin/python docs/gallery.py $(DOCS)/gallery
	NO_MKDOCS_2_WARNING=1 build/env/bin/mkdocs build --quiet

build/env/installed: docs/requirements.txt
	$(PYTHON) -m venv build/env
	build/env/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

wheels: $(INSTALLED)  ## Download into wheels/ what a GPU machine without a network may lack
	@mkdir -p wheels
	sed 's/==.*//; s/[-_.]/[-_.]/g; s/.*/^&==/' $(HAVE) > wheels/have.txt
	grep -vE '^(#|referee==|torch==|torchvision==|triton|nvidia-|cuda-)' $(CONSTRAINTS) | grep -vif wheels/have.txt > wheels/requirements.txt
	$(RUN) -m pip download --quiet --no-deps --only-binary :all: --python-version $(GPU_PYTHON) \
	  $(foreach tag,2_17 2_27 2_28,--platform manylinux_$(tag)_x86_64) --dest wheels --requirement wheels/requirements.txt

# Teachers and pre-trainings are trained first if their runs are missing; ARGS apply to the requested run only.
$(filter finetune_simmim_% finetune_mae_%,$(EXPERIMENTS)): finetune_%: runs/%/seed-0/summary.json
deit_hard deit_soft distillation_full: runs/teacher_cifar10/seed-0/summary.json
distillation: runs/teacher_cifar10_small/seed-0/summary.json
distillation_digits: runs/teacher_digits/seed-0/summary.json

runs/%/seed-0/summary.json: | $(INSTALLED)
	$(RUN) -m vitlab fit --config experiments/$*.yaml

$(EXPERIMENTS): %: $(INSTALLED)
	$(RUN) -m vitlab fit --config experiments/$@.yaml $(ARGS)

imagenet/%: $(INSTALLED)
	$(RUN) -m vitlab fit --config experiments/$@.yaml $(ARGS)

$(STUDIES): %: $(INSTALLED)  # quickstart is one of them
	$(RUN) -m vitlab compare --config experiments/studies/$@.yaml $(ARGS)
	$(if $(AFTERWARDS),$(RUN) -m vitlab $(AFTERWARDS))

# Commands that follow a study, with the runs of all its seeds or of one.
window_transfer: AFTERWARDS = transfer --config runs/window-transfer/*/seed-*/config.yaml --sizes 32 48 64 96 --epochs 2 --out runs/window-transfer/transfer
window_transfer_digits: AFTERWARDS = transfer --config runs/window-transfer-digits/*/seed-*/config.yaml --sizes 16 24 32 --epochs 1 --lr 5e-4 --out runs/window-transfer-digits/transfer
swin_ablation_digits: AFTERWARDS = visualize --config runs/swin-ablation-digits/*/seed-1/config.yaml --out runs/swin-ablation-digits/pictures

claims: $(INSTALLED)  ## Test the papers' claims that are not tested yet, and write runs/claims/report.html
	$(RUN) -m vitlab claims $(ARGS)

ENTRIES := $(foreach name,vit swin swin_v2,speedrun/vit:speedrun/$(name) speedrun/first/base:speedrun/first/$(name))

speedrun-times: $(INSTALLED)  ## Train each entry of the speedrun once, alone on an idle machine, for its time
	@for entry in $(ENTRIES); do \
	  name=$${entry##*/} && study=$$(case $$entry in *first*) echo speedrun-first;; *) echo speedrun;; esac) && \
	  $(RUN) -m vitlab fit --config experiments/$${entry%%:*}.yaml --config experiments/$${entry##*:}.yaml \
	    --run.root runs/speedrun-times/$$study --run.name $$(echo $$name | tr _ -) || exit; done

STUDY ?= quickstart

dashboard: $(INSTALLED)  ## Show a study's report in W&B: STUDY=quickstart, or a file: STUDY=my/study.yaml
	$(RUN) -m vitlab compare --config $(if $(filter %.yaml %.yml,$(STUDY)),$(STUDY),experiments/studies/$(STUDY).yaml) --dashboard $(ARGS)

wandb-sync: $(INSTALLED)  ## Upload the runs in runs/ that W&B stored offline
	@find runs -type d -path '*/wandb/offline-run-*' | sort | xargs --no-run-if-empty $(RUN) -m wandb sync

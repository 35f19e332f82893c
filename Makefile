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
include $(dir $(lastword $(MAKEFILE_LIST)))maintainers.mk
.PHONY: help install quickstart test claims speedrun-parts pretraining-parts dashboard wandb-sync $(EXPERIMENTS) $(STUDIES)

help:  ## List targets, experiments and studies
	@echo "Targets:"
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "  %-24s %s\n", $$1, $$2}'
	@echo "  help-maintainers         List what maintainers need: test-full, docs, benchmark, gpu, …"
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

test: lint  ## Lint, types and the quick tests: five minutes on two cores
	$(MAKE) --jobs 2 types unit-rest TIER="$(QUICK)" PARALLEL=  # a core each
	$(MAKE) unit-vitlab TIER="$(QUICK)"

speedrun-parts: $(INSTALLED)  ## Train the speedrun with parts of other recipes: two hours
	$(RUN) -m vitlab compare --import benchmarks.parts --config benchmarks/parts_vit.yaml
	$(RUN) -m vitlab compare --import benchmarks.parts --config benchmarks/parts_training.yaml
	$(RUN) -m vitlab compare --import benchmarks.parts --config benchmarks/parts_gates.yaml
	$(RUN) -m vitlab compare --import benchmarks.parts --config benchmarks/parts_augmentation.yaml

pretraining-parts: $(INSTALLED)  ## Pre-train on CIFAR-10 with one part changed at a time: two hours
	$(RUN) -m vitlab compare --import benchmarks.parts --config benchmarks/parts_dino.yaml
	$(RUN) -m vitlab compare --import benchmarks.parts --config benchmarks/parts_mae.yaml
	$(RUN) -m vitlab compare --import benchmarks.parts --config benchmarks/parts_simmim.yaml
	$(RUN) -m vitlab compare --import benchmarks.parts --config benchmarks/parts_msn.yaml

claims: $(INSTALLED)  ## Test the papers' claims that are not tested yet, and write runs/claims/report.html
	$(RUN) -m benchmarks.tested_claims $(ARGS)

STUDY ?= quickstart

dashboard: $(INSTALLED)  ## Show a study's report in W&B: STUDY=quickstart, or a file: STUDY=my/study.yaml
	$(RUN) -m vitlab compare --config $(if $(filter %.yaml %.yml,$(STUDY)),$(STUDY),experiments/studies/$(STUDY).yaml) --dashboard $(ARGS)

wandb-sync: $(INSTALLED)  ## Upload the runs in runs/ that W&B stored offline
	@find runs -type d -path '*/wandb/offline-run-*' | sort | xargs --no-run-if-empty $(RUN) -m wandb sync

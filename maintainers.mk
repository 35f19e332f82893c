.PHONY: help-maintainers lint types unit unit-vitlab unit-rest slow test-full test-release mutants faults elsewhere lowest benchmark gpu gallery docs wheels weight speedrun-times

# What maintainers of vitlab need; `make help-maintainers` lists it. The tiers of the tests are those of CONTRIBUTING.md.

help-maintainers:  ## List these targets
	@grep -hE '^[a-z-]+:.*##' maintainers.mk | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "  %-24s %s\n", $$1, $$2}'

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
TIER := not release
QUICK := not slow and not release

unit: unit-vitlab unit-rest  ## Tests of a tier alone: TIER="slow and not release"; ARGS for pytest

unit-vitlab: $(INSTALLED)
	$(RUN) -m pytest $(PARALLEL) --dist loadfile --no-loadscope-reorder --ignore $(COMPILED) --jaxtyping-packages=$(SHAPES) -m "$(TIER)" $(ARGS)

unit-rest: $(INSTALLED)  # 5: none of them is in this tier
	$(RUN) -m pytest $(PARALLEL) $(COMPILED) -m "$(TIER)" $(ARGS) || [ $$? -eq 5 ]
	$(RUN) -m pytest referee/tests -m "$(TIER)" $(ARGS) || [ $$? -eq 5 ]

slow: $(INSTALLED)  ## What test-full adds to test
	$(MAKE) unit TIER="slow and not release"

# In processes of their own: those of the quick tests have grown, and a large process forks slowly.
test-full: test slow  ## Lint, types and all tests but those of a release: 20 to 45 minutes on two cores

test-release: lint types docs  ## What a release needs: an hour
	$(MAKE) unit TIER="slow or not slow" ARGS="$(ARGS)"
	VITLAB_TEST_INSTALL=1 $(RUN) -m pytest tests/test_installed.py
	$(MAKE) elsewhere lowest mutants

faults: $(INSTALLED)  ## Kill workers and the process of a study of 60 runs, and compare with one worker alone
	$(RUN) tests/studies/faults.py

weight: $(INSTALLED)  ## Print the lines of each room beside its budget
	$(RUN) -m tests.weight

mutants: $(INSTALLED)  ## Plant 32 faults, each of which the quick tests must notice
	$(RUN) -m tests.mutants

# Tests that count, draw, format or compare floats, in reverse order, with the plainest kernels, two threads, another time
# zone and another language: a result that depends on one of these is a property of the machine.
SENSITIVE := analysis/test_measures data/test_counter_rng data/test_mixup data/test_multi_crop \
	evaluation models/test_parity models/test_swin models/test_vit models/test_windows \
	objectives/test_dino objectives/test_msn objectives/test_mae studies/test_comparison studies/test_power \
	studies/test_verdict objectives/test_masking objectives/test_ema test_config test_optim
LANGUAGE = $(firstword $(shell locale -a | grep -E '^tr_TR.utf8') C)

elsewhere: $(INSTALLED)  ## Numerically sensitive quick tests with other kernels, threads, locale and order
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 OMP_WAIT_POLICY=passive VITLAB_TEST_THREADS=2 \
	TZ=Asia/Kathmandu LC_ALL=$(LANGUAGE) PYTHONHASHSEED=1 $(RUN) -m pytest $(PARALLEL) --dist loadfile -m '$(QUICK)' \
	$$(printf '%s\n' $(foreach name,$(SENSITIVE),$(wildcard tests/$(name) tests/$(name).py)) | tac) $(ARGS)

# constraints.txt has the newest versions; this tests the lowest that pyproject.toml allows. Their own dependencies are the
# newest, of which they may use deprecated features.
LOWEST := .venv/lowest

lowest: $(LOWEST)/constraints.txt  ## Quick tests with the lowest package versions that pyproject.toml allows
	$(MAKE) unit VENV=$(LOWEST) CONSTRAINTS=$< TIER="$(QUICK)" ARGS="-W default $(ARGS)"

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

gallery: $(INSTALLED)  ## Train the studies of docs/gallery.yaml that are missing, and keep their reports; hours
	$(RUN) docs/gallery.py

# The pages keep their places, so that links are what they are in the repository.
DOCS := build/docs

docs: build/env/installed  ## Build the site into build/site, offline; a warning or a broken link is an error
	@rm -rf $(DOCS) && mkdir -p $(DOCS)
	@git ls-files -z '*.md' '*.png' 'docs/gallery/*' experiments examples referee/examples LICENSE ':!docs/records' | tar --null -T - -cf - | tar -xf - -C $(DOCS)
	NO_MKDOCS_2_WARNING=1 build/env/bin/mkdocs build --quiet

build/env/installed: docs/requirements.txt
	$(PYTHON) -m venv build/env
	build/env/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

wheels: $(INSTALLED)  ## Download into wheels/ what a GPU machine without a network may lack
	@mkdir -p wheels
	sed 's/==.*//; s/[-_.]/[-_.]/g; s/.*/^&==/' $(HAVE) > wheels/have.txt
	$(RUN) benchmarks/gpu/install.py --needed vitlab pytest | grep -vif wheels/have.txt | \
	  grep -vE '^(vitlab|referee|torch|torchvision)==|^(triton|nvidia-|cuda-)' > wheels/requirements.txt
	$(RUN) -m pip download --quiet --no-deps --only-binary :all: --python-version $(GPU_PYTHON) \
	  $(foreach tag,2_17 2_27 2_28,--platform manylinux_$(tag)_x86_64) --dest wheels --requirement wheels/requirements.txt

# Study, base and folder of each entry's models.
ENTRIES := speedrun-first:speedrun/first/base:speedrun/first speedrun-second:speedrun/second/vit:speedrun/second \
	speedrun:speedrun/vit:speedrun

speedrun-times: $(INSTALLED)  ## Train each entry of the speedrun once, alone on an idle machine, for its time
	@for entry in $(ENTRIES); do for name in vit swin swin_v2; do \
	  set -- $$(echo $$entry | tr : ' ') && \
	  $(RUN) -m vitlab fit --config experiments/$$2.yaml --config experiments/$$3/$$name.yaml \
	    --run.root runs/speedrun-times/$$1 --run.name $$(echo $$name | tr _ -) || exit; done; done

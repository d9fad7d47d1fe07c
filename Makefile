# make quickstart   set up .venv, train a small RRDBNet x4 for PSNR, then in a GAN, on photographs that come with scikit-image;
#                   score them, mix them, show the mixtures side by side, and write a report, runs/quickstart/report.html.
#                   FEATURES=vgg19-dcbb9e9d.pth: with VGG's features
# make unit         set up .venv, then lint, types and the tests that run no command: the loop while you write
# make test         set up .venv, then lint, types and every test, in JOBS=2 processes of one thread each
# make test-slurm   the table of launches on a SLURM cluster that is started on this machine; as root, writes build/launches.md
# make docs         build the pages as a site in build/docs; a dead link, anchor or name fails
PYTHON ?= python3
BIN    := .venv/bin
STAMP  := .venv/.installed
JOBS   ?= 2

.PHONY: quickstart unit fast test test-slurm lint docs install clean
install: $(STAMP)

# torch and torchvision in one command, so that pip picks builds that match.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "torch>=2.8" "torchvision>=0.23"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(STAMP)

quickstart: $(STAMP)
	$(BIN)/sr-train experiment=quickstart $(if $(FEATURES),gan.loss=esrgan gan.loss.perceptual.extractor.weights='$(FEATURES)')
	$(BIN)/sr-eval weights=[bicubic,runs/quickstart/psnr,runs/quickstart/gan] sets=[toy]
	$(BIN)/sr-interp run=runs/quickstart alpha=[0,0.2,0.4,0.6,0.8,1] images='"toy:chelsea,camera,brick,gravel,grass"'
	$(BIN)/sr-report run=runs/quickstart

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

unit: $(STAMP)
	@$(MAKE) --no-print-directory -j2 lint fast

fast: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow"

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-slurm: $(STAMP)
	SR_TEST_SLURM=1 $(BIN)/python -m pytest -s -m slurm tests/slurm

docs: .venv/.docs
	$(BIN)/python -m sphinx -q -E -W --keep-going docs build/docs

.venv/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@

clean:
	rm -rf .venv build *.egg-info

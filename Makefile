# In an environment with the [dev] extra: pip install -c constraints.txt -e '.[dev]'
PYTHON ?= python
# What `make bench` embeds: a folder of recordings of your own makes the figures mean more.
BENCH_AUDIO ?= examples
# What `make test-tensorflow` runs: a Python that has TensorFlow, Keras and this package, as [tensorflow] installs them.
TF_PYTHON ?= python

.PHONY: check test test-tensorflow docs notebooks bench

check:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest

test-tensorflow:
	AUDIOSET_TF_PYTHON=$(TF_PYTHON) $(PYTHON) -m pytest -m slow tests/export/test_tensorflow.py

docs:
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

notebooks:
	$(PYTHON) scripts/run_notebooks.py

bench:
	$(PYTHON) benchmarks/run.py $(BENCH_AUDIO) --weights vggish=untrained:0 yamnet=untrained:0

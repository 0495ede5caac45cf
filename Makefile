# Everything happens in virtual environments made here; `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
VENV_QUICKSTART ?= .venv-quickstart
VENV_OLDEST ?= .venv-oldest
VENV_LAPLACE ?= .venv-laplace
VENV_NGBOOST ?= .venv-ngboost
VENV_TABLES ?= .venv-tables
WORKERS ?= 2
PYTEST_ARGS ?=
SPHINX_ARGS ?=
# `make test-oldest` leaves out what is the same there. That is what torch alone computes: the layers
# that import nothing else (the import contracts see to it), and the tests of what the estimators
# compute with them. It is also what asks about processes, clusters and documents: dask has one
# version, and documents are for the newest. What is left asks scikit-learn, NumPy, SciPy, pandas,
# joblib and matplotlib: scikit-learn's checks, validation, pipelines, scorers, displays, copies.
NEWEST_ONLY = optim posterior uncertainty reliability/test_faults.py reliability/test_modules.py
NEWEST_ONLY += reliability/test_right.py ensemble/test_draws.py ensemble/test_fit.py
NEWEST_ONLY += ensemble/test_logits.py
NEWEST_ONLY += ensemble/test_memory.py queries/test_deletion.py queries/test_deletion_rows.py
NEWEST_ONLY += queries/test_functionals.py queries/test_predictive.py queries/test_profiles.py
NEWEST_ONLY += test_amortized.py test_classifier_invariance.py test_heteroscedastic.py
NEWEST_ONLY += test_invariance.py test_regressor_fit.py test_route_checks.py test_units.py
NEWEST_ONLY += data/test_dask.py ensemble/test_parallel.py test_hygiene.py test_documents.py
NEWEST_ONLY += test_architecture.py test_types.py test_words.py
# Generated cases of each property in `make reliability`.
RELIABILITY_CASES ?= 200
# Mutants drawn in `make mutation`.
MUTANTS ?= 250
# The modules whose docstrings users read; numpydoc checks these against their signatures.
PUBLIC = sklearn_hfl/__init__.py sklearn_hfl/exceptions.py sklearn_hfl/_classifier.py sklearn_hfl/_queries/classes.py sklearn_hfl/_regressor.py sklearn_hfl/_queries/predictive.py sklearn_hfl/_queries/distributions.py sklearn_hfl/_data/normal_mixture.py sklearn_hfl/_queries/functionals.py sklearn_hfl/_queries/intervals.py sklearn_hfl/_queries/sets.py sklearn_hfl/_queries/target_deletion.py sklearn_hfl/_queries/label_deletion.py sklearn_hfl/calibration/held_out.py sklearn_hfl/metrics/scores.py sklearn_hfl/metrics/scorers.py sklearn_hfl/plotting/coverage.py sklearn_hfl/plotting/decomposition.py sklearn_hfl/plotting/influence.py sklearn_hfl/plotting/leave_one_out.py sklearn_hfl/plotting/prediction_interval.py sklearn_hfl/_adoption/estimators.py

# One thread for each test worker, so that the workers do not fight over the cores.
TEST_ENV = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MPLBACKEND=Agg
# Each worker begins with a half of its own, in order, so that fits which a file shares are made once;
# the first to be done takes over what the other has left.
PYTEST = -m pytest -n $(WORKERS) --dist=worksteal $(PYTEST_ARGS)
# Compiling all of torch and its dependencies takes longer than importing what is used of them.
PIP_INSTALL = -m pip install --quiet --no-compile

# An environment holds what its target installs, and nothing from elsewhere.
unexport PYTHONPATH

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help quickstart examples environments docs test test-oldest reliability mutation model-files wheel dist coverage lint types check-docs check-peers benchmarks benchmark-equality benchmark-ablation benchmark-authors benchmark-classifier benchmark-cluster benchmark-conformal benchmark-evidence benchmark-fit benchmark-functional benchmark-gpu benchmark-grid-search benchmark-heteroscedastic benchmark-leave-one-out benchmark-members benchmark-paper benchmark-products benchmark-profile benchmark-reliable-fits benchmark-small-data benchmark-speed benchmark-tables benchmark-tails benchmark-threads benchmark-uci clean distclean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-24s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo 'Variables: PYTHON=$(PYTHON) VENV=$(VENV) VENV_OLDEST=$(VENV_OLDEST) WORKERS=$(WORKERS) PYTEST_ARGS=$(PYTEST_ARGS)'

# An environment of its own: what a newcomer gets, without what other targets install.
quickstart: $(VENV_QUICKSTART)/.installed  ## Install the package in .venv-quickstart and run examples/quickstart.py
	$(VENV_QUICKSTART)/bin/python examples/quickstart.py

examples: $(VENV_QUICKSTART)/.installed  ## Run each example in .venv-quickstart
	printf '%s\n' $(wildcard examples/*.py) | $(TEST_ENV) xargs -P $(WORKERS) -n 1 \
		$(VENV_QUICKSTART)/bin/python -W 'ignore:FigureCanvasAgg is non-interactive'

docs: $(VENV)/.installed-plot $(VENV)/.installed-docs  ## Build the documentation in build/site; runs all examples, warnings are errors
	$(TEST_ENV) $(VENV)/bin/sphinx-build --quiet --jobs $(WORKERS) --fail-on-warning --keep-going $(SPHINX_ARGS) docs build/site

environments: $(VENV)/.installed-lint $(VENV)/.installed-plot $(VENV)/.installed-test $(VENV)/.installed-docs $(VENV_OLDEST)/.installed  ## Install what lint, test, docs and test-oldest need

test: $(VENV)/.installed-plot $(VENV)/.installed-test  ## Run the whole test suite, but for documents that `make wheel` runs
	$(TEST_ENV) $(VENV)/bin/python $(PYTEST) --deselect=tests/test_documents.py::test_the_code_of_a_plain_page_runs

test-oldest: $(VENV_OLDEST)/.installed  ## Run the tests of what asks other packages than torch on the oldest supported versions
	$(TEST_ENV) $(VENV_OLDEST)/bin/python $(PYTEST) $(NEWEST_ONLY:%=--ignore=tests/%)

reliability: $(VENV)/.installed-plot $(VENV)/.installed-test  ## Run the reliability battery with many more generated cases, and scikit-learn's checks of the defaults with nothing given
	$(TEST_ENV) RELIABILITY_CASES=$(RELIABILITY_CASES) $(VENV)/bin/python $(PYTEST) tests/reliability tests/test_estimator_checks.py tests/test_route_checks.py

mutation: $(VENV)/.installed-test build/mutation/.installed  ## Draw mutants of the numerical layers, and count those that no test notices
	$(TEST_ENV) PYTHONPATH=build/mutation $(VENV)/bin/python tools/mutate.py --sample $(MUTANTS)

build/mutation/.installed: $(VENV)/.created
	$(VENV)/bin/python $(PIP_INSTALL) --target $(@D) cosmic-ray==8.7.0 parso
	@touch $@

model-files: $(VENV_OLDEST)/.installed  ## Once for each release: fitted models that later versions have to load
	$(VENV_OLDEST)/bin/python tools/write_model_files.py

wheel: $(VENV)/.created  ## Build the wheel, and try the documents' code with it alone in a fresh environment
	$(TEST_ENV) $(VENV)/bin/python tools/check_wheel.py

dist: $(VENV)/.installed-release  ## Build what a release uploads in dist/, and check its metadata
	rm -rf dist
	$(VENV)/bin/python -m build --outdir dist
	$(VENV)/bin/twine check --strict dist/*

coverage: $(VENV)/.installed-plot $(VENV)/.installed-test  ## Run the test suite and report the lines it misses
	$(TEST_ENV) $(VENV)/bin/python $(PYTEST) --cov --cov-report=term

lint: $(VENV)/.installed-lint  ## Check style, format, the import layers, and that files import what their targets install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/python tools/check_imports.py

types: $(VENV)/.installed-lint  ## Check the types
	$(VENV)/bin/mypy

check-docs: $(VENV)/.installed-lint  ## Check docstrings against signatures, and the links of the documentation
	$(VENV)/bin/numpydoc lint $(PUBLIC)
	$(VENV)/bin/python tools/check_links.py
	$(VENV)/bin/python tools/fill_tables.py --check

check-peers: $(VENV_LAPLACE)/.installed $(VENV_NGBOOST)/.installed  ## Run each peer's code in docs/ with the peer alone; not part of CI
	$(VENV_LAPLACE)/bin/python tools/run_peer_blocks.py laplace-torch
	$(VENV_NGBOOST)/bin/python tools/run_peer_blocks.py ngboost

BENCHMARKS = equality ablation authors classifier cluster conformal evidence fit functional grid-search heteroscedastic leave-one-out members paper products profile reliable-fits small-data speed tables tails threads uci

benchmarks: $(BENCHMARKS:%=build/benchmarks/%)  ## Repeat all benchmarks (a day); goes on where it stopped, `make clean` begins anew

build/benchmarks/%:
	$(MAKE) benchmark-$*
	@mkdir -p $(@D) && touch $@

benchmark-equality: $(VENV)/.installed-plot  ## Compare the error bars with the dense computation
	$(VENV)/bin/python benchmarks/equality.py > benchmarks/results/equality.txt
	$(VENV)/bin/python tools/fill_tables.py
	cat benchmarks/results/equality.txt

benchmark-ablation: $(VENV)/.installed-plot  ## Repeat the experiments behind the defaults
	$(VENV)/bin/python benchmarks/ablation.py > benchmarks/results/ablation.txt
	$(VENV)/bin/python tools/fill_tables.py
	cat benchmarks/results/ablation.txt

# A stamp file says that a step is done. Where the system's Python cannot put pip into a new
# environment (Debian without python3-venv), the system's pip does it from outside.
$(VENV)/.created $(VENV_QUICKSTART)/.created $(VENV_OLDEST)/.created $(VENV_LAPLACE)/.created $(VENV_NGBOOST)/.created $(VENV_TABLES)/.created:
	@$(PYTHON) -c 'import sys; sys.exit("Expected Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(@D) || { \
		$(PYTHON) -m venv --without-pip $(@D) && \
		$(PYTHON) -m pip --python $(@D)/bin/python install --quiet pip; }
	@touch $@

$(VENV)/.installed-%: $(VENV)/.created constraints.txt pyproject.toml setup.cfg
	$(VENV)/bin/python $(PIP_INSTALL) --constraint constraints.txt --editable '.[$*]'
	@touch $@

$(VENV_QUICKSTART)/.installed: $(VENV_QUICKSTART)/.created constraints.txt pyproject.toml setup.cfg
	$(VENV_QUICKSTART)/bin/python $(PIP_INSTALL) --constraint constraints.txt --editable '.[plot]'
	@touch $@

$(VENV_OLDEST)/.installed: $(VENV_OLDEST)/.created constraints-oldest.txt pyproject.toml setup.cfg
	$(VENV_OLDEST)/bin/python $(PIP_INSTALL) --constraint constraints-oldest.txt --editable '.[plot,test]'
	@touch $@

# laplace-torch asks for torchvision, which it does not need: its packages come one by one.
$(VENV_LAPLACE)/.installed: $(VENV_LAPLACE)/.created benchmarks/peers/laplace.txt benchmarks/peers/laplace-alone.txt
	$(VENV_LAPLACE)/bin/python $(PIP_INSTALL) --constraint constraints.txt --requirement benchmarks/peers/laplace.txt
	$(VENV_LAPLACE)/bin/python $(PIP_INSTALL) --no-deps --requirement benchmarks/peers/laplace-alone.txt
	@touch $@

$(VENV_NGBOOST)/.installed: $(VENV_NGBOOST)/.created benchmarks/peers/ngboost.txt
	$(VENV_NGBOOST)/bin/python $(PIP_INSTALL) --requirement benchmarks/peers/ngboost.txt
	@touch $@

$(VENV_TABLES)/.installed: $(VENV_TABLES)/.created constraints.txt pyproject.toml setup.cfg benchmarks/peers/forecasters.txt benchmarks/peers/ngboost.txt benchmarks/peers/tables.txt
	$(VENV_TABLES)/bin/python $(PIP_INSTALL) --constraint constraints.txt --requirement benchmarks/peers/forecasters.txt --editable '.[pandas]'
	$(VENV_TABLES)/bin/python $(PIP_INSTALL) --constraint constraints.txt --requirement benchmarks/peers/ngboost.txt
	$(VENV_TABLES)/bin/python $(PIP_INSTALL) --no-deps --requirement benchmarks/peers/tables.txt
	@touch $@

benchmark-cluster: $(VENV)/.installed-dask  ## Passes and bytes of fits to rows on two workers
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/cluster.py > benchmarks/results/cluster.txt
	$(VENV)/bin/python tools/fill_tables.py
	cat benchmarks/results/cluster.txt

benchmark-uci: $(VENV)/.installed-plot $(VENV_LAPLACE)/.installed $(VENV_NGBOOST)/.installed  ## Likelihood and coverage on the UCI splits; goes on where it stopped
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/uci.py run
	$(VENV)/bin/python benchmarks/uci.py print > benchmarks/results/uci.txt
	$(VENV)/bin/python tools/fill_tables.py
	cat benchmarks/results/uci.txt

benchmark-evidence: $(VENV)/.installed-plot  ## Repeat the experiments behind the choices of the evidence
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/evidence.py > benchmarks/results/evidence.txt
	$(VENV)/bin/python tools/fill_tables.py
	cat benchmarks/results/evidence.txt

benchmark-fit: $(VENV)/.installed-plot  ## Time, memory and quality of fits beside commit 4d3447d and peers; goes on where it stopped
	for part in run growth teacher; do $(VENV)/bin/python benchmarks/fit.py $$part || exit 1; done
	$(VENV)/bin/python benchmarks/fit.py print > benchmarks/results/fit.txt
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/phases.py > benchmarks/results/phases.txt
	$(VENV)/bin/python tools/fill_tables.py
	cat benchmarks/results/fit.txt

benchmark-authors: $(VENV)/.installed-plot  ## Coverage of the true function on the paper's synthetic tasks
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/authors.py > benchmarks/results/authors.txt
	$(VENV)/bin/python tools/fill_tables.py
	cat benchmarks/results/authors.txt

benchmark-small-data: $(VENV)/.installed-plot $(VENV_NGBOOST)/.installed  ## Coverage of intervals after fits of 10, 20 and 40 rows
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/small_data.py > benchmarks/results/small-data.txt
	$(VENV)/bin/python tools/fill_tables.py
	cat benchmarks/results/small-data.txt

# Tables are read as files: what the packages need to be imported is left out.
build/tables/.installed: $(VENV)/.created benchmarks/peers/tables.txt
	$(VENV)/bin/python $(PIP_INSTALL) --no-deps --target $(@D) --requirement benchmarks/peers/tables.txt
	@touch $@

benchmark-reliable-fits: $(VENV)/.installed-plot $(VENV)/.installed-test build/tables/.installed  ## The default beside its linear model, on made-up problems and real tables
	for part in grid few tables inner; do \
		OMP_NUM_THREADS=1 PYTHONPATH=build/tables $(VENV)/bin/python benchmarks/reliable_fits.py $$part \
			> benchmarks/results/reliable-$$part.txt || exit 1; \
	done
	$(VENV)/bin/python tools/fill_tables.py
	cat benchmarks/results/reliable-*.txt

benchmark-tables: $(VENV_TABLES)/.installed $(VENV_LAPLACE)/.installed  ## Distributions, intervals and time on 19 real tables beside other methods; goes on where it stopped
	OMP_NUM_THREADS=1 $(VENV_TABLES)/bin/python benchmarks/tables.py run --jobs $(WORKERS)
	$(VENV_TABLES)/bin/python benchmarks/tables.py print > benchmarks/results/tables.txt
	$(VENV_TABLES)/bin/python tools/fill_tables.py
	cat benchmarks/results/tables.txt

benchmark-grid-search: $(VENV)/.installed-plot  ## Choose hyperparameters by log density and by R²
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/grid_search.py > benchmarks/results/grid-search.txt
	$(VENV)/bin/python tools/fill_tables.py

benchmark-members: $(VENV)/.installed-plot  ## What members gain, and three ways to find them
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/members.py > benchmarks/results/members.txt
	$(VENV)/bin/python tools/fill_tables.py

benchmark-gpu: $(VENV)/.installed-plot  ## Time fits and queries on a GPU; stops where torch finds none
	$(VENV)/bin/python benchmarks/gpu.py

benchmark-tails: $(VENV)/.installed-plot $(VENV)/.installed-test build/tables/.installed  ## Residuals left out, where noise is normal and where it is not
	OMP_NUM_THREADS=1 PYTHONPATH=build/tables $(VENV)/bin/python benchmarks/tails.py > benchmarks/results/tails.txt
	$(VENV)/bin/python tools/fill_tables.py

benchmark-threads: $(VENV)/.installed-plot  ## Time fits with one thread and with all, alone and side by side
	$(VENV)/bin/python benchmarks/threads.py > benchmarks/results/threads.txt
	$(VENV)/bin/python tools/fill_tables.py

benchmark-products: $(VENV)/.installed-plot  ## Time the products that training and queries are made of
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/products.py > benchmarks/results/products.txt
	$(VENV)/bin/python tools/fill_tables.py

benchmark-speed: $(VENV)/.installed-plot $(VENV_LAPLACE)/.installed  ## Time and memory of fits and standard deviations beside peers', and how they grow
	for part in small large; do \
		OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/speed.py $$part --peer $(VENV_LAPLACE)/bin/python \
			> benchmarks/results/speed-$$part.txt || exit 1; \
	done
	for part in rows memory-mapped; do \
		$(VENV)/bin/python benchmarks/scale.py $$part > benchmarks/results/scale-$$part.txt || exit 1; \
	done
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/growth.py > benchmarks/results/growth.txt
	$(VENV)/bin/python tools/fill_tables.py
	cat benchmarks/results/speed-*.txt benchmarks/results/scale-*.txt benchmarks/results/growth.txt

benchmark-paper: $(VENV)/.installed-plot  ## The paper's comparison: agreement, coverage, and λ over six decades
	for part in agreement coverage plateau; do \
		OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/paper.py $$part \
			> benchmarks/results/paper-$$part.txt || exit 1; \
	done
	$(VENV)/bin/python tools/fill_tables.py
	cat benchmarks/results/paper-*.txt

benchmark-conformal: $(VENV)/.installed-plot $(VENV)/.installed-test  ## Measure coverage and width of prediction intervals
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/conformal.py > benchmarks/results/conformal.txt
	$(VENV)/bin/python tools/fill_tables.py

benchmark-heteroscedastic: $(VENV)/.installed-plot  ## Compare noise that depends on the row with one for all
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/heteroscedastic.py > benchmarks/results/heteroscedastic.txt
	$(VENV)/bin/python tools/fill_tables.py

benchmark-classifier: $(VENV)/.installed-plot $(VENV_LAPLACE)/.installed  ## Check the classifier's numbers, defaults and quality
	for part in agreement choices quality novelty speed; do \
		OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/classifier.py $$part \
			> benchmarks/results/classifier-$$part.txt || exit 1; \
	done
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/many_classes.py > benchmarks/results/many-classes.txt
	$(VENV)/bin/python tools/fill_tables.py

benchmark-functional: $(VENV)/.installed-plot  ## Time the error bar of a population mean, and compare it with the dense one
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/functional.py > benchmarks/results/functional.txt
	$(VENV)/bin/python tools/fill_tables.py
	cat benchmarks/results/functional.txt

benchmark-leave-one-out: $(VENV)/.installed-plot  ## Leave-one-out and influence against refits, and flipped labels
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/leave_one_out.py > benchmarks/results/leave-one-out.txt
	$(VENV)/bin/python tools/fill_tables.py
	cat benchmarks/results/leave-one-out.txt

benchmark-profile: $(VENV)/.installed-plot  ## Coverage of profile intervals beside Gaussian ones
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/profile_interval.py > benchmarks/results/profile.txt
	$(VENV)/bin/python tools/fill_tables.py
	cat benchmarks/results/profile.txt

clean:  ## Remove caches and build products
	rm -rf build dist *.egg-info .coverage .coverage.* htmlcov docs/generated docs/gallery
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name '.venv*' -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean  ## Remove the virtual environments too
	rm -rf $(VENV) $(VENV_QUICKSTART) $(VENV_OLDEST) $(VENV_LAPLACE) $(VENV_NGBOOST) $(VENV_TABLES)

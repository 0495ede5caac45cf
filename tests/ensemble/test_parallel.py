"""Parallel: queries, members and searches on joblib's backends, a dask cluster among them."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from joblib import cpu_count, parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils.parallel import Parallel, delayed

from sklearn_hfl import HFLClassifier, HFLRegressor
from sklearn_hfl._ensemble import chunks, route
from tests.clusters import two_workers

SMALL = {"hidden_layer_sizes": (5,), "n_estimators": 1, "prior_precision": 1.0, "random_state": 0}
X = np.random.default_rng(0).uniform(-1, 1, (40, 2))
Y = np.sin(3 * X[:, 0]) + X[:, 1]
QUERIES = np.random.default_rng(1).uniform(-2, 2, (90, 2))
MODELS = {
    "linearized": (HFLRegressor(**SMALL, noise_std=0.2), Y),
    "network": (HFLRegressor(**SMALL, noise_std=0.2, variance="network"), Y),
    "amortized": (HFLRegressor(**SMALL, noise_std=0.2, variance="amortized"), Y),
    "classifier": (HFLClassifier(**SMALL), (Y > 0).astype(int)),
}


@pytest.fixture(scope="module")
def cluster():
    before = set(threading.enumerate())
    with two_workers() as client:
        yield client
    left = {t.name for t in set(threading.enumerate()) - before if not t.daemon}
    assert left <= {"ExecutorManagerThread"}  # loky's, which joblib keeps for the next call


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "MAX_QUERIES", 20)


@pytest.mark.parametrize("name", MODELS)
def test_queries_on_a_dask_cluster_are_those_of_one_process(cluster, name):
    estimator, y = MODELS[name]
    model = clone(estimator).fit(X, y)
    queries = X[:25] if name == "network" else QUERIES
    expected = model.predict(queries, return_std=True)
    with parallel_config(backend="dask"):
        answers = model.set_params(n_jobs=-1).predict(queries, return_std=True)
    for ours, theirs in zip(answers, expected, strict=True):
        assert_allclose(ours, theirs, rtol=1e-12)


def test_members_are_trained_on_a_dask_cluster(cluster):
    estimator = HFLRegressor(**{**SMALL, "noise_std": 0.2, "n_estimators": 2})
    expected = clone(estimator).fit(X, Y).predict(QUERIES, return_std=True)
    with parallel_config(backend="dask"):
        model = clone(estimator).set_params(n_jobs=-1).fit(X, Y)
    for ours, theirs in zip(model.predict(QUERIES, return_std=True), expected, strict=True):
        assert_allclose(ours, theirs, rtol=1e-6)


def test_a_search_runs_on_a_dask_cluster(cluster):
    search = GridSearchCV(
        HFLRegressor(**SMALL, noise_std=0.2), {"hidden_layer_sizes": [(2,), (4,)]}, cv=2
    )
    expected = clone(search).fit(X, Y).cv_results_["mean_test_score"]
    with parallel_config(backend="dask"):
        found = clone(search).set_params(n_jobs=-1).fit(X, Y)
    assert_allclose(found.cv_results_["mean_test_score"], expected, rtol=1e-6)
    assert found.best_estimator_.predict(QUERIES, return_std=True)[1].shape == (90,)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_queries_on_every_backend_are_those_of_one_process(backend):
    model = HFLRegressor(**SMALL, noise_std=0.2).fit(X, Y)
    expected = model.predict(QUERIES, return_std=True)
    with parallel_config(backend=backend):
        answers = model.set_params(n_jobs=2).predict(QUERIES, return_std=True)
    for ours, theirs in zip(answers, expected, strict=True):
        assert_allclose(ours, theirs, rtol=1e-12)


def test_workers_do_not_fight_over_the_cores():
    # joblib gives each of two workers half of the cores, and torch in them listens.
    with parallel_config(backend="loky", n_jobs=2):
        threads = Parallel()(delayed(torch.get_num_threads)() for _ in range(4))
    assert max(threads) <= max(1, cpu_count() // 2)


# ------------------------------------------------------------- interruption


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_an_interrupted_query_leaves_the_estimator_usable(monkeypatch, n_jobs):
    model = HFLRegressor(**SMALL, noise_std=0.2).fit(X, Y)
    expected = model.predict(QUERIES, return_std=True)
    names, calls = set(vars(model)), []
    optima = route.perturbed_optima

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return optima(*args, **kwargs)

    model.set_params(n_jobs=n_jobs)
    with monkeypatch.context() as patch, parallel_config(backend="threading"):
        patch.setattr(route, "perturbed_optima", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.predict(QUERIES, return_std=True)
    assert len(calls) >= 3
    assert set(vars(model)) == names
    assert not torch.is_inference_mode_enabled()
    for ours, theirs in zip(model.predict(QUERIES, return_std=True), expected, strict=True):
        assert_array_equal(ours, theirs)

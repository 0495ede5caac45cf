"""Devices: fits and queries on a GPU are those on the CPU, and end as arrays of the CPU."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sklearn_hfl import HFLClassifier, HFLRegressor

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")

RNG = np.random.default_rng(0)
X = RNG.uniform(-2, 2, (60, 3))
Y = np.sin(X[:, 0]) + X[:, 1] + 0.1 * RNG.standard_normal(60)
QUERIES = RNG.uniform(-3, 3, (7, 3))
GIVEN = {"hidden_layer_sizes": (5,), "prior_precision": 1.0, "random_state": 0, "tol": 0.0}
CASES = {
    "regression": (HFLRegressor(**GIVEN, noise_std=0.2), Y),
    "network": (HFLRegressor(**GIVEN, noise_std=0.2, variance="network"), Y),
    "amortized": (HFLRegressor(**GIVEN, noise_std=0.2, variance="amortized"), Y),
    "heteroscedastic": (HFLRegressor(**GIVEN, likelihood="heteroscedastic"), Y),
    "classes": (HFLClassifier(**GIVEN), np.digitize(Y, [-0.5, 0.5])),
}


def answers(model):
    ask = model.predict_proba if isinstance(model, HFLClassifier) else model.predict
    return ask(QUERIES, return_std=True)


@pytest.mark.parametrize("name", CASES)
def test_a_fit_on_the_gpu_is_that_on_the_cpu(name):
    model, y = CASES[name]
    expected = answers(type(model)(**model.get_params()).fit(X, y))
    found = answers(type(model)(**{**model.get_params(), "device": "cuda"}).fit(X, y))
    for ours, theirs in zip(found, expected, strict=True):
        assert isinstance(ours, np.ndarray)
        assert_allclose(ours, theirs, rtol=0.02 if name == "network" else 1e-4)


@pytest.mark.parametrize("estimator", [HFLRegressor, HFLClassifier])
def test_precisions_are_learned_there(estimator):
    y = Y if estimator is HFLRegressor else Y > 0
    model = estimator(hidden_layer_sizes=(5,), random_state=0, device="cuda").fit(X, y)
    assert model.converged_
    assert all(m.estimate.weights.is_cuda for m in model.members_)
    assert all(np.isfinite(answer).all() for answer in answers(model))


def test_a_pickle_of_it_loads():
    model, y = CASES["regression"]
    model = HFLRegressor(**{**model.get_params(), "device": "cuda"}).fit(X, y)
    copy = pickle.loads(pickle.dumps(model))
    for ours, theirs in zip(answers(copy), answers(model), strict=True):
        assert_allclose(ours, theirs, rtol=1e-10)

"""Logits of a classifier: products with the Jacobian give the covariance that gradients give."""

from __future__ import annotations

from copy import copy
from unittest.mock import patch

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.datasets import load_digits

from sklearn_hfl import HFLClassifier
from sklearn_hfl._ensemble import chunks, logits
from sklearn_hfl.optim import krylov, output_covariance
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.posterior.link import CENTRED
from sklearn_hfl.uncertainty.exact import dense_ggn
from tests.classes import SMALL, three_classes, two_classes

PIXELS, DIGITS = load_digits(return_X_y=True)
# 1310 weights, most of which the data do not determine.
WIDE = {"hidden_layer_sizes": (20,), "n_estimators": 1, "prior_precision": 10.0, "random_state": 0}
COLUMNS = slice(8, 62)


@pytest.fixture(scope="module")
def digits():
    return fitted()


def fitted(**params):
    with patch.object(krylov, "MAX_MATRIX_WEIGHTS", 0):  # some of the directions are kept
        return HFLClassifier(**WIDE, **params).fit(PIXELS[:200, COLUMNS], DIGITS[:200])


def posteriors(model, X):
    """Mean and covariance of the centred logits, with the bounds of the errors of their stds."""
    seen = []

    def keep(logits):
        seen.append(logits)
        return logits.averaged(model._draws())

    queries = model._queries(X)
    _, (flags,) = model._ensemble().logits(queries, keep)
    mean = torch.cat([each.mean for each in seen]).numpy()
    covariance = torch.cat([each.covariance for each in seen]).numpy()
    return mean, covariance, flags.rel_error.view(len(X), -1).numpy(), flags.converged


def dense_covariance(model, X):
    estimate = model.members_[0].estimate
    lp, weights = estimate.log_posterior, estimate.weights
    gradient = Prediction(lp.network, model._queries(X), CENTRED).gradient(weights)
    k = lp.network.n_outputs
    G = gradient.mT.reshape(len(X), k, -1)
    solved = torch.linalg.solve(dense_ggn(lp, weights), gradient).mT.reshape(len(X), k, -1)
    return (G @ solved.mT).numpy()


def std_of(covariance):
    return np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))


def check_bounds(model, X):
    _, covariance, rel_error, converged = posteriors(model, X)
    exact = dense_covariance(model, X)
    error = np.abs(std_of(covariance) / std_of(exact) - 1)
    assert (error <= rel_error + 1e-9).all()
    assert converged.all()
    size = std_of(exact)[:, :, None] * std_of(exact)[:, None, :]
    assert np.abs((covariance - exact) / size).max() <= 3 * model.std_rtol
    return covariance, rel_error


@pytest.mark.parametrize("data", [two_classes, three_classes])
@pytest.mark.parametrize("variance", ["linearized", "amortized"])
def test_covariances_equal_the_dense_ones(data, variance):
    X, y = data()
    kept = HFLClassifier(**SMALL).fit(X, y)
    model = HFLClassifier(**SMALL, variance=variance).fit(X, y)
    exact = dense_covariance(kept, 3 * X)
    covariance = posteriors(model, 3 * X)[1]
    assert_allclose(covariance, exact, atol=0.02 * np.abs(exact).max())


def test_many_queries_are_certified_without_directions_of_their_own(digits, monkeypatch):
    assert digits.members_[0].estimate.subspace.rank < 1000
    passes = []
    monkeypatch.setattr(logits, "_refined_logit_covariance", lambda *args: passes.append(args))
    check_bounds(digits, 2 * PIXELS[200:400, COLUMNS])
    assert not passes


def test_few_queries_get_what_many_get(digits):
    X = PIXELS[200:400, COLUMNS]
    many, few = posteriors(digits, X), posteriors(digits, X[:3])
    assert_allclose(few[0], many[0][:3], rtol=1e-12, atol=1e-12)
    assert_allclose(few[1], many[1][:3], rtol=1e-8, atol=1e-10)
    assert_allclose(few[2], many[2][:3], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["predict_proba", "predict_log_proba", "decision_function"])
def test_rows_and_chunks_do_not_matter(digits, monkeypatch, method):
    X = PIXELS[200:240, COLUMNS]
    ask = getattr(digits, method)
    by_gradients = ask(X)
    apart = np.concatenate([ask(rows) for rows in np.array_split(X, 7)])
    assert_allclose(apart, by_gradients, atol=1e-7)
    monkeypatch.setattr(logits, "MIN_LOGITS_PER_DIRECTION", 0)
    by_products = ask(X)
    assert_allclose(by_products, by_gradients, atol=1e-7)
    monkeypatch.setattr(chunks, "MAX_QUERIES", 7)
    monkeypatch.setattr(output_covariance, "MIN_ROWS", 2)
    monkeypatch.setattr(output_covariance, "MAX_BLOCK_NUMBERS", 1)
    assert_allclose(ask(X), by_products, atol=1e-9)


def test_rows_that_miss_a_stricter_tolerance_are_refined(digits):
    strict = fitted(std_rtol=1e-5)
    X = PIXELS[200:300, COLUMNS]
    _, rel_error = check_bounds(strict, X)
    assert (rel_error <= 1e-5).all()
    assert np.median(check_bounds(digits, X)[1]) > 1e-4


def test_memory_follows_the_limit_and_not_the_number_of_queries(digits, monkeypatch):
    """Covariances of all queries at once are never held."""
    held = []
    X = PIXELS[:500, COLUMNS]
    answer = digits.predict_proba(X)
    estimate = digits.members_[0].estimate
    limit = 4 * 8 * 100 * (8 * 100 + estimate.log_posterior.network.linearization_width)
    small = copy(digits).set_params(memory_limit=limit)
    real = logits.output_covariance

    def watched(estimate, pairs, X):
        held.append(len(X))
        return real(estimate, pairs, X)

    monkeypatch.setattr(logits, "output_covariance", watched)
    assert_allclose(small.predict_proba(X), answer, atol=1e-9)
    assert max(held) == 100
    assert sum(held) == len(X)


def test_single_precision_is_right_or_says_so():
    X, y = three_classes()
    double = HFLClassifier(**SMALL).fit(X, y)
    single = HFLClassifier(**SMALL, dtype="float32").fit(X, y)
    ours, theirs = single.predict_uncertainty(X), double.predict_uncertainty(X)
    assert_allclose(ours.proba, theirs.proba, atol=0.01)
    assert_allclose(ours.proba_std, theirs.proba_std, atol=0.01)

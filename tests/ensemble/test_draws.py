"""Draws: joint over rows and outputs, with the moments that the other queries report."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax

from sklearn_hfl import HFLClassifier, HFLRegressor
from sklearn_hfl.uncertainty.exact import dense_ggn

RNG = np.random.RandomState(0)
X = RNG.randn(60, 2)
F = np.sin(2 * X[:, 0]) + X[:, 1]
QUERIES = np.array([[0.3, 0.2], [0.5, 0.1], [3.0, 0.0], [-2.0, 2.0]])
KNOWN = {
    "hidden_layer_sizes": 8,
    "n_estimators": 1,
    "prior_precision": 1.0,
    "noise_std": 0.1,
    "std_rtol": 1e-3,
    "random_state": 0,
}
KINDS = {
    "linearized": {},
    "amortized": {"variance": "amortized"},
    "network": {"variance": "network"},
    "members": {"n_estimators": 3},
    "heteroscedastic": {"likelihood": "heteroscedastic", "noise_std": "evidence"},
}
N_DRAWS = 40_000
# Five standard errors of an empirical correlation.
ATOL = 5 / N_DRAWS**0.5


@pytest.fixture(scope="module")
def fitted():
    cache = {}

    def fit(kind):
        if kind not in cache:
            Y = np.column_stack([F, F]) + 0.1 * np.random.RandomState(1).randn(60, 2)
            cache[kind] = HFLRegressor(**{**KNOWN, **KINDS[kind]}).fit(X, Y)
        return cache[kind]

    return fit


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_moments_of_mean_and_covariance(fitted, kind):
    model = fitted(kind)
    mean, cov = model.predict(QUERIES, return_cov=True)
    draws = model.sample_y(QUERIES, N_DRAWS)
    std = np.sqrt(np.einsum("iik->ik", cov))
    assert_allclose((draws.mean(-1) - mean) / std, 0, atol=ATOL)
    for k in range(2):
        empirical = np.cov(draws[:, k]) / np.outer(std[:, k], std[:, k])
        assert_allclose(empirical, cov[..., k] / np.outer(std[:, k], std[:, k]), atol=2 * ATOL)


CONTRASTS = {
    "of outputs": lambda f: f[2, 0] - f[2, 1],
    "of rows": lambda f: f[0, 0] - f[1, 0],
    "of both": lambda f: f[0, 0] - f[1, 1] + f[2, 0] - 2 * f[3, 1],
    "mean": lambda f: f.mean(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("contrast", CONTRASTS)
def test_draws_are_joint_over_outputs_and_rows(fitted, kind, contrast):
    model, func = fitted(kind), CONTRASTS[contrast]
    draws = torch.tensor(model.sample_y(QUERIES, N_DRAWS, noise=False))
    values = np.array([float(func(draw)) for draw in draws.permute(2, 0, 1)[:10_000]])
    value, std = model.predict_functional(QUERIES, func=func)
    # Second moments of four thousand and more draws, and the two routes' own tolerance.
    rtol = 4 / (2 * len(values)) ** 0.5 + 2 * model.std_rtol
    assert_allclose(values.std(), std, rtol=rtol + (0.1 if kind == "network" else 0))
    assert_allclose(values.mean(), value, atol=5 * std / len(values) ** 0.5)


@pytest.mark.parametrize("kind", ["linearized", "amortized", "members"])
def test_chunks_of_rows_belong_to_the_same_draw(fitted, kind, monkeypatch):
    model = fitted(kind)
    grid = RNG.randn(50, 2)
    together = model.sample_y(np.vstack([QUERIES, QUERIES, grid]), 20, noise=False)
    assert_allclose(together[:4], together[4:8], rtol=1e-12, atol=1e-12)
    again = model.sample_y(np.vstack([QUERIES, QUERIES, grid]), 20, noise=False)
    assert_array_equal(together, again)


def test_draws_within_a_small_memory_limit_have_the_same_moments():
    rows = RNG.randn(60, 2)
    std = HFLRegressor(**KNOWN).fit(X, F).predict(rows, return_std="epistemic")[1]
    model = HFLRegressor(**KNOWN, memory_limit=4e5)  # chunks of some rows and of some draws
    draws = model.fit(X, F).sample_y(rows, 4000, noise=False)
    assert_allclose(draws.std(1) / std, 1, atol=5 / 8000**0.5)


def test_the_cost_is_linear_in_the_rows(fitted):
    model = fitted("linearized")
    model.sample_y(RNG.randn(1000, 2), 5)

    def seconds(n):
        rows = RNG.randn(n, 2)
        began = time.perf_counter()
        model.sample_y(rows, 5)
        return time.perf_counter() - began

    few, many = (min(seconds(n) for _ in range(3)) for n in (2000, 16_000))
    assert many < 40 * few  # eight times the rows; the cube would be 512 times


@pytest.mark.parametrize("part", ["aleatoric", False])
def test_no_variance_is_solved_where_none_is_asked_for(fitted, part, monkeypatch):
    model = fitted("linearized")
    expected = model.predict_uncertainty(QUERIES)

    def refused(*args, **kwargs):
        raise AssertionError("a perturbed optimum was solved")

    monkeypatch.setattr("sklearn_hfl._ensemble.route.perturbed_optima", refused)
    answer = model.predict(QUERIES, return_std=part)
    mean, std = answer if part else (answer, expected.aleatoric_std)
    assert_array_equal(mean, expected.mean)
    assert_array_equal(std, expected.aleatoric_std)


# ------------------------------------------------------------------ probabilities

CLASSIFIERS = {
    "two classes": (2, {}),
    "three classes": (3, {}),
    "amortized": (3, {"variance": "amortized"}),
    "network": (3, {"variance": "network"}),
    "members": (3, {"n_estimators": 3}),
}


@pytest.mark.parametrize(("n_classes", "params"), CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_draws_of_probabilities_have_the_moments_of_predict_proba(n_classes, params):
    y = np.digitize(F, np.quantile(F, np.arange(1, n_classes) / n_classes))
    params = {"hidden_layer_sizes": 5, "prior_precision": 1.0, "random_state": 0, **params}
    model = HFLClassifier(**params).fit(X, y)
    near = QUERIES[:3]
    proba, std = model.predict_proba(near, return_std=True)
    draws = model.sample_proba(near, 20_000)
    assert_allclose(draws.sum(1), 1)
    assert_allclose(draws.mean(-1), proba, atol=0.01)
    assert_allclose(draws.std(-1), std, atol=0.01)
    assert_array_equal(model.sample_proba(near, 5), model.sample_proba(near, 5))


def test_draws_of_probabilities_are_joint_over_rows_and_classes():
    """Logistic regression: draws of its three weight vectors by dense algebra."""
    y = np.digitize(F, np.quantile(F, [1 / 3, 2 / 3]))
    params = {
        "hidden_layer_sizes": (),
        "n_estimators": 1,
        "prior_precision": 1.0,
        "normalize_X": False,
        "tol": 0.0,
    }
    model = HFLClassifier(**params, random_state=0).fit(X, y)
    member = model.members_[0]
    weights = (member.estimate.weights + member.shift).numpy()
    cov = torch.linalg.inv(dense_ggn(member.estimate.log_posterior, member.estimate.weights))
    drawn = np.random.RandomState(1).multivariate_normal(weights, cov.numpy(), size=20_000)
    W, b = drawn[:, :6].reshape(-1, 3, 2), drawn[:, 6:]
    expected = softmax(np.einsum("skd,qd->sqk", W, QUERIES) + b[:, None], axis=-1).reshape(-1, 12)
    ours = model.sample_proba(QUERIES, 20_000).transpose(2, 0, 1).reshape(-1, 12)
    assert_allclose(np.cov(ours.T), np.cov(expected.T), atol=0.004)

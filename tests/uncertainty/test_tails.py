"""Tails: moments of the residuals left out, and the warning that they are not normal."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis, skew
from sklearn.compose import TransformedTargetRegressor

from sklearn_hfl import HFLClassifier, HFLDataWarning, HFLRegressor
from sklearn_hfl.uncertainty.tails import Tails, power_sums, tails

RNG = np.random.default_rng(0)
X = RNG.uniform(-2, 2, (200, 1))
NORMAL = RNG.standard_normal(200)
T = RNG.standard_t(2, 200)
LINEAR = {"hidden_layer_sizes": (), "random_state": 0}


def of(values, weight=None):
    z = torch.as_tensor(values, dtype=torch.float64).reshape(len(values), -1)
    weight = torch.ones(len(z)) if weight is None else torch.as_tensor(weight)
    return tails(power_sums(z, weight.to(z)))


@pytest.mark.parametrize("values", [NORMAL, T, np.exp(NORMAL) + 5])
def test_moments_are_those_of_scipy(values):
    found = of(values)
    assert found.skewness == pytest.approx(skew(values), rel=1e-8)
    assert found.excess_kurtosis == pytest.approx(kurtosis(values), rel=1e-8)
    assert found.n_rows == 200


def test_weights_count_rows():
    weight = np.resize([1, 2, 3], 200)
    weighted, repeated = of(T, weight), of(T.repeat(weight))
    assert weighted.skewness == pytest.approx(repeated.skewness)
    assert weighted.excess_kurtosis == pytest.approx(repeated.excess_kurtosis)


def test_a_few_rows_of_large_weight_are_few_rows():
    """Normal noise, of which ten rows of two hundred count for nearly all."""
    weight = np.where(np.arange(200) < 10, 1e3, 1.0)
    for seed in range(50):
        found = of(np.random.RandomState(seed).standard_normal(200), weight)
        assert found.n_rows == pytest.approx(10.4, abs=0.1)
        assert not found.heavy
    assert of(T, 7.0 * np.ones(200)).n_rows == pytest.approx(200)


def test_the_output_with_the_heaviest_tails_counts():
    assert of(np.column_stack([NORMAL, T, NORMAL])) == of(T)


@pytest.mark.parametrize(
    "values", [np.zeros((9, 1)), np.zeros((9, 0)), np.full((9, 1), np.inf), 1e-9 * T[:, None]]
)
def test_no_moments(values):
    assert of(values) is None


@pytest.mark.parametrize(
    ("excess", "n_rows", "heavy"), [(3.9, 10_000, False), (4.1, 10_000, True), (4.1, 30, False)]
)
def test_heavy_tails_are_beyond_chance(excess, n_rows, heavy):
    assert Tails(0.0, excess, n_rows).heavy == heavy


def test_normal_noise_has_no_heavy_tails():
    """In a hundred draws, of few rows too."""
    draws = [RNG.standard_normal(n) for n in [10, 20, 50, 200, 1000] * 20]
    assert not any(of(draw).heavy for draw in draws)


def said(model, y):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, y)
    return " ".join(str(w.message) for w in caught if w.category is HFLDataWarning)


def test_a_fit_reports_the_residuals_left_out():
    model = HFLRegressor(**LINEAR, n_estimators=1)
    assert "Heavy tails" in said(model, X[:, 0] + 0.3 * T)
    rows, (facts,) = model.loo_predict(), model.diagnostics_["members"]
    z = (X[:, 0] + 0.3 * T - rows["mean"]) / rows["std"]
    assert facts["excess_kurtosis"] == pytest.approx(kurtosis(z), rel=1e-6)
    assert facts["skewness"] == pytest.approx(skew(z), rel=1e-6, abs=1e-9)
    assert facts["heavy_tailed"]


def test_normal_noise_is_not_reported():
    assert not said(HFLRegressor(**LINEAR), X[:, 0] + 0.3 * NORMAL)


def test_a_classifier_has_no_residuals():
    model = HFLClassifier(**LINEAR).fit(X, X[:, 0] + NORMAL > 0)
    (facts,) = model.diagnostics_["members"]
    assert facts["excess_kurtosis"] is None
    assert not facts["heavy_tailed"]


def test_the_logarithm_that_is_advised_helps():
    y = np.exp(X[:, 0] + NORMAL)
    model = HFLRegressor(**LINEAR)
    assert "the logarithm of y" in said(model, y)
    assert not said(TransformedTargetRegressor(model, func=np.log, inverse_func=np.exp), y)


def test_varying_noise_that_is_advised_helps():
    y = X[:, 0] + 0.3 * np.exp(1.5 * X[:, 0]) * NORMAL
    model = HFLRegressor(hidden_layer_sizes=(10,), n_estimators=1, random_state=0)
    assert "likelihood='heteroscedastic'" in said(model, y)
    assert not said(model.set_params(likelihood="heteroscedastic"), y)

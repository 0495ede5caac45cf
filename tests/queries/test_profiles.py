"""Profile intervals of a regressor: units, noise, outputs and members."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import ndtr

from sklearn_hfl import HFLRegressor, HFLWarning
from sklearn_hfl.uncertainty.predictive import profile_mixture

KNOWN = {
    "hidden_layer_sizes": (5,),
    "n_estimators": 1,
    "prior_precision": 1.0,
    "noise_std": 0.4,
    "tol": 0.0,  # to the very MAP
    "random_state": 0,
}
QUERIES = np.random.default_rng(1).uniform(-1, 1, (5, 2))


def data(n_outputs=None):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (40, 2))
    columns = [np.sin(3 * X[:, 0]) + X[:, 1], X[:, 0] * X[:, 1]]
    y = np.column_stack(columns)[:, : n_outputs or 1] + 0.2 * rng.standard_normal((40, 1))
    return X, 3 + 2 * (y if n_outputs else y[:, 0])


def profiles(model, X, z=0.5, noise=True):
    """Ends (n, K) in units of y, and whether each was found."""
    ensemble, queries = model._mean_ensemble(), model._queries(X)
    means, variances = ensemble.means(queries), ensemble.noise(queries)
    found = ensemble.profiles(queries, z)
    ends = profile_mixture(means, found, variances * noise, z).numpy()
    lower, upper = model._y_scaler.inverse(ends)
    converged = torch.stack([p.converged for p in found]).all(0)
    return lower, upper, converged.reshape(*lower.shape, 2).numpy()


@pytest.mark.parametrize("n_outputs", [None, 2])
@pytest.mark.parametrize("n_estimators", [1, 2])
def test_linear_networks_have_gaussian_intervals(n_outputs, n_estimators):
    params = {"hidden_layer_sizes": (), "std_rtol": 1e-7, "n_estimators": n_estimators}
    model = HFLRegressor(**{**KNOWN, **params}).fit(*data(n_outputs))
    for noise, part in ((True, "total"), (False, "epistemic")):
        mean, std = (a.reshape(5, -1) for a in model.predict(QUERIES, return_std=part))
        lower, upper, converged = profiles(model, QUERIES, 1.96, noise=noise)
        assert_allclose(lower, mean - 1.96 * std, rtol=1e-6)
        assert_allclose(upper, mean + 1.96 * std, rtol=1e-6)
        assert converged.shape == (5, n_outputs or 1, 2)
        assert converged.all()


def test_noise_is_added_in_squares_on_each_side():
    model = HFLRegressor(**KNOWN).fit(*data())
    mean = model.predict(QUERIES)[:, None]
    bare, noisy = profiles(model, QUERIES, noise=False), profiles(model, QUERIES)
    for without, ends in zip(bare[:2], noisy[:2], strict=True):
        assert_allclose((ends - mean) ** 2, (without - mean) ** 2 + (0.5 * 0.4) ** 2)
    assert (np.abs((bare[1] - mean) / (mean - bare[0]) - 1) > 0.005).any()


def test_members_are_mixed_by_squares():
    model = HFLRegressor(**{**KNOWN, "n_estimators": 2}).fit(*data())
    mixed = profiles(model, QUERIES)
    members, alone, means = model.members_, [], []
    for member in members:
        model.members_ = (member,)
        alone.append(profiles(model, QUERIES))
        means.append(model.predict(QUERIES)[:, None])
    for side in (0, 1):
        squares = [(a[side] - m) ** 2 for a, m in zip(alone, means, strict=True)]
        expected = np.mean(squares, 0) + 0.5**2 * np.var(means, 0)
        assert_allclose((mixed[side] - np.mean(means, 0)) ** 2, expected)


def test_outputs_are_profiled_each_in_its_units():
    model = HFLRegressor(**KNOWN).fit(*data(2))
    lower, upper, converged = profiles(model, QUERIES, noise=False)
    mean, std = model.predict(QUERIES, return_std="epistemic")
    assert converged.all()
    for half in (mean - lower, upper - mean):
        assert_allclose(half, 0.5 * std, rtol=0.2)


def test_ends_that_were_not_found_are_counted():
    # Weights that are no minimum: the loss falls along the way.
    with pytest.warns(HFLWarning, match="not stationary"):
        model = HFLRegressor(**{**KNOWN, "max_iter": 2}).fit(*data())
    with pytest.warns(HFLWarning, match="of 5 profile intervals have an end"):
        model.predict_interval(30 * QUERIES, 2 * ndtr(3.0) - 1, kind="profile")
    lower, upper, converged = profiles(model, 30 * QUERIES, 3.0, noise=False)
    assert not converged.all()
    mean, std = model.predict(30 * QUERIES, return_std="epistemic")
    missed = ~converged[:, 0]
    assert_allclose(lower[missed[:, 0], 0], (mean - 3 * std)[missed[:, 0]], rtol=0.05)
    assert_allclose(upper[missed[:, 1], 0], (mean + 3 * std)[missed[:, 1]], rtol=0.05)

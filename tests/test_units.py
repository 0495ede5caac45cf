"""Units: a fit with learned precisions is the same in any units, standardised or not."""

from __future__ import annotations

import itertools
import warnings
from functools import cache

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from torch import nn

from sklearn_hfl import HFLClassifier, HFLRegressor, HFLWarning

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (80, 1))
Y = np.sin(3 * X[:, 0]) + 0.1 * RNG.standard_normal(80)
LABELS = (Y + 0.3 * RNG.standard_normal(80) > 0).astype(int)
QUERIES = np.array([[-0.9], [0.1], [0.8], [2.5]])
SMALL = {"hidden_layer_sizes": (8,), "n_estimators": 1, "random_state": 0, "max_iter": 300}
UNSCALED = {"normalize_X": False, "normalize_y": False}
# y ↦ scale · y + offset, X ↦ factor · X + shift.
UNITS = [
    (1e-6, 0.0, 1.0, 0.0),
    (1e-2, 0.0, 1e-4, 0.0),
    (1e3, 0.0, 1e4, 0.0),
    (1.0, 1e3, 1.0, 1e3),
    (1e6, -1e9, 1e-4, 0.1),
]
UNITS_OF_X = [(1e-4, 0.0), (1.0, 0.0), (1e4, 0.0), (1.0, 1e4)]
KINDS = {
    "gaussian": {},
    "heteroscedastic": {"likelihood": "heteroscedastic"},
    "lbfgs": {"solver": "lbfgs"},
    "adam": {"solver": "adam", "learning_rate_init": 0.02},
    "members": {"n_estimators": 2},
    "amortized": {"variance": "amortized"},
    "linear": {"hidden_layer_sizes": ()},
    "known noise": {"noise_std": 0.1},
}


def fitted(model, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HFLWarning)
        return model.fit(*args)


@cache
def standardised(kind):
    return fitted(HFLRegressor(**{**SMALL, **KINDS[kind]}), X, Y)


# One path leads all kinds from the users' units to standard ones: the plain fit takes every unit,
# the others the smallest targets, and the last, in which all four numbers differ.
OF_A_FIT = [(kind, *units) for kind in KINDS for units in UNITS[:: 1 if kind == "gaussian" else 4]]


@pytest.mark.parametrize(("kind", "scale", "offset", "factor", "shift"), OF_A_FIT)
def test_a_fit_is_the_same_in_any_units(kind, scale, offset, factor, shift):
    expected = standardised(kind)
    params = {**SMALL, **KINDS[kind], **UNSCALED}
    if "noise_std" in params:
        params["noise_std"] *= scale
    model = fitted(HFLRegressor(**params), factor * X + shift, scale * Y + offset)
    near = QUERIES[:3]
    mean, std = model.predict(factor * near + shift, return_std="epistemic")
    expected_mean, expected_std = expected.predict(near, return_std="epistemic")
    # Offsets leave fewer digits, of which a fit that is not converged loses some more.
    assert_allclose((mean - offset) / scale, expected_mean, atol=0.01)
    assert_allclose(std / scale, expected_std, rtol=0.05)
    assert_allclose(model.noise_std_ / scale, expected.noise_std_, rtol=0.01)


def classifier(solver):
    params = {**SMALL, "solver": solver, "learning_rate_init": 0.02, "max_iter": 2000}
    return HFLClassifier(**params)


@cache
def standardised_probabilities(solver):
    return fitted(classifier(solver), X, LABELS).predict_proba(QUERIES)


@pytest.mark.parametrize("solver", ["newton-cg", "lbfgs", "adam"])
@pytest.mark.parametrize(("factor", "shift"), UNITS_OF_X)
def test_a_classifier_is_the_same_in_any_units(factor, shift, solver):
    model = classifier(solver).set_params(normalize_X=False)
    fitted(model, factor * X + shift, LABELS)
    proba = model.predict_proba(factor * QUERIES + shift)
    assert_allclose(proba, standardised_probabilities(solver), atol=1e-4)


# ----------------------------------------------------- what the network is in


# Log noise shifts with the units of y, whatever those of X are.
@pytest.mark.parametrize(
    ("likelihood", "normalize_X", "normalize_y"),
    [
        *itertools.product(["gaussian"], [True, False], [True, False]),
        ("heteroscedastic", False, True),
        ("heteroscedastic", True, False),
    ],
)
def test_module_and_coefs_are_in_the_units_that_are_asked_for(likelihood, normalize_X, normalize_y):
    rows, y = 50 * X + 1000, 7 * Y - 300
    model = HFLRegressor(
        **SMALL, likelihood=likelihood, normalize_X=normalize_X, normalize_y=normalize_y
    )
    model = fitted(model, rows, y)
    inputs = (rows - rows.mean()) / rows.std() if normalize_X else rows
    outputs = model.module_(torch.tensor(inputs))[:, 0].detach().numpy()
    outputs = y.mean() + y.std() * outputs if normalize_y else outputs
    assert_allclose(outputs, model.predict(rows), rtol=1e-9)
    hidden = np.tanh(inputs @ model.coefs_[0] + model.intercepts_[0])
    by_hand = (hidden @ model.coefs_[1] + model.intercepts_[1])[:, 0]
    assert_allclose(by_hand, model.module_(torch.tensor(inputs))[:, 0].detach().numpy(), rtol=1e-9)


def test_a_module_of_yours_sees_and_gives_values_as_they_are():
    def factory(n_features, n_outputs):
        return nn.Sequential(nn.Linear(n_features, 8), nn.Tanh(), nn.Linear(8, n_outputs))

    model = HFLRegressor(**{**SMALL, **UNSCALED}, module=factory)
    model = fitted(model, X, 1e4 * Y + 1e5)
    assert_allclose(
        model.module_(torch.tensor(X))[:, 0].detach().numpy(), model.predict(X), rtol=1e-9
    )
    assert model.score(X, 1e4 * Y + 1e5) > 0.97


# ------------------------------------------------- a prior that has units itself


# Under a prior of 1e4 the log noise stays constant; means of 1e-4 are free under it.
@pytest.mark.parametrize(
    ("likelihood", "scale"), [("gaussian", 1e-4), ("gaussian", 1e4), ("heteroscedastic", 1e-4)]
)
def test_noise_is_learned_in_units_of_y_beside_a_given_prior(likelihood, scale):
    rows = RNG.standard_normal((60, 2))
    y = rows @ [1.0, -2.0] + 0.3 * RNG.standard_normal(60)
    params = {**SMALL, "hidden_layer_sizes": (), "likelihood": likelihood}
    model = HFLRegressor(**params, normalize_y=False, prior_precision=1e-4 / scale**2)
    fitted(model, rows, scale * y)
    residual = np.linalg.lstsq(np.column_stack([rows, np.ones(60)]), y, rcond=None)[1]
    assert_allclose(model.noise_std_ / scale, np.sqrt(residual[0] / 57), rtol=0.02)


def test_linear_fits_equal_bayesian_ridge_in_units_of_y():
    rows = RNG.standard_normal((60, 2))
    y = rows @ [1e-5, -2e-5] + 5.0 + 3e-6 * RNG.standard_normal(60)
    model = HFLRegressor(**{**SMALL, **UNSCALED, "hidden_layer_sizes": ()}).fit(rows, y)
    assert_allclose(model.noise_std_, 3e-6, rtol=0.3)
    coef = np.linalg.lstsq(np.column_stack([rows, np.ones(60)]), y, rcond=None)[0]
    assert_allclose(model.coefs_[0][:, 0], coef[:2], rtol=0.02)
    assert_allclose(model.intercepts_[0], coef[2:], rtol=1e-6)


# -------------------------------------------------------------- trained networks


@pytest.fixture(scope="module")
def trained():
    model = fitted(HFLRegressor(**SMALL), X, Y)
    return model, model.module_.double()


def in_units(module, model, scale, offset):
    """The same function of X, with targets in other units."""
    (W, b), (V, c) = zip(model.coefs_, model.intercepts_, strict=True)
    x, y = model._x_scaler, model._y_scaler
    first, last = nn.Linear(1, len(b)).double(), nn.Linear(len(b), 1).double()
    with torch.no_grad():
        first.weight.copy_(torch.tensor(W.T / x.scale))
        first.bias.copy_(torch.tensor(b - (x.mean / x.scale) @ W))
        last.weight.copy_(torch.tensor(scale * y.scale * V.T))
        last.bias.copy_(torch.tensor(scale * (y.scale * c + y.mean) + offset))
    return nn.Sequential(first, nn.Tanh(), last)


@pytest.mark.parametrize("polish", [False, True])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_error_bars_of_trained_modules_have_the_units_of_y(trained, polish, scale):
    model, module = trained

    def adopted(scale):
        network = in_units(module, model, scale, 0.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HFLWarning)
            return HFLRegressor.from_torch(network, X, scale * Y, polish=polish)

    ours, expected = adopted(scale), adopted(1.0)
    assert_allclose(ours.noise_std_ / scale, expected.noise_std_, rtol=0.05)
    for a, b in zip(
        ours.predict(QUERIES, return_std="epistemic"),
        expected.predict(QUERIES, return_std="epistemic"),
        strict=True,
    ):
        assert_allclose(a / scale, b, rtol=0.02, atol=1e-3)


@pytest.fixture(scope="module")
def adopted(trained):
    """A module that was trained elsewhere, and its clone's own fit."""
    model, module = trained
    network = in_units(module, model, 1.0, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HFLWarning)
        model = HFLRegressor.from_torch(network, X, Y)
    return model, fitted(clone(model).set_params(random_state=0), X, Y)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_clones_of_trained_modules_are_refitted_in_any_units(adopted, scale, offset):
    model, expected = adopted
    again = clone(model).set_params(random_state=0)
    fitted(again, X, scale * (Y + offset))
    assert_allclose(again.noise_std_ / scale, expected.noise_std_, rtol=0.01)
    assert_allclose(again.score(X, scale * (Y + offset)), expected.score(X, Y), atol=0.01)

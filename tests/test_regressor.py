"""HFLRegressor: fitted attributes, equality with closed forms, and modules."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal, norm
from sklearn.linear_model import BayesianRidge
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklearn_hfl import HFLRegressor, HFLWarning
from tests.regression import (
    ACTIVATIONS,
    KNOWN,
    LINEAR,
    QUERIES,
    RAW,
    at_a_kink,
    data,
    fitted,
)

# --------------------------------------------------------- fitted attributes

ATTRIBUTES = {
    "n_features_in_": int,
    "n_outputs_": int,
    "module_": nn.Module,
    "members_": tuple,
    "coefs_": list,
    "intercepts_": list,
    "n_iter_": int,
    "loss_": float,
    "loss_curve_": list,
    "noise_std_": float,
    "prior_precision_": dict,
    "n_effective_parameters_": float,
    "log_marginal_likelihood_": float,
    "converged_": bool,
    "grad_norm_": float,
    "diagnostics_": dict,
}


@pytest.mark.parametrize(("name", "kind"), ATTRIBUTES.items(), ids=list(ATTRIBUTES))
def test_fitted_attribute_has_its_type(name, kind):
    assert type(getattr(fitted(), name)) is kind or kind is nn.Module
    assert isinstance(getattr(fitted(), name), kind)


def test_fitted_attributes_agree_with_each_other():
    model = fitted(3, n_estimators=2)
    assert (model.n_features_in_, model.n_outputs_, len(model.members_)) == (2, 3, 2)
    assert model.n_iter_ == len(model.loss_curve_) - 1 <= model.max_iter
    assert model.loss_ == pytest.approx(model.loss_curve_[-1], rel=1e-10)
    assert all(type(value) is float for value in model.loss_curve_)
    assert all(type(value) is float for value in model.prior_precision_.values())
    assert 0 < model.n_effective_parameters_ < sum(W.size for W in model.coefs_) + 5 + 3
    assert_allclose(model.noise_std_, [0.2, 0.2, 0.2])


def test_diagnostics_survive_json():
    diagnostics = fitted(3, n_estimators=2).diagnostics_
    assert json.loads(json.dumps(diagnostics, allow_nan=False)) == diagnostics


def test_module_maps_standardised_inputs_to_standardised_means():
    X, y = data(n_outputs=3)
    model = fitted(3)
    x_scaler, y_scaler = StandardScaler().fit(X), StandardScaler().fit(y)
    with torch.no_grad():
        outputs = model.module_(torch.tensor(x_scaler.transform(QUERIES))).numpy()
    assert_allclose(y_scaler.inverse_transform(outputs), model.predict(QUERIES), rtol=1e-10)


@at_a_kink
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_coefs_and_intercepts_are_the_networks(activation):
    params = {**RAW, "hidden_layer_sizes": [4, 3], "activation": activation, "max_iter": 100}
    model = HFLRegressor(**params).fit(*data(n_outputs=2))
    assert [W.shape for W in model.coefs_] == [(2, 4), (4, 3), (3, 2)]
    assert [b.shape for b in model.intercepts_] == [(4,), (3,), (2,)]
    a = QUERIES
    for layer, (W, b) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        a = (ACTIVATIONS[activation](a) if layer else a) @ W + b
    assert_allclose(a, model.predict(QUERIES), rtol=1e-10, atol=1e-12)


def test_loss_is_the_negative_log_posterior_in_nats():
    X, y = data()
    model = HFLRegressor(**RAW).fit(X, y)
    squares = sum((a**2).sum() for a in (*model.coefs_, *model.intercepts_))
    expected = 0.5 * squares - norm(model.predict(X), 0.2).logpdf(y).sum()
    assert model.loss_ == pytest.approx(expected, rel=1e-10)


def test_grad_norm_is_that_of_the_loss():
    X, y = (torch.tensor(a) for a in data())
    with pytest.warns(HFLWarning, match="not stationary"):
        model = HFLRegressor(**RAW, max_iter=3).fit(X.numpy(), y.numpy())
    weights = list(model.module_.parameters())
    loss = 0.5 * ((model.module_(X)[:, 0] - y) / 0.2).square().sum()
    loss = loss + 0.5 * sum(w.square().sum() for w in weights)
    gradient = torch.autograd.grad(loss, weights)
    norm_ = torch.sqrt(sum(g.square().sum() for g in gradient))
    assert model.grad_norm_ == pytest.approx(float(norm_), rel=1e-8)


# ------------------------------------------------ equality with closed forms


def bayesian_ridge(X, y, noise_std, sample_weight=None):
    """scikit-learn's, the bias being one more weight, with both precisions pinned.

    Gamma hyperpriors of such strength leave the precisions at their modes.
    """
    beta, strength = noise_std**-2, 1e15
    model = BayesianRidge(
        fit_intercept=False,
        alpha_1=beta * strength, alpha_2=strength, lambda_1=strength, lambda_2=strength,
    )  # fmt: skip
    model.fit(with_ones(X), y, sample_weight)
    assert_allclose([model.alpha_, model.lambda_], [beta, 1.0], rtol=1e-12)
    return model


def with_ones(X):
    return np.column_stack([X, np.ones(len(X))])


def test_linear_network_is_bayesian_ridge():
    X, y = data()
    model, ridge = HFLRegressor(**LINEAR).fit(X, y), bayesian_ridge(X, y, 0.2)
    mean, std = model.predict(QUERIES, return_std=True)
    ridge_mean, ridge_std = ridge.predict(with_ones(QUERIES), return_std=True)
    assert_allclose(mean, ridge_mean, rtol=1e-8)
    assert_allclose(std, ridge_std, rtol=1e-8)
    cov = model.predict(QUERIES, return_cov=True)[1]
    features = with_ones(QUERIES)
    expected = features @ ridge.sigma_ @ features.T + 0.2**2 * np.eye(7)
    assert_allclose(cov, expected, rtol=1e-8, atol=1e-10)


def test_linear_network_with_weighted_rows_is_bayesian_ridge():
    X, y = data()
    weight = np.linspace(0.1, 3, len(y))
    model = HFLRegressor(**LINEAR).fit(X, y, sample_weight=weight)
    ridge = bayesian_ridge(X, y, 0.2, weight)
    for ours, theirs in zip(
        model.predict(QUERIES, return_std=True),
        ridge.predict(with_ones(QUERIES), return_std=True),
        strict=True,
    ):
        assert_allclose(ours, theirs, rtol=1e-8)


def test_linear_network_of_several_outputs_is_bayesian_ridge_for_each():
    X, y = data(n_outputs=3)
    noise = [0.1, 0.2, 0.4]
    model = HFLRegressor(**{**LINEAR, "noise_std": noise}).fit(X, y)
    mean, std = model.predict(QUERIES, return_std=True)
    assert_allclose(model.noise_std_, noise)
    for k in range(3):
        ridge = bayesian_ridge(X, y[:, k], noise[k])
        expected = ridge.predict(with_ones(QUERIES), return_std=True)
        assert_allclose(mean[:, k], expected[0], rtol=1e-8)
        assert_allclose(std[:, k], expected[1], rtol=1e-8)


def test_linear_network_standardises_inside_and_answers_in_units_of_y():
    X, y = data()
    X, y = 30 * X + 100, 500 * y - 7000
    x_scaler = StandardScaler().fit(X)
    model = HFLRegressor(hidden_layer_sizes=(), prior_precision=1.0, noise_std=60.0).fit(X, y)
    ridge = bayesian_ridge(x_scaler.transform(X), (y - y.mean()) / y.std(), 60 / y.std())
    queries = 30 * QUERIES + 100
    mean, std = model.predict(queries, return_std=True)
    expected = ridge.predict(with_ones(x_scaler.transform(queries)), return_std=True)
    assert_allclose(mean, expected[0] * y.std() + y.mean(), rtol=1e-8)
    assert_allclose(std, expected[1] * y.std(), rtol=1e-8)
    assert model.noise_std_ == pytest.approx(60)


def test_linear_network_has_the_exact_evidence_and_effective_parameters():
    X, y = data()
    model = HFLRegressor(**LINEAR).fit(X, y)
    features = with_ones(X)
    marginal = features @ features.T + 0.2**2 * np.eye(len(y))
    expected = multivariate_normal(cov=marginal).logpdf(y)
    assert model.log_marginal_likelihood_ == pytest.approx(expected, rel=1e-8)
    curvature = features.T @ features / 0.2**2
    gamma = np.trace(np.linalg.solve(curvature + np.eye(3), curvature))
    assert model.n_effective_parameters_ == pytest.approx(gamma, rel=1e-8)


@pytest.mark.parametrize(
    ("solver", "params", "rtol"),
    [
        ("newton-cg", {}, 1e-8),
        ("lbfgs", {}, 1e-6),
        ("adam", {"learning_rate_init": 0.01, "max_iter": 3000}, 1e-2),
    ],
    ids=["newton-cg", "lbfgs", "adam"],
)
def test_each_solver_finds_the_only_optimum_of_a_linear_network(solver, params, rtol):
    X, y = data()
    model = HFLRegressor(**LINEAR, solver=solver, **params).fit(X, y)
    assert model.converged_
    expected = bayesian_ridge(X, y, 0.2).predict(with_ones(QUERIES), return_std=True)
    for ours, theirs in zip(model.predict(QUERIES, return_std=True), expected, strict=True):
        assert_allclose(ours, theirs, rtol=rtol)


# -------------------------------------------------------------------- module


def perceptron(n_features, n_outputs):
    return nn.Sequential(nn.Linear(n_features, 5), nn.Tanh(), nn.Linear(5, n_outputs))


def normalized(n_features, n_outputs):
    return nn.Sequential(
        nn.Linear(n_features, 4), nn.LayerNorm(4), nn.Dropout(0.0), nn.Linear(4, n_outputs)
    )  # fmt: skip


@pytest.mark.parametrize("n_outputs", [None, 1, 3])
@pytest.mark.parametrize("module", [perceptron, normalized])
def test_a_module_answers_with_the_perceptrons_shapes(module, n_outputs):
    model = HFLRegressor(**KNOWN, module=module).fit(*data(n_outputs=n_outputs))
    mlp = fitted(n_outputs)
    for ours, theirs in zip(
        (*model.predict(QUERIES, return_std=True), model.predict(QUERIES, return_cov=True)[1]),
        (*mlp.predict(QUERIES, return_std=True), mlp.predict(QUERIES, return_cov=True)[1]),
        strict=True,
    ):
        assert ours.shape == theirs.shape
        assert np.isfinite(ours).all()
    assert not hasattr(model, "coefs_")
    assert not hasattr(model, "intercepts_")


@pytest.mark.parametrize("variance", ["linearized", "network"])
def test_a_module_at_the_perceptrons_weights_gives_the_perceptrons_answers(variance):
    X, y = data()
    mlp = HFLRegressor(**RAW, variance=variance).fit(X, y)
    factory = lambda n_features, n_outputs: copy.deepcopy(mlp.module_)  # noqa: E731
    model = HFLRegressor(**RAW, variance=variance, module=factory).fit(X, y)
    assert model.loss_ == pytest.approx(mlp.loss_, rel=1e-10)
    for ours, theirs in zip(
        model.predict(X[:7], return_std=True), mlp.predict(X[:7], return_std=True), strict=True
    ):
        assert_allclose(ours, theirs, rtol=1e-3)


def test_a_module_is_reproducible_and_left_as_the_factory_made_it():
    X, y = data()
    made = []

    def factory(n_features, n_outputs):
        made.append(perceptron(n_features, n_outputs))
        return made[-1]

    fits = [HFLRegressor(**KNOWN, module=factory).fit(X, y) for _ in range(2)]
    assert_array_equal(fits[0].predict(X), fits[1].predict(X))
    first, second = (nn.utils.parameters_to_vector(module.parameters()) for module in made)
    assert first.dtype == torch.float32
    assert torch.equal(first, second)


def test_a_module_is_called_with_the_numbers_of_features_and_outputs():
    calls = []

    def factory(n_features, n_outputs):
        calls.append((n_features, n_outputs))
        return perceptron(n_features, n_outputs)

    HFLRegressor(**{**KNOWN, "n_estimators": 2}, module=factory).fit(*data(n_outputs=3))
    assert calls == [(2, 3)] * 2


class Squeezed(nn.Linear):
    def forward(self, x):
        return super().forward(x)[:, 0]


class Noisy(nn.Linear):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.5, training=True)


BAD_MODULES = {
    "batch norm": (
        lambda d, k: nn.Sequential(nn.Linear(d, 3), nn.BatchNorm1d(3), nn.Linear(3, k)),
        ValueError,
        "BatchNorm1d.*LayerNorm",
    ),
    "dropout": (
        lambda d, k: nn.Sequential(nn.Linear(d, 3), nn.Dropout(0.1), nn.Linear(3, k)),
        ValueError,
        "Dropout.*no dropout",
    ),
    "another number of outputs": (
        lambda d, k: nn.Linear(d, k + 1),
        ValueError,
        r"must map \(n, 2\) to \(n, 1\).*shape \(2, 2\)",
    ),
    "no axis of outputs": (Squeezed, ValueError, r"must map \(n, 2\) to \(n, 1\).*shape \(2,\)"),
    "chance in its forward pass": (Noisy, ValueError, "module"),
    "no weights": (lambda d, k: nn.AvgPool1d(d), ValueError, "module"),
    "no module": (lambda d, k: "Linear", TypeError, "torch.nn.Module, but it returned str"),
}


@pytest.mark.parametrize(("module", "error", "match"), BAD_MODULES.values(), ids=list(BAD_MODULES))
def test_a_module_without_a_posterior_of_each_row_is_refused(module, error, match):
    with pytest.raises(error, match=match):
        HFLRegressor(**KNOWN, module=module).fit(*data())

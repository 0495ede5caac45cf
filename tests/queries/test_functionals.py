"""predict_functional: error bars of many rows together, against dense algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import BayesianRidge

from sklearn_hfl import HFLRegressor, HFLWarning
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.uncertainty.exact import dense_ggn, dense_hessian, exact_covariance

KNOWN = {
    "hidden_layer_sizes": (5,),
    "n_estimators": 1,
    "prior_precision": 1.0,
    "noise_std": 0.2,
    "tol": 0.0,  # to the very MAP
    "random_state": 0,
}
MODELS = {
    "linearized": {},
    "network": {"variance": "network"},
    "two members": {"n_estimators": 2},
    "in raw units": {"normalize_X": False, "normalize_y": False},
}
RNG = np.random.default_rng(1)
MANY, FEW = RNG.uniform(-1, 1, (1000, 2)), RNG.uniform(-1, 1, (6, 2))
CONTRASTS = RNG.standard_normal((3, len(FEW)))


def data(n_outputs=None):
    """Rows (40, 2) and targets far from standardised, (40,) or (40, n_outputs)."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (40, 2))
    columns = [np.sin(3 * X[:, 0]) + X[:, 1], 10 * X[:, 0] * X[:, 1] - 7]
    y = np.column_stack(columns)[:, : n_outputs or 1] + 0.1 * rng.standard_normal((40, 1))
    return X, 3 + 2 * (y if n_outputs else y[:, 0])


@pytest.fixture(scope="module")
def fitted():
    cache = {}

    def fit(n_outputs=None, **params):
        key = (n_outputs, *sorted(params.items()))
        if key not in cache:
            cache[key] = HFLRegressor(**{**KNOWN, **params}).fit(*data(n_outputs))
        return cache[key]

    return fit


@pytest.fixture(params=MODELS.values(), ids=list(MODELS))
def params(request):
    return request.param


def exact_moments(model, X, weights):
    """Value (G, K) and covariance (G, G, K) of weights @ f(X), by dense algebra."""
    queries = torch.tensor((X - model._x_scaler.mean) / model._x_scaler.scale)
    matrix = dense_hessian if model.variance == "network" else dense_ggn
    values, covariances = [], []
    for estimate in (member.estimate for member in model.members_):
        log_posterior, theta = estimate.log_posterior, estimate.weights
        prediction = Prediction(log_posterior.network, queries)
        sigma = exact_covariance(matrix(log_posterior, theta), prediction.gradient(theta))
        q, k = len(X), model.n_outputs_
        blocks = sigma.reshape(q, k, q, k).diagonal(dim1=1, dim2=3).numpy()
        covariances.append(np.einsum("gi,ijk,hj->ghk", weights, blocks, weights))
        outputs = prediction.value(theta[None]).reshape(q, k).detach().numpy()
        values.append(weights @ (outputs * model._y_scaler.scale + model._y_scaler.mean))
    deviations = np.array(values) - np.mean(values, 0)
    between = np.einsum("mgk,mhk->ghk", deviations, deviations) / len(values)
    return np.mean(values, 0), np.mean(covariances, 0) * model._y_scaler.scale**2 + between


# --------------------------------------------------------- sums over rows


def test_the_mean_of_many_rows_has_the_std_of_the_dense_joint_covariance(fitted, params):
    model = fitted(**params)
    value, std = model.predict_functional(MANY)
    exact, cov = exact_moments(model, MANY, np.full((1, 1000), 1e-3))
    assert type(value) is type(std) is float
    assert value == pytest.approx(exact[0, 0], rel=1e-10)
    assert std == pytest.approx(np.sqrt(cov[0, 0, 0]), rel=model.std_rtol)
    assert value == pytest.approx(model.predict(MANY).mean(), rel=1e-10)
    # Neighbours err together: independent rows would average their errors away.
    assert std > 3 * np.sqrt((model.predict(MANY, return_std="epistemic")[1] ** 2).sum()) / 1000


def test_rows_of_weights_are_functionals(fitted, params):
    model = fitted(**params)
    value, std = model.predict_functional(FEW, weights=CONTRASTS)
    exact, cov = exact_moments(model, FEW, CONTRASTS)
    assert value.shape == std.shape == (3,)
    assert_allclose(value, exact[:, 0], rtol=1e-10)
    assert_allclose(std, np.sqrt(np.diag(cov[..., 0])), rtol=model.std_rtol)
    one, one_std = model.predict_functional(FEW, weights=list(CONTRASTS[1]))
    assert_allclose([one, one_std], [value[1], std[1]], rtol=2 * model.std_rtol)


def test_covariance_of_several_functionals(fitted, params):
    model = fitted(**params)
    value, cov = model.predict_functional(FEW, weights=CONTRASTS, return_cov=True)
    exact, exact_cov = exact_moments(model, FEW, CONTRASTS)
    stds = np.sqrt(np.diag(exact_cov[..., 0]))
    assert_allclose(value, exact[:, 0], rtol=1e-10)
    assert_allclose(cov / np.outer(stds, stds), exact_cov[..., 0] / np.outer(stds, stds), atol=0.02)
    _, std = model.predict_functional(FEW, weights=CONTRASTS)
    assert_allclose(np.diag(cov), std**2, rtol=1e-8)


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_several_outputs_are_functionals_each(fitted, params, n_outputs):
    model = fitted(n_outputs, **params)
    value, std = model.predict_functional(FEW, weights=CONTRASTS)
    exact, cov = exact_moments(model, FEW, CONTRASTS)
    assert value.shape == std.shape == (3, n_outputs)
    assert_allclose(value, exact, rtol=1e-10)
    assert_allclose(std, np.sqrt(np.einsum("ggk->gk", cov)), rtol=model.std_rtol)
    joint = model.predict_functional(FEW, weights=CONTRASTS, return_cov=True)[1]
    assert joint.shape == (3, 3, n_outputs)
    assert_allclose(np.einsum("ggk->gk", joint), std**2, rtol=2 * model.std_rtol)
    value, std = model.predict_functional(FEW)
    assert value.shape == std.shape == (n_outputs,)
    assert_allclose(value, model.predict(FEW).mean(0), rtol=1e-10)
    assert model.predict_functional(FEW, return_cov=True)[1].shape == (n_outputs,)


def test_a_row_by_itself_is_its_prediction(fitted, params):
    model = fitted(**params)
    mean, std = model.predict(FEW, return_std="epistemic")
    value, functional_std = model.predict_functional(FEW, weights=np.eye(len(FEW)))
    assert_allclose(value, mean, rtol=1e-10)
    assert_allclose(functional_std, std, rtol=2 * model.std_rtol)


def test_a_linear_network_is_bayesian_ridge():
    X, y = data()
    raw = {"hidden_layer_sizes": (), "normalize_X": False, "normalize_y": False}
    model = HFLRegressor(**{**KNOWN, **raw}, std_rtol=1e-8).fit(X, y)
    strength = 1e15  # Gamma hyperpriors of such strength leave the precisions at their modes.
    ridge = BayesianRidge(
        fit_intercept=False, alpha_1=25 * strength, alpha_2=strength, lambda_1=strength,
        lambda_2=strength,
    ).fit(np.column_stack([X, np.ones(40)]), y)  # fmt: skip
    features = CONTRASTS @ np.column_stack([FEW, np.ones(6)])
    value, cov = model.predict_functional(FEW, weights=CONTRASTS, return_cov=True)
    assert_allclose(value, features @ ridge.coef_, rtol=1e-7)
    assert_allclose(cov, features @ ridge.sigma_ @ features.T, rtol=1e-7, atol=1e-10)


def test_rows_may_come_in_any_order(fitted, params):
    model, order = fitted(**params), np.random.default_rng(2).permutation(6)
    first = model.predict_functional(FEW, weights=CONTRASTS)
    second = model.predict_functional(FEW[order], weights=CONTRASTS[:, order])
    assert_allclose(first, second, rtol=1e-6)


# ------------------------------------------------------ functions of the rows

FUNCTIONS = {
    "ratio": lambda f: f[0] / f[1:].mean(),
    "softened maximum": lambda f: f.logsumexp(0),
    "share above": lambda f: torch.sigmoid((f - 3) / 0.5).mean(),
    "several": lambda f: torch.stack([f.mean(), f.var(), f[0] * f[1]]),
}


@pytest.mark.parametrize("func", FUNCTIONS.values(), ids=list(FUNCTIONS))
def test_a_function_has_the_std_of_the_delta_method(fitted, params, func):
    model = fitted(**params)
    if model.n_estimators > 1:
        values = [func(torch.tensor(part)) for part in member_predictions(model)]
        expected = torch.stack(values).mean(0).numpy()
        value, std = model.predict_functional(FEW, func=func)
        assert_allclose(value, expected, rtol=1e-10)
        assert (np.asarray(std) >= torch.stack(values).std(0, correction=0).numpy()).all()
        return
    f = torch.tensor(model.predict(FEW))
    slopes = torch.autograd.functional.jacobian(func, f).numpy()
    _, sigma = exact_moments(model, FEW, np.eye(len(FEW)))
    exact = np.atleast_2d(slopes) @ sigma[..., 0] @ np.atleast_2d(slopes).T
    value, std = model.predict_functional(FEW, func=func)
    assert_allclose(value, func(f).numpy(), rtol=1e-10)
    assert np.shape(value) == np.shape(std) == tuple(func(f).shape)
    assert_allclose(std, np.sqrt(np.diag(exact)).reshape(np.shape(std)), rtol=model.std_rtol)
    value, cov = model.predict_functional(FEW, func=func, return_cov=True)
    size = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    assert_allclose(np.atleast_2d(cov) / size, exact / size, atol=0.02)


def member_predictions(model):
    """Means (n,) of each member, in units of y."""
    queries = torch.tensor((FEW - model._x_scaler.mean) / model._x_scaler.scale)
    for estimate in (member.estimate for member in model.members_):
        outputs = estimate.log_posterior.network.forward(estimate.weights[None], queries)[0, :, 0]
        yield outputs.detach().numpy() * model._y_scaler.scale + model._y_scaler.mean


def test_a_function_of_weights_is_the_weighted_sum(fitted, params):
    model, W = fitted(**params), torch.tensor(CONTRASTS)
    for flags in ({}, {"return_cov": True}):
        by_weights = model.predict_functional(FEW, weights=CONTRASTS, **flags)
        by_function = model.predict_functional(FEW, func=lambda f: W @ f, **flags)
        for first, second in zip(by_weights, by_function, strict=True):
            assert_allclose(first, second, rtol=1e-6, atol=1e-9)


def test_a_function_sees_every_output_in_its_units(fitted):
    model = fitted(2)
    value, std = model.predict_functional(FEW, func=lambda f: (f[:, 1] - f[:, 0]).mean())
    mean = model.predict(FEW)
    assert value == pytest.approx((mean[:, 1] - mean[:, 0]).mean())
    assert std > 0
    # Outputs of one network share their hidden units: the covariance between them counts.
    both, cov = model.predict_functional(FEW, func=lambda f: f.mean(0), return_cov=True)
    assert_allclose(both, mean.mean(0))
    assert std**2 == pytest.approx(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1], rel=0.05)


# ------------------------------------------------------------------ settings


def test_only_what_is_asked_for_is_returned(fitted, params):
    model = fitted(**params)
    for query in ({}, {"weights": CONTRASTS}, {"func": FUNCTIONS["several"]}):
        value = model.predict_functional(FEW, **query, return_std=False)
        assert_array_equal(value, model.predict_functional(FEW, **query)[0])
        _, cov = model.predict_functional(FEW, **query, return_std=True, return_cov=True)
        only = model.predict_functional(FEW, **query, return_std=False, return_cov=True)[1]
        assert_array_equal(cov, only)


@pytest.mark.parametrize("query", [{}, {"func": lambda f: f.logsumexp(0)}], ids=["mean", "func"])
def test_the_memory_limit_changes_nothing(query):
    for params in ({}, {"variance": "network"}, {"module": module}):
        model = HFLRegressor(**{**KNOWN, **params}).fit(*data())
        expected = model.predict_functional(MANY[:500], **query)
        model.set_params(memory_limit=50_000.0)
        assert_allclose(model.predict_functional(MANY[:500], **query), expected, rtol=1e-6)


def module(n_features, n_outputs):
    return torch.nn.Sequential(
        torch.nn.Linear(n_features, 4), torch.nn.Tanh(), torch.nn.Linear(4, n_outputs)
    )


def test_nothing_of_the_estimator_changes(fitted):
    model = fitted()
    before = dict(vars(model))
    with torch.inference_mode():
        model.predict_functional(FEW, func=FUNCTIONS["ratio"])
        model.predict_functional(FEW, weights=CONTRASTS, return_cov=True)
    assert all(vars(model)[name] is value for name, value in before.items())
    assert set(vars(model)) == set(before)


def test_misses_are_counted():
    with pytest.warns(HFLWarning, match="not stationary"):
        model = HFLRegressor(**{**KNOWN, "max_iter": 2}, variance="network").fit(*data())
    with pytest.warns(HFLWarning, match="1 of 1 standard deviations"):
        model.predict_functional(100 * FEW)


def wrong(*shape):
    return {"weights": np.ones(shape)}


BAD = {
    "both": ({"weights": np.ones(6), "func": torch.mean}, ValueError, "both are given"),
    "too few weights": (wrong(5), ValueError, r"\(6,\) or \(n_functionals, 6\).*got \(5,\)"),
    "weights in columns": (wrong(6, 1), ValueError, r"got \(6, 1\)"),
    "weights of three dimensions": (wrong(1, 1, 6), ValueError, r"got \(1, 1, 6\)"),
    "no functionals": (wrong(0, 6), ValueError, "minimum of 1"),
    "weights not finite": ({"weights": [np.nan] * 6}, ValueError, "weights contains NaN"),
    "weights of text": ({"weights": ["a"] * 6}, ValueError, "numbers"),
    "return_std": ({"return_std": "epistemic"}, ValueError, "return_std must be True or False"),
    "return_cov": ({"return_cov": 2}, ValueError, "return_cov must be True or False"),
    "func": ({"func": "mean"}, TypeError, "func must be a callable, but got str"),
    "not a tensor": ({"func": lambda f: f.mean().item()}, TypeError, "returned float"),
    "two dimensions": ({"func": lambda f: f[:, None]}, ValueError, r"one of shape \(6, 1\)"),
    "nothing": ({"func": lambda f: f[:0]}, ValueError, r"one of shape \(0,\)"),
    "not finite": ({"func": lambda f: (f - 1e9).log()}, ValueError, "6 of 6 are not finite"),
    "detached": ({"func": lambda f: f.detach().mean()}, ValueError, "differentiable"),
    "a comparison": ({"func": lambda f: (f > 3).double().mean()}, ValueError, "sigmoid"),
    "without f": (
        {"func": lambda f: torch.ones(1, requires_grad=True) * 2}, ValueError, "differentiable"
    ),
    "NumPy": ({"func": lambda f: np.exp(f.numpy())}, ValueError, "Use torch's functions"),
    "no gradient": ({"func": lambda f: (f - f).mean().sqrt()}, ValueError, "gradient of func"),
}  # fmt: skip


@pytest.mark.parametrize(("query", "error", "match"), BAD.values(), ids=list(BAD))
def test_bad_input_gets_a_clear_error(fitted, query, error, match):
    with pytest.raises(error, match=match):
        fitted().predict_functional(FEW, **query)

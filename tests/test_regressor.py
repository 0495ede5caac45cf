"""HFLRegressor: shapes, moments, fitted attributes, and equality with exact computations."""

from __future__ import annotations

import copy
import functools
import json
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import erf, expit
from scipy.stats import multivariate_normal, norm
from sklearn.base import clone
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import BayesianRidge
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklearn_hfl import HFLRegressor, HFLWarning
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.uncertainty.exact import dense_ggn, dense_hessian, exact_covariance

KNOWN = {
    "hidden_layer_sizes": (5,),
    "prior_precision": 1.0,
    "noise_std": 0.2,
    "tol": 0.0,  # to the very MAP
    "random_state": 0,
}
RAW = {**KNOWN, "normalize_X": False, "normalize_y": False}
LINEAR = {**RAW, "hidden_layer_sizes": ()}
QUERIES = np.random.default_rng(1).uniform(-2, 2, (7, 2))
ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "silu": lambda z: z * expit(z),
    "gelu": lambda z: 0.5 * z * (1 + erf(z / np.sqrt(2))),
    "logistic": expit,
}


def data(n=40, n_outputs=None):
    """Rows (n, 2) and smooth targets, (n,) or (n, n_outputs), with noise of std 0.1."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (n, 2))
    columns = [np.sin(3 * X[:, 0]) + X[:, 1], X[:, 0] * X[:, 1], X[:, 1] ** 2]
    y = np.column_stack(columns)[:, : n_outputs or 1] + 0.1 * rng.standard_normal((n, 1))
    return X, y if n_outputs else y[:, 0]


@pytest.fixture(scope="module")
def fitted():
    """A model of each number of outputs, fitted once."""
    cache = {}

    def fit(n_outputs=None, **params):
        key = (n_outputs, *sorted(params.items()))
        if key not in cache:
            cache[key] = HFLRegressor(**{**KNOWN, **params}).fit(*data(n_outputs=n_outputs))
        return cache[key]

    return fit


def exact_stds(model, X, matrix=dense_ggn):
    """Epistemic std (n, K) of each member by dense algebra."""
    stds = []
    queries = torch.as_tensor(model._x_scaler.transform(X), dtype=torch.float64)
    for member in model.members_:
        estimate = member.estimate
        log_posterior, weights = estimate.log_posterior, estimate.weights
        gradient = Prediction(log_posterior.network, queries).gradient(weights)
        cov = exact_covariance(matrix(log_posterior, weights), gradient)
        std = cov.diagonal().sqrt().reshape(len(X), -1).numpy()
        stds.append(std * model._y_scaler.scale)
    return stds


def exact_std(model, X, matrix=dense_ggn):
    """The same of a single member with one output, (n,)."""
    (std,) = exact_stds(model, X, matrix)
    return std[:, 0]


# ------------------------------------------------------------------- shapes


@pytest.mark.parametrize("n_outputs", [None, 3])
def test_shapes_are_those_of_the_gaussian_process_regressor(fitted, n_outputs):
    model = fitted(n_outputs)
    process = GaussianProcessRegressor(optimizer=None, alpha=0.1).fit(*data(n_outputs=n_outputs))
    for query in (
        lambda m: [m.predict(QUERIES)],
        lambda m: m.predict(QUERIES, return_std=True),
        lambda m: m.predict(QUERIES, return_cov=True),
        lambda m: [m.sample_y(QUERIES, 4)],
    ):
        assert [a.shape for a in query(model)] == [a.shape for a in query(process)]


@pytest.mark.parametrize("n_outputs", [None, 1, 3])
def test_results_are_shaped_as_y_was(fitted, n_outputs):
    model = fitted(n_outputs)
    tail = () if n_outputs is None else (n_outputs,)
    mean, cov = model.predict(QUERIES, return_cov=True)
    assert mean.shape == (7, *tail)
    assert cov.shape == (7, 7, *tail)
    assert model.predict(QUERIES, return_std=True)[1].shape == (7, *tail)
    assert model.sample_y(QUERIES, n_samples=4).shape == (7, *tail, 4)
    result = model.predict_uncertainty(QUERIES)
    for name in ("mean", "std", "epistemic_std", "aleatoric_std"):
        assert result[name].shape == (7, *tail)
    assert result.converged.shape == result.rel_error.shape == (7,)
    assert np.shape(model.noise_std_) == tail


def test_one_query_is_enough(fitted):
    mean, std = fitted().predict(QUERIES[:1], return_std=True)
    assert mean.shape == std.shape == (1,)


# ---------------------------------------------------- parts of the uncertainty


@pytest.mark.parametrize("n_outputs", [None, 2])
def test_total_variance_is_epistemic_plus_aleatoric(fitted, n_outputs):
    model = fitted(n_outputs)
    stds = {
        part: model.predict(QUERIES, return_std=part)[1]
        for part in ("total", "epistemic", "aleatoric")
    }
    assert_allclose(stds["total"] ** 2, stds["epistemic"] ** 2 + stds["aleatoric"] ** 2)
    assert_allclose(stds["aleatoric"], KNOWN["noise_std"])
    assert_array_equal(model.predict(QUERIES, return_std=True)[1], stds["total"])


def test_the_mean_is_the_same_however_it_is_asked_for(fitted):
    mean = fitted().predict(QUERIES)
    assert_array_equal(mean, fitted().predict(QUERIES, return_std=True)[0])
    assert_array_equal(mean, fitted().predict(QUERIES, return_cov=True)[0])
    assert_array_equal(mean, fitted().predict_uncertainty(QUERIES).mean)


@pytest.mark.parametrize("n_outputs", [None, 2])
@pytest.mark.parametrize(
    "params", [{}, {"variance": "network"}, {"n_estimators": 2}], ids=["one", "network", "two"]
)
def test_std_is_the_root_of_the_covariances_diagonal(fitted, params, n_outputs):
    # The refit of a far query need not settle; these settle, and so raise no warning.
    model, near = fitted(n_outputs, **params), data()[0][22:29]
    cov = model.predict(near, return_cov=True)[1]
    diagonal = np.einsum("ii...->i...", cov)
    assert_allclose(model.predict(near, return_std=True)[1], np.sqrt(diagonal), rtol=1e-10)


def test_covariance_is_symmetric_and_positive_definite(fitted):
    cov = fitted().predict(QUERIES, return_cov=True)[1]
    assert_allclose(cov, cov.T, rtol=1e-12)
    assert np.linalg.eigvalsh(cov).min() >= 0.99 * KNOWN["noise_std"] ** 2


def test_covariance_equals_that_of_the_dense_ggn():
    model = HFLRegressor(**RAW, std_rtol=1e-8).fit(*data())
    estimate = model.members_[0].estimate
    lp, weights = estimate.log_posterior, estimate.weights
    gradient = Prediction(lp.network, torch.tensor(QUERIES)).gradient(weights)
    exact = exact_covariance(dense_ggn(lp, weights), gradient).numpy()
    cov = model.predict(QUERIES, return_cov=True)[1]
    assert_allclose(cov, exact + 0.2**2 * np.eye(7), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("n_outputs", [None, 2])
def test_predict_uncertainty_agrees_with_predict(fitted, n_outputs):
    model = fitted(n_outputs)
    result = model.predict_uncertainty(QUERIES)
    assert set(result) == {
        "mean", "std", "epistemic_std", "aleatoric_std", "converged", "rel_error"
    }  # fmt: skip
    for name, part in (
        ("std", "total"),
        ("epistemic_std", "epistemic"),
        ("aleatoric_std", "aleatoric"),
    ):
        assert_array_equal(result[name], model.predict(QUERIES, return_std=part)[1])
    assert result.converged.dtype == bool
    assert_array_equal(result.converged, result.rel_error <= model.std_rtol)


def test_std_grows_away_from_the_data(fitted):
    along = np.column_stack([np.linspace(1, 4, 4), np.zeros(4)])
    std = fitted().predict(along, return_std="epistemic")[1]
    assert (np.diff(std) > 0).all()


# ------------------------------------------------------------------ sampling


@pytest.mark.parametrize("noise", [True, False])
@pytest.mark.parametrize("params", [{}, {"n_estimators": 2}], ids=["one", "two"])
def test_samples_have_the_predicted_mean_and_covariance(fitted, params, noise):
    model, n = fitted(**params), 4000
    mean, cov = model.predict(QUERIES, return_cov=True)
    cov = cov if noise else cov - KNOWN["noise_std"] ** 2 * np.eye(7)
    draws = model.sample_y(QUERIES, n, random_state=0, noise=noise)
    variance = np.diag(cov)
    # Five standard errors of each estimate, for Gaussian draws.
    assert (np.abs(draws.mean(1) - mean) <= 5 * np.sqrt(variance / n)).all()
    error = np.sqrt((np.outer(variance, variance) + cov**2) / n)
    assert (np.abs(np.cov(draws) - cov) <= 5 * error).all()


def test_outputs_are_sampled_each_with_its_own_covariance(fitted):
    model, n = fitted(2), 4000
    mean, std = model.predict(QUERIES[:2], return_std=True)
    draws = model.sample_y(QUERIES[:2], n)
    assert (np.abs(draws.mean(-1) - mean) <= 5 * std / np.sqrt(n)).all()
    assert_allclose(draws.std(-1), std, rtol=5 / np.sqrt(2 * n))


def test_samples_are_reproducible(fitted):
    draws = fitted().sample_y(QUERIES, 3, random_state=5)
    assert_array_equal(draws, fitted().sample_y(QUERIES, 3, random_state=5))
    assert_array_equal(
        draws, fitted().sample_y(QUERIES, 3, random_state=np.random.RandomState(5))
    )  # fmt: skip
    assert (draws != fitted().sample_y(QUERIES, 3, random_state=6)).all()


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
def test_fitted_attribute_has_its_type(fitted, name, kind):
    assert type(getattr(fitted(), name)) is kind or kind is nn.Module
    assert isinstance(getattr(fitted(), name), kind)


def test_fitted_attributes_agree_with_each_other(fitted):
    model = fitted(3, n_estimators=2)
    assert (model.n_features_in_, model.n_outputs_, len(model.members_)) == (2, 3, 2)
    assert model.n_iter_ == len(model.loss_curve_) - 1 <= model.max_iter
    assert model.loss_ == pytest.approx(model.loss_curve_[-1], rel=1e-10)
    assert all(type(value) is float for value in model.loss_curve_)
    assert all(type(value) is float for value in model.prior_precision_.values())
    assert 0 < model.n_effective_parameters_ < sum(W.size for W in model.coefs_) + 5 + 3
    assert_allclose(model.noise_std_, [0.2, 0.2, 0.2])


def test_diagnostics_survive_json(fitted):
    diagnostics = fitted(3, n_estimators=2).diagnostics_
    assert json.loads(json.dumps(diagnostics, allow_nan=False)) == diagnostics


def test_module_maps_standardised_inputs_to_standardised_means(fitted):
    X, y = data(n_outputs=3)
    model = fitted(3)
    x_scaler, y_scaler = StandardScaler().fit(X), StandardScaler().fit(y)
    with torch.no_grad():
        outputs = model.module_(torch.tensor(x_scaler.transform(QUERIES))).numpy()
    assert_allclose(y_scaler.inverse_transform(outputs), model.predict(QUERIES), rtol=1e-10)


# An optimum of relu units may lie at a kink, where no gradient vanishes.
at_a_kink = pytest.mark.filterwarnings("ignore:The MAP is not stationary")


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


# --------------------------------------------- equality with dense matrices


@pytest.mark.parametrize("std_rtol", [0.3, 0.01, 1e-6])
@pytest.mark.parametrize("hidden_layer_sizes", [(10,), (6, 5)], ids=["one layer", "two layers"])
def test_linearized_std_equals_the_dense_ggns_and_the_bound_holds(hidden_layer_sizes, std_rtol):
    params = {**RAW, "hidden_layer_sizes": hidden_layer_sizes, "std_rtol": std_rtol}
    model = HFLRegressor(**params).fit(*data())
    near_and_far = np.vstack([QUERIES, 5 * QUERIES])
    result, exact = model.predict_uncertainty(near_and_far), exact_std(model, near_and_far)
    error = np.abs(result.epistemic_std / exact - 1)
    assert result.converged.all()
    assert (result.rel_error <= std_rtol).all()
    # 1e-11 is what rounding leaves of the dense solve.
    assert (error <= result.rel_error + 1e-11).all()


@at_a_kink
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_linearized_std_of_each_activation_and_output_equals_the_dense_ggns(activation):
    model = HFLRegressor(**RAW, activation=activation).fit(*data(n_outputs=2))
    result = model.predict_uncertainty(QUERIES)
    (exact,) = exact_stds(model, QUERIES)
    assert_allclose(result.epistemic_std, exact, rtol=model.std_rtol)
    error = np.abs(result.epistemic_std / exact - 1).max(1)
    assert (error <= result.rel_error + 1e-11).all()


def test_network_std_equals_the_dense_hessians():
    model = HFLRegressor(**RAW, variance="network", std_rtol=1e-5).fit(*data())
    near = data()[0][:7]
    result = model.predict_uncertainty(near)
    assert result.converged.all()
    assert_allclose(result.epistemic_std, exact_std(model, near, dense_hessian), rtol=1e-4)


def test_a_fixed_perturbation_scale_is_taken_as_it_is():
    fits = [
        HFLRegressor(**RAW, variance="network", std_rtol=1e-6, perturbation_scale=scale).fit(
            *data()
        )
        for scale in (1e-2, 0.5)
    ]
    near = data()[0][:7]
    small, large = (fit.predict(near, return_std="epistemic")[1] for fit in fits)
    exact = exact_std(fits[0], near, dense_hessian)
    assert_allclose(small, exact, rtol=1e-3)
    assert (np.abs(large / exact - 1) > np.abs(small / exact - 1)).all()


def test_two_members_are_mixed_by_the_law_of_total_variance():
    model = HFLRegressor(**RAW, n_estimators=2, std_rtol=1e-8).fit(*data())
    queries = torch.tensor(QUERIES)
    estimates = [member.estimate for member in model.members_]
    means = np.stack(
        [e.log_posterior.network.forward(e.weights[None], queries)[0, :, 0] for e in estimates]
    )
    assert (means[0] != means[1]).all()
    variances = np.stack(exact_stds(model, QUERIES))[:, :, 0] ** 2
    mean, std = model.predict(QUERIES, return_std="epistemic")
    assert_allclose(mean, means.mean(0), rtol=1e-12)
    assert_allclose(std**2, variances.mean(0) + means.var(0), rtol=1e-6)
    assert_allclose(
        model.predict(QUERIES, return_std=True)[1] ** 2, std**2 + 0.2**2, rtol=1e-12
    )  # fmt: skip


# ----------------------------------------------------- where the MAP is missed


@pytest.mark.filterwarnings("ignore:The search for a network ended")
@pytest.mark.parametrize("solver", ["newton-cg", "lbfgs", "adam"])
@pytest.mark.parametrize("precisions", ["known", "evidence"])
def test_an_unconverged_map_has_the_laplace_std_of_its_weights_and_says_so(solver, precisions):
    params = {**RAW, "solver": solver, "max_iter": 5}
    if precisions == "evidence":
        params |= {"prior_precision": "evidence", "noise_std": "evidence"}
    with pytest.warns(HFLWarning, match=r"The MAP is not stationary: .* after 5 steps"):
        model = HFLRegressor(**params).fit(*data())
    assert not model.converged_
    assert model.n_iter_ == 5
    std = model.predict(QUERIES, return_std="epistemic")[1]
    assert np.isfinite(std).all()
    assert (std > 0).all()
    assert_allclose(std, exact_std(model, QUERIES), rtol=model.std_rtol)


# Training stopped too early leaves an indefinite Hessian, and no row settles; with a weak
# prior, steps of a third of a standard deviation take some rows out of the valley.
HARD = {
    "all rows": {"max_iter": 5},
    "some rows": {"prior_precision": 0.01, "perturbation_scale": 0.3, "random_state": 4},
}
NEAR = data()[0][:20]


@functools.cache
def network_model(hard):
    model = HFLRegressor(**{**RAW, "variance": "network", **HARD[hard]})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The MAP is not stationary")
        return model.fit(*data())


@pytest.mark.parametrize("hard", HARD)
def test_network_rows_that_fail_are_flagged_counted_and_linearized(hard):
    model = network_model(hard)
    with pytest.warns(HFLWarning) as record:
        result = model.predict_uncertainty(NEAR)
    failed = ~result.converged
    assert len(record) == 1
    assert str(record[0].message).startswith(f"{failed.sum()} of {len(NEAR)} standard deviations")
    assert failed.all() == (hard == "all rows")
    assert np.isfinite(result.epistemic_std).all()
    assert (result.epistemic_std > 0).all()
    # A miss of the tolerance by little keeps the network's value, with its error.
    missed = failed & (result.rel_error > model.std_rtol)
    assert (result.rel_error[missed] <= 0.05).all()
    linearized = exact_std(model, NEAR)
    fell_back = failed & ~missed
    assert fell_back.any()
    assert_allclose(result.epistemic_std[fell_back], linearized[fell_back], rtol=model.std_rtol)
    settled = np.abs(result.epistemic_std / linearized - 1)[~failed]
    assert failed.all() or (settled > model.std_rtol).any()


QUESTIONS = {
    "std": lambda model: model.predict(NEAR, return_std=True),
    "covariance": lambda model: model.predict(NEAR, return_cov=True),
    "uncertainty": lambda model: model.predict_uncertainty(NEAR),
    "samples": lambda model: model.sample_y(NEAR),
}


@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=list(QUESTIONS))
def test_failed_rows_are_counted_in_one_warning_at_the_line_that_asked(ask):
    model = network_model("some rows")
    count = rf"\d+ of {len(NEAR)} standard deviations"
    with pytest.warns(HFLWarning, match=count) as record:
        ask(model)
    assert [warning.filename for warning in record] == [__file__]


def test_the_warning_of_fit_points_at_the_line_that_called():
    with pytest.warns(HFLWarning, match="not stationary") as record:
        HFLRegressor(**RAW, max_iter=5).fit(*data())
    assert [warning.filename for warning in record] == [__file__]


# ------------------------------------------------------------------ training


TASKS = {
    "parabola": lambda x: x**2,
    "sine": lambda x: np.sin(3 * x),
    "step": lambda x: np.sign(x),
    "line": lambda x: 2 * x + 1,
}


each_task = pytest.mark.parametrize(
    ("task", "n"), [(task, n) for task in TASKS for n in (32, 150)]
)  # fmt: skip


@functools.cache
def default_fit(task, n):
    """The model, n points of the task and its values there, which were fitted with noise 0.1."""
    x = np.linspace(-2, 2, n)
    signal, noise = TASKS[task](x), 0.1 * np.random.default_rng(0).standard_normal(n)
    model = HFLRegressor(hidden_layer_sizes=(10,), random_state=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The MAP is not stationary")
        return model.fit(x[:, None], signal + noise), x[:, None], signal


@each_task
def test_default_precisions_learn_signal_and_noise(task, n):
    model, X, signal = default_fit(task, n)
    assert r2_score(signal, model.predict(X)) > 0.95
    # Five standard errors of an estimate from n draws.
    assert model.noise_std_ == pytest.approx(0.1, rel=5 / np.sqrt(2 * n))


@each_task
def test_default_fits_reach_their_map(task, n):
    assert default_fit(task, n)[0].converged_


def test_intervals_cover_new_rows_as_often_as_they_say():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (1100, 2))
    y = np.sin(3 * X[:, 0]) + X[:, 1] + 0.3 * rng.standard_normal(len(X))
    model = HFLRegressor(hidden_layer_sizes=(10,), random_state=0).fit(X[:100], y[:100])
    mean, std = model.predict(X[100:], return_std=True)
    covered = np.abs(y[100:] - mean) < norm.ppf(0.95) * std
    assert 0.85 < covered.mean() < 0.95


@at_a_kink
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_activation_learns(activation):
    X, y = data(100)
    params = {**KNOWN, "hidden_layer_sizes": (15,), "activation": activation}
    model = HFLRegressor(**params).fit(X, y)
    assert model.converged_ or activation == "relu"
    assert model.score(X, y) > 0.9


@pytest.mark.parametrize("solver", ["newton-cg", "lbfgs", "adam"])
@pytest.mark.parametrize("precisions", ["known", "evidence"])
def test_each_solver_learns_and_stays_within_max_iter(solver, precisions):
    X, y = data(100)
    params = {**KNOWN, "solver": solver, "max_iter": 200, "learning_rate_init": 0.02}
    if precisions == "evidence":
        params |= {"prior_precision": "evidence", "noise_std": "evidence"}
    with warnings.catch_warnings():
        # First-order solvers need not get there; that they say so is tested above.
        warnings.filterwarnings("ignore", "The MAP is not stationary")
        model = HFLRegressor(**params).fit(X, y)
    assert model.n_iter_ <= 200
    assert model.score(X, y) > 0.9
    assert model.loss_curve_[-1] < model.loss_curve_[0]


def test_score_is_r2(fitted):
    X, y = data()
    assert fitted().score(X, y) == r2_score(y, fitted().predict(X))


def test_equal_seeds_give_equal_bits_and_others_do_not():
    X, y = data()
    fits = [
        HFLRegressor(**{**KNOWN, "random_state": seed}).fit(X, y).predict(X)
        for seed in (0, 0, np.random.RandomState(0), 1, None, None)
    ]
    assert_array_equal(fits[0], fits[1])
    assert_array_equal(fits[0], fits[2])
    assert len({fit.tobytes() for fit in fits}) == 4


def test_hidden_layer_sizes_may_be_a_number_or_any_sequence():
    X, y = data()
    sizes = [5, (5,), [5], np.array([5]), np.int64(5)]
    fits = [HFLRegressor(**{**KNOWN, "hidden_layer_sizes": s}).fit(X, y).predict(X) for s in sizes]
    for fit in fits:
        assert_array_equal(fit, fits[0])


def test_warm_start_begins_where_the_last_fit_ended():
    X, y = data()
    model = HFLRegressor(**RAW, warm_start=True).fit(X, y)
    loss, n_iter, mean = model.loss_, model.n_iter_, model.predict(QUERIES)
    model.fit(X, y)
    assert model.loss_curve_[0] == pytest.approx(loss, rel=1e-10)
    assert model.n_iter_ < n_iter
    assert_allclose(model.predict(QUERIES), mean, rtol=1e-2)


def test_a_cold_start_forgets_the_last_fit():
    X, y = data()
    model = HFLRegressor(**RAW).fit(X[::-1], y)
    assert_array_equal(
        model.fit(X, y).predict(QUERIES), clone(model).fit(X, y).predict(QUERIES)
    )  # fmt: skip


def test_warm_start_begins_anew_where_the_weights_no_longer_fit():
    X, y = data()
    model = HFLRegressor(**RAW, warm_start=True).fit(X, y)
    model.set_params(hidden_layer_sizes=(4,)).fit(X, y)
    assert_array_equal(model.predict(QUERIES), clone(model).fit(X, y).predict(QUERIES))


def test_early_stopping_ends_adam_and_keeps_the_held_out_rows_in_the_curvature():
    X, y = data()
    params = {**RAW, "solver": "adam", "early_stopping": True, "learning_rate_init": 0.05}
    with pytest.warns(HFLWarning, match="not stationary"):
        model = HFLRegressor(**params, validation_fraction=0.25).fit(X, y)
    assert model.n_iter_ < model.max_iter
    assert len(model.members_[0].estimate.log_posterior.X) == len(X)
    std = model.predict(QUERIES, return_std="epistemic")[1]
    assert_allclose(std, exact_std(model, QUERIES), rtol=model.std_rtol)


@pytest.mark.parametrize("batch_size", ["auto", 1, 7, 1000])
def test_adam_takes_batches_of_any_size(batch_size):
    X, y = data()
    with pytest.warns(HFLWarning, match="not stationary"):
        model = HFLRegressor(**KNOWN, solver="adam", batch_size=batch_size, max_iter=20).fit(X, y)
    assert model.loss_curve_[-1] < model.loss_curve_[0]


# -------------------------------------------------------------------- module


def perceptron(n_features, n_outputs):
    return nn.Sequential(nn.Linear(n_features, 5), nn.Tanh(), nn.Linear(5, n_outputs))


def normalized(n_features, n_outputs):
    return nn.Sequential(
        nn.Linear(n_features, 4), nn.LayerNorm(4), nn.Dropout(0.0), nn.Linear(4, n_outputs)
    )  # fmt: skip


@pytest.mark.parametrize("n_outputs", [None, 1, 3])
@pytest.mark.parametrize("module", [perceptron, normalized])
def test_a_module_answers_with_the_perceptrons_shapes(fitted, module, n_outputs):
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

    HFLRegressor(**KNOWN, module=factory, n_estimators=2).fit(*data(n_outputs=3))
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


# --------------------------------------------------------- data with a twist


def test_verbose_shows_progress_on_stderr(capsys):
    model = HFLRegressor(**KNOWN, verbose=True).fit(*data())
    fit = capsys.readouterr()
    model.predict(QUERIES, return_std=True)
    predict = capsys.readouterr()
    assert fit.out == predict.out == ""
    assert f"{model.n_iter_}/{model.max_iter}" in fit.err
    assert "loss=" in fit.err
    assert "1/1" in predict.err


def test_silence_is_the_default(capfd, fitted):
    HFLRegressor(**KNOWN).fit(*data()).predict(QUERIES, return_std=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("precision", [1.0, "evidence"])
def test_a_constant_column_works_and_another_value_of_it_widens_the_error_bar(precision):
    X, y = data()
    X = np.column_stack([X, np.full(len(X), 7.0)])
    model = HFLRegressor(**{**KNOWN, "prior_precision": precision}).fit(X, y)
    assert model.score(X, y) > 0.9
    std = model.predict(X[:5], return_std=True)[1]
    X[:, 2] = 9.0
    assert (model.predict(X[:5], return_std=True)[1] > std).all()


@pytest.mark.parametrize("noise_std", [0.2, "evidence"])
def test_a_constant_y_is_predicted_and_said(noise_std):
    X, y = data()
    model = HFLRegressor(**{**KNOWN, "noise_std": noise_std})
    with pytest.warns(HFLWarning, match="Constant target: y has a single value"):
        model.fit(X, np.full(len(y), 3.0))
    mean, std = model.predict(QUERIES, return_std=True)
    assert_allclose(mean, 3.0, atol=1e-2)
    assert np.isfinite(std).all()
    assert (std > 0).all()


def test_a_constant_output_among_others_is_counted():
    X, y = data(n_outputs=3)
    y[:, 1] = 5.0
    with pytest.warns(HFLWarning, match="Constant target: 1 of 3 columns of y"):
        model = HFLRegressor(**KNOWN).fit(X, y)
    assert_allclose(model.predict(X)[:, 1], 5.0, atol=0.2)
    assert r2_score(y[:, 0], model.predict(X)[:, 0]) > 0.9


PRECISIONS = {"known": {}, "evidence": {"prior_precision": "evidence", "noise_std": "evidence"}}


@pytest.mark.parametrize("params", PRECISIONS.values(), ids=list(PRECISIONS))
def test_rows_of_weight_zero_are_not_there(params):
    X, y = data()
    weight = np.arange(len(y)) % 3 > 0
    model = HFLRegressor(**{**KNOWN, **params})
    weighted = clone(model).fit(X, y, sample_weight=weight.astype(float))
    removed = clone(model).fit(X[weight], y[weight])
    for ours, theirs in zip(
        weighted.predict(QUERIES, return_std=True),
        removed.predict(QUERIES, return_std=True),
        strict=True,
    ):
        assert_array_equal(ours, theirs)


def weighted_and_repeated(**params):
    """Means and stds of a fit with weights 1 and 2, and of one with rows once and twice."""
    X, y = data()
    count = 1 + (np.arange(len(y)) % 3 == 0)
    model = HFLRegressor(**{**KNOWN, **params})
    weighted = clone(model).fit(X, y, sample_weight=count)
    repeated = clone(model).fit(np.repeat(X, count, axis=0), np.repeat(y, count))
    return weighted.predict(QUERIES, return_std=True), repeated.predict(QUERIES, return_std=True)


def test_a_row_of_weight_two_is_two_rows():
    for weighted, repeated in zip(*weighted_and_repeated(), strict=True):
        assert_allclose(weighted, repeated, rtol=1e-6)


def test_a_row_of_weight_two_is_two_rows_for_the_evidence():
    params = {"prior_precision": "evidence", "noise_std": "evidence"}
    weighted, repeated = weighted_and_repeated(**params)
    # The evidence's rounds end at a tolerance, not at an optimum.
    assert_allclose(weighted[1], repeated[1], rtol=1e-3)
    assert (np.abs(weighted[0] - repeated[0]) <= 1e-3 * weighted[1]).all()


def test_float32_is_within_its_error_bound_and_answers_in_float64():
    X, y = data()
    params = {**LINEAR, "noise_std": 1.0, "tol": 0.01}
    single, double = (
        HFLRegressor(**params, dtype=dtype).fit(X, y) for dtype in ("float32", "float64")
    )
    assert {p.dtype for p in single.module_.parameters()} == {torch.float32}
    result, exact = single.predict_uncertainty(QUERIES), double.predict_uncertainty(QUERIES)
    assert result.mean.dtype == result.std.dtype == result.rel_error.dtype == np.float64
    assert (np.abs(result.mean - exact.mean) <= 0.01 * exact.epistemic_std).all()
    error = np.abs(result.epistemic_std / exact.epistemic_std - 1)
    assert (error <= result.rel_error).all()
    assert result.converged.all()


def test_float32_says_which_rows_rounding_spoils():
    params = {**RAW, "noise_std": 0.01, "std_rtol": 1e-4, "dtype": "float32", "max_iter": 50}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The MAP is not stationary")
        model = HFLRegressor(**params).fit(*data())
    with pytest.warns(HFLWarning, match="7 of 7 .* missed std_rtol=0.0001.*dtype='float64'"):
        result = model.predict_uncertainty(QUERIES)
    assert not result.converged.any()
    assert (result.rel_error > 1e-4).all()

"""HFLRegressor(likelihood="heteroscedastic"): noise that depends on the row."""

from __future__ import annotations

import functools
import pickle
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm
from sklearn.base import clone
from sklearn.neural_network import MLPRegressor
from torch import nn

from sklearn_hfl import HFLRegressor, HFLWarning
from sklearn_hfl.metrics import coverage_score, negative_log_predictive_density
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.posterior.link import MEAN
from sklearn_hfl.uncertainty.exact import dense_ggn, dense_hessian, exact_covariance

NOISY = {
    "hidden_layer_sizes": (6,),
    "n_estimators": 1,
    "likelihood": "heteroscedastic",
    "random_state": 0,
}
KNOWN = {**NOISY, "prior_precision": 1.0}
QUERIES = np.linspace(-2, 2, 9)[:, None]


def noise_of(kind, X):
    x = X[:, 0]
    std = {"varies": 0.05 + 0.3 * np.abs(x), "grows": 0.2 * np.exp(x), "constant": 0.2 + 0 * x}
    return std[kind]


def data(n=150, n_outputs=None, kind="varies", seed=0):
    """x uniform on (−2, 2), and y with noise of that kind; further outputs in other units."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, (n, 1))
    shape = (n, n_outputs or 1)
    mean = X if kind == "grows" else np.sin(3 * X)
    y = mean + noise_of(kind, X)[:, None] * rng.standard_normal(shape)
    y = y * 10.0 ** np.arange(shape[1])
    return X, y if n_outputs else y[:, 0]


@functools.cache
def learned(n_outputs=None, kind="varies", **params):
    """All precisions from the evidence."""
    return HFLRegressor(**{**NOISY, **params}).fit(*data(300, n_outputs, kind))


def perceptron(n_features, n_outputs):
    return nn.Sequential(nn.Linear(n_features, 6), nn.Tanh(), nn.Linear(6, n_outputs))


VARIANTS = {
    "linearized": {},
    "network": {"variance": "network"},
    "two members": {"n_estimators": 2},
    "module": {"module": perceptron},
    "linear": {"hidden_layer_sizes": ()},
}


@functools.cache
def fitted(n_outputs=None, name="linearized"):
    """A given prior, and noise that varies."""
    kind = "grows" if name == "linear" else "varies"
    return HFLRegressor(**{**KNOWN, **VARIANTS[name]}).fit(*data(90, n_outputs, kind))


# ------------------------------------------------------------------- moments


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("n_outputs", [None, 2])
def test_parts_add_up_in_every_answer(name, n_outputs):
    model = fitted(n_outputs, name)
    mean, std = model.predict(QUERIES, return_std=True)
    epistemic, aleatoric = (
        model.predict(QUERIES, return_std=part)[1] for part in ("epistemic", "aleatoric")
    )
    assert mean.shape == std.shape == ((9, 2) if n_outputs else (9,))
    assert_allclose(std**2, epistemic**2 + aleatoric**2, rtol=1e-10)
    result = model.predict_uncertainty(QUERIES)
    assert_array_equal(result.aleatoric_std, aleatoric)
    assert_array_equal(model.predict(QUERIES), mean)
    cov = model.predict(QUERIES, return_cov=True)[1]
    assert_allclose(np.sqrt(np.diagonal(cov).T), std, rtol=model.std_rtol)
    interval = model.predict_interval(QUERIES, 0.9)[1]
    assert_allclose(np.diff(interval, axis=-1)[..., 0], 2 * norm.ppf(0.95) * std)


def test_samples_have_each_rows_noise():
    model = fitted()
    mean, cov = model.predict(QUERIES, return_cov=True)
    draws = model.sample_y(QUERIES, 4000)
    error = np.sqrt(np.diag(cov) / 4000)
    assert (np.abs(draws.mean(1) - mean) < 5 * error).all()
    # The std of a sample std is about std / sqrt(2 n).
    assert_allclose(draws.std(1), np.sqrt(np.diag(cov)), rtol=5 / np.sqrt(8000))


@pytest.mark.parametrize("n_outputs", [None, 2])
def test_functionals_are_of_the_mean_alone(n_outputs):
    model = fitted(n_outputs)
    mean, std = (a.reshape(9, -1) for a in model.predict(QUERIES, return_std="aleatoric"))
    w = np.linspace(-1, 2, 9)
    cov = model.predict(QUERIES, return_cov=True)[1].reshape(9, 9, -1)
    cov = cov - np.eye(9)[:, :, None] * std**2
    expected = w @ mean, np.sqrt(np.einsum("i,ijk,j->k", w, cov, w))
    assert_allclose(np.ravel(model.predict_functional(QUERIES, weights=w)), np.ravel(expected))
    of_function = model.predict_functional(QUERIES, func=lambda f: torch.tensor(w) @ f)
    assert_allclose(np.ravel(of_function), np.ravel(expected))


def test_profile_intervals_have_each_rows_noise():
    model = fitted(name="linear")
    mean, interval = model.predict_interval(QUERIES, 0.8, kind="profile")
    _, total = model.predict(QUERIES, return_std=True)
    # The mean is linear in its weights, but its precision moves with those of the log noise.
    z = norm.ppf(0.9)
    assert_allclose(interval[:, 1] - mean, z * total, rtol=0.05)
    assert_allclose(mean - interval[:, 0], z * total, rtol=0.05)


def test_members_are_mixed_by_the_law_of_total_variance():
    model = fitted(name="two members")
    noise = [alone(model, i).predict(QUERIES, return_std="aleatoric")[1] for i in (0, 1)]
    assert_allclose(
        model.predict(QUERIES, return_std="aleatoric")[1] ** 2, np.mean(np.square(noise), axis=0)
    )


def alone(model, i):
    other = asking(model)
    other.members_ = model.members_[i : i + 1]
    return other


def asking(model, **params):
    """The same fit, asked with other parameters."""
    other = clone(model)
    vars(other).update(vars(model))
    return other.set_params(**params)


# --------------------------------------------------- equality with dense algebra


def dense_stds(model, X, matrix):
    """Epistemic std (n, K) in units of y, by dense algebra at the MAP."""
    estimate = model.members_[0].estimate
    lp, weights = estimate.log_posterior, estimate.weights
    queries = torch.as_tensor(model._x_scaler.transform(X))
    gradient = Prediction(lp.network, queries, MEAN).gradient(weights)
    variance = exact_covariance(matrix(lp, weights), gradient).diagonal()
    return variance.sqrt().reshape(len(X), -1).numpy() * model._y_scaler.scale


@pytest.mark.parametrize("n_outputs", [None, 2])
@pytest.mark.parametrize("name", ["linearized", "module", "linear"])
def test_std_equals_the_dense_ggns(name, n_outputs):
    model = asking(fitted(n_outputs, name), std_rtol=1e-6)
    std = model.predict(QUERIES, return_std="epistemic")[1]
    assert_allclose(std.reshape(9, -1), dense_stds(model, QUERIES, dense_ggn), rtol=1e-5)


def test_network_std_equals_the_dense_hessians():
    model = fitted(name="network")
    result = model.predict_uncertainty(QUERIES)
    assert result.converged.all()
    expected = dense_stds(model, QUERIES, dense_hessian)[:, 0]
    assert_allclose(result.epistemic_std, expected, rtol=model.std_rtol)


@pytest.mark.parametrize("n_outputs", [None, 2])
def test_residuals_are_averaged_over_the_posterior_of_the_mean(n_outputs):
    """The variance that is added to squared residuals is that of the fit, to a few percent."""
    lp = learned(n_outputs).members_[0].estimate.log_posterior
    weights = learned(n_outputs).members_[0].estimate.weights
    gradient = Prediction(lp.network, lp.X, MEAN).gradient(weights)
    variance = exact_covariance(dense_ggn(lp, weights), gradient).diagonal()
    # The last round of the evidence set it, at weights that were trained on since.
    assert_allclose(lp.variance_of_mean.flatten(), variance, rtol=0.1)


# ------------------------------------------------------------- what is learned

# Log noise is known to about sqrt(γ / 2N) a row, here sqrt(7 / 600) ≈ 0.11 on average
# for the seven parameters that a kink and a few bends take; three times that.
LOG_NOISE_ERROR = 0.33


@pytest.mark.parametrize("n_outputs", [None, 2])
def test_noise_that_varies_is_learned(n_outputs):
    model = learned(n_outputs)
    X = np.linspace(-1.9, 1.9, 39)[:, None]
    std = model.predict(X, return_std="aleatoric")[1].reshape(39, -1)
    units = 10.0 ** np.arange(std.shape[1])
    error = np.log(std / (noise_of("varies", X)[:, None] * units))
    assert np.sqrt(np.mean(error**2)) < LOG_NOISE_ERROR
    assert std[0, 0] > 3 * std[19, 0]


@pytest.mark.parametrize("kind", ["varies", "constant"])
def test_fresh_rows_are_as_likely_as_under_the_gaussian_likelihood_or_more(kind):
    X, y = data(2000, kind=kind, seed=1)
    noisy, gaussian = (
        negative_log_predictive_density(y, *model.predict(X, return_std=True))
        for model in (learned(kind=kind), learned(kind=kind, likelihood="gaussian"))
    )
    assert noisy < gaussian + (-0.15 if kind == "varies" else 0.03)


def test_intervals_cover_where_noise_is_small_and_where_it_is_large():
    X, y = data(4000, seed=1)
    interval = learned().predict_interval(X, 0.9)[1]
    quarter = np.argsort(np.argsort(np.abs(X[:, 0]))) // 1000
    covered = [coverage_score(y[quarter == q], interval[quarter == q]) for q in range(4)]
    assert min(covered) > 0.8
    # One noise for all rows is far too wide where it is small, too narrow where large.
    interval = learned(likelihood="gaussian").predict_interval(X, 0.9)[1]
    covered = [coverage_score(y[quarter == q], interval[quarter == q]) for q in range(4)]
    assert covered[0] > 0.97
    assert covered[3] < 0.85


def test_conformal_intervals_follow_the_noise():
    X, y = data(300, seed=2)
    fresh, target = data(3000, seed=3)
    model = pickle.loads(pickle.dumps(learned())).conformalize(X, y)
    interval = model.predict_interval(fresh, 0.9, kind="conformal")[1]
    assert coverage_score(target, interval) == pytest.approx(0.9, abs=0.05)
    width = np.diff(interval, axis=1)[:, 0]
    near, far = np.abs(fresh[:, 0]) < 0.2, np.abs(fresh[:, 0]) > 1.8
    assert width[far].mean() > 3 * width[near].mean()


def test_a_constant_noise_stays_one():
    model = learned(kind="constant")
    std = model.predict(QUERIES, return_std="aleatoric")[1]
    assert_allclose(std, std[0], rtol=0.1)
    assert model.noise_std_ == pytest.approx(0.2, rel=0.2)


@pytest.mark.parametrize("n", [5, 12])
def test_few_rows_do_not_prove_that_there_is_no_noise(n):
    X, y = data(n)
    model = HFLRegressor(**NOISY).fit(X, y)
    std = model.predict(X, return_std="aleatoric")[1]
    assert (std > 1e-3 * y.std()).all()


def test_rows_without_noise_end_at_a_finite_level():
    X = np.linspace(-2, 2, 60)[:, None]
    model = HFLRegressor(**NOISY).fit(X, np.sin(X[:, 0]))
    std = model.predict(np.vstack([X, 1e6 * X]), return_std="aleatoric")[1]
    assert (std[:60] >= 1e-4).all()
    assert np.isfinite(std).all()


# ---------------------------------------------------------- the rest of the interface


def test_noise_std_is_the_root_mean_square_over_the_training_rows():
    X, y = data(60)
    weight = np.linspace(0.5, 2, len(y))
    model = HFLRegressor(**KNOWN).fit(X, y, sample_weight=weight)
    squares = model.predict(X, return_std="aleatoric")[1] ** 2
    assert model.noise_std_ == pytest.approx(np.sqrt(np.average(squares, weights=weight)))
    assert fitted(2).noise_std_.shape == (2,)


def test_evidence_prefers_noise_that_varies_where_it_does():
    assert (
        learned().log_marginal_likelihood_
        > learned(likelihood="gaussian").log_marginal_likelihood_ + 5
    )


def test_the_module_gives_means_then_log_noise():
    model = fitted(2)
    with torch.no_grad():
        outputs = model.module_(torch.as_tensor(model._x_scaler.transform(QUERIES)))
    assert outputs.shape == (9, 4)
    mean = outputs[:, :2].numpy() * model._y_scaler.scale + model._y_scaler.mean
    assert_allclose(mean, model.predict(QUERIES))
    assert model.coefs_[-1].shape == (6, 4)


def test_log_noise_has_prior_groups_of_its_own():
    assert list(learned().prior_precision_)[-2:] == [
        "layer 1 weights of log noise",
        "layer 1 biases of log noise",
    ]
    assert list(fitted(name="linear").prior_precision_) == [
        "layer 0 feature 0",
        "layer 0 biases",
        "layer 0 weights of log noise",
        "layer 0 biases of log noise",
    ]


def test_a_row_of_weight_two_is_two_rows():
    X, y = data(60)
    count = 1 + (np.arange(60) % 3 == 0)
    model = HFLRegressor(**KNOWN, tol=0.0)
    weighted = clone(model).fit(X, y, sample_weight=count).predict(QUERIES, return_std=True)
    repeated = clone(model).fit(np.repeat(X, count, axis=0), np.repeat(y, count))
    mean, std = repeated.predict(QUERIES, return_std=True)
    assert_allclose(weighted[1], std, rtol=1e-6)
    assert_allclose(weighted[0], mean, rtol=1e-6)


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_the_other_solvers_learn_it_too(solver):
    X, y = data()
    params = {"max_iter": 1500, "tol": 1e-4, "learning_rate_init": 0.02}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HFLWarning)  # Adam ends near the MAP, not at it
        model = HFLRegressor(**KNOWN, **params, solver=solver).fit(X, y)
    std = model.predict([[0.0], [1.9]], return_std="aleatoric")[1]
    assert std[1] > 2 * std[0]


def test_float32_gives_nearly_the_same_noise():
    single = HFLRegressor(**KNOWN, dtype="float32", std_rtol=0.5).fit(*data(90))
    double = fitted().predict(QUERIES, return_std="aleatoric")[1]
    assert_allclose(single.predict(QUERIES, return_std="aleatoric")[1], double, rtol=0.1)


# ------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("noise_std", [0.1, [0.1]])
def test_the_noise_cannot_be_both_learned_and_given(noise_std):
    with pytest.raises(ValueError, match=r"noise_std is .*Set noise_std='evidence', or"):
        HFLRegressor(**NOISY, noise_std=noise_std).fit(*data(20))


def test_networks_trained_elsewhere_give_no_log_noise():
    X, y = data(20)
    mlp = MLPRegressor(hidden_layer_sizes=3, solver="lbfgs", alpha=1.0, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="has no output for it"):
        HFLRegressor.from_mlp(mlp, X, y, likelihood="heteroscedastic")
    with pytest.raises(ValueError, match="has no output for it"):
        HFLRegressor.from_torch(nn.Linear(1, 2), X, y, likelihood="heteroscedastic")

"""Posterior predictive: shapes, parts of the uncertainty, samples, and failed refits."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.gaussian_process import GaussianProcessRegressor

from sklearn_hfl import HFLRegressor, HFLWarning
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.uncertainty.exact import dense_ggn, dense_hessian, exact_covariance
from tests.regression import (
    ACTIVATIONS,
    KNOWN,
    QUERIES,
    RAW,
    at_a_kink,
    data,
    exact_std,
    exact_stds,
    fitted,
)

# ------------------------------------------------------------------- shapes


@pytest.mark.parametrize("n_outputs", [None, 3])
def test_shapes_are_those_of_the_gaussian_process_regressor(n_outputs):
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
def test_results_are_shaped_as_y_was(n_outputs):
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


def test_one_query_is_enough():
    mean, std = fitted().predict(QUERIES[:1], return_std=True)
    assert mean.shape == std.shape == (1,)


# ---------------------------------------------------- parts of the uncertainty


@pytest.mark.parametrize("n_outputs", [None, 2])
def test_total_variance_is_epistemic_plus_aleatoric(n_outputs):
    model = fitted(n_outputs)
    stds = {
        part: model.predict(QUERIES, return_std=part)[1]
        for part in ("total", "epistemic", "aleatoric")
    }
    assert_allclose(stds["total"] ** 2, stds["epistemic"] ** 2 + stds["aleatoric"] ** 2)
    assert_allclose(stds["aleatoric"], KNOWN["noise_std"])
    assert_array_equal(model.predict(QUERIES, return_std=True)[1], stds["total"])


def test_the_mean_is_the_same_however_it_is_asked_for():
    mean = fitted().predict(QUERIES)
    assert_array_equal(mean, fitted().predict(QUERIES, return_std=True)[0])
    assert_array_equal(mean, fitted().predict(QUERIES, return_cov=True)[0])
    assert_array_equal(mean, fitted().predict_uncertainty(QUERIES).mean)


@pytest.mark.parametrize("n_outputs", [None, 2])
@pytest.mark.parametrize(
    "params", [{}, {"variance": "network"}, {"n_estimators": 2}], ids=["one", "network", "two"]
)
def test_std_is_the_root_of_the_covariances_diagonal(params, n_outputs):
    # The refit of a far query need not settle; these settle, and so raise no warning.
    model, near = fitted(n_outputs, **params), data()[0][22:29]
    cov = model.predict(near, return_cov=True)[1]
    diagonal = np.einsum("ii...->i...", cov)
    assert_allclose(model.predict(near, return_std=True)[1], np.sqrt(diagonal), rtol=1e-10)


def test_covariance_is_symmetric_and_positive_definite():
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
def test_predict_uncertainty_agrees_with_predict(n_outputs):
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


def test_std_grows_away_from_the_data():
    along = np.column_stack([np.linspace(1, 4, 4), np.zeros(4)])
    std = fitted().predict(along, return_std="epistemic")[1]
    assert (np.diff(std) > 0).all()


# ------------------------------------------------------------------ sampling


@pytest.mark.parametrize("noise", [True, False])
@pytest.mark.parametrize("params", [{}, {"n_estimators": 2}], ids=["one", "two"])
def test_samples_have_the_predicted_mean_and_covariance(params, noise):
    model, n = fitted(**params), 4000
    mean, cov = model.predict(QUERIES, return_cov=True)
    cov = cov if noise else cov - KNOWN["noise_std"] ** 2 * np.eye(7)
    draws = model.sample_y(QUERIES, n, random_state=0, noise=noise)
    variance = np.diag(cov)
    # Five standard errors of each estimate, for Gaussian draws.
    assert (np.abs(draws.mean(1) - mean) <= 5 * np.sqrt(variance / n)).all()
    error = np.sqrt((np.outer(variance, variance) + cov**2) / n)
    assert (np.abs(np.cov(draws) - cov) <= 5 * error).all()


def test_outputs_are_sampled_each_with_its_own_covariance():
    model, n = fitted(2), 4000
    mean, std = model.predict(QUERIES[:2], return_std=True)
    draws = model.sample_y(QUERIES[:2], n)
    assert (np.abs(draws.mean(-1) - mean) <= 5 * std / np.sqrt(n)).all()
    assert_allclose(draws.std(-1), std, rtol=5 / np.sqrt(2 * n))


def test_samples_are_reproducible():
    draws = fitted().sample_y(QUERIES, 3, random_state=5)
    assert_array_equal(draws, fitted().sample_y(QUERIES, 3, random_state=5))
    assert_array_equal(
        draws, fitted().sample_y(QUERIES, 3, random_state=np.random.RandomState(5))
    )  # fmt: skip
    assert (draws != fitted().sample_y(QUERIES, 3, random_state=6)).all()


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
    model = HFLRegressor(**{**RAW, "n_estimators": 2}, std_rtol=1e-8).fit(*data())
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
    with pytest.warns(HFLWarning, match=r"The MAP is not stationary, since .* after 5 steps"):
        model = HFLRegressor(**params).fit(*data())
    assert not model.converged_
    assert model.n_iter_ == 5
    std = model.predict(QUERIES, return_std="epistemic")[1]
    assert np.isfinite(std).all()
    assert (std > 0).all()
    assert_allclose(std, exact_std(model, QUERIES), rtol=model.std_rtol)


# Training stopped too early leaves an indefinite Hessian, and no row converges; with a weak
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
    kept = np.abs(result.epistemic_std / linearized - 1)[~failed]
    assert failed.all() or (kept > model.std_rtol).any()


QUESTIONS = {
    "std": lambda model: model.predict(NEAR, return_std=True),
    "covariance": lambda model: model.predict(NEAR, return_cov=True),
    "interval": lambda model: model.predict(NEAR, return_interval=0.9),
    "quantiles": lambda model: model.predict(NEAR, quantiles=[0.1, 0.9]),
    "distribution": lambda model: model.predict_distribution(NEAR),
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

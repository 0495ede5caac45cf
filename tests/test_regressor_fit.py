"""HFLRegressor.fit: what is learned, solvers, warm starts, weights, and data with a twist."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm
from sklearn.base import clone
from sklearn.metrics import r2_score

from sklearn_hfl import HFLConvergenceWarning, HFLRegressor, HFLWarning
from tests.regression import (
    ACTIVATIONS,
    KNOWN,
    LINEAR,
    QUERIES,
    RAW,
    at_a_kink,
    data,
    exact_std,
    fitted,
)

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


def test_score_is_r2():
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


@pytest.mark.parametrize("seed", [1, 5, 7])
def test_noise_under_a_given_prior_is_that_of_the_better_mode(seed):
    # From all of y as noise the fit of these rows stays in a smoother mode, of 20 nats less.
    x = np.arange(-1.5, -0.7, 0.01)
    X = np.r_[x, x + 1.85][:, None]
    y = -np.sin(3 * X[:, 0] - 0.3) + 0.1 * np.random.RandomState(seed).normal(size=len(X))
    learned, given = (
        HFLRegressor(prior_precision=1.0, noise_std=noise, n_estimators=1, random_state=0).fit(X, y)
        for noise in ("evidence", 0.1)
    )
    assert learned.log_marginal_likelihood_ > given.log_marginal_likelihood_ - 1


def test_hidden_layer_sizes_may_be_a_number_or_any_sequence():
    X, y = data()
    sizes = [5, (5,), [5], np.array([5]), np.int64(5)]
    fits = [HFLRegressor(**{**KNOWN, "hidden_layer_sizes": s}).fit(X, y).predict(X) for s in sizes]
    for fit in fits:
        assert_array_equal(fit, fits[0])


@pytest.mark.parametrize("params", [{}, {"prior_precision": 1.0}])
def test_adam_learns_a_curved_function_of_few_rows(params):
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, size=(60, 2))
    y = np.sin(2 * X[:, 0]) * X[:, 1] + 0.1 * rng.normal(size=60)
    model = HFLRegressor(solver="adam", n_estimators=1, random_state=0, **params)
    with pytest.warns(HFLConvergenceWarning, match="not stationary"):
        model.fit(X, y)
    assert model.score(X, y) > 0.8


def test_warm_start_begins_where_the_last_fit_ended():
    X, y = data()
    model = HFLRegressor(**RAW, warm_start=True).fit(X, y)
    loss, n_iter, mean = model.loss_, model.n_iter_, model.predict(QUERIES)
    model.fit(X, y)
    assert model.loss_curve_[0] == pytest.approx(loss, rel=1e-10)
    assert model.n_iter_ < n_iter
    assert_allclose(model.predict(QUERIES), mean, rtol=1e-2)


LEARNED = {"hidden_layer_sizes": (8,), "n_estimators": 1, "random_state": 0, "warm_start": True}


@pytest.mark.parametrize(
    "params",
    [{}, {"likelihood": "heteroscedastic"}, {"hidden_layer_sizes": ()}, {"noise_std": 0.1}],
)
def test_warm_start_keeps_the_learned_precisions(params):
    X, y = data()
    model = HFLRegressor(**{**LEARNED, **params}).fit(X, y)
    n_iter, precisions, noise = model.n_iter_, model.prior_precision_, model.noise_std_
    mean, std = model.predict(QUERIES, return_std="epistemic")
    before = model.diagnostics_["members"][0]["decrement"]
    model.fit(X, y)
    assert model.prior_precision_ == precisions
    assert_allclose(model.noise_std_, noise, rtol=1e-2)
    assert model.n_iter_ <= max(20, n_iter // 3)
    assert model.converged_
    # What is left to the MAP, in posterior standard deviations, bounds how far predictions move.
    left = before + model.diagnostics_["members"][0]["decrement"]
    assert (np.abs(model.predict(QUERIES) - mean) <= left * std + 1e-6).all()


def test_warm_start_takes_new_rows_at_the_old_precisions():
    X, y = data(60)
    model = HFLRegressor(**LEARNED).fit(X[:40], y[:40])
    precisions = model.prior_precision_
    model.fit(X, y)
    assert model.prior_precision_ == precisions
    assert len(model.members_[0].estimate.log_posterior.X) == 60
    assert model.converged_


@pytest.mark.parametrize(
    ("functions", "noises"),
    [((2, 2), (0.05, 0.5)), ((2, 2), (0.5, 0.05)), ((2, 5), (0.2, 0.2))],
    ids=["noisier", "cleaner", "another function"],
)
def test_warm_start_learns_anew_where_the_old_precisions_do_not_suit(functions, noises):
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, size=(150, 1))
    before, y = (
        np.sin(k * X[:, 0]) + noise * rng.normal(size=150)
        for k, noise in zip(functions, noises, strict=True)
    )
    model = HFLRegressor(**LEARNED).fit(X, before).fit(X, y)
    assert model.noise_std_ == pytest.approx(noises[1], rel=0.2)
    assert_array_equal(model.predict(X), clone(model).fit(X, y).predict(X))


@pytest.mark.parametrize(
    ("easier", "params"),
    [
        ("linear", {}),
        ("one feature", {}),
        ("linear", {"likelihood": "heteroscedastic"}),
        ("linear", {"variance": "amortized"}),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_warm_start_learns_anew_where_other_rows_are_easier(easier, params, seed):
    rng = np.random.default_rng(seed)
    X = rng.uniform(size=(130, 5))
    noise = 0.3 * rng.normal(size=(2, 130))
    before = 2 * np.sin(4 * X[:, 0]) * X[:, 1] + X[:, 2] ** 2 + noise[0]
    functions = {"linear": 2 * X[:, 0] - X[:, 1], "one feature": np.cos(7 * X[:, 4])}
    y = functions[easier] + noise[1]
    model = HFLRegressor(**LEARNED, **params).fit(X, before)
    assert len(model.coefs_) == 2
    model.fit(X, y)
    assert_array_equal(model.predict(X), clone(model).fit(X, y).predict(X))


def test_members_of_a_warm_start_learn_anew_together():
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, size=(60, 1))
    y = np.sin(2 * X[:, 0])
    model = HFLRegressor(**{**LEARNED, "n_estimators": 2})
    model.fit(X, y + 0.05 * rng.normal(size=60)).fit(X, y + 0.5 * rng.normal(size=60))
    noises = [m.estimate.log_posterior.likelihood.noise_precision for m in model.members_]
    assert len(noises) == 2
    assert_array_equal(*noises)
    assert model.noise_std_ == pytest.approx(0.5, rel=0.3)


def test_warm_start_keeps_the_linear_model():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = X[:, 0] + 0.5 * rng.normal(size=60)
    model = HFLRegressor(**LEARNED).fit(X, y)
    assert len(model.coefs_) == 1
    assert len(model.fit(X, y).coefs_) == 1
    assert model.n_iter_ <= 20


def test_warm_start_tries_the_network_again_where_rows_change():
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, size=(60, 2))
    y = np.sin(2 * X[:, 0]) + X[:, 1] + 0.1 * rng.normal(size=60)
    model = HFLRegressor(**LEARNED).fit(X, rng.normal(size=60))
    assert len(model.coefs_) == 1
    assert len(model.fit(X, y).coefs_) == 2
    assert model.score(X, y) > 0.95


@pytest.mark.parametrize("change", [{"activation": "silu"}, {"hidden_layer_sizes": (5,)}])
def test_warm_start_searches_again_for_another_model(change):
    X, y = data()
    model = HFLRegressor(**LEARNED).fit(X, y)
    precisions = model.prior_precision_
    model.set_params(**change).fit(X, y)
    assert model.prior_precision_ != precisions
    assert (
        model.members_[0].network
        == HFLRegressor(**{**LEARNED, **change}).fit(X, y).members_[0].network
    )


def test_warm_start_searches_again_after_an_unfinished_fit():
    X, y = data()
    model = HFLRegressor(**LEARNED, max_iter=3)
    with pytest.warns(HFLWarning, match="max_iter"):
        model.fit(X, y)
    precisions = model.prior_precision_
    model.set_params(max_iter=2000).fit(X, y)
    assert model.converged_
    assert model.prior_precision_ != precisions


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


@pytest.mark.parametrize(
    ("solver", "early_stopping", "ran", "described"),
    [
        (
            "auto",
            False,
            "newton-cg",
            "newton-cg, preconditioned by the curvature matrix of all rows",
        ),
        ("auto", True, "adam", "adam"),
        ("lbfgs", False, "lbfgs", "lbfgs"),
    ],
)
def test_the_solver_that_ran_is_named(solver, early_stopping, ran, described):
    params = {**KNOWN, "solver": solver, "early_stopping": early_stopping, "max_iter": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HFLWarning)
        model = HFLRegressor(**params).fit(*data())
    assert model.solver_ == ran
    assert model.diagnostics_["members"][0]["solver"] == described


def test_a_linear_model_is_trained_by_newton_and_says_so():
    X, y = data()
    params = {"hidden_layer_sizes": (), "solver": "adam", "random_state": 0, "warm_start": True}
    model = HFLRegressor(**params).fit(X, y)
    assert model.solver_ == "newton-cg"
    before = model.predict(QUERIES)
    assert model.converged_
    model.fit(X, y)  # from the MAP, which passes of adam would leave
    assert model.converged_
    assert_allclose(model.predict(QUERIES), before, rtol=1e-9)


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


# --------------------------------------------------------- data with a twist


def test_verbose_shows_progress_on_stderr(capsys):
    model = HFLRegressor(**KNOWN, verbose=True).fit(*data())
    fit = capsys.readouterr()
    model.predict(QUERIES, return_std=True)
    predict = capsys.readouterr()
    assert fit.out == predict.out == ""
    assert f"fit, to the MAP: {model.n_iter_} steps" in fit.err
    assert "loss=" in fit.err
    assert "SDs from the MAP=" in fit.err
    assert str(model.max_iter) not in fit.err
    assert "1/1" in predict.err


def test_verbose_names_the_phases_and_the_evidence_of_a_search(capsys):
    HFLRegressor(hidden_layer_sizes=(5,), random_state=0, verbose=True).fit(*data())
    shown = capsys.readouterr().err
    for phase in (f"search on {len(data()[0])} rows", "noise at the MAP", "to the MAP"):
        assert phase in shown
    assert "log evidence=" in shown


def test_silence_is_the_default(capfd):
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

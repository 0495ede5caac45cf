"""Intervals of the regressor: against quantiles by hand, MAPIE, and their nominal coverage."""

from __future__ import annotations

import pickle
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from mapie.regression import CrossConformalRegressor, SplitConformalRegressor
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import betabinom, norm
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import KFold
from sklearn.neural_network import MLPRegressor

from sklearn_hfl import HFLRegressor, HFLWarning
from sklearn_hfl.metrics import coverage_score

SMALL = {
    "hidden_layer_sizes": (4,),
    "n_estimators": 1,
    "prior_precision": 1.0,
    "noise_std": 0.2,
    "random_state": 0,
}
LEVELS = [0.5, 0.8, 0.9]
N = 59  # calibration rows: (N + 1) level is whole for all levels, as the comparison with MAPIE asks


def data(n, n_outputs=None, seed=0):
    """Smooth targets with noise of std 0.3: more than the models of SMALL believe in."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n, 2))
    columns = np.column_stack([np.sin(3 * X[:, 0]) + X[:, 1], X[:, 0] * X[:, 1]])
    y = columns + [0.3, 0.1] * rng.standard_normal((n, 2))
    return X, y[:, :n_outputs] if n_outputs else y[:, 0]


CALIBRATION, NEW = data(N, seed=1), data(80, seed=2)
# A whole number of outputs is y's second dimension; None is y of one dimension.
OUTPUTS = [None, 1, 2]


@pytest.fixture(scope="module", params=OUTPUTS, ids=["(n,)", "(n, 1)", "(n, 2)"])
def calibrated(request):
    model = HFLRegressor(**SMALL).fit(*data(40, request.param))
    return model.conformalize(*data(N, request.param, seed=1))


@pytest.fixture
def model():
    return HFLRegressor(**SMALL).fit(*data(40))


def tail(model):
    return () if model._one_dimensional else (model.n_outputs_,)


# ------------------------------------------------------------------ oracles


def test_gaussian_intervals_are_those_of_the_normal_distribution(calibrated):
    mean, interval = calibrated.predict_interval(NEW[0], LEVELS)
    expected_mean, std = calibrated.predict(NEW[0], return_std=True)
    assert_array_equal(mean, expected_mean)
    expected = norm.interval(LEVELS, mean[..., None], std[..., None])
    assert_allclose(interval, np.stack(expected, axis=-2))


def test_conformal_intervals_are_ranks_of_normalized_residuals(calibrated):
    X, y = data(N, calibrated.n_outputs_, seed=1)
    residuals = calibrated.predict(X, return_std=True)
    scores = np.abs(y.reshape(residuals[0].shape) - residuals[0]) / residuals[1]
    _, interval = calibrated.predict_interval(NEW[0], LEVELS, kind="conformal")
    mean, std = calibrated.predict(NEW[0], return_std=True)
    for i, rank in enumerate((30, 48, 54)):  # of 60
        half = np.sort(scores, axis=0)[rank - 1] * std
        assert_allclose(interval[..., 0, i], mean - half)
        assert_allclose(interval[..., 1, i], mean + half)


def mapie(estimator, kind=SplitConformalRegressor, score="std_normalized", **options):
    return kind(estimator, confidence_level=LEVELS, conformity_score=score, **options)


def test_split_conformal_is_mapies_on_the_same_model_and_rows(model):
    theirs = mapie(model, prefit=True).conformalize(*CALIBRATION).predict_interval(NEW[0])
    ours = model.conformalize(*CALIBRATION).predict_interval(NEW[0], LEVELS, "conformal")
    assert_array_equal(ours[0], theirs[0])
    assert_allclose(ours[1], theirs[1])


def test_where_ranks_are_not_whole_intervals_are_no_shorter_than_mapies(model):
    # With this score MAPIE 1.6 rounds the upper end's rank up, as we do, but the lower's down.
    rows = data(N + 1, seed=1)
    _, theirs = mapie(model, prefit=True).conformalize(*rows).predict_interval(NEW[0])
    _, ours = model.conformalize(*rows).predict_interval(NEW[0], LEVELS, "conformal")
    assert_allclose(ours[:, 1], theirs[:, 1])
    assert (ours[:, 0] <= theirs[:, 0] + 1e-12).all()


def test_cross_conformal_by_mapie_takes_the_estimator():
    X, y = data(N)
    folds = KFold(3)
    theirs = mapie(HFLRegressor(**SMALL), CrossConformalRegressor, cv=folds, method="base")
    mean, interval = theirs.fit_conformalize(X, y).predict_interval(NEW[0])
    scores = []
    for train, held_out in folds.split(X):
        fold = HFLRegressor(**SMALL).fit(X[train], y[train])
        scores.append(fold.conformalize(X[held_out], y[held_out]).conformity_scores_)
    whole = HFLRegressor(**SMALL).fit(X, y)
    whole.conformity_scores_ = np.sort(np.concatenate(scores))
    expected = whole.predict_interval(NEW[0], LEVELS, "conformal")
    assert_array_equal(mean, expected[0])
    assert_allclose(interval, expected[1])


@pytest.mark.parametrize("method", ["plus", "minmax"])
def test_the_other_methods_of_cross_conformal_run(method):
    theirs = mapie(HFLRegressor(**SMALL), CrossConformalRegressor, cv=3, method=method)
    _, interval = theirs.fit_conformalize(*data(N)).predict_interval(NEW[0])
    assert (np.diff(interval, axis=1) > 0).all()
    assert coverage_score(NEW[1], interval[..., -1]) > 0.75


# ----------------------------------------------------------------- coverage


@pytest.mark.parametrize("n_outputs", [None, 2])
def test_conformal_intervals_cover_where_the_model_is_wrong(n_outputs):
    n, m = 199, 1000
    model = HFLRegressor(**{**SMALL, "noise_std": 0.03}).fit(*data(40, n_outputs))
    model.conformalize(*data(n, n_outputs, seed=3))
    X, y = data(m, n_outputs, seed=4)
    for kind in ("gaussian", "conformal"):
        _, interval = model.predict_interval(X, kind=kind)
        inside = (interval[..., 0] <= y) & (y <= interval[..., 1])
        # The count of m new rows after one calibration: rank 180 of 199, each output alone.
        low, high = betabinom(m, 180, n + 1 - 180).interval(1 - 1e-6)
        covered = (low <= inside.sum(axis=0)) & (inside.sum(axis=0) <= high)
        assert covered.all() if kind == "conformal" else not covered.any()


# ------------------------------------------------------------------- shapes


@pytest.mark.parametrize("kind", ["gaussian", "conformal"])
def test_shapes(calibrated, kind):
    for level, levels in [(0.9, ()), ([0.9], (1,)), (LEVELS, (3,)), (np.array(LEVELS), (3,))]:
        mean, interval = calibrated.predict_interval(NEW[0], level, kind)
        assert mean.shape == (80, *tail(calibrated))
        assert interval.shape == (80, *tail(calibrated), 2, *levels)
    assert calibrated.conformity_scores_.shape == (N, *tail(calibrated))


@pytest.mark.parametrize("kind", ["gaussian", "conformal"])
def test_levels_are_independent_and_intervals_grow_with_them(calibrated, kind):
    _, together = calibrated.predict_interval(NEW[0], LEVELS, kind)
    for i, level in enumerate(LEVELS):
        assert_array_equal(calibrated.predict_interval(NEW[0], level, kind)[1], together[..., i])
    assert (np.diff(together[..., 0, :]) <= 0).all()
    assert (np.diff(together[..., 1, :]) >= 0).all()


def test_scores_ascend(calibrated):
    assert (np.diff(calibrated.conformity_scores_, axis=0) >= 0).all()


def test_metrics_take_the_intervals(calibrated):
    X, y = data(80, calibrated.n_outputs_, seed=2)
    assert 0.6 < coverage_score(y, calibrated.predict_interval(X, kind="conformal")[1]) <= 1


# ---------------------------------------------------------------- lifecycle


def test_conformalize_returns_the_estimator_and_changes_nothing_else(model):
    before = dict(vars(model))
    predicted = model.predict(NEW[0], return_std=True)
    assert model.conformalize(*CALIBRATION) is model
    added = set(vars(model)) - set(before)
    assert added == {"conformity_scores_", "_scored_with"}
    assert all(vars(model)[name] is value for name, value in before.items())
    assert_array_equal(model.predict(NEW[0], return_std=True), predicted)


def test_a_second_call_replaces_the_first(model):
    other = data(30, seed=5)
    twice = model.conformalize(*CALIBRATION).conformalize(*other).conformity_scores_
    assert_array_equal(twice, clone(model).fit(*data(40)).conformalize(*other).conformity_scores_)


def test_asking_changes_nothing(calibrated):
    before = pickle.dumps(calibrated)
    calibrated.predict_interval(NEW[0], LEVELS, "conformal")
    assert len(pickle.dumps(calibrated)) == len(before)


@pytest.mark.parametrize("warm_start", [False, True])
def test_fit_discards_the_calibration(model, warm_start):
    model.set_params(warm_start=warm_start).conformalize(*CALIBRATION).fit(*data(40))
    assert not hasattr(model, "conformity_scores_")
    with pytest.raises(ValueError, match="conformalize"):
        model.predict_interval(NEW[0], kind="conformal")


def test_a_fit_that_fails_keeps_it(model):
    scores = model.conformalize(*CALIBRATION).conformity_scores_
    with pytest.raises(ValueError, match="NaN"):
        model.fit(*data(40)[:1], np.full(40, np.nan))
    assert model.conformity_scores_ is scores


def test_copies(calibrated):
    copied = pickle.loads(pickle.dumps(calibrated))
    for ours, theirs in zip(
        copied.predict_interval(NEW[0], LEVELS, "conformal"),
        calibrated.predict_interval(NEW[0], LEVELS, "conformal"),
        strict=True,
    ):
        assert_array_equal(ours, theirs)
    assert not hasattr(clone(calibrated), "conformity_scores_")


def test_networks_trained_elsewhere_can_be_calibrated():
    X, y = data(40)
    mlp = MLPRegressor(
        hidden_layer_sizes=4, activation="tanh", solver="lbfgs", alpha=1.0, max_iter=5000,
        random_state=0,
    )  # fmt: skip
    model = HFLRegressor.from_mlp(mlp.fit(X, y), X, y, polish=True).conformalize(*CALIBRATION)
    _, interval = model.predict_interval(NEW[0], kind="conformal")
    assert (interval[:, 0] < interval[:, 1]).all()


def test_frames_and_inference_mode_make_no_difference(model):
    X, y = CALIBRATION
    expected = model.conformalize(X, y).predict_interval(NEW[0], kind="conformal")[1]
    named = clone(model).fit(pd.DataFrame(data(40)[0], columns=["a", "b"]), data(40)[1])
    with torch.inference_mode():
        named.conformalize(pd.DataFrame(X, columns=["a", "b"]), pd.Series(y))
        frame = pd.DataFrame(NEW[0], columns=["a", "b"])
        assert_array_equal(named.predict_interval(frame, kind="conformal")[1], expected)


# ------------------------------------------------------- rows trained on


@pytest.mark.parametrize("params", [{}, {"dtype": "float32"}, {"normalize_X": False}])
def test_rows_that_were_trained_on_are_counted(params):
    X, y = data(40)
    model = HFLRegressor(**{**SMALL, **params}).fit(X, y)
    rows, targets = np.vstack([X[5:8], CALIBRATION[0]]), np.append(y[5:8], CALIBRATION[1])
    with pytest.warns(HFLWarning, match=rf"^3 of {N + 3} calibration rows were trained on"):
        model.conformalize(rows, targets)
    assert len(model.conformity_scores_) == N + 3


def test_rows_count_as_trained_on_with_all_their_outputs():
    X, y = data(40, 2)
    model = HFLRegressor(**SMALL).fit(X, y)
    changed = y.copy()
    changed[10:, 1] += 0.01
    with pytest.warns(HFLWarning, match="^10 of 40"):
        model.conformalize(X, changed)


def test_the_same_input_observed_again_is_no_row_trained_on(model):
    X, y = data(40)
    model.conformalize(X, y + 0.1)


def test_rows_of_no_weight_were_not_trained_on():
    X, y = data(40)
    weight = np.repeat([1.0, 0.0], 20)
    model = HFLRegressor(**SMALL).fit(X, y, sample_weight=weight)
    model.conformalize(X[20:], y[20:])
    with pytest.warns(HFLWarning, match="^20 of 40"):
        model.conformalize(X, y)


def test_a_warning_that_is_an_error_leaves_the_old_calibration(model):
    scores = model.conformalize(*CALIBRATION).conformity_scores_
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(HFLWarning):
            model.conformalize(*data(40))
    assert model.conformity_scores_ is scores


# ------------------------------------------------------------------- profile


@pytest.mark.parametrize("n_outputs", OUTPUTS)
def test_profile_intervals_of_a_linear_network_are_gaussian(n_outputs):
    params = {**SMALL, "hidden_layer_sizes": (), "std_rtol": 1e-7}
    model = HFLRegressor(**params).fit(*data(40, n_outputs))
    for level in (0.9, LEVELS):
        mean, expected = model.predict_interval(NEW[0], level, "gaussian")
        centre, interval = model.predict_interval(NEW[0], level, "profile")
        assert_array_equal(centre, mean)
        assert_allclose(interval, expected, rtol=1e-6)


def test_profile_intervals_of_a_curved_network_lean_to_a_side(model):
    far = np.array([[1.5, -1.5], [2.0, 2.0]])
    mean, interval = model.predict_interval(far, 0.8, "profile")
    below, above = mean - interval[:, 0], interval[:, 1] - mean
    assert (np.minimum(below, above) > 0).all()
    assert (np.abs(below / above - 1) > 0.05).any()


# ----------------------------------------------------------------- bad input


def test_before_fit():
    for ask in (lambda m: m.conformalize(*CALIBRATION), lambda m: m.predict_interval(NEW[0])):
        with pytest.raises(NotFittedError):
            ask(HFLRegressor(**SMALL))


def test_conformal_intervals_need_a_calibration(model):
    with pytest.raises(ValueError, match=r"Call conformalize\(X, y\) first"):
        model.predict_interval(NEW[0], kind="conformal")


@pytest.mark.parametrize(("level", "needed"), [(0.9, 9), (0.95, 19), (0.99, 99)])
def test_too_few_rows_for_a_level(model, level, needed):
    X, y = data(needed, seed=1)
    with pytest.raises(ValueError, match=f"needs {needed} calibration rows or more"):
        model.conformalize(X[1:], y[1:]).predict_interval(NEW[0], [0.5, level], "conformal")
    model.conformalize(X, y).predict_interval(NEW[0], [0.5, level], "conformal")


LEVEL = re.escape("confidence_level must be a finite number > 0 and < 1, but got")
BAD_LEVELS = [0, 1, -0.1, 1.5, 90, np.nan, None, True, "0.9", [0.5, 1.0], [[0.5, 0.9]], ["a"]]


@pytest.mark.parametrize("level", BAD_LEVELS, ids=repr)
@pytest.mark.parametrize("kind", ["gaussian", "conformal"])
def test_levels_lie_between_0_and_1(calibrated, level, kind):
    with pytest.raises(ValueError, match=f"predict_interval: {LEVEL}"):
        calibrated.predict_interval(NEW[0], level, kind)


def test_no_level_is_an_error(calibrated):
    with pytest.raises(ValueError, match="must hold one level or more"):
        calibrated.predict_interval(NEW[0], [])


@pytest.mark.parametrize("kind", ["Gaussian", "split", None, 1])
def test_another_kind_is_an_error_that_lists_them(calibrated, kind):
    with pytest.raises(
        ValueError, match="kind must be one of 'gaussian', 'conformal', 'profile', but got"
    ):
        calibrated.predict_interval(NEW[0], kind=kind)


@pytest.mark.parametrize(
    ("X", "y", "expected"),
    [
        (CALIBRATION[0][:, :1], CALIBRATION[1], "1 features"),
        (CALIBRATION[0], CALIBRATION[1][1:], "inconsistent numbers"),
        (CALIBRATION[0], np.full(N, np.nan), "NaN"),
        (CALIBRATION[0], np.ones((N, 3)), "y must have 1 outputs, as in fit, but got 3"),
        (CALIBRATION[0], ["a"] * N, "could not convert|Expected numbers"),
        (CALIBRATION[0][:0], CALIBRATION[1][:0], "0 sample"),
    ],
)
def test_bad_rows_leave_the_old_calibration(model, X, y, expected):
    scores = model.conformalize(*CALIBRATION).conformity_scores_
    with pytest.raises(ValueError, match=expected):
        model.conformalize(X, y)
    assert model.conformity_scores_ is scores

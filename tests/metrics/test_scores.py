"""Scores against closed forms and integrals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.stats import lognorm, norm
from scipy.stats import t as student_t

from sklearn_hfl import HFLRegressor
from sklearn_hfl._data.normal_mixture import NormalMixture
from sklearn_hfl.metrics import (
    CoverageScorer,
    IntervalScorer,
    coverage_score,
    crps_gaussian,
    interval_score,
    negative_log_predictive_density,
)

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (60, 2))
Y = np.sin(3 * X[:, 0]) + X[:, 1] + 0.3 * RNG.standard_normal(60)
MEAN, STD = Y + 0.3 * RNG.standard_normal(60), RNG.uniform(0.2, 0.5, 60)
INTERVAL = np.stack([MEAN - STD, MEAN + STD], axis=1)
GAUSSIAN = [negative_log_predictive_density, crps_gaussian]
OF_INTERVALS = [interval_score, coverage_score]
finite = st.floats(-50, 50)
positive = st.floats(0.01, 50)


def small(**params):
    defaults = {
        "hidden_layer_sizes": (4,),
        "n_estimators": 1,
        "prior_precision": 1.0,
        "noise_std": 0.3,
    }
    return HFLRegressor(**{**defaults, "random_state": 0, **params})


# ------------------------------------------------------------------ closed forms


def test_nlpd_is_the_density_of_scipy():
    expected = -norm.logpdf(Y, MEAN, STD).mean()
    assert_allclose(negative_log_predictive_density(Y, MEAN, STD), expected)


@pytest.mark.parametrize(("y", "mean", "std"), [(0.0, 0, 1), (2.5, 1, 0.5), (-3, 1, 2), (9, 0, 1)])
def test_crps_is_the_integral_of_squared_distances(y, mean, std):
    below = quad(lambda t: norm.cdf(t, mean, std) ** 2, mean - 12 * std, y)[0]
    above = quad(lambda t: norm.sf(t, mean, std) ** 2, y, mean + 20 * std)[0]
    assert_allclose(crps_gaussian([y], [mean], [std]), below + above, rtol=1e-6)


@settings(deadline=None, max_examples=50)
@given(finite, finite, positive, positive)
def test_crps_scales_with_the_units_and_lies_below_the_absolute_error(y, mean, std, unit):
    score = crps_gaussian([y], [mean], [std])
    assert_allclose(crps_gaussian([unit * y], [unit * mean], [unit * std]), unit * score, rtol=1e-6)
    assert 0 < score <= abs(y - mean) + std
    assert_allclose(crps_gaussian([y], [mean], [1e-9]), abs(y - mean), atol=1e-8)


@pytest.mark.parametrize("metric", GAUSSIAN)
@pytest.mark.parametrize(("shift", "factor"), [(0.2, 1.0), (-0.2, 1.0), (0.0, 1.3), (0.0, 0.75)])
def test_the_true_distribution_has_the_least_expected_score(metric, shift, factor):
    y = norm.ppf((np.arange(2000) + 0.5) / 2000)  # the quantiles stand for the expectation
    zeros, ones = np.zeros(2000), np.ones(2000)
    assert metric(y, zeros, ones) < metric(y, zeros + shift, factor * ones)


@pytest.mark.parametrize("level", [0.5, 0.9])
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (-0.2, -0.2), (0.3, -0.3), (-0.3, 0.3)])
def test_the_central_interval_has_the_least_expected_score(level, low, high):
    y = norm.ppf((np.arange(2000) + 0.5) / 2000)
    ends = np.tile(norm.interval(level), (2000, 1))
    best = interval_score(y, ends, confidence_level=level)
    assert best < interval_score(y, ends + np.array([low, high]), confidence_level=level)


def test_interval_score_by_hand():
    # Widths 2; one row 1 below and one 3 above, at 2/α = 4.
    score = interval_score([-2, 0, 4], [[-1, 1]] * 3, confidence_level=0.5)
    assert_allclose(score, (2 + 4 + 2 + 2 + 12) / 3)


def test_coverage_counts_the_ends():
    assert coverage_score([-1, 0, 1, 1.001], [[-1, 1]] * 4) == 0.75


def test_infinite_ends_cover():
    ends = [[-np.inf, np.inf], [0, np.inf]]
    assert coverage_score([1, 1], ends) == 1
    assert interval_score([1, 1], ends) == np.inf


# ------------------------------------------------------------------- distributions

# Members of one mixture each: their means and stds.
MIXTURES = {
    "one member": ([1.0], [0.5]),
    "equal members": ([1.0, 1.0], [0.5, 0.5]),
    "skewed": ([0.0, 1.0, 3.0], [0.5, 1.0, 2.0]),
    "two modes": ([-5.0, 5.0], [0.5, 0.7]),
}


def mixtures(n_outputs=None, n_members=3):
    """A mixture for each value of Y; and the values, of as many outputs."""
    y = Y if n_outputs is None else np.column_stack([Y, 2 * Y])[:, :n_outputs]
    rng = np.random.default_rng(1)
    means = y[..., None] + rng.normal(0, 0.5, (*y.shape, n_members))
    return y, NormalMixture(means, rng.uniform(0.2, 0.5, means.shape))


@pytest.mark.parametrize("y", [-6.0, 0.0, 1.3, 20.0])
@pytest.mark.parametrize("members", MIXTURES.values(), ids=list(MIXTURES))
def test_crps_of_a_mixture_is_the_integral_of_squared_distances(members, y):
    low, high = min(-15, y), max(25, y)

    def distance(t):
        return (norm.cdf(t, *members).mean() - (y <= t)) ** 2

    expected = quad(distance, low, high, points=[y, -5, 0, 5], limit=500)[0]
    of_mixture = NormalMixture(*(np.array([values]) for values in members))
    assert_allclose(crps_gaussian([y], of_mixture), expected, rtol=1e-6)


def test_crps_of_a_mixture_is_the_energy_score_of_its_draws():
    y, distribution = mixtures()
    first, second = (distribution.rvs((20000, 60), random_state=seed) for seed in (0, 1))
    draws = (np.abs(first - y) - np.abs(first - second) / 2).mean(1)
    error = 5 * draws.std() / np.sqrt(20000)
    assert abs(crps_gaussian(y, distribution) - draws.mean()) < error


def test_nlpd_of_a_mixture_is_that_of_its_mean_density():
    y, distribution = mixtures()
    density = norm.pdf(y[:, None], distribution.means, distribution.stds).mean(1)
    assert_allclose(negative_log_predictive_density(y, distribution), -np.log(density).mean())


@pytest.mark.parametrize("metric", GAUSSIAN)
@pytest.mark.parametrize("weight", [None, np.linspace(0, 2, 60)], ids=["equal", "weighted"])
def test_a_frozen_normal_scores_as_its_mean_and_std(metric, weight):
    expected = metric(Y, MEAN, STD, sample_weight=weight)
    assert_allclose(metric(Y, norm(MEAN, STD), sample_weight=weight), expected)
    assert_allclose(metric(Y[:, None], norm(MEAN, STD), sample_weight=weight), expected)
    assert_allclose(metric(Y, norm(MEAN[:, None], STD[:, None]), sample_weight=weight), expected)
    assert_allclose(metric(Y, norm(MEAN, 0.3)), metric(Y, MEAN, np.full(60, 0.3)))


@pytest.mark.parametrize("metric", GAUSSIAN)
def test_distributions_of_several_outputs_are_averaged(metric):
    y, both = mixtures(2)
    each = [metric(y[:, k], NormalMixture(both.means[:, k], both.stds[:, k])) for k in (0, 1)]
    assert_allclose(metric(y, both), np.mean(each))


@pytest.mark.parametrize("metric", GAUSSIAN)
@pytest.mark.parametrize("n_estimators", [1, 3])
@pytest.mark.parametrize("n_outputs", [None, 1, 2])
def test_what_predict_distribution_returns_is_scored(metric, n_estimators, n_outputs):
    y, _ = mixtures(n_outputs)
    # A weak prior, under which the members' optima differ.
    params = {"n_estimators": n_estimators, "prior_precision": 0.05, "hidden_layer_sizes": (8,)}
    model = small(**params).fit(X[:40], y[:40])
    distribution = model.predict_distribution(X[40:])
    score = metric(y[40:], distribution)
    moments = metric(y[40:], *model.predict(X[40:], return_std=True))
    assert (score == pytest.approx(moments, rel=1e-12)) == (n_estimators == 1)
    assert isinstance(score, float)


def test_any_distribution_of_scipy_has_a_log_density():
    heavy = student_t(3, MEAN, STD)
    assert_allclose(negative_log_predictive_density(Y, heavy), -heavy.logpdf(Y).mean())
    # Without a mean: its shape is asked for, not its value.
    cauchy = student_t(1, MEAN, STD)
    assert_allclose(negative_log_predictive_density(Y, cauchy), -cauchy.logpdf(Y).mean())
    with pytest.raises(TypeError, match=r"Expected a frozen scipy.stats.norm .* called t"):
        crps_gaussian(Y, heavy)
    outside = lognorm(s=STD)
    assert negative_log_predictive_density(-np.exp(Y), outside) == np.inf


@pytest.mark.parametrize("metric", GAUSSIAN)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((MEAN,), "Expected the mean and the std .* ndarray without std"),
        ((norm(MEAN, STD), STD), "got a distribution and a std"),
        ((norm(MEAN[1:], STD[1:]),), r"of shape \(60,\), but got one of shape \(59,\)"),
        ((norm(0, 1),), r"of shape \(60,\), but got one of shape \(\)"),
        ((norm,), r"but got one of shape \(\)"),
        ((norm(MEAN[:, None], STD),), r"but got one of shape \(60, 60\)"),
    ],
)
def test_distributions_that_do_not_fit_are_refused(metric, arguments, message):
    with pytest.raises(ValueError, match=message):
        metric(Y, *arguments)


@pytest.mark.parametrize("metric", GAUSSIAN)
@pytest.mark.parametrize("std", [-1.0, np.nan], ids=repr)
def test_a_distribution_without_a_density_is_refused(metric, std):
    stds = np.where(np.arange(60) < 7, std, STD)
    with pytest.raises(ValueError, match=r"NaN at 7 of 60|contains NaN"):
        metric(Y, norm(MEAN, stds))


# ----------------------------------------------------------------- shapes, weights


@pytest.mark.parametrize("metric", GAUSSIAN)
def test_several_outputs_are_averaged(metric):
    columns = [np.column_stack([a, 2 * a]) for a in (Y, MEAN, STD)]
    expected = (metric(Y, MEAN, STD) + metric(2 * Y, 2 * MEAN, 2 * STD)) / 2
    assert_allclose(metric(*columns), expected)
    assert_allclose(metric(Y[:, None], MEAN, STD[:, None]), metric(Y, MEAN, STD))


@pytest.mark.parametrize("metric", OF_INTERVALS)
def test_intervals_of_several_outputs_are_averaged(metric):
    ends = np.stack([INTERVAL, 0.5 * INTERVAL], axis=1)
    expected = (metric(Y, INTERVAL) + metric(Y, 0.5 * INTERVAL)) / 2
    assert_allclose(metric(np.column_stack([Y, Y]), ends), expected)


@pytest.mark.parametrize("metric", GAUSSIAN + OF_INTERVALS)
def test_weights_count_rows(metric):
    weight = np.arange(60) % 3
    arrays = [Y, MEAN, STD] if metric in GAUSSIAN else [Y, INTERVAL]
    repeated = [np.repeat(a, weight, axis=0) for a in arrays]
    assert_allclose(metric(*arrays, sample_weight=weight), metric(*repeated))
    assert isinstance(metric(*arrays, sample_weight=weight), float)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize("metric", GAUSSIAN)
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((Y, MEAN, 0 * STD), "Expected std > 0, but 60 of 60"),
        ((Y, MEAN, -STD), "Expected std > 0"),
        ((Y, MEAN, np.nan * STD), "std contains NaN"),
        ((Y, np.inf * STD, STD), "mean contains infinity"),
        ((Y, MEAN[1:], STD), "Expected mean of the same shape"),
        ((Y, MEAN, STD[1:]), "Expected std of the same shape"),
        ((Y, np.column_stack([MEAN, MEAN]), STD), "Expected mean of the same shape"),
    ],
)
def test_moments_that_are_none_are_refused(metric, arrays, message):
    with pytest.raises(ValueError, match=message):
        metric(*arrays)


@pytest.mark.parametrize("metric", OF_INTERVALS)
@pytest.mark.parametrize(
    ("ends", "message"),
    [
        (INTERVAL[:, ::-1], "lower ≤ upper"),
        (INTERVAL * np.nan, "no NaN"),
        (INTERVAL[1:], r"Expected interval of shape \(60, 2\)"),
        (INTERVAL[..., None], r"Expected interval of shape \(60, 2\)"),
    ],
)
def test_intervals_that_are_none_are_refused(metric, ends, message):
    with pytest.raises(ValueError, match=message):
        metric(Y, ends)


@pytest.mark.parametrize("level", [0, 1, 1.5, -0.1, np.nan, "0.9", True])
def test_levels_outside_are_refused(level):
    with pytest.raises(ValueError, match="confidence_level must be a finite number > 0 and < 1"):
        interval_score(Y, INTERVAL, confidence_level=level)
    for scorer in (IntervalScorer, CoverageScorer):
        with pytest.raises(ValueError, match=f"{scorer.__name__}: confidence_level"):
            scorer(confidence_level=level)


@pytest.mark.parametrize("weight", [np.zeros(60), -np.ones(60), np.ones(59)])
def test_weights_that_are_none_are_refused(weight):
    with pytest.raises(ValueError, match="Expected sample_weight of shape"):
        coverage_score(Y, INTERVAL, sample_weight=weight)

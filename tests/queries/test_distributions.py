"""Predictive distributions and quantiles: against scipy, the members alone, and samples."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import kstest, lognorm, norm
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_hfl import HFLRegressor
from sklearn_hfl.metrics import coverage_score, negative_log_predictive_density
from tests.regression import KNOWN, QUERIES, RAW, data, exact_stds, fitted

Q = [0.05, 0.5, 0.95]
OUTPUTS = [None, 1, 2]
# Few rows, and a prior under which their optima differ: the mixtures have tails of their own.
APART = {"n_estimators": 3, "hidden_layer_sizes": (8,), "prior_precision": 0.05, "tol": 1e-2}
VARIANTS = {
    "one": {},
    "one, heteroscedastic": {"likelihood": "heteroscedastic", "noise_std": "evidence"},
    "several": APART,
    "several, heteroscedastic": APART
    | {"likelihood": "heteroscedastic", "noise_std": "evidence", "prior_precision": 1.0},
    "several, network": {"n_estimators": 2, "variance": "network"},
    "several, amortized": APART | {"variance": "amortized"},
}
of_each_variant = pytest.mark.parametrize("name", VARIANTS)
of_each_dimension = pytest.mark.parametrize("n_outputs", OUTPUTS, ids=["(n,)", "(n, 1)", "(n, 2)"])
NEAR = data()[0][22:29]


@functools.cache
def model_of(name, n_outputs=None):
    return fitted(n_outputs, **VARIANTS[name])


def alone(model, i):
    """One member of a fit as a model of its own."""
    other = clone(model)
    vars(other).update(vars(model))
    other.members_ = model.members_[i : i + 1]
    return other


# ------------------------------------------------------------------- oracles


@pytest.mark.parametrize("name", ["one", "one, heteroscedastic"])
@of_each_dimension
def test_of_one_member_it_is_scipys_normal(name, n_outputs):
    model = model_of(name, n_outputs)
    mean, std = model.predict(NEAR, return_std=True)
    distribution = model.predict_distribution(NEAR)
    assert type(distribution) is type(norm(mean, std))
    assert distribution.dist.name == "norm"
    assert_array_equal(distribution.args, (mean, std))
    expected = np.stack([norm.ppf(q, mean, std) for q in Q], axis=-1)
    assert_array_equal(model.predict(NEAR, quantiles=Q), expected)


@of_each_variant
@of_each_dimension
def test_its_moments_are_those_of_predict(name, n_outputs):
    model = model_of(name, n_outputs)
    mean, std = model.predict(NEAR, return_std=True)
    distribution = model.predict_distribution(NEAR)
    assert_allclose(distribution.mean(), mean, rtol=1e-12, atol=1e-14)
    assert_allclose(distribution.std(), std, rtol=1e-12)
    assert distribution.mean().shape == mean.shape


@pytest.mark.parametrize("name", [name for name in VARIANTS if "several" in name])
@of_each_dimension
def test_several_members_are_mixed_each_with_its_own_mean_variance_and_noise(name, n_outputs):
    model = model_of(name, n_outputs)
    members = [
        norm(*alone(model, i).predict(NEAR, return_std=True)) for i in range(len(model.members_))
    ]
    stds = np.array([member.std() for member in members])
    assert (stds.max(0) > stds.min(0)).all()
    ours, y = model.predict_distribution(NEAR), members[0].mean() + 0.1
    for method in ("pdf", "cdf", "sf"):
        expected = np.mean([getattr(member, method)(y) for member in members], axis=0)
        assert_allclose(getattr(ours, method)(y), expected, rtol=1e-10)
    quantiles = model.predict(NEAR, quantiles=Q)
    for i, q in enumerate(Q):
        reached = np.mean([member.cdf(quantiles[..., i]) for member in members], axis=0)
        assert_allclose(reached, q, rtol=1e-10)


def test_the_members_have_the_stds_of_dense_algebra():
    model = HFLRegressor(**{**RAW, "n_estimators": 2}, std_rtol=1e-8).fit(*data())
    epistemic = np.stack(exact_stds(model, QUERIES), axis=-1)[:, 0]
    assert_allclose(
        model.predict_distribution(QUERIES).stds, np.hypot(epistemic, 0.2), rtol=1e-7
    )  # fmt: skip


@pytest.mark.parametrize("name", ["one", "several", "several, heteroscedastic"])
def test_samples_of_y_have_the_distribution(name):
    model = model_of(name)
    distribution = model.predict_distribution(QUERIES)
    draws = model.sample_y(QUERIES, 4000, random_state=1)
    ranks = distribution.cdf(draws.T)
    for column in ranks.T:
        assert kstest(column, "uniform").pvalue > 1e-4
    below = (draws[:, None] <= model.predict(QUERIES, quantiles=Q)[..., None]).mean(-1)
    error = np.sqrt(np.array(Q) * (1 - np.array(Q)) / 4000)
    assert (np.abs(below - Q) < 5 * error).all()


def test_quantiles_of_several_members_are_not_those_of_a_normal():
    model = model_of("several")
    far = 3 * QUERIES
    quantiles = model.predict(far, quantiles=Q)
    _, interval = model.predict(far, return_interval=0.9)
    assert (np.abs(quantiles[:, [0, 2]] / interval - 1) > 0.01).any()


# ------------------------------------------------- quantiles and intervals


@pytest.mark.parametrize("name", ["one", "one, heteroscedastic"])
@of_each_dimension
def test_of_one_member_quantiles_cover_as_the_interval_does(name, n_outputs):
    model = model_of(name, n_outputs)
    X, y = data(200, n_outputs)
    ends = model.predict(X, quantiles=[0.05, 0.95])
    _, interval = model.predict_interval(X, 0.9)
    assert_allclose(ends, interval, rtol=1e-12)
    assert coverage_score(y, ends) == coverage_score(y, interval)


def test_median_and_mean_of_one_member_are_one():
    model = model_of("one")
    assert_array_equal(model.predict(NEAR, quantiles=0.5), model.predict(NEAR))


@pytest.mark.parametrize("name", ["one", "several"])
@of_each_dimension
def test_shapes(name, n_outputs):
    model = model_of(name, n_outputs)
    shape = (7,) if n_outputs is None else (7, n_outputs)
    for quantiles, tail in [(0.3, ()), ([0.3], (1,)), (Q, (3,)), (tuple(Q), (3,))]:
        assert model.predict(NEAR, quantiles=quantiles).shape == shape + tail
    together = model.predict(NEAR, quantiles=np.array(Q))
    assert (np.diff(together, axis=-1) > 0).all()
    for i, q in enumerate(Q):
        assert_allclose(model.predict(NEAR, quantiles=q), together[..., i], rtol=1e-12)
    assert model.predict_distribution(NEAR).cdf(0.0).shape == shape


@pytest.mark.parametrize("levels", [0.8, [0.5, 0.8]])
@pytest.mark.parametrize("kind", ["gaussian", "conformal", "profile"])
@of_each_dimension
def test_return_interval_is_predict_interval(kind, levels, n_outputs):
    X, y = data(60, n_outputs)
    model = HFLRegressor(**KNOWN).fit(X[:40], y[:40]).conformalize(X[40:], y[40:])
    answer = model.predict(NEAR, return_interval=levels, interval_kind=kind)
    for ours, expected in zip(answer, model.predict_interval(NEAR, levels, kind), strict=True):
        assert_array_equal(ours, expected)


@pytest.mark.parametrize(
    "ask",
    [
        {"return_interval": 0.9},
        {"return_interval": [0.5, 0.9], "interval_kind": "profile"},
        {"return_interval": 0.8, "interval_kind": "conformal"},
        {"quantiles": Q},
    ],
    ids=repr,
)
def test_a_pipeline_passes_them_on(ask):
    X, y = data(60)
    pipeline = make_pipeline(StandardScaler(), HFLRegressor(**KNOWN)).fit(X[:40], y[:40])
    pipeline[-1].conformalize(pipeline[:-1].transform(X[40:]), y[40:])
    expected = pipeline[-1].predict(pipeline[:-1].transform(NEAR), **ask)
    for ours, theirs in zip(pipeline.predict(NEAR, **ask), expected, strict=True):
        assert_array_equal(ours, theirs)


def test_quantiles_of_a_skewed_target_are_those_of_its_log():
    X, log_y = data(80)
    model = HFLRegressor(**KNOWN).fit(X[:40], log_y[:40])
    mean, std = model.predict(X[40:], return_std=True)
    skewed, y = lognorm(s=std, scale=np.exp(mean)), np.exp(log_y[40:])
    quantiles = np.exp(model.predict(X[40:], quantiles=Q))
    assert_allclose(quantiles, np.stack([skewed.ppf(q) for q in Q], axis=-1))
    # The density of y is that of its log, over y.
    of_log = negative_log_predictive_density(log_y[40:], model.predict_distribution(X[40:]))
    assert_allclose(negative_log_predictive_density(y, skewed), of_log + log_y[40:].mean())


def test_users_floating_point_traps_change_nothing():
    with np.errstate(all="raise"):
        for name in ("one", "several"):
            model = model_of(name)
            quantiles = model.predict(NEAR, quantiles=[1e-9, *Q])
            assert_array_equal(model.predict_distribution(NEAR).ppf(0.5), quantiles[:, 2])


# ----------------------------------------------------------------- bad input


def test_before_fit():
    for ask in (
        lambda m: m.predict_distribution(NEAR),
        lambda m: m.predict(NEAR, quantiles=0.5),
        lambda m: m.predict(NEAR, return_interval=0.5),
    ):
        with pytest.raises(NotFittedError):
            ask(HFLRegressor())


REQUESTS = {
    "return_std": "epistemic",
    "return_cov": True,
    "return_interval": 0.9,
    "quantiles": [0.5],
}
PAIRS = [(a, b) for i, a in enumerate(REQUESTS) for b in list(REQUESTS)[i + 1 :]]


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_two_requests_at_once_are_refused(pair):
    with pytest.raises(ValueError, match=rf"^predict returns one of .* {' and '.join(pair)} are"):
        model_of("one").predict(NEAR, **{name: REQUESTS[name] for name in pair})


def test_all_requests_at_once_are_named():
    with pytest.raises(ValueError, match=f"but {' and '.join(REQUESTS)} are set"):
        model_of("one").predict(NEAR, **REQUESTS)


@pytest.mark.parametrize("kind", ["conformal", "profile"])
@pytest.mark.parametrize("other", [{}, {"return_std": True}, {"quantiles": Q}], ids=repr)
def test_a_kind_of_interval_without_its_level_is_refused(kind, other):
    with pytest.raises(ValueError, match=f"interval_kind='{kind}'.*return_interval=0.9"):
        model_of("one").predict(NEAR, interval_kind=kind, **other)


@pytest.mark.parametrize("kind", ["Gaussian", None, 1])
def test_an_unknown_kind_is_refused(kind):
    with pytest.raises(ValueError, match="predict: interval_kind must be one of 'gaussian', 'con"):
        model_of("one").predict(NEAR, return_interval=0.9, interval_kind=kind)


@pytest.mark.parametrize("name", ["return_interval", "quantiles"])
@pytest.mark.parametrize("level", [0, 1, 1.5, 90, np.nan, True, False, "0.9", [0.5, 1], [[0.5]]])
def test_levels_outside_are_refused_by_the_name_they_came_with(name, level):
    with pytest.raises(ValueError, match=rf"predict: {name} must be a finite number > 0 and < 1"):
        model_of("one").predict(NEAR, **{name: level})


def test_a_level_in_an_array_without_axes_is_a_number():
    model = model_of("one")
    expected = model.predict(NEAR, quantiles=0.3)
    assert_array_equal(model.predict(NEAR, quantiles=np.array(0.3)), expected)
    expected = model.predict(NEAR, return_interval=0.9)[1]
    assert_array_equal(model.predict(NEAR, return_interval=np.array(0.9))[1], expected)


@pytest.mark.parametrize("name", ["return_interval", "quantiles"])
def test_no_level_is_refused(name):
    with pytest.raises(ValueError, match=f"predict: {name} must hold one level or more"):
        model_of("one").predict(NEAR, **{name: []})

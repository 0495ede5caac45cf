"""Normal mixtures: against scipy's normal, integrals, root finding and their own samples."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import kstest, norm

from sklearn_hfl._data.normal_mixture import NormalMixture

# Means and stds of the members of one distribution each.
MIXTURES = {
    "skewed": ([0.0, 1.0, 3.0], [0.5, 1.0, 2.0]),
    "two modes": ([-5.0, 5.0], [0.5, 0.7]),
    "narrow and wide": ([0.3, 0.3], [1e-3, 10.0]),
    "far from zero": ([1e6, 1e6 + 1], [0.1, 0.2]),
    "equal members": ([2.0, 2.0], [0.5, 0.5]),
}
Q = np.array([1e-12, 0.01, 0.3, 0.5, 0.7, 0.95, 1 - 1e-12])
PROBABILITY = st.floats(1e-6, 1 - 1e-6)

of_each_mixture = pytest.mark.parametrize("name", MIXTURES)


def mixture(name):
    return NormalMixture(*map(np.array, MIXTURES[name]))


def integral(name, function):
    """Of a function times the density, by quadrature over each member's range."""
    means, stds = MIXTURES[name]
    return np.mean(
        [
            quad(lambda x, m=m, s=s: function(x) * norm.pdf(x, m, s), m - 12 * s, m + 12 * s)[0]
            for m, s in zip(means, stds, strict=True)
        ]
    )


# ------------------------------------------------------------------- oracles


@of_each_mixture
def test_moments_are_integrals(name):
    ours = mixture(name)
    mean = np.mean(MIXTURES[name][0])
    assert_allclose(ours.mean(), integral(name, lambda x: x), rtol=1e-8, atol=1e-8)
    assert_allclose(ours.var(), integral(name, lambda x: (x - mean) ** 2), rtol=1e-7)
    assert_allclose(ours.std() ** 2, ours.var())


@of_each_mixture
def test_densities_and_probabilities_are_averages_of_the_members(name):
    ours, members = mixture(name), norm(*MIXTURES[name])
    for x in ours.ppf(Q):
        assert_allclose(ours.pdf(x), members.pdf(x).mean())
        assert_allclose(ours.logpdf(x), np.log(members.pdf(x).mean()))
        assert_allclose(ours.cdf(x), members.cdf(x).mean())
        assert_allclose(ours.sf(x), members.sf(x).mean())


@of_each_mixture
@pytest.mark.parametrize("q", Q[Q != 0.5])
def test_quantiles_are_roots(name, q):
    members = norm(*MIXTURES[name])
    # The tail that q is close to: the other one's probability rounds.
    missing = (
        (lambda x: members.cdf(x).mean() - q)
        if q <= 0.5
        else (lambda x: (1 - q) - members.sf(x).mean())
    )
    low, high = members.ppf(q).min() - 1e-9, members.ppf(q).max() + 1e-9
    root = brentq(missing, low, high, xtol=1e-14, rtol=4 * np.finfo(float).eps, maxiter=1000)
    assert_allclose(mixture(name).ppf(q), root, rtol=1e-12, atol=1e-13)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-50, 50), st.floats(0.01, 50)), min_size=1, max_size=6),
    PROBABILITY,
)
def test_a_quantile_lies_between_the_members_and_has_its_probability(members, q):
    means, stds = np.transpose(members)
    ours, of_members = NormalMixture(means, stds), norm.ppf(q, means, stds)
    x = ours.ppf(q)
    assert of_members.min() - 1e-12 <= x <= of_members.max() + 1e-12
    assert_allclose(ours.cdf(x), q, rtol=1e-9)
    # In the mirror, upper quantiles are lower ones.
    assert_allclose(NormalMixture(-means, stds).ppf(1 - q), -x, rtol=1e-9, atol=1e-9)


METHODS = {
    "mean": lambda d: d.mean(),
    "std": lambda d: d.std(),
    "var": lambda d: d.var(),
    "median": lambda d: d.median(),
    "pdf": lambda d: d.pdf([[0.5], [3.0]]),
    "logpdf": lambda d: d.logpdf([[0.5], [300.0]]),
    "cdf": lambda d: d.cdf([[0.5], [-30.0]]),
    "sf": lambda d: d.sf([[0.5], [30.0]]),
    "ppf": lambda d: d.ppf(np.append(Q, [0, 1, -0.1, 1.1, np.nan])[:, None]),
    "interval": lambda d: d.interval(0.9),
    "intervals": lambda d: d.interval([[0.0], [0.5], [1.0]]),
    "number": lambda d: d.cdf(1),
}


@pytest.mark.parametrize("ask", METHODS.values(), ids=list(METHODS))
@pytest.mark.parametrize("n_members", [1, 3])
def test_equal_members_are_scipys_normal(ask, n_members):
    mean, std = np.array([-1.0, 0.0, 20.0]), np.array([0.1, 1.0, 5.0])
    ours = NormalMixture(*(np.repeat(a[:, None], n_members, axis=1) for a in (mean, std)))
    answer, expected = ask(ours), ask(norm(mean, std))
    assert np.shape(answer) == np.shape(expected)
    assert_allclose(answer, expected, rtol=1e-12, atol=1e-15)


# ------------------------------------------------------------------- samples


@of_each_mixture
def test_samples_have_the_distribution(name):
    ours = mixture(name)
    draws = ours.rvs(size=4000, random_state=0)
    assert kstest(draws, ours.cdf).pvalue > 1e-3


def test_each_element_is_drawn_from_its_own_distribution():
    means, stds = np.array([[0.0, 1.0], [100.0, 104.0]]), np.full((2, 2), 0.5)
    ours = NormalMixture(means, stds)
    draws = ours.rvs(size=(4000, 2), random_state=1)
    assert (np.abs(draws.mean(0) - ours.mean()) < 5 * ours.std() / np.sqrt(4000)).all()
    # Independent elements: neither the member nor the deviation is shared.
    assert abs(np.corrcoef(draws.T)[0, 1]) < 5 / np.sqrt(4000)


def test_shapes_and_sources_of_samples_are_scipys():
    ours, theirs = NormalMixture(np.zeros((3, 2)), np.ones((3, 2))), norm(np.zeros(3), np.ones(3))
    for size in (None, 3, (3,), (5, 3), np.int64(3)):
        assert ours.rvs(size, random_state=0).shape == theirs.rvs(size, random_state=0).shape
    for source in (np.random.default_rng, np.random.RandomState):
        first, again = (ours.rvs(random_state=source(4)) for _ in range(2))
        assert_array_equal(first, again)
    assert (ours.rvs(random_state=1) != ours.rvs(random_state=2)).all()
    assert ours.rvs().shape == (3,)


# -------------------------------------------------------------------- limits


def test_quantiles_of_the_ends_are_infinite():
    assert_array_equal(mixture("skewed").ppf([0, 1]), [-np.inf, np.inf])


def test_far_tails_neither_underflow_nor_warn():
    ours = mixture("narrow and wide")
    far = np.array([-1e5, 1e5])
    assert_allclose(ours.logpdf(far), norm.logpdf(far, 0.3, 10) - np.log(2))
    assert_array_equal(ours.logpdf([-np.inf, np.inf]), -np.inf)
    with np.errstate(all="raise"):
        high, low = ours.ppf([1 - 1e-15, 1e-300])
        tails = ours.sf(high), ours.cdf(low)
    assert_allclose(tails, (1 - (1 - 1e-15), 1e-300), rtol=1e-9)


@pytest.mark.parametrize(("left", "right"), [(0.5, 0.5), (0.5, 0.7), (0.02, 0.5)])
def test_the_median_between_two_modes_is_where_their_tails_are_equal(left, right):
    # A float's cdf is 1/2 in all of the gap.
    ours = NormalMixture(np.array([-5.0, 5.0]), np.array([left, right]))
    median = ours.median()
    assert_allclose((median + 5) / left, (5 - median) / right, rtol=1e-10)


def test_copies():
    ours = mixture("skewed")
    copied = pickle.loads(pickle.dumps(ours))
    assert_array_equal(copied.ppf(Q), ours.ppf(Q))


@pytest.mark.parametrize("size", [2, (3, 2), ()])
def test_a_size_that_does_not_hold_every_element_is_refused(size):
    ours = NormalMixture(np.zeros((3, 2)), np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"size must end in the shape \(3,\)"):
        ours.rvs(size, random_state=0)


@pytest.mark.parametrize("confidence", [-0.1, 1.1, np.nan, [0.5, 2]])
def test_a_confidence_outside_is_refused(confidence):
    with pytest.raises(ValueError, match="confidence must be from 0 to 1"):
        mixture("skewed").interval(confidence)

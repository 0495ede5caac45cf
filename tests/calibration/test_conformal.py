"""Conformal scores: ranks against exact arithmetic, coverage against the theorem."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import binom

from sklearn_hfl.calibration.conformal import (
    conformal_quantile,
    label_scores,
    label_sets,
    normalized_residuals,
    rows_needed,
)

# As text, so that the oracle can take them for the decimals that they are.
LEVELS = ["0.01", "0.07", "0.29", "0.3", "0.5", "0.57", "0.7", "0.9", "0.95", "0.99", "0.999"]


def ascending(n, seed=0):
    return np.sort(np.random.default_rng(seed).standard_normal(n))


@pytest.mark.parametrize("level", LEVELS)
def test_the_rank_is_that_of_exact_arithmetic(level):
    exact = Fraction(level)
    for n in range(rows_needed(float(level)), 1200, 7):
        assert conformal_quantile(np.arange(1, n + 1), float(level)) == ceil((n + 1) * exact)


@pytest.mark.parametrize("level", LEVELS)
def test_rows_needed_are_those_of_exact_arithmetic(level):
    exact = Fraction(level)
    assert rows_needed(float(level)) == ceil(exact / (1 - exact))


@pytest.mark.parametrize("level", LEVELS)
def test_one_row_less_than_needed_is_refused(level):
    needed = rows_needed(float(level))
    assert conformal_quantile(np.arange(needed), float(level)) == needed - 1 or needed == 1
    message = rf"A level of {level} needs {needed} calibration rows.*got {needed - 1}\."
    with pytest.raises(ValueError, match=message):
        conformal_quantile(np.arange(needed - 1), float(level))


def test_the_level_that_the_message_offers_is_reached():
    with pytest.raises(ValueError, match=r"a level of 0\.9 or less"):
        conformal_quantile(np.arange(9), 0.95)
    assert conformal_quantile(np.arange(9), 0.9) == 8


@pytest.mark.parametrize("n", [20, 57, 300])
@pytest.mark.parametrize("level", [0.123, 0.5001, 0.777, 0.901])
def test_it_is_numpys_quantile_of_the_scores_and_one_at_infinity(n, level):
    scores = ascending(n)
    extended = np.append(scores, np.inf)
    assert conformal_quantile(scores, level) == np.quantile(extended, level, method="inverted_cdf")
    # In the terms of method="higher": the point at (rank - 1) / (n - 1), less a little.
    position = (ceil((n + 1) * level) - 1 - 0.5) / (n - 1)
    assert conformal_quantile(scores, level) == np.quantile(scores, position, method="higher")


def test_each_output_has_its_own_quantile():
    scores = np.column_stack([ascending(50, seed) for seed in range(3)])
    each = [conformal_quantile(scores[:, k], 0.8) for k in range(3)]
    assert_array_equal(conformal_quantile(scores, 0.8), each)


def test_more_confidence_never_lowers_the_quantile():
    scores = ascending(200)
    quantiles = [conformal_quantile(scores, level) for level in np.linspace(0.01, 0.99, 99)]
    assert (np.diff(quantiles) >= 0).all()
    assert quantiles[-1] > quantiles[0]


@pytest.mark.parametrize(("n", "level"), [(9, 0.9), (20, 0.5), (30, 0.75)])
def test_coverage_is_the_rank_over_n_plus_one(n, level):
    repeats, rng = 4000, np.random.default_rng(0)
    draws = rng.exponential(size=(repeats, n + 1))  # heavy on one side
    covered = sum(new <= conformal_quantile(np.sort(row), level) for *row, new in draws)
    exact = ceil((n + 1) * Fraction(str(level))) / (n + 1)
    low, high = binom.interval(1 - 1e-6, repeats, exact)
    assert low <= covered <= high


def test_scores_of_residuals():
    y, mean, std = np.array([[1.0, 2.0], [3.0, -1.0]]), np.array([[0.0, 2.0], [5.0, 1.0]]), 2.0
    assert_allclose(normalized_residuals(y, mean, std), [[0.5, 0.0], [1.0, 1.0]])


PROBA = np.array([[0.7, 0.2, 0.1], [0.35, 0.4, 0.25], [0.3, 0.3, 0.4]])


def test_scores_of_labels():
    assert_allclose(label_scores(PROBA, np.array([0, 2, 1])), [0.3, 0.75, 0.7])


@pytest.mark.parametrize(
    ("quantile", "expected"),
    [
        (0.1, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),  # nothing but the most probable
        (0.65, [[1, 0, 0], [1, 1, 0], [0, 0, 1]]),
        (0.72, [[1, 0, 0], [1, 1, 0], [1, 1, 1]]),
        (0.95, [[1, 1, 1], [1, 1, 1], [1, 1, 1]]),
    ],
)
def test_sets_hold_classes_up_to_the_quantile_and_the_most_probable(quantile, expected):
    assert_array_equal(label_sets(PROBA, quantile), np.array(expected, dtype=bool))


def test_a_row_with_the_score_of_the_quantile_is_covered():
    proba = np.random.default_rng(0).dirichlet([1, 1, 1], size=99)
    scores = label_scores(proba, np.arange(99) % 3)
    sets = label_sets(proba, conformal_quantile(np.sort(scores), 0.3))
    assert sets[np.arange(99), np.arange(99) % 3].sum() >= 30

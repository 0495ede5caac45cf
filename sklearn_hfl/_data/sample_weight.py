"""Weights of the rows: validated, and whether they can be counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array

from sklearn_hfl._data.columns import numbers_expected
from sklearn_hfl.exceptions import HFLDataWarning, warn

__all__ = ["WeightSums", "check_sample_weight", "check_used", "checked_weights", "warn_of_scale"]

Array = NDArray[np.float64]
# Squares of sums of weights are finite up to here, in single precision too.
MAX_WEIGHT = 1e15

# A likelihood to the power w counts its row w times. The mean of the weights is 1 for importance
# weights, below 1 where old rows are discounted, and above 1 where rows repeat: no warning is
# given within a factor of ten of 1. On 331 rows of the diabetes data and 200 of two moons,
# constant weights gave
#     weight           1/N    0.01   0.03    0.1    0.3      1      3     10
#     R²              0.00    0.00   0.38   0.37   0.35   0.34  -3.30  -2.36
#     accuracy        0.50    0.50   0.88   0.88   0.94   0.96   0.96   0.95
# Beyond it the weights mostly follow another convention: weights that sum to 1 leave the prior
# unchanged, and survey weights that sum to a population make every digit of y evidence.
MAX_FACTOR = 10.0
# A fit needs at least this total weight, however many rows share it.
MIN_ROWS = 2


@dataclass(frozen=True)
class WeightSums:
    """What says whether weights can be counts.

    Attributes
    ----------
    total : float
        Their sum.
    used : int
        How many are positive.
    whole : bool
        Whether all are whole numbers.
    """

    total: float
    used: int
    whole: bool

    @classmethod
    def of(cls, weight: NDArray[np.float64]) -> WeightSums:
        """Add up weights (n,)."""
        whole = not (weight != np.round(weight)).any()
        return cls(weight.sum(), int(np.count_nonzero(weight)), bool(whole))

    @classmethod
    def merged(cls, parts: Sequence[WeightSums]) -> WeightSums:
        """Add up those of several parts of the rows."""
        return cls(
            sum(part.total for part in parts),
            sum(part.used for part in parts),
            all(part.whole for part in parts),
        )

    def warn(self, name: str = "sample_weight") -> None:
        """Warn as ``warn_of_scale`` does."""
        few = self.total < max(MIN_ROWS, self.used / MAX_FACTOR)
        many = self.total > MAX_FACTOR * self.used and not self.whole
        if few or many:
            effect = (
                "so few data leave the posterior close to the prior, and the fit close to a "
                "constant"
                if few
                else "each row then counts as many independent ones, and is over-fitted"
            )
            advice = (
                "pass sample_weight * len(sample_weight) / sample_weight.sum(); for "
                "meta-estimators that pass weights of their own, such as AdaBoostClassifier, see "
                "the user guide"
                if name == "sample_weight"
                else "class_weight='balanced' keeps the sum of the weights"
            )
            warn(
                f"{name} is the number of rows that each row counts as, and {self.used} rows count "
                f"as {self.total:.3g}: {effect}. If the weights are relative, {advice}.",
                HFLDataWarning,
            )


def warn_of_scale(weight: NDArray[np.float64], name: str = "sample_weight") -> None:
    """Warn of weights whose sum is far from the number of rows, unless they are counts.

    Whole numbers are taken as counts: their posterior is that of the repeated rows.

    Parameters
    ----------
    weight : ndarray of shape (n,)
        Weights, ≥ 0 and not all 0.
    name : str
        What they are called.

    Warns
    -----
    HFLDataWarning
        With their sum, and how to rescale them.
    """
    WeightSums.of(weight).warn(name)


def check_sample_weight(sample_weight: ArrayLike | None, n: int) -> Array:
    """Validate the weights of n rows.

    Parameters
    ----------
    sample_weight : array-like of shape (n,) or None
        Weights; None is one for each row.
    n : int
        Number of rows.

    Returns
    -------
    ndarray of shape (n,)

    Raises
    ------
    ValueError
        If there are not n weights, one is negative or not finite, or fewer than two
        are positive.

    Warns
    -----
    HFLWarning
        If their sum is far from n and they are no counts.
    """
    weight = checked_weights(sample_weight, n)
    if sample_weight is not None:
        check_used(int(np.count_nonzero(weight)))
        warn_of_scale(weight)
    return weight


def checked_weights(sample_weight: ArrayLike | None, n: int) -> Array:
    """Validate the weights of n rows, one by one.

    Parameters
    ----------
    sample_weight : array-like of shape (n,) or None
        Weights; None is one for each row.
    n : int
        Number of rows.

    Returns
    -------
    ndarray of shape (n,)

    Raises
    ------
    ValueError
        If there are not n weights, or one is negative or not finite.
    """
    if sample_weight is None:
        return np.ones(n)
    expected = f"sample_weight must have shape ({n},), one number a row"
    with numbers_expected(sample_weight=sample_weight):
        try:
            weight: Array = check_array(
                sample_weight,
                dtype=np.float64,
                ensure_2d=False,
                ensure_min_samples=min(n, 1),
                input_name="sample_weight",
            )
        except TypeError as error:
            raise ValueError(f"{expected}, but: {error}") from error
    if weight.shape != (n,):
        raise ValueError(f"{expected}, but got {weight.shape}.")
    if (weight < 0).any():
        raise ValueError(
            f"sample_weight must be ≥ 0, but {(weight < 0).sum()} of {n} weights are negative. "
            "Leave rows out by weight 0."
        )
    if weight.max(initial=0.0) > MAX_WEIGHT:
        raise ValueError(
            f"sample_weight must be ≤ {MAX_WEIGHT:g}, or sums over rows overflow, but the largest "
            f"is {weight.max():g}. Pass sample_weight / sample_weight.mean()."
        )
    return weight


def check_used(n_used: int) -> None:
    """Raise an error where fewer than two rows have a positive weight.

    Parameters
    ----------
    n_used : int
        Number of those that have.

    Raises
    ------
    ValueError
        If there are too few.
    """
    if n_used == 0:
        raise ValueError("sample_weight is zero for every row: no rows remain to fit.")
    if n_used < 2:
        raise ValueError(
            "Found 1 row of positive sample_weight, while a minimum of 2 is required to learn a "
            "scale."
        )

"""Weights: whether those of the rows can be counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sklearn_hfl.exceptions import HFLDataWarning, warn

__all__ = ["WeightSums", "warn_of_scale"]

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

"""Tails: whether the residuals of rows that are left out look normal, and of unit variance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Tails", "power_sums", "rescaling_gain", "tails"]

# Excess kurtosis above which tails count as heavy, where it also is so many standard errors
# sqrt(24 / n) above 0. A Laplace distribution has 3. A Student t describes what lies above, of
# benchmarks/tails.py, better by 0.06 nats a row or more, and of the rest only the residuals of
# yacht (docs/design/reliable_fits.md).
MIN_EXCESS = 4.0
MIN_STANDARD_ERRORS = 5.0
# Residuals of a thousandth of their standard deviations, as of a constant y, are rounding.
MIN_VARIANCE = 1e-6


@dataclass(frozen=True)
class Tails:
    """Shape of the distribution of standardised residuals.

    Attributes
    ----------
    skewness : float
        0 for normal noise; positive where large values of y are farther away than small ones.
    excess_kurtosis : float
        0 for normal noise.
    n_rows : float
        Effective number of rows, (Σ w)² / Σ w² (L. Kish, Survey Sampling, 1965): a few rows of
        large weight are few rows.
    """

    skewness: float
    excess_kurtosis: float
    n_rows: float

    @property
    def heavy(self) -> bool:  # numpydoc ignore=RT01
        """Whether large residuals are plainly more frequent than those of normal noise."""
        chance = MIN_STANDARD_ERRORS * (24 / self.n_rows) ** 0.5
        return self.excess_kurtosis > max(MIN_EXCESS, chance)


def power_sums(values: Tensor, weight: Tensor) -> Tensor:
    """Sums from which ``tails`` follow.

    Parameters
    ----------
    values : Tensor of shape (n, K)
        Standardised residuals.
    weight : Tensor of shape (n,)
        Of the rows.

    Returns
    -------
    Tensor of shape (6, K)
        Σ w z^k for k = 0 to 4, and Σ w².
    """
    squares = weight.square() @ torch.ones_like(values)
    return torch.stack([*(weight @ values**k for k in range(5)), squares])


def rescaling_gain(sums: Tensor) -> float:
    """Log density that standard deviations of the right size would add.

    Parameters
    ----------
    sums : Tensor of shape (6, K)
        Of all rows: see ``power_sums``.

    Returns
    -------
    float
        Nats a row, Σ_k ½ (m_k − 1 − log m_k) for mean squares m_k; 0 for classes.
    """
    mean_square = (sums[2] / sums[0]).double().clamp(min=MIN_VARIANCE)
    return float(0.5 * (mean_square - 1 - mean_square.log()).sum())


def tails(sums: Tensor) -> Tails | None:
    """Skewness and kurtosis of the output with the heaviest tails.

    Parameters
    ----------
    sums : Tensor of shape (6, K)
        Of all rows: see ``power_sums``.

    Returns
    -------
    Tails or None
        None where there are no residuals, as for classes, where they are rounding alone, or have
        no finite moments.
    """
    n, *raw, squares = sums.double()
    m1, m2, m3, m4 = (total / n for total in raw)
    variance = m2 - m1**2
    third = m3 - 3 * m1 * m2 + 2 * m1**3
    fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
    skewness, excess = third / variance**1.5, fourth / variance**2 - 3
    columns = variance, skewness, excess, n**2 / squares
    found = [
        Tails(*shape)
        for size, *shape in zip(*map(Tensor.tolist, columns), strict=True)
        if size > MIN_VARIANCE and all(map(math.isfinite, shape))
    ]
    return max(found, key=lambda each: each.excess_kurtosis, default=None)

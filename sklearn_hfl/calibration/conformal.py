"""Split conformal prediction: finite-sample coverage from the scores of held-out data.

If n calibration rows and a new row are exchangeable, the new row's score is at most the
k-th smallest of the n with probability k / (n + 1) or more, whatever the model and the
distribution (V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random World",
2005; J. Lei et al., "Distribution-Free Predictive Inference for Regression",
arXiv:1604.04173).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "conformal_quantile",
    "label_scores",
    "label_sets",
    "normalized_residuals",
    "rows_needed",
]

Array = NDArray[np.float64]

# In rows. Rounding can lift a product above an integer: 100 × 0.07 is 7.000000000000001.
ROUNDING = 1e-9


def rows_needed(level: float) -> int:
    """Minimum number of calibration rows for a level: ⌈level / (1 − level)⌉.

    Parameters
    ----------
    level : float
        Between 0 and 1.

    Returns
    -------
    int
    """
    return max(1, math.ceil((level - ROUNDING) / (1 - level)))


def conformal_quantile(scores: Array, level: float) -> Any:
    """Score that a new sample does not exceed with at least probability ``level``.

    Parameters
    ----------
    scores : ndarray of shape (n,) or (n, n_outputs)
        Scores of the calibration rows, ascending in each column.
    level : float
        Between 0 and 1.

    Returns
    -------
    float or ndarray of shape (n_outputs,)
        The ⌈(n + 1) level⌉-th smallest.

    Raises
    ------
    ValueError
        If there are too few rows for the level.
    """
    n, needed = len(scores), rows_needed(level)
    if n < needed:
        raise ValueError(
            f"A level of {level:g} needs {needed} calibration rows or more, but conformalize "
            f"got {n}. Use more calibration rows, or a level of {n / (n + 1):.3g} or less."
        )
    rank = max(1, math.ceil((n + 1) * level - ROUNDING))
    return scores[rank - 1]


def normalized_residuals(y: Array, mean: Array, std: Array) -> Array:
    """Scores ``|y − mean|`` / std.

    Parameters
    ----------
    y, mean, std : ndarray of shape (n,) or (n, n_outputs)
        Observed values, and the moments predicted for them.

    Returns
    -------
    ndarray of the same shape
    """
    return np.abs(y - mean) / std


def label_scores(proba: Array, index: NDArray[np.intp]) -> Array:
    """Scores 1 − p(observed class).

    Parameters
    ----------
    proba : ndarray of shape (n, n_classes)
        Predicted probabilities.
    index : ndarray of shape (n,)
        Index of the observed class.

    Returns
    -------
    ndarray of shape (n,)
    """
    return 1 - proba[np.arange(len(index)), index]


def label_sets(proba: Array, quantile: float) -> NDArray[np.bool_]:
    """Classes whose scores are at most the quantile, and always the most probable one.

    Parameters
    ----------
    proba : ndarray of shape (n, n_classes)
        Predicted probabilities.
    quantile : float
        Conformal quantile of `label_scores`.

    Returns
    -------
    ndarray of bool, of shape (n, n_classes)
    """
    scores = 1 - proba
    return scores <= np.maximum(quantile, scores.min(axis=1, keepdims=True))

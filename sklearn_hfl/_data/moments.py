"""Moments: means and standard deviations predicted by any estimator, validated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, is_classifier
from sklearn.utils import check_array

from sklearn_hfl._data.columns import numbers_expected
from sklearn_hfl._data.params import real

__all__ = [
    "Levels",
    "check_level",
    "check_levels",
    "check_std",
    "check_values",
    "predict_epistemic_std",
    "predict_moments",
]

Array = NDArray[np.float64]
Levels = float | Sequence[float] | Array


def predict_moments(estimator: Any, X: Any) -> tuple[Any, Any]:
    """Predict means and standard deviations with any fitted estimator.

    Parameters
    ----------
    estimator : estimator
        Its ``predict`` accepts ``return_std=True``.
    X : array-like of shape (n, n_features)
        Queries.

    Returns
    -------
    mean, std : array-like of shape (n,) or (n, n_outputs)
        As the estimator gives them.

    Raises
    ------
    TypeError
        If it is a classifier, does not accept ``return_std``, or returns something other than
        a pair.
    """
    # Without scikit-learn's tags the kind of estimator is unknown.
    if isinstance(estimator, BaseEstimator) and is_classifier(estimator):
        raise TypeError(
            f"Expected a regressor, whose predict(X, return_std=True) returns (mean, std), but "
            f"{type(estimator).__name__} is a classifier, which returns labels. Score it with "
            "scikit-learn's scoring='neg_log_loss' or 'neg_brier_score'."
        )
    expected = (
        f"Expected an estimator whose predict(X, return_std=True) returns (mean, std), but "
        f"{type(estimator).__name__}"
    )
    try:
        answer = estimator.predict(X, return_std=True)
    except (AttributeError, TypeError) as error:
        # A meta-estimator that hands return_std on may stumble over the pair that comes back.
        if "return_std" not in str(error) and "tuple" not in str(error):
            raise
        raise TypeError(
            f"{expected} failed: {error}. HFLRegressor, GaussianProcessRegressor, BayesianRidge "
            "and pipelines that end in one of them can; of a fitted search, pass best_estimator_."
        ) from error
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise TypeError(f"{expected} returned {_description(answer)}.")
    return answer


def predict_epistemic_std(estimator: Any, X: Any, std: Array) -> Any:
    """Predict the epistemic part of standard deviations.

    Parameters
    ----------
    estimator : estimator
        As for `predict_moments`.
    X : array-like of shape (n, n_features)
        Queries.
    std : ndarray of shape (n,) or (n, n_outputs)
        The total at these queries.

    Returns
    -------
    array-like of the shape of std, or None
        None where the estimator does not separate the parts.
    """
    try:
        answer = estimator.predict(X, return_std="epistemic")
    except (TypeError, ValueError):  # return_std=True has just worked
        return None
    # Estimators that only test its truth value return the total for "epistemic".
    return None if np.array_equal(np.asarray(answer[1]), std) else answer[1]


def check_values(name: str, values: ArrayLike, shape: tuple[int, ...] | None = None) -> Array:
    """Validate finite numbers of n rows.

    Parameters
    ----------
    name : str
        For messages.
    values : array-like of shape (n,) or (n, n_outputs)
        The numbers.
    shape : tuple of int, default=None
        Shape (n, n_outputs) that they must have, once a single column counts as two
        dimensions.

    Returns
    -------
    ndarray of shape (n, n_outputs)

    Raises
    ------
    ValueError
        If they are not finite numbers, or have another shape.
    """
    with numbers_expected(**{name: values}):
        array: Array = np.asarray(
            check_array(values, dtype=np.float64, ensure_2d=False, input_name=name)
        )
    columns = array.reshape(len(array), -1)
    if shape is not None and columns.shape != shape:
        words = "(n,) or (n, n_outputs)" if shape[1] > 1 else "(n,)"
        raise ValueError(
            f"Expected {name} of the same shape {words} as the values before it, with n = "
            f"{shape[0]} and n_outputs = {shape[1]}, but got shape {array.shape}."
        )
    return columns


def check_std(name: str, std: ArrayLike, shape: tuple[int, ...], *, or_zero: bool = False) -> Array:
    """Validate standard deviations.

    Parameters
    ----------
    name : str
        For messages.
    std : array-like of shape (n,) or (n, n_outputs)
        Standard deviations.
    shape : tuple of int
        Shape (n, n_outputs) that they must have.
    or_zero : bool
        Whether 0 is allowed.

    Returns
    -------
    ndarray of shape (n, n_outputs)

    Raises
    ------
    ValueError
        As `check_values`, and if one is negative, or zero where that is not allowed.
    """
    array = check_values(name, std, shape)
    wrong = (array < 0) if or_zero else (array <= 0)
    if wrong.any():
        raise ValueError(
            f"Expected {name} {'≥' if or_zero else '>'} 0, but {wrong.sum()} of {array.size} are "
            f"not; the least is {array.min():.3g}."
        )
    return array


def check_level(owner: str, level: Any, name: str = "confidence_level") -> float:
    """Validate a confidence level, or another probability.

    Parameters
    ----------
    owner : str
        Name of the caller, for the message.
    level : float
        The level.
    name : str
        Name of the argument, for the message.

    Returns
    -------
    float
        Between 0 and 1, both excluded.

    Raises
    ------
    ValueError
        If it is not.
    """
    rule = real(0, 1)
    if not rule.accepts(level):
        raise ValueError(f"{owner}: {name} must be {rule.expected}, but got {level!r}.")
    return float(level)


def check_levels(owner: str, levels: Any, name: str = "confidence_level") -> Array:
    """Validate one confidence level or several.

    Parameters
    ----------
    owner : str
        Name of the caller, for the message.
    levels : float or sequence of float
        The levels.
    name : str
        Name of the argument, for the message.

    Returns
    -------
    ndarray of shape (n_levels,)

    Raises
    ------
    ValueError
        If there is none, or one is not between 0 and 1.
    """
    several = [levels] if np.ndim(levels) == 0 else list(levels)
    if not several:
        raise ValueError(f"{owner}: {name} must hold one level or more, but it is empty.")
    return np.array([check_level(owner, level, name) for level in several])


def _description(answer: Any) -> str:
    if isinstance(answer, tuple):
        return f"a tuple of {len(answer)}"
    shape = getattr(answer, "shape", None)
    return type(answer).__name__ + (f" of shape {tuple(shape)}" if shape is not None else "")

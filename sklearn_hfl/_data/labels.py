"""Labels: classes of a classification problem and the weights of their rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.multiclass import check_classification_targets

from sklearn_hfl._data.columns import check_labels
from sklearn_hfl._data.sample_weight import check_sample_weight, warn_of_scale
from sklearn_hfl._data.validation import (
    Array,
    used_rows,
    validated,
)
from sklearn_hfl.exceptions import HFLDataWarning, warn

__all__ = [
    "check_classes",
    "check_known_labels",
    "check_labelled_data",
    "class_factors",
    "class_weighted",
    "encoded_labels",
    "one_hot",
]

# Numbers of more values than this, with fewer rows than this for each, are hardly labels: no data
# set that scikit-learn ships for classification comes near.
MAX_NUMBERS = 20
MIN_ROWS_PER_NUMBER = 5


def check_labelled_data(
    estimator: Any, X: Any, y: Any, sample_weight: ArrayLike | None
) -> tuple[Array, NDArray[Any], NDArray[np.intp], Array]:
    """Validate X, labels and weights, and leave out rows of weight zero.

    Parameters
    ----------
    estimator : estimator
        Records the features, and the numbers of the rows that are used.
    X : {array-like, sparse array} of shape (n, n_features)
        Inputs.
    y : array-like of shape (n,)
        Labels of any type.
    sample_weight : array-like of shape (n,) or None
        How many rows each row counts as.

    Returns
    -------
    X : {ndarray, CSR array} of shape (n, n_features)
        Of float64 or float32, for the rows of positive weight, as all that follow.
    classes : ndarray of shape (n_classes,)
        The labels, sorted.
    index : ndarray of shape (n,)
        Which of them each row has.
    sample_weight : ndarray of shape (n,)
        Weights.

    Raises
    ------
    ValueError
        If there is one class only, or y holds no labels.
    """
    check_labels("y", y)
    X, y = validated(estimator, X, y, ensure_min_samples=2)
    check_classification_targets(y)
    weight = check_sample_weight(sample_weight, len(y))
    X, y, weight = used_rows(estimator, weight, X, y)
    classes, index = np.unique(y, return_inverse=True)
    check_classes(classes, len(y))
    return X, classes, index, weight


def check_classes(classes: NDArray[Any], n: int) -> None:
    """Check that n rows have labels of two classes or more, and not nearly as many as rows.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        The labels.
    n : int
        Number of rows.

    Raises
    ------
    ValueError
        If there is one class only.

    Warns
    -----
    HFLWarning
        If the labels look like values to be predicted.
    """
    if len(classes) < 2:
        raise ValueError(
            f"y must hold two classes or more, but its {n} rows of positive weight are "
            f"all of class {classes.tolist()[0]!r}. Check y, and how it was split."
        )
    # Labels of many classes are text, as a rule.
    many = len(classes) > MAX_NUMBERS and n < MIN_ROWS_PER_NUMBER * len(classes)
    if many and np.issubdtype(classes.dtype, np.number):
        warn(
            f"y holds {len(classes)} different numbers in {n} rows, and each becomes a class "
            "of its own. If they are values to be predicted, use HFLRegressor.",
            HFLDataWarning,
        )


def check_known_labels(estimator: Any, X: Any, y: Any) -> tuple[Array, NDArray[np.intp]]:
    """Validate rows and their labels for a fitted classifier.

    Parameters
    ----------
    estimator : estimator
        Fitted, with the features and ``classes_`` of fit.
    X : {array-like, sparse array} of shape (n, n_features)
        Inputs.
    y : array-like of shape (n,)
        Labels.

    Returns
    -------
    X : {ndarray, CSR array} of shape (n, n_features)
    index : ndarray of shape (n,)
        Which of the classes each row has.

    Raises
    ------
    ValueError
        If a label is none of them.
    """
    check_labels("y", y)
    X, y = validated(estimator, X, y, reset=False)
    known = estimator.classes_.tolist()
    position = {label: k for k, label in enumerate(known)}
    labels = y.tolist()
    unknown = list(dict.fromkeys(label for label in labels if label not in position))
    if unknown:
        raise ValueError(
            f"y holds the labels {unknown}, but fit saw {known} only. Leave their rows out, or "
            "check the type of the labels."
        )
    return X, np.array([position[label] for label in labels])


def class_weighted(
    class_weight: Any, classes: NDArray[Any], index: NDArray[np.intp], sample_weight: Array
) -> Array:
    """Sample weights times the weight of each row's class.

    Parameters
    ----------
    class_weight : dict, "balanced" or None
        Factor of each class, 1 for those not listed; "balanced" gives every class the
        same total.
    classes : ndarray of shape (n_classes,)
        Labels.
    index : ndarray of shape (n,)
        Which of them each row has.
    sample_weight : ndarray of shape (n,)
        Weights of the rows.

    Returns
    -------
    ndarray of shape (n,)

    Raises
    ------
    ValueError
        If a key is not a class, or a factor is not a positive number.
    """
    if class_weight is None:
        return sample_weight
    total = np.bincount(index, sample_weight).astype(np.float64)
    factor = class_factors(class_weight, classes, total)
    weight: Array = sample_weight * factor[index]
    if not isinstance(class_weight, str):
        warn_of_scale(weight, "sample_weight times class_weight")
    return weight


def class_factors(class_weight: Any, classes: NDArray[Any], total: Array) -> Array:
    """By how much each class multiplies the weights of its rows.

    Parameters
    ----------
    class_weight : dict, "balanced" or None
        See ``class_weighted``.
    classes : ndarray of shape (n_classes,)
        Labels.
    total : ndarray of shape (n_classes,)
        Weight of the rows of each.

    Returns
    -------
    ndarray of shape (n_classes,)

    Raises
    ------
    ValueError
        If a key is not a class.
    """
    if class_weight is None:
        return np.ones(len(classes))
    if isinstance(class_weight, str):
        factor: Array = total.sum() / (len(classes) * total)
        return factor
    known = classes.tolist()
    unknown = [label for label in class_weight if label not in known]
    if unknown:
        raise ValueError(
            f"class_weight names {unknown}, but y has the classes {known} only. Leave the others "
            "out, or check the type of the labels."
        )
    return np.array([class_weight.get(label, 1.0) for label in known], dtype=float)


def one_hot(classes: NDArray[Any], index: NDArray[np.intp]) -> Array:
    """Labels as the likelihood takes them.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        Labels.
    index : ndarray of shape (n,)
        Which of them each row has.

    Returns
    -------
    ndarray of shape (n, K)
    """
    rows = np.eye(len(classes))[index]
    # Two classes share one logit, that of the second.
    return rows[:, 1:] if len(classes) == 2 else rows


def encoded_labels(classes: NDArray[Any], y: NDArray[Any]) -> Array:
    """Labels as the likelihood takes them.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        Labels, sorted.
    y : ndarray of shape (n,)
        Some of them.

    Returns
    -------
    ndarray of shape (n, K)
    """
    return one_hot(classes, np.searchsorted(classes, y))

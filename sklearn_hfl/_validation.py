"""Validation: arrays from outside in, tensors inside, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data
from torch import Tensor

from sklearn_hfl._weights import warn_of_scale

__all__ = [
    "PRECISIONS",
    "check_calibration_data",
    "check_features",
    "check_finite",
    "check_sample_weight",
    "check_training_data",
    "numbers_expected",
    "to_numpy",
    "to_tensor",
    "used_rows",
]

Array = NDArray[np.float64]
# Training inputs of single precision stay so: a memory-mapped array is never copied whole.
PRECISIONS = (np.float64, np.float32)


def check_features(estimator: Any, X: Any) -> Array:
    """Validate the queries of a fitted estimator.

    Parameters
    ----------
    estimator : estimator
        Knows the features seen in fit.
    X : array-like of shape (n, n_features)
        Queries.

    Returns
    -------
    ndarray of shape (n, n_features)
    """
    with numbers_expected(X=X):
        return validate_data(estimator, X, dtype=np.float64, reset=False)


def check_training_data(
    estimator: Any, X: Any, y: Any, sample_weight: ArrayLike | None
) -> tuple[Array, Array, Array]:
    """Validate X, y and the weights, and leave out rows of weight zero.

    Parameters
    ----------
    estimator : estimator
        Records the features.
    X : array-like of shape (n, n_features)
        Inputs.
    y : array-like of shape (n,) or (n, n_outputs)
        Targets.
    sample_weight : array-like of shape (n,) or None
        How many rows each row counts as.

    Returns
    -------
    X, y, sample_weight : ndarray
        For the rows of positive weight; of float64, or X of float32. They may be the
        arguments themselves.
    """
    X, y = _numeric_rows(estimator, X, y, dtype=PRECISIONS, ensure_min_samples=2)
    return used_rows(check_sample_weight(sample_weight, len(X)), X, y)


def used_rows(weight: Array, *arrays: NDArray[Any]) -> Any:
    """Leave out rows of weight zero, without a copy where there are none.

    Parameters
    ----------
    weight : ndarray of shape (n,)
        Weights.
    *arrays : ndarray of shape (n, ...)
        Rows.

    Returns
    -------
    *arrays, weight : ndarray
        For the rows of positive weight.
    """
    used = weight > 0
    if used.all():
        return *arrays, weight
    return *(array[used] for array in arrays), weight[used]


def check_calibration_data(estimator: Any, X: Any, y: Any, n_outputs: int) -> tuple[Array, Array]:
    """Validate rows X, y for a fitted estimator.

    Parameters
    ----------
    estimator : estimator
        Knows the features seen in fit.
    X : array-like of shape (n, n_features)
        Inputs.
    y : array-like of shape (n,) or (n, n_outputs)
        Targets.
    n_outputs : int
        Outputs seen in fit.

    Returns
    -------
    X : ndarray of shape (n, n_features)
    y : ndarray of shape (n, n_outputs)

    Raises
    ------
    ValueError
        If they are not as seen in fit.
    """
    X, y = _numeric_rows(estimator, X, y, reset=False)
    targets = y.reshape(len(y), -1)
    if targets.shape[1] != n_outputs:
        raise ValueError(f"y must have {n_outputs} outputs, as in fit, but got {targets.shape[1]}.")
    return X, targets


def _numeric_rows(
    estimator: Any, X: Any, y: Any, dtype: Any = np.float64, **options: Any
) -> tuple[Array, Array]:
    if issparse(y):
        raise TypeError("y must be dense, but a sparse array came. Use y.toarray().")
    with numbers_expected(X=X, y=y):
        X, y = validate_data(
            estimator, X, y, dtype=dtype, multi_output=True, y_numeric=True, **options
        )
        return X, np.asarray(y, dtype=np.float64)


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
    if sample_weight is None:
        return np.ones(n)
    expected = f"sample_weight must have shape ({n},), one number a row"
    _refuse_dates("sample_weight", sample_weight)
    try:
        weight: Array = check_array(
            sample_weight, dtype=np.float64, ensure_2d=False, input_name="sample_weight"
        )
    except TypeError as error:
        raise ValueError(f"{expected}, but: {error}") from error
    except ValueError as error:
        if "could not convert" not in str(error):
            raise
        raise ValueError(f"{expected}, but: {error}") from error
    if weight.shape != (n,):
        raise ValueError(f"{expected}, but got {weight.shape}.")
    if (weight < 0).any():
        raise ValueError(
            f"sample_weight must be ≥ 0, but {(weight < 0).sum()} of {n} weights are negative. "
            "Leave rows out by weight 0."
        )
    if not (weight > 0).any():
        raise ValueError("sample_weight is zero for every row: nothing is left to fit.")
    if (weight > 0).sum() < 2:
        raise ValueError(
            "Found 1 row of positive sample_weight, while a minimum of 2 is required to learn a "
            "scale."
        )
    warn_of_scale(weight)
    return weight


def _refuse_dates(name: str, values: Any) -> None:
    try:
        kind = np.asarray(values[:1]).dtype.kind
    except Exception:  # what is no array at all is for scikit-learn's validation to refuse
        return
    if kind in "mM":
        raise TypeError(
            f"Expected numbers, but {name} holds dates or durations. Turn them to numbers that "
            "mean something here, such as days since the first or the day of the year."
        )


@contextmanager
def numbers_expected(**arrays: Any) -> Iterator[None]:
    """Say what to do about what NumPy takes as numbers, or reports by its first word alone.

    Parameters
    ----------
    **arrays : array-like
        What is validated inside, by name. Dates would become nanoseconds, days or years
        since 1970.

    Raises
    ------
    TypeError
        If one holds dates or durations.
    ValueError
        If validation finds text.
    """
    for name, values in arrays.items():
        _refuse_dates(name, values)
    try:
        yield
    except ValueError as error:
        if "could not convert string" not in str(error):
            raise
        raise ValueError(
            f"Expected numbers in every column, but {error}. Encode text columns first, "
            "for example with sklearn.preprocessing.OneHotEncoder or TargetEncoder."
        ) from error


def to_tensor(values: Array, dtype: str | torch.dtype, device: str | torch.device) -> Tensor:
    """Copy an array to a tensor.

    Parameters
    ----------
    values : ndarray
        Any array.
    dtype : torch.dtype or {"float32", "float64"}
        Precision of the tensor.
    device : str or torch.device
        Where it lives.

    Returns
    -------
    Tensor
        It shares no memory with ``values``.
    """
    # Torch knows no negative strides.
    values = np.ascontiguousarray(values)
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return torch.tensor(values, dtype=dtype, device=device)


def to_numpy(tensor: Tensor) -> Array:
    """Copy a tensor to an array of float64.

    Parameters
    ----------
    tensor : Tensor
        Any tensor.

    Returns
    -------
    ndarray
    """
    return tensor.detach().cpu().double().numpy().copy()


def check_finite(values: Sequence[Tensor], what: str) -> None:
    """Refuse rows whose answer overflows, or that the network is undefined for.

    Parameters
    ----------
    values : sequence of Tensor of shape (n, ...)
        Answers, of each member.
    what : str
        What they are called.

    Raises
    ------
    ValueError
        With the number of rows where one is NaN or infinite.
    """
    finite = torch.stack([v.isfinite().reshape(len(v), -1).all(1) for v in values]).all(0)
    if not finite.all():
        first = int(torch.nonzero(~finite)[0])
        raise ValueError(
            f"{int((~finite).sum())} of {len(finite)} {what} are not finite, number {first} first: "
            "the network overflows or is undefined there, as it can far beyond the inputs of fit. "
            "Check these rows, or leave them out."
        )

"""Validation: arrays from outside in, tensors inside, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.utils import assert_all_finite
from sklearn.utils.validation import validate_data
from torch import Tensor

from sklearn_hfl._data.collections import is_collection
from sklearn_hfl._data.columns import numbers_expected
from sklearn_hfl._data.sample_weight import check_sample_weight
from sklearn_hfl.exceptions import HFLDataWarning, warn

__all__ = [
    "check_calibration_data",
    "check_features",
    "check_finite",
    "check_training_data",
    "to_numpy",
    "to_tensor",
    "used_rows",
    "validated",
    "warn_of_constants",
]

Array = NDArray[np.float64]
# Training inputs of single precision stay so: a memory-mapped array is never copied whole.
PRECISIONS = (np.float64, np.float32)


def check_features(estimator: Any, X: Any) -> Array:
    """Validate the queries of a fitted estimator.

    Parameters
    ----------
    estimator : estimator
        Fitted, with the features of fit.
    X : {array-like, sparse array} of shape (n, n_features)
        Queries.

    Returns
    -------
    {ndarray, CSR array} of shape (n, n_features)
    """
    return validated(estimator, X, reset=False)


def check_training_data(
    estimator: Any, X: Any, y: Any, sample_weight: ArrayLike | None
) -> tuple[Array, Array, Array]:
    """Validate X, y and the weights, and leave out rows of weight zero.

    Parameters
    ----------
    estimator : estimator
        Records the features, and the numbers of the rows that are used.
    X : {array-like, sparse array} of shape (n, n_features)
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
    X, y = _numeric_rows(estimator, X, y, ensure_min_samples=2)
    return used_rows(estimator, check_sample_weight(sample_weight, len(y)), X, y)


def warn_of_constants(targets: Array) -> None:
    """Warn of targets that do not vary.

    Parameters
    ----------
    targets : ndarray of shape (n, n_outputs)
        Of the training rows.

    Warns
    -----
    HFLDataWarning
        If a column has a single value.
    """
    constant, n_outputs = np.ptp(targets, axis=0) == 0, targets.shape[1]
    if constant.any():
        which = "y" if n_outputs == 1 else f"{constant.sum()} of {n_outputs} columns of y"
        warn(
            f"Constant target: {which} has a single value, from which no scale of noise or "
            "signal can be learned. Predictions are that constant, and their standard "
            "deviations reflect the prior alone. Check y.",
            HFLDataWarning,
        )


def used_rows(estimator: Any, weight: Array, *arrays: NDArray[Any]) -> Any:
    """Leave out rows of weight zero, without a copy where there are none.

    Parameters
    ----------
    estimator : estimator
        Records the numbers of the others, or None where these are all.
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
    estimator._n_rows = len(used)
    estimator._row_numbers = None if used.all() else np.flatnonzero(used)
    if used.all():
        return *arrays, weight
    return *(array[used] for array in arrays), weight[used]


def check_calibration_data(estimator: Any, X: Any, y: Any, n_outputs: int) -> tuple[Array, Array]:
    """Validate rows X, y for a fitted estimator.

    Parameters
    ----------
    estimator : estimator
        Fitted, with the features of fit.
    X : {array-like, sparse array} of shape (n, n_features)
        Inputs.
    y : array-like of shape (n,) or (n, n_outputs)
        Targets.
    n_outputs : int
        Outputs seen in fit.

    Returns
    -------
    X : {ndarray, CSR array} of shape (n, n_features)
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


def _numeric_rows(estimator: Any, X: Any, y: Any, **options: Any) -> tuple[Array, Array]:
    if issparse(y):
        raise TypeError("y must be dense, but a sparse array came. Use y.toarray().")
    with numbers_expected(y=y):
        X, y = validated(estimator, X, y, multi_output=True, y_numeric=True, **options)
        y = np.asarray(y, dtype=np.float64)
        assert_all_finite(y, input_name="y")  # None becomes NaN here
        return X, y


def validated(estimator: Any, X: Any, *y: Any, **options: Any) -> Any:
    """Validate rows X as `sklearn.utils.validation.validate_data` does, sparse ones too.

    Parameters
    ----------
    estimator : estimator
        Has the features of fit, or records them.
    X : {array-like, sparse array} of shape (n, n_features)
        Rows.
    *y : array-like
        Targets, if there are any.
    **options : object
        Of `validate_data`.

    Returns
    -------
    X : {ndarray, CSR array} of shape (n, n_features)
        Of float64 or float32; with y, the pair of both.

    Raises
    ------
    ValueError
        If X is not as expected, or sparse and larger than the memory limit when dense.
    """
    if is_collection(X):
        raise TypeError(
            f"Expected rows that this process can hold together, but X is a dask "
            f"{type(X).__name__}. fit takes one, and so do queries whose answer for a row does not "
            "depend on other rows, such as predict. Otherwise pass X.compute(), if it fits in "
            "memory."
        )
    if issparse(X):
        X = _without_duplicates(X)
    with numbers_expected(X=X):
        checked = validate_data(estimator, X, *y, dtype=PRECISIONS, accept_sparse="csr", **options)
    rows = checked[0] if y else checked
    if issparse(rows):  # pandas has sparse columns too
        _check_dense_size(estimator, rows.shape)
    return checked


def _without_duplicates(X: Any) -> Any:
    """Give sparse X as CSR, with entries of one place added up in the type that they have."""
    if X.ndim != 2:
        raise ValueError(f"Expected 2D array, got a sparse array of shape {X.shape} instead.")
    rows = X.tocsr()
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    return rows


def _check_dense_size(estimator: Any, shape: tuple[int, int]) -> None:
    """Refuse a sparse array before anything is made dense that does not fit."""
    # A perceptron of scikit-learn, whose rows are counted here, has neither.
    dtype = getattr(estimator, "dtype", "float32")
    limit = getattr(estimator, "memory_limit", np.inf)
    n_bytes = shape[0] * shape[1] * getattr(torch, dtype).itemsize
    if n_bytes > limit:
        single = "set dtype='float32', " if dtype == "float64" else ""
        raise ValueError(
            f"Sparse X of shape {shape} is made dense for the network, which needs {n_bytes:.2e} "
            f"bytes, more than memory_limit={limit:.2e}. Make fewer "
            "columns (max_categories or min_frequency of OneHotEncoder, TruncatedSVD), pass fewer "
            f"rows, {single}or set a larger memory_limit."
        )


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
    # Torch does not support negative strides.
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

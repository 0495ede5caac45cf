"""Validation: arrays from outside in, tensors inside, and back."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.validation import validate_data
from torch import Tensor, nn

from sklearn_hfl._columns import numbers_expected
from sklearn_hfl.posterior import log_posterior

__all__ = [
    "check_calibration_data",
    "check_features",
    "check_finite",
    "check_module",
    "check_sample_weight",
    "check_training_data",
    "to_numpy",
    "to_tensor",
    "used_rows",
    "validated",
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
        Records the features.
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
    return used_rows(check_sample_weight(sample_weight, len(y)), X, y)


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
        Knows the features, or records them.
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
    if issparse(X):
        X = _without_duplicates(X)
    with numbers_expected(X=X):
        checked = validate_data(estimator, X, *y, dtype=PRECISIONS, accept_sparse="csr", **options)
    rows = checked[0] if y else checked
    if issparse(rows):  # pandas has sparse columns too
        _check_dense_size(rows.shape, getattr(estimator, "dtype", "float32"))
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


def _check_dense_size(shape: tuple[int, int], dtype: str) -> None:
    """Refuse a sparse array before anything is made dense that does not fit."""
    n_bytes = shape[0] * shape[1] * getattr(torch, dtype).itemsize
    if n_bytes > log_posterior.MEMORY_LIMIT:
        single = "set dtype='float32', " if dtype == "float64" else ""
        raise ValueError(
            f"Sparse X of shape {shape} is made dense for the network, which needs {n_bytes:.2e} "
            f"bytes, more than the memory limit of {log_posterior.MEMORY_LIMIT:.2e}. Make fewer "
            "columns (max_categories or min_frequency of OneHotEncoder, TruncatedSVD), pass fewer "
            f"rows, {single}or set a larger sklearn_hfl.posterior.log_posterior.MEMORY_LIMIT."
        )


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
    """
    if sample_weight is None:
        return np.ones(n)
    expected = f"sample_weight must have shape ({n},), one number a row"
    with numbers_expected(sample_weight=sample_weight):
        try:
            weight: Array = check_array(
                sample_weight, dtype=np.float64, ensure_2d=False, input_name="sample_weight"
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
    if not (weight > 0).any():
        raise ValueError("sample_weight is zero for every row: nothing is left to fit.")
    if (weight > 0).sum() < 2:
        raise ValueError(
            "Found 1 row of positive sample_weight, while a minimum of 2 is required to learn a "
            "scale."
        )
    return weight


def to_tensor(values: Array, dtype: str, device: str) -> Tensor:
    """Copy an array to a tensor.

    Parameters
    ----------
    values : ndarray
        Any array.
    dtype : {"float32", "float64"}
        Precision of the tensor.
    device : str
        Where it lives.

    Returns
    -------
    Tensor
        It shares no memory with ``values``.
    """
    # Torch knows no negative strides.
    values = np.ascontiguousarray(values)
    return torch.tensor(values, dtype=getattr(torch, dtype), device=device)


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
            "the network overflows or is undefined there. Leave these rows out, or rescale X."
        )


def _tried(module: nn.Module, X: Tensor) -> Tensor:
    try:
        output = module(X)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"module failed on rows of shape {tuple(X.shape)} and {X.dtype}: {error}"
        ) from error
    if not isinstance(output, Tensor):
        raise ValueError(
            f"module must return one Tensor of shape (n, n_outputs), but it returned "
            f"{type(output).__name__}."
        )
    return output


# Layers whose output depends on the other rows, or on chance, have no posterior of one row.
_FORBIDDEN = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def check_module(module: Any, X: Tensor, n_outputs: int) -> nn.Module:
    """Check what a ``module`` factory returned.

    Parameters
    ----------
    module : object
        Should be a torch module that maps (n, n_features) to (n, n_outputs).
    X : Tensor of shape (n, n_features)
        Rows to try it on.
    n_outputs : int
        Columns that its output must have.

    Returns
    -------
    torch.nn.Module
        The module, in the precision and on the device of X.

    Raises
    ------
    TypeError
        If it is not a torch module.
    ValueError
        If its output has another shape, or it holds batch norm or active dropout.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"module must be a callable (n_features, n_outputs) -> torch.nn.Module, "
            f"but it returned {type(module).__name__}."
        )
    for name, layer in module.named_modules():
        dropout = isinstance(layer, _FORBIDDEN[1]) and layer.p > 0 and layer.training
        # Without running statistics batch norm looks at the other rows in eval mode too.
        norm = isinstance(layer, _FORBIDDEN[0]) and (layer.training or layer.running_mean is None)
        if dropout or norm:
            where = f" as submodule {name!r}" if name else ""
            raise ValueError(
                f"module holds {type(layer).__name__}{where}, in training mode: a prediction must "
                "depend on its own row and the weights alone. Call .eval() on a module that is "
                "trained; else use LayerNorm in place of batch norm, and no dropout."
            )
    if not any(parameter.numel() for parameter in module.parameters()):
        raise ValueError("module must have weights to be uncertain about, but it has none.")
    module = copy.deepcopy(module).to(X)
    with torch.no_grad():
        output = _tried(module, X[:2])
        if not torch.equal(output, module(X[:2])):
            raise ValueError(
                "module gave two outputs for the same rows: a prediction must not depend on "
                "chance. Take out what draws random numbers, such as functional dropout."
            )
    shape = tuple(output.shape)
    if shape != (len(X[:2]), n_outputs):
        raise ValueError(
            f"module must map (n, {X.shape[1]}) to (n, {n_outputs}), but {len(X[:2])} rows gave "
            f"an output of shape {shape}."
        )
    return module

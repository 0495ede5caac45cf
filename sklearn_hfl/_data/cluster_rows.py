"""Cluster rows: training rows in a dask collection, validated and standardised where they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.utils import assert_all_finite, check_array, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from torch import Tensor

from sklearn_hfl._data.cluster_chunks import ClusterChunks
from sklearn_hfl._data.collections import (
    blocks,
    computed,
    dask_array,
    is_collection,
    kept,
    shared,
    task,
)
from sklearn_hfl._data.columns import check_labels, numbers_expected
from sklearn_hfl._data.labels import check_classes, class_factors
from sklearn_hfl._data.sample_weight import WeightSums, check_used, checked_weights
from sklearn_hfl._data.standardizer import Standardizer
from sklearn_hfl._data.validation import PRECISIONS, Array, to_tensor, validated

__all__ = ["ClusterRows"]


@dataclass(frozen=True)
class ClusterRows:
    """Rows of a dask collection, validated where they lie.

    Attributes
    ----------
    checked : tuple of Delayed
        X (n, D), y (n,) or (n, K) and weights (n,) of each chunk that has rows of positive
        weight.
    sizes : tuple of int
        n of each.
    ends : Array of shape (2 c, D)
        Mean ∓ standard deviation of X in each chunk: rows with the moments of all.
    targets : Array of shape (2 c, ...)
        Those of y; of classes, numbers that mean nothing.
    weight : Array of shape (2 c,)
        Half the weight of each chunk.
    """

    checked: tuple[Any, ...]
    sizes: tuple[int, ...]
    ends: Array
    targets: Array
    weight: Array

    @classmethod
    def of_numbers(
        cls, estimator: Any, X: Any, y: Any, sample_weight: ArrayLike | None
    ) -> ClusterRows:
        """Validate the rows of a regression: see ``check_training_data``."""
        checked = _checked_blocks(estimator, X, y, sample_weight, _numbers)
        found = computed(*(task(_moments, block) for block in checked))
        _check_weights([each.weights for each in found], sample_weight)
        return cls._of_moments(estimator, checked, found)

    @classmethod
    def of_labels(
        cls, estimator: Any, X: Any, y: Any, sample_weight: ArrayLike | None, class_weight: Any
    ) -> tuple[ClusterRows, NDArray[Any]]:
        """Validate labelled rows: see ``check_labelled_data`` and ``class_weighted``.

        Also returns the classes.
        """
        checked = _checked_blocks(estimator, X, y, sample_weight, _labels)
        counted = computed(*(task(_counts, block) for block in checked))
        _check_weights([weights for *_, weights in counted], sample_weight)
        classes = np.unique(np.concatenate([own for own, *_ in counted]))
        totals = np.zeros(len(classes))
        for own, total, _ in counted:
            totals[np.searchsorted(classes, own)] += total
        check_classes(classes, sum(weights.used for *_, weights in counted))
        factors = class_factors(class_weight, classes, totals)
        weighted = [task(_class_weighted, block, classes, factors) for block in checked]
        found = computed(*(task(_moments, block) for block in weighted))
        if isinstance(class_weight, dict):
            sums = WeightSums.merged([each.weights for each in found])
            sums.warn("sample_weight times class_weight")
        return cls._of_moments(estimator, weighted, found), classes

    @classmethod
    def _of_moments(
        cls, estimator: Any, checked: Sequence[Any], found: Sequence[_Moments]
    ) -> ClusterRows:
        estimator._n_rows, estimator._row_numbers = sum(each.n_rows for each in found), None
        used = [i for i, each in enumerate(found) if each.weights.used]
        return cls(
            tuple(checked[i] for i in used),
            tuple(found[i].weights.used for i in used),
            np.concatenate([found[i].X for i in used]),
            np.concatenate([found[i].y for i in used]),
            np.repeat([found[i].weights.total / 2 for i in used], 2),
        )

    def chunks(
        self, x_scaler: Standardizer, encode: Callable[[Any], Array], dtype: str, device: str
    ) -> ClusterChunks:
        """Rows as a fit takes them, standardised, with targets by ``encode`` of y.

        On a cluster they are kept in the memory of its workers, otherwise computed in each pass.
        """
        prepare = shared(_Prepare(x_scaler, encode, dtype, device))
        parts = kept([task(_prepared, block, prepare) for block in self.checked])
        total = torch.tensor(self.weight.sum(), dtype=getattr(torch, dtype), device=device)
        return ClusterChunks(parts, self.sizes, total)


# ------------------------------------------------------------------ validation


def _checked_blocks(
    estimator: Any, X: Any, y: Any, sample_weight: Any, check: Callable[[Any], Any]
) -> list[Any]:
    """Chunks of X with those of y and the weights, validated by ``check`` of y."""
    _check_options(estimator)
    validated(estimator, _like(X), ensure_min_samples=2)
    X = dask_array("X", X)
    targets = dask_array("y", y if is_collection(y) else check(y))
    check_consistent_length(X, targets)
    lengths = X.chunks[0]
    columns = [blocks(X), blocks(dask_array("y", targets, lengths))]
    if sample_weight is None:
        columns.append([None] * len(lengths))
    else:
        if not is_collection(sample_weight):
            sample_weight = checked_weights(sample_weight, len(X))
        weight = dask_array("sample_weight", sample_weight)
        if weight.shape != X.shape[:1]:
            raise ValueError(
                f"sample_weight must have shape {X.shape[:1]}, one number a row, but got "
                f"{weight.shape}."
            )
        columns.append(blocks(dask_array("sample_weight", weight, lengths)))
    name = type(estimator).__name__
    return [task(_checked, name, check, *block) for block in zip(*columns, strict=True)]


def _check_options(estimator: Any) -> None:
    """Refuse what needs rows one by one, or in random order."""
    name = type(estimator).__name__
    instead = "or pass arrays that this process holds"
    if estimator.early_stopping or estimator.solver == "adam":
        option = "early_stopping=True" if estimator.early_stopping else "solver='adam'"
        raise ValueError(
            f"{name}: {option} trains on mini-batches, which rows in a dask collection are not "
            f"read in. Set solver='newton-cg' and early_stopping=False, {instead}."
        )
    if getattr(estimator, "likelihood", "") == "heteroscedastic":
        raise ValueError(
            f"{name}: likelihood='heteroscedastic' keeps the variance of the mean at every row, "
            "which it cannot for rows in a dask collection. Set likelihood='gaussian', "
            f"{instead}."
        )


def _like(X: Any) -> Any:
    """A few rows with the columns of X, from what dask knows without computing it."""
    if hasattr(X, "to_dask_array"):
        # Its second row may have missing values, which the rows themselves need not have.
        return X._meta_nonempty.iloc[[0, 0]]
    if X.ndim != 2:
        raise ValueError(f"Expected 2D array, got a dask array of shape {X.shape} instead.")
    if not isinstance(X._meta, np.ndarray):
        raise TypeError(
            f"Expected X in chunks of NumPy arrays, but they are {type(X._meta).__name__}. "
            "Use X.map_blocks(lambda block: block.toarray()) for sparse ones."
        )
    return np.zeros((2 if np.isnan(X.shape[0]) else min(2, len(X)), X.shape[1]))


def _check_weights(parts: Sequence[WeightSums], sample_weight: Any) -> None:
    if sample_weight is not None:
        sums = WeightSums.merged(parts)
        check_used(sums.used)
        sums.warn()


def _checked(name: str, check: Callable[[Any], Any], X: Any, y: Any, weight: Any) -> Any:
    """One chunk, without its rows of weight zero; also how many rows it has with them."""
    with numbers_expected(X=X):
        X = check_array(X, dtype=PRECISIONS, estimator=name, input_name="X", ensure_min_samples=0)
    y = check(y)
    weight = checked_weights(weight, len(y))
    used, n = weight > 0, len(weight)
    return (X, y, weight, n) if used.all() else (X[used], y[used], weight[used], n)


def _numbers(y: Any) -> Array:
    if issparse(y):
        raise TypeError("y must be dense, but a sparse array came. Use y.toarray().")
    with numbers_expected(y=y):
        y = check_array(y, dtype=np.float64, ensure_2d=False, input_name="y", ensure_min_samples=0)
    return np.asarray(y)


def _labels(y: Any) -> NDArray[Any]:
    check_labels("y", y)
    y = column_or_1d(y)
    assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    return y


def _counts(block: Any) -> tuple[NDArray[Any], Array, WeightSums]:
    """Labels of a chunk, the weight of each, and sums of all weights."""
    _, y, weight, _ = block
    classes, index = np.unique(y, return_inverse=True)
    total = np.bincount(index, weight, len(classes)).astype(np.float64)
    return classes, total, WeightSums.of(weight)


def _class_weighted(block: Any, classes: NDArray[Any], factors: Array) -> Any:
    X, y, weight, n = block
    return X, y, weight * factors[np.searchsorted(classes, y)], n


@dataclass(frozen=True)
class _Moments:
    """Two rows with mean and standard deviation of a chunk, and sums of its weights."""

    X: Array
    y: Array
    weights: WeightSums
    n_rows: int


def _moments(block: Any) -> _Moments:
    X, y, weight, n = block
    y = _columns(y) if y.dtype.kind == "f" else np.zeros((len(y), 1))
    return _Moments(_two_rows(X, weight), _two_rows(y, weight), WeightSums.of(weight), n)


def _columns(y: Array) -> Array:
    return y[:, None] if y.ndim == 1 else y


def _two_rows(values: Array, weight: Array) -> Array:
    """Mean ∓ standard deviation of each column."""
    if len(values) == 0:
        return np.zeros((2, values.shape[1]))
    values = values.astype(np.float64)
    first, constant = values[0], np.ptp(values, axis=0) == 0
    mean = weight @ values / weight.sum()
    # Squares of the smallest numbers would be zero.
    unit = np.where(constant, 1.0, np.abs(values - mean).max(axis=0))
    std = unit * np.sqrt(weight @ ((values - mean) / unit) ** 2 / weight.sum())
    mean, std = np.where(constant, first, mean), np.where(constant, 0.0, std)
    return np.stack([mean - std, mean + std])


# ----------------------------------------------------------------------- tasks


@dataclass(frozen=True)
class _Prepare:
    """What turns validated rows into those that a fit takes."""

    x_scaler: Standardizer
    encode: Callable[[Any], Array]
    dtype: str
    device: str


def _prepared(block: Any, prepare: _Prepare) -> tuple[Tensor, Tensor, Tensor]:
    X, y, weight, _ = block
    place = prepare.dtype, prepare.device
    inputs = prepare.x_scaler.to_tensor(X, *place)
    return inputs, to_tensor(prepare.encode(y), *place), to_tensor(weight, *place)

"""Standardizer: columns to zero mean and unit variance, and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from sklearn_hfl._data.validation import Array

__all__ = ["Standardizer"]

# Numbers of a block of rows that is standardised at a time.
MAX_NUMBERS = 10**6
# Range of a column, in units of its values' rounding, up to which it counts as constant: sums whose
# last bits differ are no feature.
MAX_ROUNDING = 8 * np.finfo(np.float64).eps


def _blocks(values: Array) -> Iterator[slice]:
    n, d = values.shape
    size = max(1, MAX_NUMBERS // max(1, d))
    for start in range(0, n, size):
        yield slice(start, start + size)


def _dense(block: Any) -> Array:
    return np.ascontiguousarray(block.toarray() if issparse(block) else block, dtype=np.float64)


@dataclass(frozen=True)
class Standardizer:
    """x ↦ (x − mean) / scale for each column.

    Attributes
    ----------
    mean : ndarray of shape (n_columns,)
        Mean of the training rows, or 0.
    scale : ndarray of shape (n_columns,)
        Their standard deviation, 1 for constant columns, or 1.
    """

    mean: Array
    scale: Array

    @classmethod
    def from_data(cls, values: Array, weight: Array) -> Standardizer:
        """Learn mean and scale.

        Parameters
        ----------
        values : {ndarray, CSR array} of shape (n, n_columns)
            Training rows.
        weight : ndarray of shape (n,)
            Their weights.

        Returns
        -------
        Standardizer
        """
        scaler = StandardScaler()
        for rows in _blocks(values):
            scaler.partial_fit(_dense(values[rows]), sample_weight=weight[rows])
        mean, scale = scaler.mean_, scaler.scale_
        # Among those that the scaler takes for constant may be some whose variance is lost in the
        # rounding of their squares.
        lost = np.flatnonzero(scale != np.sqrt(scaler.var_))
        if lost.size:
            mean[lost], scale[lost] = _from_differences(values, weight, lost)
        return cls(mean, scale)

    def identity(self) -> Standardizer:
        """Leave as many columns as they are.

        Returns
        -------
        Standardizer
            Of mean 0 and scale 1.
        """
        return Standardizer(np.zeros_like(self.mean), np.ones_like(self.scale))

    def transform(self, values: Array) -> Array:
        """Standardise.

        Parameters
        ----------
        values : ndarray of shape (n, n_columns)
            In the user's units.

        Returns
        -------
        ndarray of shape (n, n_columns)
        """
        return (values - self.mean) / self.scale

    def of_targets(self, y: Array) -> Array:
        """Standardise targets.

        Parameters
        ----------
        y : ndarray of shape (n,) or (n, n_columns)
            In the user's units.

        Returns
        -------
        ndarray of shape (n, n_columns)
        """
        return self.transform(y.reshape(len(y), -1))

    def to_tensor(
        self, values: Array, dtype: str | torch.dtype, device: str | torch.device
    ) -> Tensor:
        """Standardise into a tensor, with no other dense copy of all the values.

        Parameters
        ----------
        values : {ndarray, CSR array} of shape (n, n_columns)
            In the user's units; of float64 or float32, perhaps memory-mapped.
        dtype : torch.dtype or {"float32", "float64"}
            Precision of the tensor; standardised in float64 before.
        device : str or torch.device
            Where it lives.

        Returns
        -------
        Tensor of shape (n, n_columns)
        """
        dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        tensor = torch.empty(values.shape, dtype=dtype, device=device)
        for rows in _blocks(values):
            tensor[rows] = torch.from_numpy(self.transform(_dense(values[rows])))
        return tensor

    def inverse(self, values: Array) -> Array:
        """Go back to the user's units.

        Parameters
        ----------
        values : ndarray of shape (n, n_columns)
            Standardised.

        Returns
        -------
        ndarray of shape (n, n_columns)
        """
        return values * self.scale + self.mean


def _from_differences(
    values: Array, weight: Array, columns: NDArray[np.intp]
) -> tuple[Array, Array]:
    """Mean and scale of columns, from differences from the first row in units of the largest."""
    first = _dense(values[:1][:, columns])[0]

    def differences(rows: slice) -> Array:
        return _dense(values[rows][:, columns]) - first

    width = np.max([np.abs(differences(rows)).max(axis=0) for rows in _blocks(values)], axis=0)
    width = np.where(width > MAX_ROUNDING * np.abs(first), width, 0.0)
    unit = np.where(width > 0, width, np.inf)
    scaler = StandardScaler()
    for rows in _blocks(values):
        scaler.partial_fit(differences(rows) / unit, sample_weight=weight[rows])
    scale = width * scaler.scale_
    return first + width * scaler.mean_, np.where(scale > 0, scale, 1.0)

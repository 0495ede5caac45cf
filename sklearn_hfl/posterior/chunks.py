"""Chunks: rows that this process does not hold, of which it gets sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from torch import Tensor

__all__ = ["Chunks", "Tensors"]

Tensors = TypeVar("Tensors", Tensor, tuple[Tensor, ...])


class Chunks(Protocol):
    """N rows in chunks: X (n, D), y (n, K) and sample weights (n,) of each."""

    @property
    def n_rows(self) -> int:
        """N."""

    @property
    def total_weight(self) -> Tensor:
        """Sum of the sample weights, a number ()."""

    def total(self, function: Callable[..., Tensors], *arguments: Any) -> Tensors:
        """Sum of ``function(X, y, sample_weight, *arguments)``: one pass over the data."""

    def select(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """X, y and sample weights of some rows, given by their numbers."""

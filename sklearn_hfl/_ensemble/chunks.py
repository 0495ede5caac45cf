"""Chunks: queries in blocks that the memory limit allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TypeVar

import torch
from torch import Tensor

from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.uncertainty.moderation import Moderation
from sklearn_hfl.uncertainty.profile import ProfileInterval
from sklearn_hfl.uncertainty.variance import Variance

__all__ = ["chunk_size", "chunked", "concatenated"]

# Queries of a chunk: larger blocks gain nothing in matrix products.
MAX_QUERIES = 1024
# Vectors of P numbers that a query holds at its peak: gradient, step and residual; the network
# route adds a pair of optima and their L-BFGS histories of ten steps each.
VECTORS_PER_QUERY = {"linearized": 8, "amortized": 8, "network": 60}

_Tensors = TypeVar("_Tensors", Moderation, ProfileInterval, Variance)


def chunk_size(log_posterior: LogPosterior, mode: str) -> int:
    """Queries of a chunk, for its peak to stay within a quarter of the memory limit."""
    outputs = log_posterior.network.n_outputs
    numbers = VECTORS_PER_QUERY[mode] * log_posterior.n_weights * outputs
    per_query = numbers * log_posterior.X.element_size()
    return max(1, min(MAX_QUERIES, int(log_posterior.memory_limit / (4 * per_query))))


def chunked(X: Tensor, size: int) -> tuple[Tensor, ...]:
    """Split queries (Q, D) into chunks of ``size``, or of as many as pay."""
    return torch.split(X, min(size, MAX_QUERIES))


def concatenated(parts: Sequence[_Tensors]) -> _Tensors:
    """One dataclass of tensors from those of the chunks."""
    names = [field.name for field in fields(parts[0])]
    return type(parts[0])(*(torch.cat([getattr(p, name) for p in parts]) for name in names))

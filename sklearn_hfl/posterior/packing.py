"""Packing: where each tensor of a network lies in its flat weight vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

__all__ = ["Packing"]


@dataclass(frozen=True)
class Packing:
    """Shapes of a network's tensors, in the order of the flat vector.

    Parameters
    ----------
    shapes : tuple of tuple of int
        Shape of each tensor; P is the sum of their sizes.
    """

    shapes: tuple[tuple[int, ...], ...]

    @property
    def n_weights(self) -> int:
        """P, the length of the flat vector."""
        return sum(prod(shape) for shape in self.shapes)

    def unpack(self, weights: Tensor) -> list[Tensor]:
        """Split (..., P) into views of shape (..., *shape)."""
        parts = weights.split([prod(shape) for shape in self.shapes], dim=-1)
        lead = weights.shape[:-1]
        return [part.reshape((*lead, *s)) for part, s in zip(parts, self.shapes, strict=True)]

    def pack(self, tensors: Sequence[Tensor]) -> Tensor:
        """Flatten tensors of the packed shapes into one vector (P,)."""
        return torch.cat([tensor.reshape(-1) for tensor in tensors])

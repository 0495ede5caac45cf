"""Prior: independent zero-mean Gaussians on the weights, one precision a group."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["GaussianPrior"]


@dataclass(frozen=True)
class GaussianPrior:
    """p(θ) = Π_i N(θ_i | 0, 1/α_{group(i)}).

    Parameters
    ----------
    group_precision : Tensor of shape (n_groups,)
        α of each group, > 0.
    labels : Tensor of shape (P,)
        Group of each weight.
    names : tuple of str
        Names of the groups.
    """

    group_precision: Tensor
    labels: Tensor
    names: tuple[str, ...]

    @property
    def precision(self) -> Tensor:
        """α of each weight, (P,)."""
        return self.group_precision[self.labels]

    @property
    def scale(self) -> Tensor:
        """α^-½ of each weight, (P,): θ = scale · u for whitened weights u."""
        return self.precision.rsqrt()

    def energy(self, weights: Tensor) -> Tensor:
        """½ Σ αᵢ θᵢ² for each row of (B, P): the negative log density less its constant."""
        return 0.5 * (self.precision * weights.square()).sum(-1)

    def group_sum(self, per_weight: Tensor) -> Tensor:
        """Sum of (P,) over each group, (n_groups,)."""
        return torch.zeros_like(self.group_precision).index_add_(0, self.labels, per_weight)

    def with_precision(self, group_precision: Tensor) -> GaussianPrior:
        """Return the same groups at other precisions."""
        return replace(self, group_precision=group_precision)

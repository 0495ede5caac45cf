"""Prior: independent zero-mean Gaussians on the weights, one precision a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

__all__ = ["GaussianPrior", "Kind", "WeightGroups"]

Kind = Literal["feature", "weights", "biases"]


@dataclass(frozen=True)
class WeightGroups:
    """Which weights share a prior precision.

    Parameters
    ----------
    labels : Tensor of shape (P,)
        Group of each weight.
    names : tuple of str
        Name of each group.
    kinds : tuple of str
        What each group holds: "feature", the weights that leave one input feature, with one
        such group a feature, in their order; "biases"; or other "weights".
    noise_only : tuple of bool
        Whether the group leads to the log noise alone.
    """

    labels: Tensor
    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    noise_only: tuple[bool, ...]

    def __len__(self) -> int:
        """Return n_groups."""
        return len(self.names)

    def of_kind(self, kind: Kind) -> Tensor:
        """Mask (n_groups,) of the groups of one kind."""
        return torch.tensor([k == kind for k in self.kinds], device=self.labels.device)

    def named(self, features: Sequence[str]) -> tuple[str, ...]:
        """Names of the groups, with the features' own names instead of their numbers.

        Two features of one name keep their numbers: each group has a name of its own.
        """
        if len(set(features)) < len(features):
            return self.names
        left = iter(features)
        pairs = zip(self.names, self.kinds, strict=True)
        return tuple(
            f"layer 0 feature {next(left)}" if kind == "feature" else name for name, kind in pairs
        )

    def to(self, device: torch.device) -> WeightGroups:
        """Return the same groups on another device."""
        return replace(self, labels=self.labels.to(device))


@dataclass(frozen=True)
class GaussianPrior:
    """p(θ) = Π_i N(θ_i | 0, 1/α_{group(i)}).

    Parameters
    ----------
    group_precision : Tensor of shape (n_groups,)
        α of each group, > 0.
    groups : WeightGroups
        Which weights share one.
    """

    group_precision: Tensor
    groups: WeightGroups

    @property
    def precision(self) -> Tensor:
        """α of each weight, (P,)."""
        return self.group_precision[self.groups.labels]

    @property
    def scale(self) -> Tensor:
        """α^-½ of each weight, (P,): θ = scale · u for whitened weights u."""
        return self.precision.rsqrt()

    def energy(self, weights: Tensor) -> Tensor:
        """½ Σ αᵢ θᵢ² for each row of (B, P): the negative log density less its constant."""
        return 0.5 * (self.precision * weights.square()).sum(-1)

    def group_sum(self, per_weight: Tensor) -> Tensor:
        """Sum of (P,) over each group, (n_groups,)."""
        return torch.zeros_like(self.group_precision).index_add_(0, self.groups.labels, per_weight)

    def with_precision(self, group_precision: Tensor) -> GaussianPrior:
        """Return the same groups at other precisions."""
        return replace(self, group_precision=group_precision)

    def flat(self) -> GaussianPrior:
        """Return no prior, of the same groups: precision 0."""
        return self.with_precision(torch.zeros_like(self.group_precision))

"""Hyperprior: what is known of prior precisions before the data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_hfl.posterior.initialization import scaled_precision
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import OF_NOISE

__all__ = ["FEATURE_STRENGTH", "STRENGTH", "Hyperprior"]

# Weak: keeps groups without evidence at 1, or at this multiple of ``scaled_precision`` where
# they lead to the log noise alone, which varies by a tenth under that prior, and otherwise
# stays constant (docs/design/heteroscedastic.md).
STRENGTH = 0.005
NOISE_MULTIPLE = 100.0
# The α of an input feature is worth two weights around the one that all features would share:
# without it, features of small effect are shrunk away (docs/design/evidence.md).
FEATURE_STRENGTH = 1.0


@dataclass(frozen=True)
class Hyperprior:
    """Gamma(a, a/c) on each α, as a density over log α: a (log α/c − α/c).

    Parameters
    ----------
    strength : Tensor of shape (n_groups,)
        a; it counts as 2a weights.
    centre : Tensor of shape (n_groups,)
        c, the mode.
    """

    strength: Tensor
    centre: Tensor

    @classmethod
    def at(
        cls,
        log_posterior: LogPosterior,
        weights: Tensor,
        gamma: Tensor,
        unit: float | Tensor = 1.0,
    ) -> Hyperprior:
        """Return the hyperprior given weights (P,) and their shares ``gamma`` (P,) of γ.

        The features' centre is the α that they would share, Σγ / Σθ² of them together, in
        ``unit`` (n_groups,): the precision under which weights are of order one.
        """
        prior = log_posterior.prior
        ones = torch.ones_like(prior.group_precision)
        names = prior.names
        of_noise = torch.tensor([n.endswith(OF_NOISE) for n in names]).to(ones.device)
        of_feature = torch.tensor([" feature " in n for n in names]).to(ones.device) & ~of_noise
        squares = unit * prior.group_sum(weights.square())
        shared = (prior.group_sum(gamma)[of_feature].sum() + 2 * STRENGTH) / (
            squares[of_feature].sum() + 2 * STRENGTH
        )
        strong = NOISE_MULTIPLE * scaled_precision(log_posterior.network, 1.0).to(ones)
        centre = torch.where(of_feature, shared, torch.where(of_noise, strong, ones))
        return cls(torch.where(of_feature, FEATURE_STRENGTH, STRENGTH * ones), unit * centre)

    def update(self, gamma: Tensor, squares: Tensor) -> Tensor:
        """MacKay's α (n_groups,) for γ and Σθ² of each group: γ / Σθ² without hyperprior."""
        return (gamma + 2 * self.strength) / (squares + 2 * self.strength / self.centre)

    def log_density(self, precision: Tensor) -> float:
        """Log density of log α (n_groups,), but for constants."""
        ratio = precision / self.centre
        return float((self.strength * (ratio.log() - ratio)).sum())

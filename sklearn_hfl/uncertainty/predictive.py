"""Predictive: one distribution from the posteriors of several members, noise in or out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_hfl.uncertainty.variance import Variance

__all__ = ["Predictive", "mixture"]


@dataclass(frozen=True)
class Predictive:
    """Moments of the predictive distribution at Q queries with K outputs.

    Attributes
    ----------
    mean : Tensor of shape (Q, K)
        Posterior mean.
    epistemic : Tensor of shape (Q, K)
        Variance of the mean function: what more data would remove.
    aleatoric : Tensor of shape (Q, K)
        Variance of the noise. The predictive variance is the sum of the two.
    rel_error : Tensor of shape (Q, K)
        Bound or estimate of the relative error of sqrt(epistemic).
    converged : Tensor of shape (Q, K)
        Whether every member's variance met its tolerance.
    """

    mean: Tensor
    epistemic: Tensor
    aleatoric: Tensor
    rel_error: Tensor
    converged: Tensor


def mixture(
    means: Sequence[Tensor], variances: Sequence[Variance], noise: Sequence[Tensor]
) -> Predictive:
    """Moments of the equal mixture of the members' predictive distributions.

    Parameters
    ----------
    means : sequence of Tensor of shape (Q, K)
        Mean of each member.
    variances : sequence of Variance
        Of the Q·K predictions of each member, outputs fastest.
    noise : sequence of Tensor of shape (K,) or (Q, K)
        Noise variance of each member.

    Returns
    -------
    Predictive
        By the law of total variance: epistemic is the mean of the members'
        variances plus the variance of their means.
    """
    mean = torch.stack(list(means))
    shape = mean.shape[1:]
    within = torch.stack([v.value.reshape(shape) for v in variances]).mean(0)
    # A relative error of every member's std bounds that of the mixture's.
    rel_error = torch.stack([v.rel_error.reshape(shape) for v in variances]).amax(0)
    converged = torch.stack([v.converged.reshape(shape) for v in variances]).all(0)
    return Predictive(
        mean.mean(0),
        within + mean.var(0, correction=0),
        torch.stack(list(noise)).mean(0).expand(shape),
        rel_error,
        converged,
    )

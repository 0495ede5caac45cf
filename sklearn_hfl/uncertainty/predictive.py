"""Predictive: one distribution from the posteriors of several members, noise in or out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_hfl.uncertainty.profile import ProfileInterval
from sklearn_hfl.uncertainty.variance import Variance

__all__ = ["Predictive", "mixture", "profile_mixture"]


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


def mixture(means: Tensor, variances: Sequence[Variance], noise: Tensor) -> Predictive:
    """Moments of the equal mixture of the members' predictive distributions.

    Parameters
    ----------
    means : Tensor of shape (M, Q, K)
        Mean of each member.
    variances : sequence of Variance
        Of the Q·K predictions of each member, outputs fastest.
    noise : Tensor of shape (M, Q, K)
        Noise variance of each member.

    Returns
    -------
    Predictive
        By the law of total variance: epistemic is the mean of the members'
        variances plus the variance of their means.
    """
    shape = means.shape[1:]
    within = torch.stack([v.value.reshape(shape) for v in variances]).mean(0)
    # A relative error of every member's std bounds that of the mixture's.
    rel_error = torch.stack([v.rel_error.reshape(shape) for v in variances]).amax(0)
    converged = torch.stack([v.converged.reshape(shape) for v in variances]).all(0)
    return Predictive(
        means.mean(0),
        within + means.var(0, correction=0),
        noise.mean(0),
        rel_error,
        converged,
    )


def profile_mixture(
    means: Tensor, profiles: Sequence[ProfileInterval], noise: Tensor, z: float
) -> Tensor:
    """Ends (2, Q, K) of the members' profile intervals together, noise included.

    Noise is added in squares on each side, half² = profile half² + z² · noise variance, which is
    exact for a linear network. Members are mixed as Gaussian ones are: the mean of the squared
    half-widths on each side, plus z² times the variance of the means. That is an approximation
    where the members' intervals are asymmetric in different ways.

    Parameters
    ----------
    means : Tensor of shape (M, Q, K)
        Mean of each member.
    profiles : sequence of ProfileInterval
        Of the Q·K predictions of each member, outputs fastest.
    noise : Tensor of shape (M, Q, K)
        Noise variance of each member.
    z : float
        Standard deviations at which the profiles were taken.

    Returns
    -------
    Tensor of shape (2, Q, K)
        Lower and upper ends.
    """
    extra = z**2 * (means.var(0, correction=0) + noise.mean(0))
    ends = []
    for sign, end in ((-1, "lower"), (1, "upper")):
        values = torch.stack([getattr(p, end) for p in profiles]).reshape(means.shape)
        half = ((values - means).square().mean(0) + extra).sqrt()
        ends.append(means.mean(0) + sign * half)
    return torch.stack(ends)

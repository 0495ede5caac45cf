"""Precisions: MacKay's updates of noise and priors, at given weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor

from sklearn_hfl.optim.krylov import krylov_subspace
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.initialization import scaled_precision
from sklearn_hfl.posterior.likelihood import GaussianLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.uncertainty.evidence import effective_parameters
from sklearn_hfl.uncertainty.hyperprior import Hyperprior
from sklearn_hfl.uncertainty.noise import PSEUDO_RESIDUAL, noise_precision, squared_residuals

__all__ = [
    "EvidenceOptions",
    "evidence_at",
    "log_hyperprior",
    "relative_change",
    "updated",
    "updated_at",
]

PRIOR_PRECISION_RANGE = (1e-2, 1e5)
# No update changes a precision by more than this factor: the first ones are far from a MAP.
LARGEST_STEP = 5.0
# Where regression starts: prior in multiples of the fan-in, noise in SDs of y. From the
# first, all noise under a strong prior, noisy data end at larger evidence; from the
# second, little noise, a network finds the signal of few clean rows, under which the
# first stays a constant. The evidence chooses (docs/design/evidence.md).
STARTS = ((10.0, 1.0), (1.0, 0.3))
MAX_ROUNDS = 40
# Log precisions are rounded to multiples of this, a 200th of what rounds end by. The last bits
# of one round otherwise grow over the next: rows weighted by 2 and rows repeated twice, one
# problem, could end 1e-6 apart.
RESOLUTION = 1e-4


@dataclass(frozen=True)
class EvidenceOptions:
    """What is learned from the evidence.

    Attributes
    ----------
    prior : bool
        Whether the prior precision of each group is.
    noise : bool
        Whether the noise of each output is.
    least_prior : float
        Least precision of each group, in multiples of ``scaled_precision``.
    starts : tuple of (float, float)
        Where the search starts: prior precision in multiples of ``scaled_precision``,
        noise in SDs of y.
    rtol : float
        Rounds end when no precision changes by more than this factor less one.
    noise_unit : float or Tensor of shape (K,)
        SD of y, where it is not standardised.
    prior_unit : float or Tensor of shape (n_groups,)
        Precision under which the weights of each group are of order one, where inputs and
        targets are not standardised.
    """

    prior: bool
    noise: bool
    least_prior: float = 0.0
    starts: tuple[tuple[float, float], ...] = field(default_factory=lambda: STARTS)
    rtol: float = 0.02
    noise_unit: float | Tensor = 1.0
    prior_unit: float | Tensor = 1.0


def updated_at(
    log_posterior: LogPosterior, weights: Tensor, options: EvidenceOptions, generator: Generator
) -> tuple[LogPosterior, float]:
    """Update the precisions once, at weights whose curvature is not known yet."""
    curvature = GaussNewton(log_posterior, weights)
    gamma = effective_parameters(krylov_subspace(curvature, generator, trace_rtol=1e-2))
    return updated(log_posterior, weights, gamma, options)


def updated(
    log_posterior: LogPosterior, weights: Tensor, gamma: Tensor, options: EvidenceOptions
) -> tuple[LogPosterior, float]:
    """MacKay's update of every precision that is learned.

    Parameters
    ----------
    log_posterior : LogPosterior
        Its precisions are the old ones.
    weights : Tensor of shape (P,)
        Taken for the MAP.
    gamma : Tensor of shape (P,)
        Share of each weight that the data determine.
    options : EvidenceOptions
        What to learn.

    Returns
    -------
    log_posterior : LogPosterior
        With the new precisions.
    change : float
        Largest change of the logarithm of one.
    """
    change = 0.0
    prior, likelihood = log_posterior.prior, log_posterior.likelihood
    if options.prior:
        unit = options.prior_unit
        target = Hyperprior.at(log_posterior, weights, gamma, unit).update(
            prior.group_sum(gamma), prior.group_sum(weights.square())
        )
        least = options.least_prior * scaled_precision(log_posterior.network, 1.0).to(target)
        target = unit * torch.maximum((target / unit).clamp(*PRIOR_PRECISION_RANGE), least)
        alpha = _limited(prior.group_precision, target)
        change = max(change, relative_change(prior.group_precision, alpha))
        prior = prior.with_precision(alpha)
    if options.noise and isinstance(likelihood, GaussianLikelihood):
        squares = squared_residuals(log_posterior, weights)
        total = log_posterior.sample_weight.sum()
        share = gamma.sum() / len(squares)
        target = noise_precision(squares, share, total, options.noise_unit)
        beta = _limited(likelihood.noise_precision, target)
        change = max(change, relative_change(likelihood.noise_precision, beta))
        likelihood = likelihood.with_precision(beta)
    return replace(log_posterior, prior=prior, likelihood=likelihood), change


def log_hyperprior(
    log_posterior: LogPosterior, weights: Tensor, gamma: Tensor, options: EvidenceOptions
) -> float:
    """Log density of the precisions that are learned, but for constants."""
    total, likelihood = 0.0, log_posterior.likelihood
    if options.prior:
        hyperprior = Hyperprior.at(log_posterior, weights, gamma, options.prior_unit)
        total += hyperprior.log_density(log_posterior.prior.group_precision)
    if options.noise and isinstance(likelihood, GaussianLikelihood):
        beta = likelihood.noise_precision
        unit = torch.as_tensor(options.noise_unit).to(beta)
        total += 0.5 * float((beta.log() - (PSEUDO_RESIDUAL * unit).square() * beta).sum())
    return total


def evidence_at(
    log_posterior: LogPosterior, weights: Tensor, options: EvidenceOptions, generator: Generator
) -> LogPosterior:
    """MacKay's updates of the precisions alone: the weights stay where they are.

    Parameters
    ----------
    log_posterior : LogPosterior
        Its precisions are where the updates start.
    weights : Tensor of shape (P,)
        Taken for the MAP at whatever precisions.
    options : EvidenceOptions
        What to learn.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    LogPosterior
        With the precisions found.
    """
    for _ in range(MAX_ROUNDS):
        log_posterior, change = updated_at(log_posterior, weights, options, generator)
        if change < options.rtol:
            break
    return log_posterior


def _limited(old: Tensor, target: Tensor) -> Tensor:
    """The target or the largest step towards it, rounded to ``RESOLUTION``."""
    limited = old * (target / old).clamp(1 / LARGEST_STEP, LARGEST_STEP)
    return ((limited.log() / RESOLUTION).round() * RESOLUTION).exp()


def relative_change(old: Tensor, new: Tensor) -> float:
    """Largest change of a logarithm between positive numbers."""
    return float((new / old).log().abs().max())

"""Noise that varies: from a constant level, with residuals averaged over the posterior."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from sklearn_hfl.optim.krylov import determined_subspace
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.likelihood import GaussianLikelihood, HeteroscedasticLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.uncertainty.precisions import PSEUDO_RESIDUAL, squared_residuals

__all__ = ["variance_of_mean", "with_varying_noise"]

# A row's variance is at least about this share of the constant noise's
# (docs/design/heteroscedastic.md).
MIN_VARIANCE_SHARE = 1e-3


def variance_of_mean(curvature: GaussNewton, subspace: Subspace) -> Tensor:
    """Posterior variance of the mean at the training rows, as far as the data determine it.

    Parameters
    ----------
    curvature : GaussNewton
        A, of a likelihood of means and log noise.
    subspace : Subspace
        Its directions.

    Returns
    -------
    Tensor of shape (N, K)
    """
    likelihood = curvature.log_posterior.likelihood
    assert isinstance(likelihood, GaussianLikelihood)
    return likelihood.mean_link.value(
        curvature.output_variance(subspace.root().to(curvature.weights))
    )


def with_varying_noise(
    log_posterior: LogPosterior,
    weights: Tensor,
    generator: Generator,
    unit: float | Tensor = 1.0,
) -> LogPosterior:
    """Let the log noise vary around a constant noise that was learned.

    Parameters
    ----------
    log_posterior : LogPosterior
        With a heteroscedastic likelihood whose noise is constant.
    weights : Tensor of shape (P,)
        At which that noise was learned.
    generator : torch.Generator
        Source of randomness.
    unit : float or Tensor of shape (K,)
        SD of y.

    Returns
    -------
    LogPosterior
        The variance of a row is at least about κ times the constant one: κ is the share of it
        that comes from the hyperprior rather than from residuals, or ``MIN_VARIANCE_SHARE`` if
        that is larger.
    """
    likelihood = log_posterior.likelihood
    assert isinstance(likelihood, HeteroscedasticLikelihood)
    pseudo = (PSEUDO_RESIDUAL * torch.as_tensor(unit).to(weights)).square()
    share = pseudo / (squared_residuals(log_posterior, weights) + pseudo)
    curvature = GaussNewton(log_posterior, weights)
    return replace(
        log_posterior,
        likelihood=replace(likelihood, guard=share.clamp(min=MIN_VARIANCE_SHARE), constant=False),
        variance_of_mean=variance_of_mean(
            curvature, determined_subspace(curvature, generator, trace_rtol=1e-2)
        ),
    )

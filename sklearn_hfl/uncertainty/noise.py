"""Noise: how much the data prove, at fixed weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from sklearn_hfl.optim.krylov import krylov_subspace
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.likelihood import GaussianLikelihood, HeteroscedasticLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["freed_noise", "mean_variance", "noise_precision", "squared_residuals"]

# The hyperprior of each β counts as one more row, with this residual in SDs of y: few
# rows that the network can interpolate do not prove that there is no noise.
PSEUDO_RESIDUAL = 0.03
# Where noise varies, a row's variance is at least about this share of the constant noise's.
LEAST_SHARE = 1e-3
# A noise std below a thousandth of the target's SD makes the curvature's condition
# number pass 1e11, and rounding shows in the standard deviations.
LEAST_NOISE_STD = 1e-3


def noise_precision(
    squares: Tensor, gamma: Tensor, rows: Tensor, unit: float | Tensor = 1.0
) -> Tensor:
    """Noise precision that makes the data most probable, at fixed weights.

    Parameters
    ----------
    squares : Tensor
        Sum of squared residuals.
    gamma : Tensor
        Effective parameters that they have paid for.
    rows : Tensor
        Number of residuals.
    unit : float or Tensor
        SD of y.

    Returns
    -------
    Tensor
        (rows − γ) / squares, each with one more row by the hyperprior.
    """
    # γ cannot exceed the rows; at least a twentieth of them stays for the noise.
    left = torch.maximum(rows - gamma, 0.05 * rows)
    unit = torch.as_tensor(unit).to(squares)
    target = (left + 1) / (squares + (PSEUDO_RESIDUAL * unit).square())
    return torch.minimum(target, (LEAST_NOISE_STD * unit) ** -2)


def mean_variance(curvature: GaussNewton, subspace: Subspace) -> Tensor:
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
    return likelihood.mean_link.value(curvature.spread(subspace.root()))


def freed_noise(
    log_posterior: LogPosterior,
    weights: Tensor,
    generator: Generator,
    unit: float | Tensor = 1.0,
) -> LogPosterior:
    """Let the log noise vary around a constant noise that was learned.

    Parameters
    ----------
    log_posterior : LogPosterior
        With a heteroscedastic likelihood that is constant.
    weights : Tensor of shape (P,)
        At which its noise was learned.
    generator : torch.Generator
        Source of randomness.
    unit : float or Tensor of shape (K,)
        SD of y.

    Returns
    -------
    LogPosterior
        Its variances keep the share of the constant one that the hyperprior, not the
        residuals, stood for, and ``LEAST_SHARE`` at the least.
    """
    likelihood = log_posterior.likelihood
    assert isinstance(likelihood, HeteroscedasticLikelihood)
    pseudo = (PSEUDO_RESIDUAL * torch.as_tensor(unit).to(weights)).square()
    guard = (pseudo / (squared_residuals(log_posterior, weights) + pseudo)).clamp(min=LEAST_SHARE)
    curvature = GaussNewton(log_posterior, weights)
    return replace(
        log_posterior,
        likelihood=replace(likelihood, guard=guard, constant=False),
        spread=mean_variance(curvature, krylov_subspace(curvature, generator, trace_rtol=1e-2)),
    )


def squared_residuals(log_posterior: LogPosterior, weights: Tensor) -> Tensor:
    """Σ w (y − f)² of each target.

    Parameters
    ----------
    log_posterior : LogPosterior
        The data and the network.
    weights : Tensor of shape (P,)
        Where f is evaluated.

    Returns
    -------
    Tensor of shape (K,)
    """
    likelihood = log_posterior.likelihood
    assert isinstance(likelihood, GaussianLikelihood)
    total = weights.new_zeros(log_posterior.y.shape[1])
    for rows in log_posterior.blocks(log_posterior.network.width):
        f = log_posterior.network.forward(weights[None], log_posterior.X[rows])[0]
        residual = log_posterior.y[rows] - likelihood.mean_link.value(f)
        total += log_posterior.sample_weight[rows] @ residual.square()
    return total

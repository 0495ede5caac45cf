"""Noise: its precision that makes the data most probable, at fixed weights."""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.likelihood import GaussianLikelihood, HeteroscedasticLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["noise_precision", "paid_by_residuals", "squared_residuals"]

# The hyperprior of each β counts as one more row, with this residual in SDs of y: few
# rows that the network can interpolate do not prove that there is no noise.
PSEUDO_RESIDUAL = 0.03
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


def paid_by_residuals(curvature: GaussNewton, subspace: Subspace, gamma: Tensor) -> Tensor:
    """Effective parameters that made the squared residuals of each target smaller.

    Parameters
    ----------
    curvature : GaussNewton
        At the MAP.
    subspace : Subspace
        Its directions.
    gamma : Tensor of shape (P,)
        Share of each weight that the data determine.

    Returns
    -------
    Tensor of shape (K,) or ()
        γ over the K targets; without what went into the log noise, where that varies.
    """
    lp = curvature.log_posterior
    share = gamma.sum() / lp.y.shape[1]
    if not isinstance(lp.likelihood, HeteroscedasticLikelihood) or lp.likelihood.constant:
        return share
    # tr A⁻¹ JᵀΛJ, output by output: Λ of this likelihood is diagonal.
    by_output = curvature.output_energies(subspace.root())
    return gamma.sum() * (lp.likelihood.mean_link.value(by_output) / by_output.sum())


def squared_residuals(log_posterior: LogPosterior, weights: Tensor) -> Tensor:
    """Σ w (y − f)² of each target, in units of each row's share of the noise.

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
        squares = likelihood.squares(f, log_posterior.y[rows])
        total += log_posterior.sample_weight[rows] @ squares
    return total

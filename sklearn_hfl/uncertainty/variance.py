"""Variance: of any functional, with an error bound and a convergence flag for each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_hfl.optim.perturbed_optima import PerturbedOptima

__all__ = ["Variance", "accepted", "variance"]

# A refit whose two scales disagree by more than this, or than a larger rtol, has not converged:
# the central difference is then not yet, or no longer, the curvature
# (docs/design/network_route.md).
MAX_SCALE_DISAGREEMENT = 0.05


@dataclass(frozen=True)
class Variance:
    """Posterior variances of G functionals.

    Attributes
    ----------
    value : Tensor of shape (G,)
        Variance, ≥ 0 and finite.
    rel_error : Tensor of shape (G,)
        Bound (linearised rows) or estimate (network rows) of the relative error
        of the standard deviation.
    converged : Tensor of shape (G,)
        Whether ``rel_error`` is within its tolerance, see ``accepted``; where a network's is
        not, ``value`` is the linearised variance.
    """

    value: Tensor
    rel_error: Tensor
    converged: Tensor


def accepted(optima: PerturbedOptima, rtol: float) -> Tensor:
    """Tell which functionals take their variance from the network's refit.

    Parameters
    ----------
    optima : PerturbedOptima
        With a network response.
    rtol : float
        Tolerance of the relative error.

    Returns
    -------
    Tensor of shape (G,)
        Whether the row's error estimate is within ``rtol`` or ``MAX_SCALE_DISAGREEMENT``.
    """
    if optima.network is None:
        return torch.zeros_like(optima.linear.variance, dtype=torch.bool)
    return optima.network.rel_error <= max(rtol, MAX_SCALE_DISAGREEMENT)


def variance(optima: PerturbedOptima, rtol: float) -> Variance:
    """Posterior variance of each functional, from its perturbed optima.

    Parameters
    ----------
    optima : PerturbedOptima
        Of G functionals.
    rtol : float
        Relative error to which each standard deviation was to be refined.

    Returns
    -------
    Variance
    """
    linear = optima.linear
    if optima.network is None:
        return Variance(linear.variance, linear.rel_error, linear.rel_error <= rtol)
    use = accepted(optima, rtol)
    return Variance(
        torch.where(use, optima.network.variance, linear.variance),
        torch.where(use, optima.network.rel_error, linear.rel_error),
        use,
    )

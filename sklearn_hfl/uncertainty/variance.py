"""Variance: of any functional, each with its own verdict."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_hfl.optim.perturbed_optima import PerturbedOptima

__all__ = ["Variance", "accepted", "variance"]

# A refit whose two scales disagree by more than this, or than a larger rtol, is not
# believed: the central difference is then not yet, or no longer, the curvature.
SCALE_AGREEMENT = 0.05


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
        Whether the asked route answers, see ``accepted``; where not, ``value`` is
        the linearised variance.
    """

    value: Tensor
    rel_error: Tensor
    converged: Tensor


def accepted(optima: PerturbedOptima, rtol: float) -> Tensor:
    """Tell which functionals the network's refit may answer.

    Parameters
    ----------
    optima : PerturbedOptima
        With a network response.
    rtol : float
        Relative error asked for.

    Returns
    -------
    Tensor of shape (G,)
        Whether the row's error estimate is within ``rtol`` or ``SCALE_AGREEMENT``.
    """
    if optima.network is None:
        return torch.zeros_like(optima.linear.variance, dtype=torch.bool)
    return optima.network.rel_error <= max(rtol, SCALE_AGREEMENT)


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

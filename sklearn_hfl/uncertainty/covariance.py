"""Covariance: of several functionals, by the same perturbed optima."""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_hfl.optim.perturbed_optima import NetworkResponse, PerturbedOptima
from sklearn_hfl.posterior.functional import Functional
from sklearn_hfl.uncertainty.variance import accepted, variance

__all__ = ["covariance"]


def covariance(functional: Functional, optima: PerturbedOptima, rtol: float) -> Tensor:
    """Joint posterior covariance of the functionals, whose diagonal ``variance`` gives.

    Parameters
    ----------
    functional : Functional
        G functionals.
    optima : PerturbedOptima
        Theirs.
    rtol : float
        Relative error to which each standard deviation was to be refined.

    Returns
    -------
    Tensor of shape (G, G)
        Symmetric and positive semi-definite. Pairs of which one refit failed
        keep the linearised covariance.
    """
    galerkin = optima.linear.galerkin
    # Between the bounds CᵀC and CᵀC + RᵀR in the Loewner order, as the variance is.
    linear = galerkin.coefficients.mT @ galerkin.coefficients
    linear = linear + 0.5 * galerkin.residual.mT @ galerkin.residual
    if optima.network is None:
        return linear
    use = accepted(optima, rtol)
    mixed = torch.where(use[:, None] & use, _cross_differences(functional, optima.network), linear)
    # Central differences of single rows need not be jointly positive: the nearest
    # semi-definite matrix is taken, with each row's own variance put back.
    values, vectors = torch.linalg.eigh(mixed)
    mixed = (vectors * values.clamp(min=0.0)) @ vectors.mT
    diagonal = mixed.diagonal()
    rescale = torch.where(diagonal > 0, variance(optima, rtol).value / diagonal, 1.0).sqrt()
    return rescale[:, None] * mixed * rescale


def _cross_differences(functional: Functional, response: NetworkResponse) -> Tensor:
    """[h(θ^{+λ}) − h(θ^{−λ})] / 2λ for each row's λ and every h, made symmetric."""
    difference = functional.value(response.plus) - functional.value(response.minus)
    strength = torch.where(response.strength > 0, response.strength, 1.0)
    rows = difference / (2 * strength[:, None])
    return 0.5 * (rows + rows.mT)

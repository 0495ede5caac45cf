"""Covariance: of several functionals, by the same perturbed optima."""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_hfl.optim.network_response import NetworkResponse
from sklearn_hfl.optim.perturbed_optima import PerturbedOptima
from sklearn_hfl.posterior.functional import Functional
from sklearn_hfl.uncertainty.variance import accepted, variance

__all__ = ["block_covariance", "covariance"]


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
    return block_covariance(functional, optima, rtol, len(optima.linear.variance))[0]


def block_covariance(
    functional: Functional, optima: PerturbedOptima, rtol: float, size: int
) -> Tensor:
    """Joint covariances of each ``size`` functionals that follow each other.

    Parameters
    ----------
    functional : Functional
        B · size functionals.
    optima : PerturbedOptima
        Theirs.
    rtol : float
        Relative error to which each standard deviation was to be refined.
    size : int
        Functionals in a block, such as the outputs at one query.

    Returns
    -------
    Tensor of shape (B, size, size)
        The blocks on the diagonal of the matrix that ``covariance`` gives.
    """
    galerkin = optima.linear.galerkin
    # In the middle of bounds in the Loewner order, as the variance is.
    linear = _blocks(galerkin.coefficients, size)
    linear += galerkin.bounds.share * _blocks(galerkin.residual, size)
    if optima.network is None:
        return linear
    use = accepted(optima, rtol).unflatten(0, (-1, size))
    differences = _cross_differences(functional, optima.network, size)
    mixed = torch.where(use[:, :, None] & use[:, None, :], differences, linear)
    # Central differences of single rows need not be jointly positive: the nearest
    # semi-definite matrix is taken, with each row's own variance put back.
    values, vectors = torch.linalg.eigh(mixed)
    mixed = (vectors * values.clamp(min=0.0)[:, None, :]) @ vectors.mT
    diagonal = mixed.diagonal(dim1=1, dim2=2)
    own = variance(optima, rtol).value.unflatten(0, (-1, size))
    rescale = torch.where(diagonal > 0, own / diagonal, 1.0).sqrt()
    return rescale[:, :, None] * mixed * rescale[:, None, :]


def _blocks(columns: Tensor, size: int) -> Tensor:
    """MᵀM of each ``size`` columns M of a matrix."""
    parts = columns.mT.unflatten(0, (-1, size))
    return parts @ parts.mT


def _cross_differences(functional: Functional, response: NetworkResponse, size: int) -> Tensor:
    """[h(θ^{+λ}) − h(θ^{−λ})] / 2λ for each row's λ and every h of its block, made symmetric."""
    rows = torch.arange(len(response.strength), device=response.strength.device)
    if size == len(rows):
        difference = functional.value(response.plus) - functional.value(response.minus)
    else:
        first = rows - rows % size
        columns = [
            functional.paired(response.plus, first + j)
            - functional.paired(response.minus, first + j)
            for j in range(size)
        ]
        difference = torch.stack(columns, dim=1)
    strength = torch.where(response.strength > 0, response.strength, 1.0)
    block = (difference / (2 * strength[:, None])).unflatten(0, (-1, size))
    return 0.5 * (block + block.mT)

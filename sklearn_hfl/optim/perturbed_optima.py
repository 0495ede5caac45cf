"""Perturbed optima: the one primitive from which every uncertainty is made.

For a functional g of the weights, θ^{±λ} = argmin L(θ) ∓ λ g(θ). As λ → 0 the
central difference [g(θ^{+λ}) − g(θ^{−λ})] / 2λ tends to ∇gᵀH⁻¹∇g, the Laplace
variance of g (McInerney & Kallus, arXiv:2403.10671, one-sided there).
"""

from __future__ import annotations

from dataclasses import dataclass

from sklearn_hfl.optim.linear_response import (
    LinearResponse,
    amortized_response,
    linear_response,
)
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.network_response import (
    PERTURBATION_SCALES,
    NetworkResponse,
    network_response,
)
from sklearn_hfl.posterior.functional import Functional

__all__ = ["PerturbedOptima", "perturbed_optima"]


@dataclass(frozen=True)
class PerturbedOptima:
    """θ^{±λ} of every functional, by the linearisation and, if asked, by the network.

    Attributes
    ----------
    linear : LinearResponse
        Always there: it sets λ, starts the network's refit and replaces it where it fails.
    network : NetworkResponse or None
        Only in mode "network".
    """

    linear: LinearResponse
    network: NetworkResponse | None


def perturbed_optima(
    estimate: MapEstimate,
    functional: Functional,
    mode: str,
    *,
    rtol: float,
    perturbation_scale: float | str = "auto",
) -> PerturbedOptima:
    """Find the optima of L(θ) ∓ λ g(θ) for each functional g.

    Parameters
    ----------
    estimate : MapEstimate
        θ̂, L and the subspace.
    functional : Functional
        G functionals.
    mode : {"linearized", "network", "amortized"}
        Whether the network is replaced by its linearisation at θ̂, and then whether the
        data may be asked, or the pairs that the fit has left must do.
    rtol : float
        Relative error to which each standard deviation is refined.
    perturbation_scale : float or "auto"
        How far the network's optimum is moved, in posterior standard deviations.
        "auto" tries ``PERTURBATION_SCALES`` until two agree to ``rtol``; a
        number is taken as it is, and errors of second order in it are not seen.

    Returns
    -------
    PerturbedOptima
    """
    gradient = estimate.scale[:, None] * functional.gradient(estimate.weights)
    if mode == "amortized":
        return PerturbedOptima(amortized_response(estimate, gradient), None)
    linear = linear_response(estimate, gradient, rtol)
    if mode == "linearized":
        return PerturbedOptima(linear, None)
    auto = isinstance(perturbation_scale, str)
    scales = PERTURBATION_SCALES if auto else (float(perturbation_scale),)
    return PerturbedOptima(linear, network_response(estimate, functional, linear, rtol, scales))

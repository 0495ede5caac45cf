"""Perturbed optima: the primitive from which all uncertainties are computed.

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
    """θ^{±λ} of each functional, by the linearisation and, in one mode, by the network.

    Attributes
    ----------
    linear : LinearResponse
        Of all modes: it sets λ, starts the network's refit and replaces it where that fails.
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
        "linearized" and "amortized" replace the network by its linearisation at θ̂; the
        former may need the training data, the latter uses the estimate's Ritz pairs alone.
    rtol : float
        Relative error to which each standard deviation is refined.
    perturbation_scale : float or "auto"
        How far the network's optimum is moved, in posterior standard deviations.
        "auto" tries ``PERTURBATION_SCALES`` until two agree to ``rtol``. A single
        number leaves errors of second order in it, which ``rel_error`` does not include.

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

"""Diagnostics: how far the MAP is from stationary, and what the fit amounts to."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.perturbed_optima import linear_response
from sklearn_hfl.optim.subspace import stationary_radius
from sklearn_hfl.uncertainty.evidence import effective_parameters, log_evidence

__all__ = ["Diagnostics", "diagnose"]


@dataclass(frozen=True)
class Diagnostics:
    """Facts of one fitted member.

    Attributes
    ----------
    loss : float
        L(θ̂) in nats, summed over the data, prior included.
    grad_norm : float
        ‖∇L(θ̂)‖.
    decrement : float
        sqrt(∇Lᵀ A⁻¹ ∇L): estimated distance to the MAP in posterior standard deviations.
    n_effective_parameters : float
        γ, the number of weights that the data determine.
    log_evidence : float
        Laplace's log marginal likelihood in nats, of standardised targets.
    rank : int
        Directions kept in the subspace.
    """

    loss: float
    grad_norm: float
    decrement: float
    n_effective_parameters: float
    log_evidence: float
    rank: int

    @property
    def stationary(self) -> bool:  # numpydoc ignore=RT01
        """Whether the decrement is small beside the posterior's radius sqrt(γ)."""
        return self.decrement <= stationary_radius(self.n_effective_parameters)


def diagnose(estimate: MapEstimate) -> Diagnostics:
    """Measure a MAP estimate, with one pass over the data.

    Parameters
    ----------
    estimate : MapEstimate
        Fitted weights.

    Returns
    -------
    Diagnostics
    """
    value, gradient = estimate.log_posterior.value_and_gradient(estimate.weights[None])
    whitened = estimate.scale * gradient[0]
    # A tenth is enough for a yardstick.
    response = linear_response(estimate, whitened[:, None], rtol=0.1)
    return Diagnostics(
        loss=float(value[0]),
        grad_norm=float(torch.linalg.vector_norm(gradient[0])),
        decrement=float(response.variance[0].sqrt()),
        n_effective_parameters=float(effective_parameters(estimate.subspace).sum()),
        log_evidence=log_evidence(estimate.log_posterior, estimate.weights, estimate.subspace),
        rank=estimate.subspace.rank,
    )

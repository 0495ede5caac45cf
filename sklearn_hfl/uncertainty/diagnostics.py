"""Diagnostics: how far the MAP is from stationary, and how well the fit is determined."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sklearn_hfl.optim.linear_response import linear_response
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.subspace import stationary_radius
from sklearn_hfl.uncertainty.evidence import log_evidence, log_multiplicity
from sklearn_hfl.uncertainty.leave_one_out import LeaveOneOut, leave_one_out
from sklearn_hfl.uncertainty.precisions import prior_rescaling_gain

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
        Laplace's log marginal likelihood in nats, of standardised targets, over all modes that
        are the same function.
    rank : int
        Directions kept in the subspace.
    n_residuals : float
        Rows, counted by their weights, times targets. As γ comes near it, little is left to
        estimate the noise from.
    log_density : float
        Mean log density of the training rows at the MAP, in nats, of standardised targets.
    log_density_left_out : float
        The same of each row at the MAP of the others, by one Newton step from the leverages.
        Far below ``log_density``: the rows are over-fitted.
    over_fitted : bool
        Whether the other rows predict a row worse than no features would, by more than three
        standard errors, although the fit itself is better.
    log_multiplicity : float
        The part of ``log_evidence`` that counts the modes which are the same function.
    finished : bool
        False where the linear model is kept because ``max_iter`` ended the network's search.
    skewness, excess_kurtosis : float or None
        Of the residuals of rows left out, in their standard deviations: 0 for normal noise. Of
        several outputs, those of the one with the heaviest tails; None for classes.
    heavy_tailed : bool
        Whether large residuals are plainly more frequent than those of normal noise.
    rescaling_gain : float
        Nats a row that noise of the right size would add to ``log_density_left_out``, and prior
        precisions of the right size to ``log_evidence``, about. Far above 0 where precisions were
        learned from other rows.
    """

    loss: float
    grad_norm: float
    decrement: float
    n_effective_parameters: float
    log_evidence: float
    rank: int
    n_residuals: float
    log_density: float
    log_density_left_out: float
    over_fitted: bool
    log_multiplicity: float
    finished: bool = True
    skewness: float | None = None
    excess_kurtosis: float | None = None
    heavy_tailed: bool = False
    rescaling_gain: float = 0.0

    @property
    def stationary(self) -> bool:  # numpydoc ignore=RT01
        """Whether the decrement is small beside the posterior's radius sqrt(γ)."""
        return self.decrement <= stationary_radius(self.n_effective_parameters)


def diagnose(estimate: MapEstimate, rows: LeaveOneOut | None = None) -> Diagnostics:
    """Measure a MAP estimate, with a few passes over the data.

    Parameters
    ----------
    estimate : MapEstimate
        Fitted weights.
    rows : LeaveOneOut, default=None
        Its training rows left out one at a time, where they are known.

    Returns
    -------
    Diagnostics
    """
    value, gradient = estimate.log_posterior.value_and_gradient(estimate.weights[None])
    whitened = estimate.scale * gradient[0]
    # The decrement is compared with a threshold: two digits of it are not needed.
    response = linear_response(estimate, whitened[:, None], rtol=0.1)
    rows = rows or leave_one_out(estimate)
    tails = rows.tails
    gamma = estimate.subspace.effective_parameters()
    prior_gain = prior_rescaling_gain(
        estimate.log_posterior, estimate.weights, gamma.to(estimate.weights)
    )
    multiplicity = log_multiplicity(estimate.log_posterior.network, gamma)
    mode = log_evidence(estimate.log_posterior, estimate.weights, estimate.subspace)
    return Diagnostics(
        loss=float(value[0]),
        grad_norm=float(torch.linalg.vector_norm(gradient[0])),
        decrement=float(response.variance[0].sqrt()),
        n_effective_parameters=float(gamma.sum()),
        log_evidence=mode + multiplicity,
        rank=estimate.subspace.rank,
        n_residuals=rows.n_rows * estimate.log_posterior.y.shape[1],
        log_density=rows.log_density,
        log_density_left_out=rows.log_density_left_out,
        over_fitted=rows.over_fitted,
        log_multiplicity=multiplicity,
        skewness=tails.skewness if tails else None,
        excess_kurtosis=tails.excess_kurtosis if tails else None,
        heavy_tailed=tails is not None and tails.heavy,
        rescaling_gain=rows.rescaling_gain + prior_gain / rows.n_rows,
    )

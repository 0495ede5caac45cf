"""Perturbed optima: the one primitive from which every uncertainty is made.

For a functional g of the weights, θ^{±λ} = argmin L(θ) ∓ λ g(θ). As λ → 0 the
central difference [g(θ^{+λ}) − g(θ^{−λ})] / 2λ tends to ∇gᵀH⁻¹∇g, the Laplace
variance of g (McInerney & Kallus, arXiv:2403.10671, one-sided there).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sklearn_hfl.optim.krylov import most_directions
from sklearn_hfl.optim.lbfgs import lbfgs
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.objective import PerturbedObjective
from sklearn_hfl.optim.ritz import RitzSolution
from sklearn_hfl.optim.subspace import Galerkin
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.functional import Functional

__all__ = [
    "LinearResponse",
    "NetworkResponse",
    "PerturbedOptima",
    "perturbed_optima",
    "relative_error",
    "rounding_error",
    "scouted",
]

# A Cholesky solve gives the answer for a matrix that is off by some eps ‖A‖ (N. Higham, Accuracy
# and Stability of Numerical Algorithms, theorem 10.4), which changes gᵀA⁻¹g = gᵀΔ by about
# eps ‖A‖ ‖Δ‖² ≤ eps ‖A‖ gᵀΔ, since A ⪰ I, and its root by half of that share. The theorem's
# factor grows with the rank, as m², for errors that all add up. Measured, they do not: for
# ranks 1 to 200, conditions 1e2 to 1e14 (float32: to 1e6) and four spectra, no std was further
# off than its bound in exact arithmetic by more than 0.3 eps · largest (Ritz pairs: 1.8), without
# a trend in the rank. tests/optim/test_rounding.py repeats this in 50 digits.
ROUNDING = 10
# Most residuals that join the basis in one refinement.
REFINEMENT_BLOCK = 64
# ε of the network route, in posterior standard deviations. The error of the
# central difference falls as ε², so each scale is checked against the one
# before; below the last, rounding takes over (benchmarks/equality.py).
PERTURBATION_SCALES = (0.1, 0.03, 0.01, 0.003, 0.001)
NETWORK_MAX_ITER = 100


@dataclass(frozen=True)
class LinearResponse:
    """Perturbed optima of the network's linearisation: θ̂ ± λ α^-½ Δ, exact in λ.

    Attributes
    ----------
    galerkin : Galerkin or RitzSolution
        Δ of A Δ = α^-½ ∇g, with its residual.
    largest : float
        Largest curvature that the subspace holds.
    """

    galerkin: Galerkin | RitzSolution
    largest: float

    @property
    def variance(self) -> Tensor:  # numpydoc ignore=RT01
        """Middle (G,) of the certified interval of ∇gᵀA⁻¹∇g."""
        return self.galerkin.inside + self.galerkin.share * self.galerkin.outside

    @cached_property
    def rel_error(self) -> Tensor:  # numpydoc ignore=RT01
        """Bound (G,) of the relative error of sqrt(variance), with an allowance for rounding."""
        return relative_error(self.variance, self.galerkin.lower, self.galerkin.upper, self.largest)


def relative_error(value: Tensor, lower: Tensor, upper: Tensor, largest: float) -> Tensor:
    """Bound of the relative error of sqrt(value), from bounds of the true value and rounding.

    Parameters
    ----------
    value, lower, upper : Tensor of shape (G,)
        Variances, and what they lie between.
    largest : float
        Largest curvature that the subspace holds.

    Returns
    -------
    Tensor of shape (G,)
    """
    error = torch.maximum((value / lower).sqrt() - 1, 1 - (value / upper).sqrt())
    return torch.where(upper > 0, error, 0.0) + rounding_error(largest, value.dtype)


def rounding_error(largest: float, dtype: torch.dtype) -> float:
    """Allowance for rounding in the relative error of a standard deviation.

    Parameters
    ----------
    largest : float
        Largest curvature that the subspace holds.
    dtype : torch.dtype
        Precision of the solve.

    Returns
    -------
    float
    """
    return ROUNDING * torch.finfo(dtype).eps * largest


@dataclass(frozen=True)
class NetworkResponse:
    """Perturbed optima of the network itself.

    Attributes
    ----------
    plus, minus : Tensor of shape (G, P)
        θ^{+λ} and θ^{−λ}, not whitened.
    strength : Tensor of shape (G,)
        λ.
    variance : Tensor of shape (G,)
        Central difference, extrapolated to λ = 0 where two scales allow it.
    rel_error : Tensor of shape (G,)
        Estimate of the relative error of sqrt(variance): how far two scales
        disagree, and what the optimiser left. Infinite where nothing was found.
    """

    plus: Tensor
    minus: Tensor
    strength: Tensor
    variance: Tensor
    rel_error: Tensor


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


def linear_response(estimate: MapEstimate, gradient: Tensor, rtol: float) -> LinearResponse:
    """Solve A Δ = gradient to ``rtol``, adding residuals to the subspace until certified.

    The fitted subspace answers most queries without a pass over the data; the
    residuals of those that it does not are a block Krylov method, in which the
    queries help each other.

    Parameters
    ----------
    estimate : MapEstimate
        A and the subspace to start from, which is not changed.
    gradient : Tensor of shape (P, G)
        Whitened right-hand sides.
    rtol : float
        Bound asked of the relative error of each standard deviation.

    Returns
    -------
    LinearResponse
    """
    galerkin = estimate.subspace.solve(gradient)
    curvature: GaussNewton | None = None
    while True:
        subspace = galerkin.subspace
        response = LinearResponse(galerkin, subspace.largest)
        errors = response.rel_error
        room = most_directions(estimate.log_posterior) - subspace.rank
        worst = errors.argsort(descending=True)[: min(REFINEMENT_BLOCK, room)]
        worst = worst[errors[worst] > rtol]
        if len(worst) == 0:
            return response
        curvature = curvature or estimate.curvature()
        larger = subspace.extended(galerkin.residual[:, worst], curvature.product)
        if larger.rank == subspace.rank:
            return response
        galerkin = galerkin.within(larger)


def scouted(estimate: MapEstimate, functional: Functional, rtol: float) -> MapEstimate:
    """Find the directions that some functionals ask for, from which others like them start.

    Parameters
    ----------
    estimate : MapEstimate
        A and a subspace.
    functional : Functional
        The scouts.
    rtol : float
        Bound asked of the relative error of each of their standard deviations.

    Returns
    -------
    MapEstimate
        With a larger subspace where that is needed.
    """
    gradient = estimate.scale[:, None] * functional.gradient(estimate.weights)
    galerkin = linear_response(estimate, gradient, rtol).galerkin
    assert isinstance(galerkin, Galerkin)
    return replace(estimate, subspace=galerkin.subspace)


def amortized_response(estimate: MapEstimate, gradient: Tensor) -> LinearResponse:
    """Solve A Δ = gradient within the Ritz pairs alone: no pass over the data, ever.

    Parameters
    ----------
    estimate : MapEstimate
        With Ritz pairs.
    gradient : Tensor of shape (P, G)
        Whitened right-hand sides.

    Returns
    -------
    LinearResponse
    """
    assert estimate.ritz is not None
    return LinearResponse(estimate.ritz.solve(gradient), estimate.ritz.largest)


def network_response(
    estimate: MapEstimate,
    functional: Functional,
    linear: LinearResponse,
    rtol: float,
    scales: Sequence[float],
) -> NetworkResponse:
    """Re-optimise the network for each functional, at λ = ± ε / std.

    Parameters
    ----------
    estimate : MapEstimate
        θ̂ and L.
    functional : Functional
        G functionals.
    linear : LinearResponse
        Sets λ, and starts and preconditions the refit.
    rtol : float
        Relative error at which a row is done.
    scales : sequence of float
        ε, falling. With one, the row's error is what the optimiser left; with
        several, how far two of them disagree is added.

    Returns
    -------
    NetworkResponse
    """
    std = linear.variance.sqrt()
    n = len(std)
    center = estimate.weights / estimate.scale
    best = NetworkResponse(
        plus=estimate.weights.expand(n, -1).clone(),
        minus=estimate.weights.expand(n, -1).clone(),
        strength=torch.zeros_like(std),
        variance=linear.variance.clone(),
        rel_error=torch.where(std > 0, torch.inf, 0.0).to(std),
    )
    rows = torch.nonzero(std > 0)[:, 0]
    if len(rows) == 0:
        return best
    linear_start = linear.galerkin.step.mT / std[:, None]
    linear_start = torch.stack([linear_start, -linear_start])
    start = linear_start[:, rows]
    previous: Tensor | None = None
    for i, scale in enumerate(scales):
        strength = scale / std[rows]
        optima, residual = _refit(
            estimate, functional, rows, strength, center + scale * start, scale * rtol
        )
        weights = estimate.scale * optima
        plus, minus = (functional.paired(w, rows) for w in weights)
        variance = (plus - minus) / (2 * strength)
        # A residual of r standard deviations moves g by at most r std on each side.
        error = residual.sum(0) / (4 * scale)
        value = variance
        if previous is not None:
            ratio = (scales[i - 1] / scale) ** 2
            value = variance + (variance - previous) / (ratio - 1)
            error = error + (previous.sqrt() / variance.sqrt() - 1).abs()
        if previous is not None or len(scales) == 1:
            error = torch.where((value > 0) & error.isfinite(), error, torch.inf)
            better = error < best.rel_error[rows]
            chosen = rows[better]
            best.plus[chosen], best.minus[chosen] = weights[0][better], weights[1][better]
            best.strength[chosen] = strength[better]
            best.variance[chosen], best.rel_error[chosen] = value[better], error[better]
        keep = best.rel_error[rows] > rtol
        if not keep.any():
            break
        # The response is nearly linear, so the last one starts the next; rows that left
        # their basin begin again from the linearisation.
        change = (variance / linear.variance[rows])[:, None]
        stayed = (residual.sum(0)[:, None] <= scale) & (change > 0.25) & (change < 4)
        start = torch.where(stayed, (optima - center) / scale, linear_start[:, rows])[:, keep]
        rows, previous = rows[keep], variance[keep]
    return best


def _refit(
    estimate: MapEstimate,
    functional: Functional,
    rows: Tensor,
    strength: Tensor,
    start: Tensor,
    tol: float,
) -> tuple[Tensor, Tensor]:
    """Optima (2, b, P) for + and − λ of the functionals ``rows``, with residuals (2, b)."""
    objective = PerturbedObjective.around(
        estimate, functional, rows.repeat(2), torch.cat([strength, -strength])
    )
    solution = lbfgs(
        objective,
        start.flatten(0, 1),
        tol=strength.new_full((2 * len(rows),), tol),
        max_iter=NETWORK_MAX_ITER,
    )
    residual = torch.where(solution.residual.isfinite(), solution.residual, torch.inf)
    return solution.weights.unflatten(0, (2, -1)), residual.unflatten(0, (2, -1))

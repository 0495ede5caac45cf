"""Linear response: the perturbed optima of the network's linearisation at the MAP."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from sklearn_hfl.optim.krylov import BLOCK_SIZE, max_directions
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.ritz import RitzSolution
from sklearn_hfl.optim.subspace import Galerkin
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.functional import Functional

__all__ = ["LinearResponse", "amortized_response", "linear_response", "with_directions_of"]


@dataclass(frozen=True)
class LinearResponse:
    """Perturbed optima θ̂ ± λ α^-½ Δ, exact in λ.

    Attributes
    ----------
    galerkin : Galerkin or RitzSolution
        Δ of A Δ = α^-½ ∇g, with its residual and the bounds of ∇gᵀA⁻¹∇g.
    """

    galerkin: Galerkin | RitzSolution

    @property
    def variance(self) -> Tensor:  # numpydoc ignore=RT01
        """Variance (G,) in the middle of its bounds."""
        return self.galerkin.bounds.variance

    @property
    def rel_error(self) -> Tensor:  # numpydoc ignore=RT01
        """Bound (G,) of the relative error of sqrt(variance)."""
        return self.galerkin.bounds.rel_error


def linear_response(estimate: MapEstimate, gradient: Tensor, rtol: float) -> LinearResponse:
    """Solve A Δ = gradient to ``rtol``, adding residuals to the subspace until certified.

    The fitted subspace answers most queries without a pass over the data; the residuals
    of the others extend it as in a block Krylov method, in which the queries help each other.

    Parameters
    ----------
    estimate : MapEstimate
        A and the subspace to start from, which is not changed.
    gradient : Tensor of shape (P, G)
        Whitened right-hand sides.
    rtol : float
        Required bound of the relative error of each standard deviation. Where rounding alone is
        more than half of it, twice the rounding.

    Returns
    -------
    LinearResponse
    """
    galerkin = estimate.subspace.solve(gradient)
    curvature: GaussNewton | None = None
    while True:
        subspace, errors = galerkin.subspace, galerkin.bounds.rel_error
        room = max_directions(estimate.log_posterior) - subspace.rank
        worst = errors.argsort(descending=True)[: min(BLOCK_SIZE, room)]
        # A larger basis does not lower the error by rounding: beyond it little is left to gain.
        worst = worst[errors[worst] > max(rtol, 2 * galerkin.bounds.rounding)]
        if len(worst) == 0:
            return LinearResponse(galerkin)
        curvature = curvature or estimate.curvature()
        larger = subspace.extended(galerkin.residual[:, worst], curvature.product)
        if larger.rank == subspace.rank:
            return LinearResponse(galerkin)
        galerkin = galerkin.within(larger)


def with_directions_of(estimate: MapEstimate, pilots: Functional, rtol: float) -> MapEstimate:
    """Extend the subspace by the directions that pilot queries need; others start from there.

    Parameters
    ----------
    estimate : MapEstimate
        A and a subspace.
    pilots : Functional
        A few of the functionals to come.
    rtol : float
        Required bound of the relative error of each of their standard deviations.

    Returns
    -------
    MapEstimate
        With a larger subspace where that is needed.
    """
    gradient = estimate.scale[:, None] * pilots.gradient(estimate.weights)
    galerkin = linear_response(estimate, gradient, rtol).galerkin
    assert isinstance(galerkin, Galerkin)
    return replace(estimate, subspace=galerkin.subspace)


def amortized_response(estimate: MapEstimate, gradient: Tensor) -> LinearResponse:
    """Solve A Δ = gradient within the Ritz pairs alone, without a pass over the data.

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
    return LinearResponse(estimate.ritz.solve(gradient))

"""Network response: the perturbed optima of the network itself, found by refits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_hfl.optim.lbfgs import lbfgs
from sklearn_hfl.optim.linear_response import LinearResponse
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.objective import PerturbedObjective
from sklearn_hfl.posterior.functional import Functional

__all__ = ["PERTURBATION_SCALES", "NetworkResponse", "network_response"]

# ε, in posterior standard deviations. The error of the central difference falls as ε², so that
# each scale is checked against the one before; below the last, rounding takes over
# (docs/design/network_route.md, benchmarks/equality.py).
PERTURBATION_SCALES = (0.1, 0.03, 0.01, 0.003, 0.001)
# On the tests' problems all of 2344 refits converged within 40 iterations, at errors of 1e-2 and
# 1e-4. One that needs more than this has left the basin of the MAP, and is not converged.
MAX_ITER = 100
# A refit whose variance differs from the linearised one by a larger factor has left the basin of
# the MAP: the next scale starts from the linearisation again. This costs iterations at most.
MAX_VARIANCE_RATIO = 4.0


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
        disagree, and the remaining residual of the refits. Infinite where no refit is usable.
    """

    plus: Tensor
    minus: Tensor
    strength: Tensor
    variance: Tensor
    rel_error: Tensor

    @classmethod
    def unknown(cls, weights: Tensor, variance: Tensor) -> NetworkResponse:
        """Before any refit: at θ̂ (P,), with linearised variances (G,) and no error bound."""
        return cls(
            plus=weights.expand(len(variance), -1).clone(),
            minus=weights.expand(len(variance), -1).clone(),
            strength=torch.zeros_like(variance),
            variance=variance.clone(),
            rel_error=torch.where(variance > 0, torch.inf, 0.0).to(variance),
        )

    def improved(self, rows: Tensor, other: NetworkResponse) -> NetworkResponse:
        """Replace those of the ``rows`` (b,) where another response (b) has the smaller error."""
        better = other.rel_error < self.rel_error[rows]
        values = {}
        for name, own in vars(self).items():
            values[name] = own.index_copy(0, rows[better], getattr(other, name)[better])
        return NetworkResponse(**values)


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
        Sets λ, and starts the refits.
    rtol : float
        Relative error at which no further scale is tried.
    scales : sequence of float
        ε, falling. With one, the error is that of the remaining residual; with
        several, their disagreement is added.

    Returns
    -------
    NetworkResponse
    """
    best = NetworkResponse.unknown(estimate.weights, linear.variance)
    rows = torch.nonzero(linear.variance.sqrt() > 0)[:, 0]
    step = linear.galerkin.step.mT / linear.variance.sqrt()[:, None]
    linear_start = torch.stack([step, -step])
    start = linear_start[:, rows]
    previous: tuple[float, Tensor] | None = None
    for scale in scales:
        if len(rows) == 0:
            break
        now = _Differences.at(estimate, functional, linear, rows, scale, start, rtol)
        if previous is not None or len(scales) == 1:
            best = best.improved(rows, now.response(previous))
        # The response is nearly linear, so that the last one starts the next, unless it left
        # the basin of the MAP.
        ratio = now.variance / linear.variance[rows]
        stayed = (now.residual <= scale) & (ratio > 1 / MAX_VARIANCE_RATIO)
        stayed &= ratio < MAX_VARIANCE_RATIO
        keep = best.rel_error[rows] > rtol
        start = torch.where(stayed[:, None], now.step, linear_start[:, rows])[:, keep]
        rows, previous = rows[keep], (scale, now.variance[keep])
    return best


@dataclass(frozen=True)
class _Differences:
    """Central differences of b functionals at one ε.

    Attributes
    ----------
    scale : float
        ε.
    weights : Tensor of shape (2, b, P)
        θ^{+λ} and θ^{−λ}, not whitened.
    step : Tensor of shape (2, b, P)
        Whitened weights − θ̂, in units of ε.
    strength, variance : Tensor of shape (b,)
        λ and the central difference.
    residual : Tensor of shape (b,)
        Sum over both optima of how many standard deviations they lie from where they should.
    """

    scale: float
    weights: Tensor
    step: Tensor
    strength: Tensor
    variance: Tensor
    residual: Tensor

    @classmethod
    def at(
        cls,
        estimate: MapEstimate,
        functional: Functional,
        linear: LinearResponse,
        rows: Tensor,
        scale: float,
        start: Tensor,
        rtol: float,
    ) -> _Differences:
        """Refit both optima of the functionals ``rows`` (b,) from steps (2, b, P)."""
        center = estimate.weights / estimate.scale
        strength = scale / linear.variance.sqrt()[rows]
        objective = PerturbedObjective.around(
            estimate, functional, rows.repeat(2), torch.cat([strength, -strength])
        )
        solution = lbfgs(
            objective,
            (center + scale * start).flatten(0, 1),
            tol=strength.new_full((2 * len(rows),), scale * rtol),
            max_iter=MAX_ITER,
        )
        optima = solution.weights.unflatten(0, (2, -1))
        residual = torch.where(solution.residual.isfinite(), solution.residual, torch.inf)
        weights = estimate.scale * optima
        plus, minus = (functional.paired(w, rows) for w in weights)
        return cls(
            scale,
            weights,
            (optima - center) / scale,
            strength,
            (plus - minus) / (2 * strength),
            residual.unflatten(0, (2, -1)).sum(0),
        )

    def response(self, previous: tuple[float, Tensor] | None) -> NetworkResponse:
        """The differences with their errors, extrapolated where those (b,) at a larger ε are known.

        Given as (ε, differences).
        """
        value = self.variance
        # A residual of r standard deviations moves g by at most r std on each side.
        error = self.residual / (4 * self.scale)
        if previous is not None:
            scale, coarse = previous
            value = value + (value - coarse) / ((scale / self.scale) ** 2 - 1)
            error = error + (coarse.sqrt() / self.variance.sqrt() - 1).abs()
        error = torch.where((value > 0) & error.isfinite(), error, torch.inf)
        plus, minus = self.weights
        return NetworkResponse(plus, minus, self.strength, value, error)

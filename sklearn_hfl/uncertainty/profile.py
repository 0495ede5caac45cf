"""Profile: the interval of a functional at whose ends the log posterior has dropped by z²/2.

The profile of g at c is the minimum of L(θ) over weights with g(θ) = c. The interval holds
all c at which it exceeds the MAP's L by less than z²/2: MINOS in physics (James & Roos,
Comput. Phys. Commun. 10, 1975), a likelihood ratio interval in statistics. For a linear
network it is ĝ ± z std; for others it need not be symmetric.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sklearn_hfl.optim.krylov import determined_subspace
from sklearn_hfl.optim.lbfgs import lbfgs
from sklearn_hfl.optim.linear_response import linear_response
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.objective import PenalizedObjective
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.functional import Functional

__all__ = ["ProfileInterval", "profile_interval"]

# Iterations of a refit: of all ends together, preconditioned by the curvature at θ̂; and of an
# end by itself, before the preconditioner is computed again from the curvature at its weights.
# In a long valley the first found 15 of 40 ends within 1000 iterations, the second 35 within 600.
MAX_SHARED_ITER, MAX_OWN_ITER = 200, 20
# Refits of an end, of either kind: a bound on the time. An end that needs more is flagged.
MAX_REFITS = 30
# Refits of an end by itself that continue at one λ₀ if they do not converge: as few lead to a new
# λ₀ before the weights are there, as many spend ``MAX_REFITS`` on one. Not tuned.
MAX_REFITS_AT_ONE_STRENGTH = 5
# Residual, relative to z √rtol, at which a refit has converged. It contributes rtol/200 to the
# relative error of the half-width where L is quadratic. The tests' small networks are far from
# that: one end in forty is off by more than 1 %, and one in six at 5 times this residual.
RESIDUAL_TOL = 0.1


@dataclass(frozen=True)
class ProfileInterval:
    """Ends of the profile intervals of G functionals.

    Attributes
    ----------
    lower, upper : Tensor of shape (G,)
        Finite.
    converged : Tensor of shape (G, 2)
        Whether the lower and the upper end were found; where not, the end is that of
        the linearised network, ĝ ∓ z std.
    """

    lower: Tensor
    upper: Tensor
    converged: Tensor


@dataclass(frozen=True)
class _Points:
    """Points (b,) of profiles: how far g is from ĝ, how much L rose, and dL/dg there."""

    distance: Tensor
    rise: Tensor
    slope: Tensor

    def replaced(self, where: Tensor, points: _Points) -> _Points:
        pairs = zip(vars(self).values(), vars(points).values(), strict=True)
        return _Points(*(torch.where(where, new, old) for old, new in pairs))

    def select(self, rows: Tensor) -> _Points:
        return _Points(*(values[rows] for values in vars(self).values()))


def profile_interval(
    estimate: MapEstimate,
    functional: Functional,
    z: float,
    *,
    rtol: float,
    max_refits: int = MAX_REFITS,
) -> ProfileInterval:
    """Find both ends of each functional's profile interval.

    Parameters
    ----------
    estimate : MapEstimate
        θ̂, and L, from which the gradient that is left at θ̂ is subtracted.
    functional : Functional
        G functionals.
    z : float
        Half-width of the interval in standard deviations: L rises by z²/2.
    rtol : float
        Relative error of the half-widths.
    max_refits : int
        Upper limit for an end together with the others, and again by itself if that fails.

    Returns
    -------
    ProfileInterval

    Notes
    -----
    An end is a perturbed optimum: there ∇L = λ ∇g. But L − λ g has a minimum there only where
    the profile is convex, and may be unbounded below. So a quadratic penalty is added,

        θ = argmin L(θ) − λ₀ d + ½ ρ d²,   d = |g(θ) − ĝ|,   ρ = 1/σ²,

    whose optima lie on the same profile, with λ = λ₀ − ρ d. Along it dL/dg = λ, which is the
    derivative in Newton's method for L = z²/2. Its last step, d + (z²/2 − L)/λ, is the result:
    by duality an error of r posterior standard deviations in θ, or a relative error of δ in L,
    changes it by r²/2z² or δ²/8 of the half-width, so that both need only be of order √rtol.
    """
    gradient = estimate.scale[:, None] * functional.gradient(estimate.weights)
    linear = linear_response(estimate, gradient, rtol)
    std = linear.variance.sqrt()
    origin = functional.value(estimate.weights[None])[0]
    n = len(std)
    # End e < n is the lower one of functional e, the others are upper ones.
    sign = torch.cat([-torch.ones_like(std), torch.ones_like(std)])
    reach = z * std.repeat(2)
    ends = _Ends(estimate, functional, origin, sign, std.repeat(2), z, rtol, max_refits)
    rows = torch.nonzero(reach > 0)[:, 0]
    step = (z / std)[:, None] * linear.galerkin.step.mT
    start = sign[rows, None] * step[rows % n]
    distance, converged = ends.find(rows, start)
    for row in torch.nonzero(~converged)[:, 0]:
        own = row[None]
        distance[own], converged[own] = ends.find(rows[own], start[own], alone=True)
    half = reach.clone()
    half[rows] = torch.where(converged, distance, reach[rows])
    flags = torch.ones_like(reach, dtype=torch.bool)
    flags[rows] = converged
    lower, upper = half.unflatten(0, (2, n))
    return ProfileInterval(origin - lower, origin + upper, flags.unflatten(0, (2, n)).mT)


@dataclass(frozen=True)
class _Ends:
    """The search for 2G ends: g = ĝ ± d with L̃ = z²/2."""

    estimate: MapEstimate
    functional: Functional
    origin: Tensor
    sign: Tensor
    std: Tensor
    z: float
    rtol: float
    max_refits: int

    def find(self, rows: Tensor, step: Tensor, *, alone: bool = False) -> tuple[Tensor, Tensor]:
        """Distances (b,) of the ends ``rows`` from ĝ, and whether they were found.

        The search starts from whitened steps (b, P) off θ̂. An end ``alone`` continues from
        where its refit stopped, preconditioned by the curvature there.
        """
        height = 0.5 * self.z**2
        distance, found = self.z * self.std[rows], torch.zeros_like(rows, dtype=torch.bool)
        at_work = torch.arange(len(rows), device=rows.device)
        near, far = torch.zeros_like(distance), torch.full_like(distance, torch.inf)
        previous = _Points(near.clone(), near.clone(), near.clone())
        strength = 2 * self.z / self.std[rows]
        for i in range(self.max_refits):
            if len(at_work) == 0:
                break
            subspace = self._subspace(step[0]) if alone else self.estimate.subspace
            max_iter = MAX_OWN_ITER if alone else MAX_SHARED_ITER
            step, point, converged = self._refit(rows[at_work], strength, step, subspace, max_iter)
            # A rise below 0 means that the MAP is no minimum, or that the refit left its basin.
            usable = (point.distance > 0) & (point.slope > 0) & (point.rise > 0)
            # Newton's step along the profile.
            end = point.distance + (height - point.rise) / point.slope
            found_now = usable & converged & ((point.rise / height - 1).abs() <= self.rtol**0.5)
            distance[at_work[found_now]], found[at_work[found_now]] = end[found_now], True
            below, above = converged & (point.rise < height), converged & (point.rise >= height)
            near = torch.where(below, torch.maximum(near, point.distance), near)
            far = torch.where(above, torch.minimum(far, point.distance), far)
            end = torch.minimum(torch.maximum(end, 0.5 * point.distance), 2 * point.distance)
            middle = torch.where(far.isfinite(), 0.5 * (near + far), 2 * near)
            end = torch.where((near < end) & (end < far), end, middle)
            # A refit that has not converged continues for a while before λ₀ is changed.
            continued = (i + 1) % MAX_REFITS_AT_ONE_STRENGTH
            change = converged | (continued == 0)
            new = self._strength(rows[at_work], previous, point, end)
            strength = torch.where(change, new, strength)
            step = torch.where(converged, end / point.distance, 1.0)[:, None] * step
            keep = usable & ~found_now & (converged | alone)
            at_work, near, far, step, strength = (
                t[keep] for t in (at_work, near, far, step, strength)
            )
            previous = previous.replaced(converged, point).select(keep)
        return distance, found

    def _subspace(self, step: Tensor) -> Subspace:
        """The curvature at a whitened step (P,) off θ̂."""
        weights = self.estimate.weights + self.estimate.scale * step
        curvature = GaussNewton(self.estimate.log_posterior, weights)
        return determined_subspace(curvature, torch.Generator().manual_seed(0))

    def _strength(self, rows: Tensor, previous: _Points, point: _Points, end: Tensor) -> Tensor:
        """λ₀ whose optimum should lie at distance ``end``, by the profile's second difference."""
        penalty = self.std[rows] ** -2
        bend = (point.slope - previous.slope) / (point.distance - previous.distance)
        bend = torch.where(bend.isfinite(), bend, penalty)
        bend = bend.clamp(min=-0.5 * penalty, max=4 * penalty)
        return point.slope + bend * (end - point.distance) + penalty * end

    def _refit(
        self, rows: Tensor, strength: Tensor, step: Tensor, subspace: Subspace, max_iter: int
    ) -> tuple[Tensor, _Points, Tensor]:
        """Whitened steps (b, P) to the penalised optima at λ₀, their points, and convergence."""
        sign, member, penalty = self.sign[rows], rows % len(self.origin), self.std[rows] ** -2
        origin, scale = self.origin[member], self.estimate.scale
        objective = PenalizedObjective.around(
            replace(self.estimate, subspace=subspace),
            self.functional,
            member,
            sign * strength,
            origin=origin,
            penalty=penalty,
        )
        solution = lbfgs(
            objective,
            objective.center + step,
            tol=torch.full_like(strength, RESIDUAL_TOL * self.z * self.rtol**0.5),
            max_iter=max_iter,
        )
        g = self.functional.paired(scale * solution.weights, member)
        distance = sign * (g - origin)
        rise = solution.value + distance * (strength - 0.5 * penalty * distance)
        point = _Points(distance, rise, strength - penalty * distance)
        return solution.weights - objective.center, point, solution.converged

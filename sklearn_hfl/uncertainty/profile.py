"""Profile: the interval of a functional whose ends cost the posterior a given height.

The profile of g at c is the least loss L(θ) among weights with g(θ) = c. Its interval
holds all c at which L has risen by less than z²/2 over the MAP: MINOS in physics (James &
Roos, Comput. Phys. Commun. 10, 1975), a likelihood ratio interval in statistics. For a
linear network it is ĝ ± z std; for others it need not be symmetric.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_hfl.optim.lbfgs import lbfgs
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.objective import CurbedObjective
from sklearn_hfl.optim.perturbed_optima import linear_response
from sklearn_hfl.posterior.functional import Functional

__all__ = ["ProfileInterval", "profile_interval"]

# Most refits of an end, each at another λ; two or three are typical.
MOST_ROUNDS = 10
REFIT_MAX_ITER = 100
# Residual, relative to z √rtol, at which a refit ends. Its share of the half-width's error is
# rtol/200 where L is quadratic; at 5 times this, one end in six of the tests' small networks,
# which are far from it, is off by more than 1 %; here, one in forty.
REFIT_SHARE = 0.1


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


def profile_interval(
    estimate: MapEstimate,
    functional: Functional,
    z: float,
    *,
    rtol: float,
    max_iter: int = REFIT_MAX_ITER,
) -> ProfileInterval:
    """Find both ends of each functional's profile interval.

    Parameters
    ----------
    estimate : MapEstimate
        θ̂ and L, of which the residual gradient is subtracted.
    functional : Functional
        G functionals.
    z : float
        Half-width asked for, in standard deviations: L rises by z²/2.
    rtol : float
        Relative error of the half-widths.
    max_iter : int
        Most iterations of one refit.

    Returns
    -------
    ProfileInterval

    Notes
    -----
    An end is a perturbed optimum: there ∇L = λ ∇g. Tilting L by −λ g alone finds it only
    where the profile bends up, and can slide away without end. So the tilt is curbed,

        θ = argmin L(θ) − λ₀ d + ½ ρ d²,   d = |g(θ) − ĝ|,   ρ = 1/σ²,

    which passes the same points, with λ = λ₀ − ρ d. As dL/dg = λ along the profile, Newton's
    method for L = z²/2 knows its derivative. Its last step, d + (z²/2 − L)/λ, is the answer:
    by duality an error of r posterior standard deviations in θ, or of δ in L/(z²/2), enters it
    as r²/2z² or δ²/8, relative to the half-width: ``rtol`` asks no more than its root of them.
    """
    gradient = estimate.scale[:, None] * functional.gradient(estimate.weights)
    linear = linear_response(estimate, gradient, rtol)
    std = linear.variance.sqrt()
    origin = functional.value(estimate.weights[None])[0]
    n = len(std)
    # End e < n is the lower one of functional e, the others are upper ones.
    sign = torch.cat([-torch.ones_like(std), torch.ones_like(std)])
    reach = z * std.repeat(2)
    ends = _Ends(estimate, functional, origin, sign, std.repeat(2), z, rtol, max_iter)
    rows = torch.nonzero(reach > 0)[:, 0]
    step = (z / std)[:, None] * linear.galerkin.step.mT
    distance, converged = ends.find(rows, sign[rows, None] * step[rows % n])
    half = reach.clone()
    half[rows] = torch.where(converged, distance, reach[rows])
    verdict = torch.ones_like(reach, dtype=torch.bool)
    verdict[rows] = converged
    lower, upper = half.unflatten(0, (2, n))
    return ProfileInterval(origin - lower, origin + upper, verdict.unflatten(0, (2, n)).mT)


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
    max_iter: int

    def find(self, rows: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Distances (b,) of the ends ``rows`` from ĝ, and whether they were found.

        The search starts from whitened steps (b, P) off θ̂.
        """
        height = 0.5 * self.z**2
        distance, found = self.z * self.std[rows], torch.zeros_like(rows, dtype=torch.bool)
        at_work = torch.arange(len(rows), device=rows.device)
        near, far = torch.zeros_like(distance), torch.full_like(distance, torch.inf)
        previous = _Points(near.clone(), near.clone(), near.clone())
        strength = 2 * self.z / self.std[rows]
        for _ in range(MOST_ROUNDS):
            if len(at_work) == 0:
                break
            step, point, settled, usable = self._refit(rows[at_work], strength, step)
            # Newton's step along the profile.
            end = point.distance + (height - point.rise) / point.slope
            close = (point.rise / height - 1).abs() <= self.rtol**0.5
            distance[at_work[settled & close]] = end[settled & close]
            found[at_work[settled & close]] = True
            below = settled & (point.rise < height)
            near = torch.where(below, torch.maximum(near, point.distance), near)
            far = torch.where(settled & ~below, torch.minimum(far, point.distance), far)
            end = torch.minimum(torch.maximum(end, 0.5 * point.distance), 2 * point.distance)
            end = torch.where((near < end) & (end < far), end, 0.5 * (near + far))
            strength = self._strength(rows[at_work], previous, point, end)
            step = (end / point.distance)[:, None] * step
            keep = usable & ~(settled & close)
            at_work, near, far, step, strength = (
                t[keep] for t in (at_work, near, far, step, strength)
            )
            previous = _Points(*(t[keep] for t in vars(point).values()))
        return distance, found

    def _strength(self, rows: Tensor, previous: _Points, point: _Points, end: Tensor) -> Tensor:
        """λ₀ whose optimum should lie at distance ``end``, by the bend of the profile so far."""
        curb = self.std[rows] ** -2
        bend = (point.slope - previous.slope) / (point.distance - previous.distance)
        bend = torch.where(bend.isfinite(), bend, curb).clamp(min=-0.5 * curb, max=4 * curb)
        return point.slope + bend * (end - point.distance) + curb * end

    def _refit(
        self, rows: Tensor, strength: Tensor, step: Tensor
    ) -> tuple[Tensor, _Points, Tensor, Tensor]:
        """Whitened steps (b, P) to the optima curbed at λ₀, what they are, and if they settled."""
        sign, member, curb = self.sign[rows], rows % len(self.origin), self.std[rows] ** -2
        origin, scale = self.origin[member], self.estimate.scale
        objective = CurbedObjective.around(
            self.estimate, self.functional, member, sign * strength, origin=origin, curb=curb
        )
        solution = lbfgs(
            objective,
            objective.center + step,
            tol=torch.full_like(strength, REFIT_SHARE * self.z * self.rtol**0.5),
            max_iter=self.max_iter,
        )
        g = self.functional.paired(scale * solution.weights, member)
        distance = sign * (g - origin)
        rise = solution.value + distance * (strength - 0.5 * curb * distance)
        slope = strength - curb * distance
        # A rise below 0 means that the MAP is no minimum, or that the refit left its basin.
        usable = (distance > 0) & (slope > 0) & (rise > 0)
        point = _Points(distance, rise, slope)
        return solution.weights - objective.center, point, solution.converged & usable, usable

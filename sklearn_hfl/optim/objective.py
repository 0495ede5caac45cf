"""Objective: a family of independent problems, as a batched optimiser sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.functional import Functional
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["MapObjective", "Objective", "PenalizedObjective", "PerturbedObjective"]


class Objective(Protocol):
    """B problems, each with its own row of whitened weights u = α^½ θ."""

    def value_and_gradient(self, U: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Value (b,) and gradient (b, P) of problems ``index`` (b,) at rows U (b, P)."""

    def precondition(self, G: Tensor) -> Tensor:
        """Approximate inverse Hessian applied to each row of G (b, P)."""


@dataclass(frozen=True)
class MapObjective:
    """L itself.

    Parameters
    ----------
    log_posterior : LogPosterior
        L.
    subspace : Subspace
        Preconditioner.
    """

    log_posterior: LogPosterior
    subspace: Subspace

    def value_and_gradient(self, U: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.log_posterior.prior.scale
        value, gradient = self.log_posterior.value_and_gradient(scale * U)
        return value, scale * gradient

    def precondition(self, G: Tensor) -> Tensor:
        return self._inverse(G.mT).mT

    @cached_property
    def _inverse(self) -> Callable[[Tensor], Tensor]:
        return self.subspace.preconditioner()


@dataclass(frozen=True)
class PerturbedObjective:
    """L(θ) − L(θ̂) − ∇L(θ̂)ᵀ(θ − θ̂) − λ_b g_b(θ): problem b perturbs by its own functional.

    Subtracting the residual gradient makes θ̂ exactly stationary at λ = 0, so that a
    training that stopped short of the MAP causes no drift.

    Parameters
    ----------
    log_posterior : LogPosterior
        L.
    center : Tensor of shape (P,)
        Whitened MAP weights.
    center_value : float
        L(θ̂), subtracted so that small changes keep their digits.
    center_gradient : Tensor of shape (P,)
        Whitened ∇L(θ̂).
    functional : Functional
        g.
    member : Tensor of shape (B,)
        Which functional problem b perturbs by.
    strength : Tensor of shape (B,)
        λ_b, signed.
    subspace : Subspace
        Preconditioner.
    """

    log_posterior: LogPosterior
    center: Tensor
    center_value: float
    center_gradient: Tensor
    functional: Functional
    member: Tensor
    strength: Tensor
    subspace: Subspace

    @classmethod
    def around(
        cls,
        estimate: MapEstimate,
        functional: Functional,
        member: Tensor,
        strength: Tensor,
        **more: Any,
    ) -> Self:
        """Perturb the optimum θ̂ of an estimate."""
        value, gradient = estimate.log_posterior.value_and_gradient(estimate.weights[None])
        return cls(
            estimate.log_posterior,
            center=estimate.weights / estimate.scale,
            center_value=float(value[0]),
            center_gradient=estimate.scale * gradient[0],
            functional=functional,
            member=member,
            strength=strength,
            subspace=estimate.subspace,
            **more,
        )

    def value_and_gradient(self, U: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.log_posterior.prior.scale
        weights = scale * U
        value, gradient = self.log_posterior.value_and_gradient(weights)
        g, g_gradient = paired_value_and_gradient(self.functional, weights, self.member[index])
        tilt, slope = self.tilt(g, index)
        value = (value - self.center_value) - (U - self.center) @ self.center_gradient
        gradient = scale * (gradient + slope[:, None] * g_gradient) - self.center_gradient
        return value + tilt, gradient

    def tilt(self, g: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Term added to the loss of problems ``index`` (b,) at g (b,), and its slope in g."""
        strength = self.strength[index]
        return -strength * g, -strength

    def precondition(self, G: Tensor) -> Tensor:
        return self.subspace.preconditioner()(G.mT).mT


@dataclass(frozen=True)
class PenalizedObjective(PerturbedObjective):
    """L(θ) − L(θ̂) − ∇L(θ̂)ᵀ(θ − θ̂) − λ_b d + ½ ρ_b d² with d = g_b(θ) − ĝ_b.

    An optimum of it is also an optimum perturbed by λ − ρ d. But it exists where L − λ g is
    unbounded below, and depends smoothly on λ where the profile of L is flat or concave.

    Parameters
    ----------
    origin : Tensor of shape (B,)
        ĝ_b.
    penalty : Tensor of shape (B,)
        ρ_b.
    """

    origin: Tensor
    penalty: Tensor

    def tilt(self, g: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        d, strength, penalty = g - self.origin[index], self.strength[index], self.penalty[index]
        return d * (0.5 * penalty * d - strength), penalty * d - strength


def paired_value_and_gradient(
    functional: Functional, weights: Tensor, index: Tensor
) -> tuple[Tensor, Tensor]:
    """Functional number index[b] at row b of weights (B, P): values (B,) and gradients (B, P)."""
    with torch.enable_grad():
        w = weights.detach().requires_grad_()
        value = functional.paired(w, index)
        (gradient,) = torch.autograd.grad(value.sum(), w)
    return value.detach(), gradient

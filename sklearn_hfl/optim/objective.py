"""Objective: what a batched optimiser asks of a family of independent problems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.functional import Functional
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["MapObjective", "Objective", "PerturbedObjective"]


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
    """

    log_posterior: LogPosterior

    def value_and_gradient(self, U: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.log_posterior.prior.scale
        value, gradient = self.log_posterior.value_and_gradient(scale * U)
        return value, scale * gradient

    def precondition(self, G: Tensor) -> Tensor:
        return G


@dataclass(frozen=True)
class PerturbedObjective:
    """L(θ) − L(θ̂) − ∇L(θ̂)ᵀ(θ − θ̂) − λ_b g_b(θ): problem b perturbs by its own functional.

    Subtracting the residual gradient makes θ̂ exactly stationary at λ = 0, so
    that a MAP that is not quite reached does not drift away (design of HFL).

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

    def value_and_gradient(self, U: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.log_posterior.prior.scale
        weights = scale * U
        value, gradient = self.log_posterior.value_and_gradient(weights)
        g, g_gradient = paired_value_and_gradient(self.functional, weights, self.member[index])
        strength = self.strength[index]
        value = (value - self.center_value) - (U - self.center) @ self.center_gradient
        gradient = scale * (gradient - strength[:, None] * g_gradient) - self.center_gradient
        return value - strength * g, gradient

    def precondition(self, G: Tensor) -> Tensor:
        return self.subspace.preconditioner()(G.mT).mT


def paired_value_and_gradient(
    functional: Functional, weights: Tensor, index: Tensor
) -> tuple[Tensor, Tensor]:
    """Functional number index[b] at row b of weights (B, P): values (B,) and gradients (B, P)."""
    with torch.enable_grad():
        w = weights.detach().requires_grad_()
        value = functional.paired(w, index)
        (gradient,) = torch.autograd.grad(value.sum(), w)
    return value.detach(), gradient

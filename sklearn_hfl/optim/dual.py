"""Dual: the curvature by its residuals, where there are fewer of them than weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from sklearn_hfl.optim.krylov import forms_matrix, rough_subspace
from sklearn_hfl.optim.subspace import Subspace, positive_factor, solved_by
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import MLP

__all__ = ["Dual", "inverse_curvature"]

# Residuals up to which R Rᵀ is factorised: as many as weights of which A is.
MAX_RESIDUALS = 2000


@dataclass(frozen=True)
class Dual:
    """A = I + RᵀR for R = Λ^½ J α^-½ (N K, P), by the matrix R Rᵀ.

    A⁻¹ = I − Rᵀ (I + R Rᵀ)⁻¹ R, so that nothing of size P² is needed, nor a basis.

    Parameters
    ----------
    curvature : GaussNewton
        A.
    """

    curvature: GaussNewton

    @staticmethod
    def suits(log_posterior: LogPosterior) -> bool:
        """Whether there are so few residuals, all of them here, and their Jacobian fits.

        A perceptron's is not needed: the dual goes layer by layer. Where the loss averages over
        the variance of the mean, that needs a basis.
        """
        lp, network = log_posterior, log_posterior.network
        fits = isinstance(network, MLP) or lp.fits(lp.n_rows * network.linearization_width)
        here = lp.chunks is None and lp.variance_of_mean is None
        few = lp.n_residuals <= min(lp.n_weights - 1, MAX_RESIDUALS)
        return here and few and fits

    @property
    def n_weights(self) -> int:
        """P."""
        return self.curvature.n_weights

    @cached_property
    def gram(self) -> Tensor:
        """R Rᵀ, (N K, N K)."""
        return self.curvature.residual_gram()

    @cached_property
    def factor(self) -> Tensor:
        """Lower Cholesky factor of I + R Rᵀ."""
        return self._factor(0.0)

    def _factor(self, damping: float) -> Tensor:
        damped = self.gram.clone()
        damped.diagonal().add_(1 + damping)
        return positive_factor(damped, float(damped.diagonal().max()))

    @cached_property
    def n_effective(self) -> float:
        """γ = tr(I − A⁻¹), the effective number of parameters."""
        return len(self.factor) - float(torch.trace(torch.cholesky_inverse(self.factor)))

    @property
    def log_det(self) -> float:
        """Log det A."""
        return 2 * float(self.factor.diagonal().log().sum())

    def effective_parameters(self) -> Tensor:
        """Diagonal (P,) of I − A⁻¹ = Rᵀ (I + R Rᵀ)⁻¹ R."""
        return torch.cat(
            [
                torch.linalg.solve_triangular(self.factor, R, upper=False).square().sum(0)
                for R in self.curvature.residual_columns()
            ]
        )

    def preconditioner(self, damping: float = 0.0) -> Callable[[Tensor], Tensor]:
        """Return v ↦ (A + damping·I)⁻¹ v, v (P,) or (P, G)."""
        factor = self._factor(damping) if damping else self.factor

        def apply(G: Tensor) -> Tensor:
            columns = G.reshape(self.n_weights, -1)
            inside = solved_by(factor, self.curvature.residuals(columns))
            solved = (columns - self.curvature.residuals_adjoint(inside)) / (1 + damping)
            return solved.reshape(G.shape)

        return apply


def inverse_curvature(curvature: GaussNewton, generator: Generator) -> Subspace | Dual:
    """A for solves, γ and log det, in the form that is cheapest.

    Parameters
    ----------
    curvature : GaussNewton
        A.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    Subspace or Dual
    """
    if Dual.suits(curvature.log_posterior):
        return Dual(curvature)
    if forms_matrix(curvature.log_posterior):
        return Subspace.complete(curvature.matrix())
    return rough_subspace(curvature, generator)

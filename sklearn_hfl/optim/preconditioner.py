"""Preconditioner: a Krylov subspace kept over several Newton steps, and when to rebuild it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Generator, Tensor

from sklearn_hfl.optim.krylov import BLOCK_SIZE, krylov_subspace
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.curvature import GaussNewton

__all__ = ["Preconditioner"]

# Share of γ that the preconditioner may miss: it speeds up solves, but no result depends on it.
TRACE_RTOL = 1e-2
# It is rebuilt after a solve that took more products than this, once the products since the last
# rebuild would have paid for it: a subspace of rank m costs as much as about m / 4 products with
# single vectors (docs/design/training.md; benchmarks/products.py).
MAX_PRODUCTS = 20
PRODUCTS_PER_RANK = 0.25


@dataclass(frozen=True)
class Preconditioner:
    """A subspace that approximates the Gauss-Newton matrix of current or earlier weights.

    Parameters
    ----------
    subspace : Subspace
        The approximation.
    exact : bool
        Whether one block holds all rows of R, A = I + RᵀR. It is then exact, and cheap enough to
        be rebuilt at every step. Small fits are so reproducible to rounding, while truncated
        CG turns 1e-16 into 1e-3 within 50 steps when the network interpolates.
    n_products : int
        Products since the last rebuild.
    """

    subspace: Subspace
    exact: bool
    n_products: int = 0

    @classmethod
    def build(
        cls, curvature: GaussNewton, generator: Generator, known: Subspace | None
    ) -> Preconditioner:
        """Start from a subspace that is ``known`` from elsewhere, or build one."""
        subspace = known or _built(curvature, generator)
        exact = subspace.rank < BLOCK_SIZE
        if exact and known is not None:
            subspace = _built(curvature, generator)
        return cls(subspace, exact)

    def after(
        self, n_products: int, curvature: GaussNewton, generator: Generator
    ) -> Preconditioner:
        """Return the preconditioner for the step after a solve of ``n_products``."""
        total = self.n_products + n_products
        paid = n_products > MAX_PRODUCTS and total > PRODUCTS_PER_RANK * self.subspace.rank
        if self.exact or paid:
            return replace(self, subspace=_built(curvature, generator), n_products=0)
        return replace(self, n_products=total)

    @property
    def n_effective(self) -> float:
        """γ, at least 1."""
        return max(self.subspace.n_effective, 1.0)

    def decrement(self, gradient: Tensor) -> float:
        """Newton decrement sqrt(∇Lᵀ A⁻¹ ∇L) of a whitened gradient (P,)."""
        squared = float(gradient @ self.subspace.preconditioner()(gradient))
        # Where rounding makes it negative, the norm of the gradient bounds it from above.
        return (squared if squared > 0 else float(gradient @ gradient)) ** 0.5


def _built(curvature: GaussNewton, generator: Generator) -> Subspace:
    return krylov_subspace(curvature, generator, trace_rtol=TRACE_RTOL)

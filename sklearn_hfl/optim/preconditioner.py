"""Preconditioner: a curvature kept over several Newton steps, and when to compute it again."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from sklearn_hfl.optim.krylov import BLOCK_SIZE, forms_matrix, krylov_subspace
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["Preconditioner"]

# Share of γ that a Krylov subspace may miss: it speeds up solves, but no result depends on it.
TRACE_RTOL = 1e-2
# It is rebuilt after a solve that took more products than this, once the products since the last
# rebuild would have paid for it: a subspace of rank m costs as much as about m / 4 products with
# single vectors (docs/design/training.md; benchmarks/products.py).
MAX_PRODUCTS = 20
PRODUCTS_PER_RANK = 0.25
# Multiplications, N K P², up to which the matrix is computed from all rows at every step. With
# more it is computed from a sample of so many residuals for each weight, and again after
# products that cost as much: P² / (N K) of them times the last number
# (docs/design/training.md).
MAX_EXACT_WORK = 5e8
RESIDUALS_PER_WEIGHT = 4
PRODUCTS_PER_MATRIX = 1 / 30
# Below this largest eigenvalue, solves that are preconditioned by a factor in single precision take
# two or three products more, and the matrix and its factor half the time (docs/design/training.md).
# With less work than this, N K P² again, there is nothing to gain, and in double precision equal
# data in another form give a fit that is equal to the last digits.
MAX_SINGLE_EIGENVALUE = 1e8
MIN_SINGLE_WORK = 1e8


@dataclass(frozen=True)
class Preconditioner:
    """A subspace that approximates the Gauss-Newton matrix of current or earlier weights.

    Parameters
    ----------
    subspace : Subspace
        The approximation.
    exact : bool
        Whether it is the matrix of the current weights, since that is cheap enough to be
        computed at every step. Small fits are so reproducible to rounding, while truncated
        CG turns 1e-16 into 1e-3 within 50 steps when the network interpolates.
    n_products : int
        Products since it was computed.
    """

    subspace: Subspace
    exact: bool
    n_products: int = 0

    @classmethod
    def build(
        cls, curvature: GaussNewton, generator: Generator, known: Subspace | None
    ) -> Preconditioner:
        """Start from a subspace that is ``known`` from elsewhere, or build one."""
        lp = curvature.log_posterior
        if forms_matrix(lp):
            return cls(_built(curvature, generator), _is_small(lp))
        subspace = known or _built(curvature, generator)
        exact = subspace.rank < BLOCK_SIZE
        if exact and known is not None:
            subspace = _built(curvature, generator)
        return cls(subspace, exact)

    @staticmethod
    def described(log_posterior: LogPosterior) -> str:
        """What it is made of, which depends on the number of weights and of residuals."""
        if not forms_matrix(log_posterior):
            return "a Krylov subspace of the curvature"
        rows = "all rows" if _is_small(log_posterior) else "a sample of the rows"
        return f"the curvature matrix of {rows}"

    def after(
        self, n_products: int, curvature: GaussNewton, generator: Generator, *, moved: bool
    ) -> Preconditioner:
        """Return the preconditioner for the step after a solve of ``n_products``.

        ``moved`` is whether the weights have changed since.
        """
        total = self.n_products + n_products
        if self.exact:
            due = moved
        elif self.subspace.is_complete:
            due = total > _cost(curvature.log_posterior)
        else:
            due = n_products > MAX_PRODUCTS and total > PRODUCTS_PER_RANK * self.subspace.rank
        if due:
            return replace(self, subspace=_built(curvature, generator), n_products=0)
        return replace(self, n_products=total)

    @property
    def of_sample(self) -> bool:
        """Whether it is the matrix of a sample of many rows."""
        return self.subspace.is_complete and not self.exact

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
    lp = curvature.log_posterior
    if not forms_matrix(lp):
        return krylov_subspace(curvature, generator, trace_rtol=TRACE_RTOL)
    if not _is_small(lp):
        curvature = _of_sample(curvature, generator)
    if _work(lp) >= MIN_SINGLE_WORK:
        single = curvature.matrix(torch.float32)
        # The largest eigenvalue is at most the largest sum of a row.
        if float(single.abs().sum(0).max()) < MAX_SINGLE_EIGENVALUE:
            return Subspace.complete(single)
    return Subspace.complete(curvature.matrix())


def _of_sample(curvature: GaussNewton, generator: Generator) -> GaussNewton:
    """The curvature of some of the rows, multiplied to count as all of them."""
    lp = curvature.log_posterior
    n_rows = -(-RESIDUALS_PER_WEIGHT * lp.n_weights // lp.network.n_outputs)
    if n_rows >= lp.n_rows:
        return curvature
    sample = lp.sample(n_rows, generator)
    share = sample.total_weight / lp.total_weight
    return GaussNewton(
        replace(sample, sample_weight=sample.sample_weight / share), curvature.weights
    )


def _is_small(log_posterior: LogPosterior) -> bool:
    """Whether the matrix of all rows is cheap enough for every step."""
    return _work(log_posterior) <= MAX_EXACT_WORK


def _work(log_posterior: LogPosterior) -> float:
    """Multiplications that the matrix of all rows takes."""
    return log_posterior.n_residuals * log_posterior.n_weights**2


def _cost(log_posterior: LogPosterior) -> float:
    """Products that cost as much as the matrix of a sample."""
    return PRODUCTS_PER_MATRIX * log_posterior.n_weights**2 / log_posterior.n_residuals

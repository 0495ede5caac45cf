"""Preconditioner: a curvature kept over several Newton steps, and when to compute it again."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator

from sklearn_hfl.optim.dual import Dual, inverse_curvature
from sklearn_hfl.optim.krylov import BLOCK_SIZE, forms_matrix, rough_subspace
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["Preconditioner", "is_small"]

# It is rebuilt after a solve that took more products than this, once the products since the last
# rebuild would have paid for it: a subspace of rank m costs as much as about m / 4 products with
# single vectors (docs/design/training.md; benchmarks/products.py).
MAX_PRODUCTS = 20
PRODUCTS_PER_RANK = 0.25
# Multiplications, N K P² or (N K)³ of the dual, up to which the inverse is computed from all rows
# at every step. With more the matrix is that of a sample of so many residuals for each weight, and
# it is computed again where the products since then, and those that an outdated one was seen to
# take, cost as much: the last number times its multiplications, divided by the N K P of a product
# (docs/design/training.md).
MAX_EXACT_WORK = 1e8
RESIDUALS_PER_WEIGHT = 4
PRODUCTS_PER_WORK = 1 / 12
# Below this largest eigenvalue, solves that are preconditioned by a factor in single precision take
# two or three products more, and the matrix and its factor half the time (docs/design/training.md).
# With up to MAX_EXACT_WORK there is little to gain, and in double precision equal data in another
# form give a fit that is equal to the last digits.
MAX_SINGLE_EIGENVALUE = 1e8


@dataclass(frozen=True)
class Preconditioner:
    """An inverse of the Gauss-Newton matrix at current or earlier weights.

    Parameters
    ----------
    inverse : Subspace or Dual
        Approximate where A can neither be formed nor has a dual.
    exact : bool
        Whether it is that of the current weights, since that is cheap enough to be computed at
        every step. Small fits are so reproducible to rounding, while truncated CG turns 1e-16
        into 1e-3 within 50 steps when the network interpolates.
    n_products : int
        Products since it was computed.
    outdated : bool
        Whether the weights have moved since.
    slowest : int
        Most products that a solve took with an outdated one.
    """

    inverse: Subspace | Dual
    exact: bool
    n_products: int = 0
    outdated: bool = False
    slowest: int = 0

    @classmethod
    def build(
        cls, curvature: GaussNewton, generator: Generator, known: Subspace | None
    ) -> Preconditioner:
        """Start from a subspace that is ``known`` from elsewhere, or build one."""
        lp = curvature.log_posterior
        if Dual.suits(lp) or forms_matrix(lp):
            return cls(_built(curvature, generator), is_small(lp))
        subspace = known or rough_subspace(curvature, generator)
        exact = subspace.rank < BLOCK_SIZE
        if exact and known is not None:
            subspace = rough_subspace(curvature, generator)
        return cls(subspace, exact)

    @staticmethod
    def described(log_posterior: LogPosterior) -> str:
        """What it is made of, which depends on the number of weights and of residuals."""
        if Dual.suits(log_posterior):
            return "the dual of the curvature, of as many dimensions as residuals"
        if not forms_matrix(log_posterior):
            return "a Krylov subspace of the curvature"
        few = log_posterior.n_residuals <= RESIDUALS_PER_WEIGHT * log_posterior.n_weights
        rows = "all rows" if few or is_small(log_posterior) else "a sample of the rows"
        return f"the curvature matrix of {rows}"

    def after(
        self, n_products: int, curvature: GaussNewton, generator: Generator, *, moved: bool
    ) -> Preconditioner:
        """Return the preconditioner for the step after a solve of ``n_products``.

        ``moved`` is whether the weights have changed since.
        """
        total = self.n_products + n_products
        slowest = max(self.slowest, n_products) if self.outdated else self.slowest
        if self.exact:
            due = moved
        elif isinstance(self.inverse, Dual) or self.inverse.is_complete:
            due = moved and total + slowest > _cost(curvature.log_posterior)
        else:
            due = n_products > MAX_PRODUCTS and total > PRODUCTS_PER_RANK * self.inverse.rank
        if due:
            inverse = _built(curvature, generator)
            return Preconditioner(inverse, self.exact, slowest=slowest)
        outdated = self.outdated or moved
        return replace(self, n_products=total, outdated=outdated, slowest=slowest)

    @property
    def n_weights(self) -> int:
        """P."""
        return self.inverse.n_weights

    @property
    def n_effective(self) -> float:
        """γ, at least 1."""
        return max(self.inverse.n_effective, 1.0)


def _built(curvature: GaussNewton, generator: Generator) -> Subspace | Dual:
    lp = curvature.log_posterior
    if Dual.suits(lp) or not forms_matrix(lp) or is_small(lp):
        return inverse_curvature(curvature, generator)
    curvature = curvature.on(lp.scaled_sample(RESIDUALS_PER_WEIGHT * lp.n_weights, generator))
    single = curvature.to(torch.float32).matrix()
    # The largest eigenvalue is at most the largest sum of a row.
    if float(single.abs().sum(0).max()) < MAX_SINGLE_EIGENVALUE:
        return Subspace.complete(single)
    return Subspace.complete(curvature.matrix())


def is_small(log_posterior: LogPosterior) -> bool:
    """Whether it is cheap enough for every step."""
    return _work(log_posterior) <= MAX_EXACT_WORK


def _work(log_posterior: LogPosterior) -> float:
    """Multiplications that the matrix of all rows, or the factor of the dual, takes."""
    n, p = log_posterior.n_residuals, log_posterior.n_weights
    return n**3 if Dual.suits(log_posterior) else n * p**2


def _cost(log_posterior: LogPosterior) -> float:
    """Products that cost as much as the matrix of a sample, or as the factor of the dual."""
    n, p = log_posterior.n_residuals, log_posterior.n_weights
    work = n**3 if Dual.suits(log_posterior) else min(n, RESIDUALS_PER_WEIGHT * p) * p**2
    return PRODUCTS_PER_WORK * work / (n * p)

"""Curvature: the Gauss-Newton matrix of the log posterior, by products alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from sklearn_hfl.posterior.likelihood import Likelihood, curvature_slope
from sklearn_hfl.posterior.linearization import (
    MAX_JACOBIAN_OUTPUTS,
    JacobianLinearization,
    Linearization,
)
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["GaussNewton"]

# Numbers that a block of rows keeps between two layers, about what the processor's cache holds:
# larger blocks were up to five times slower. In blocks of fewer rows than the minimum, reading the
# weights costs more than the rows (docs/design/subspace.md, benchmarks/products.py).
CACHED_NUMBERS = 2_000_000
MIN_ROWS = 64
# Where the Jacobian does not fit, it is formed for so many rows at a time (same table), and for
# the sum of the matrix for so many more, since each of its blocks costs P² numbers.
MAX_JACOBIAN_ROWS = 256
MAX_MATRIX_ROWS = 1024


class GaussNewton:
    """A = I + α^-½ Jᵀ Λ J α^-½ in whitened weights u = α^½ θ.

    J is the Jacobian of the outputs and Λ the second derivative of the loss with respect to
    them. A is the Hessian of L if the network is linear in its weights; all eigenvalues are at
    least 1, at any weights.

    Parameters
    ----------
    log_posterior : LogPosterior
        L and its data.
    weights : Tensor of shape (P,)
        Where the network is linearised.
    """

    def __init__(self, log_posterior: LogPosterior, weights: Tensor) -> None:
        self.log_posterior = log_posterior
        self.weights = weights
        self.scale = log_posterior.prior.scale
        # Linearisation and Jacobian are kept if they fit the memory limit; if not, they are
        # recomputed block by block.
        lp, self._jacobian = log_posterior, None
        n, k = len(lp.X), lp.network.n_outputs
        here = lp.chunks is None
        fits = here and lp.fits(n * lp.network.linearization_width)
        self._kept = self._linearize(slice(None)) if fits else None
        self._jacobian_fits = lp.fits(2 * n * k * lp.n_weights)

    def to(self, dtype: torch.dtype) -> GaussNewton:
        """The same A, whose products and matrix are computed in another precision."""
        other = copy.copy(self)
        other.scale, other._jacobian = self.scale.to(dtype), None
        other._kept = self._kept and self._kept.to(dtype)
        return other

    def on(self, rows: LogPosterior) -> GaussNewton:
        """A of other rows at the same weights; itself on its own."""
        return self if rows is self.log_posterior else GaussNewton(rows, self.weights)

    @property
    def n_weights(self) -> int:
        """P."""
        return self.weights.shape[0]

    _jacobian: JacobianLinearization | None

    def _linearize(self, rows: slice) -> Linearization:
        lp = self.log_posterior
        return lp.network.linearize(self.weights, lp.X[rows]).to(self.scale.dtype)

    def _at(self, rows: slice) -> Linearization:
        return self._kept.rows(rows) if self._kept else self._linearize(rows)

    def _blocks(self, columns: int, extra: int = 0) -> Iterator[tuple[Linearization, slice]]:
        """The linearisation in blocks of rows, for products with so many columns.

        ``extra`` is how many more numbers the caller keeps for each row.
        """
        lp = self.log_posterior
        network, k = lp.network, lp.network.n_outputs
        if columns > 1 and k <= MAX_JACOBIAN_OUTPUTS:
            if self._jacobian_fits:
                self._jacobian = self._jacobian or self._at(slice(None)).dense()
                yield self._jacobian, slice(None)
                return
            for rows in lp.blocks(k * (lp.n_weights + columns) + extra, MAX_JACOBIAN_ROWS):
                yield self._at(rows).dense(), rows
            return
        kept = 0 if self._kept is not None else network.linearization_width
        max_rows = max(MIN_ROWS, CACHED_NUMBERS // (columns * network.width))
        for rows in lp.blocks(kept + columns * network.width + extra, max_rows):
            yield self._at(rows), rows

    def _over_rows(self, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """``function(self, *arguments)``, a sum over the rows, wherever these are."""
        lp = self.log_posterior
        if lp.chunks is None:
            return function(self, *arguments)
        return lp.over_chunks(_of_chunk, function, self.weights, self.scale.dtype, *arguments)

    def gradient(self) -> Tensor:
        """Whitened gradient α^-½ ∇L, (P,)."""
        lp = self.log_posterior
        gradient = lp.prior.precision * self.weights
        if lp.chunks is not None:
            return self.scale * (gradient + self._over_rows(GaussNewton._added_gradient))
        return self.scale * self._added_gradient(gradient)

    def _added_gradient(self, gradient: Tensor | None = None) -> Tensor:
        """Not whitened, with the prior's (P,) where that is given."""
        lp = self.log_posterior
        gradient = torch.zeros_like(self.weights) if gradient is None else gradient
        for linear, rows in self._blocks(1):
            score = lp.likelihood.score(linear.outputs, lp.targets(rows), lp.sample_weight[rows])
            gradient = gradient + linear.backward(score[:, None, :])[:, 0]
        return gradient

    def product(self, V: Tensor) -> Tensor:
        """A V for V (P, m) or (P,)."""
        columns = V.reshape(self.n_weights, -1)
        # Columns contiguous in memory, as the layers read them.
        scaled = (columns.mT.contiguous() * self.scale).mT
        data = self._over_rows(GaussNewton._product_of_rows, scaled)
        return (columns + self.scale[:, None] * data).reshape(V.shape)

    def _product_of_rows(self, columns: Tensor) -> Tensor:
        """Jᵀ Λ J times columns (P, m)."""
        lp = self.log_posterior
        data = torch.zeros_like(columns)
        for linear, rows in self._blocks(columns.shape[1]):
            U = linear.forward(columns)
            curved = _curved(lp.likelihood, linear.outputs, lp.sample_weight[rows], U)
            data += linear.backward(curved)
        return data

    def matrix(self) -> Tensor:
        """A itself, (P, P), in blocks of rows."""
        data = self._over_rows(GaussNewton._matrix_of_rows)
        A = data.mul_(self.scale[:, None]).mul_(self.scale)
        A.diagonal().add_(1.0)
        return A

    def _matrix_of_rows(self) -> Tensor:
        """Jᵀ Λ J (P, P)."""
        lp = self.log_posterior
        data = torch.zeros(self.n_weights, self.n_weights).to(self.scale)
        for rows in lp.blocks(lp.network.matrix_width, MAX_MATRIX_ROWS):
            linear = self._at(rows)
            likely = lp.likelihood, linear.outputs, lp.sample_weight[rows]
            data += linear.matrix(partial(_curved, *likely))
        return data

    @cached_property
    def _half(self) -> Tensor:
        """Λ^½ of each row, (N, K, K)."""
        lp, linear = self.log_posterior, self._at(slice(None))
        n, k = linear.outputs.shape
        eye = torch.eye(k).to(linear.outputs).expand(n, k, k)
        curved = lp.likelihood.curvature(linear.outputs, lp.sample_weight, eye)
        if k == 1:
            return curved.sqrt()
        values, vectors = torch.linalg.eigh(curved)
        return (vectors * values.clamp(min=0.0).sqrt()[:, None, :]) @ vectors.mT

    def residuals(self, V: Tensor) -> Tensor:
        """R V for R = Λ^½ J α^-½, (N K, m), for whitened V (P, m)."""
        changes = self._at(slice(None)).forward(self.scale[:, None] * V)
        return (self._half @ changes.mT).flatten(0, 1)

    def residuals_adjoint(self, U: Tensor) -> Tensor:
        """Rᵀ U, (P, m), for U (N K, m)."""
        n, k, _ = self._half.shape
        parts = self._half @ U.view(n, k, -1)
        return self.scale[:, None] * self._at(slice(None)).backward(parts.mT)

    def residual_gram(self) -> Tensor:
        """R Rᵀ, (N K, N K)."""
        n, k, _ = self._half.shape
        kernel = self._at(slice(None)).kernel(self.scale.square())
        if k == 1:
            half = self._half.flatten()
            return half[:, None] * kernel.view(n, n) * half
        left = torch.einsum("nij,njmk->nimk", self._half, kernel)
        return torch.einsum("nimk,mkj->nimj", left, self._half).reshape(n * k, n * k)

    def residual_columns(self) -> Iterator[Tensor]:
        """R in parts (N K, p), some of the weights at a time."""
        end = 0
        for part in self._at(slice(None)).columns():
            start, end = end, end + part.shape[2]
            yield (self._half @ part).flatten(0, 1) * self.scale[start:end]

    def output_variance(self, S: Tensor) -> Tensor:
        """Diagonal of (J S)(J S)ᵀ for whitened S (P, m): a square (N, K) of each output."""
        if S.shape[1] == 0:  # under a prior that leaves the data nothing to determine
            return S.new_zeros(len(self.log_posterior.X), self.log_posterior.network.n_outputs)
        scaled = self.scale[:, None] * S
        parts = [linear.forward(scaled).square().sum(1) for linear, _ in self._blocks(S.shape[1])]
        return torch.cat(parts)

    def output_posteriors(self, S: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Rows, their outputs (n, K) and each one's covariance (n, K, K) in (J S)(J S)ᵀ."""
        # For an empty basis, one column of zeros.
        scaled = self.scale[:, None] * (S if S.shape[1] else torch.zeros_like(self.scale)[:, None])
        # The covariance, a linear system with it, and the solution.
        extra = 4 * self.log_posterior.network.n_outputs**2
        for linear, rows in self._blocks(scaled.shape[1], extra):
            U = linear.forward(scaled)
            yield rows, linear.outputs, U.mT @ U

    def output_changes(self, S: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Rows, and J S (n, m, K): how their outputs change along whitened S (P, m)."""
        scaled = self.scale[:, None] * S
        k = self.log_posterior.network.n_outputs
        for linear, rows in self._blocks(scaled.shape[1], 2 * k * scaled.shape[1]):
            yield rows, linear.forward(scaled)

    def skew(self, S: Tensor) -> Tensor:
        """Whitened gradient (P,) of ½ tr(Sᵀ A S) for S (P, m), with J held fixed.

        It is not zero for likelihoods whose Λ depends on the outputs.
        """
        return self.scale * self._over_rows(GaussNewton._skew_of_rows, self.scale[:, None] * S)

    def _skew_of_rows(self, columns: Tensor) -> Tensor:
        lp = self.log_posterior
        total = torch.zeros_like(self.weights)
        for linear, rows in self._blocks(columns.shape[1]):
            U = linear.forward(columns)
            covariance = U.mT @ U
            slope = curvature_slope(
                lp.likelihood, linear.outputs, lp.sample_weight[rows], covariance
            )
            total += linear.backward(slope[:, None, :])[:, 0]
        return total

    def excess_diagonal(self) -> Tensor:
        """Diagonal (P,) of A − I ⪰ 0."""
        return self.scale.square() * self._over_rows(GaussNewton._diagonal_of_rows)

    def _diagonal_of_rows(self) -> Tensor:
        """Diagonal (P,) of Jᵀ Λ J."""
        lp = self.log_posterior
        total = torch.zeros_like(self.scale)
        network = lp.network
        extra = network.n_outputs * network.width + 2 * network.linearization_width
        for linear, rows in self._blocks(1, extra):
            curve = partial(_curved, lp.likelihood, linear.outputs, lp.sample_weight[rows])
            total += linear.diagonal(curve)
        return total


def _of_chunk(
    log_posterior: LogPosterior,
    function: Callable[..., Tensor],
    weights: Tensor,
    dtype: torch.dtype,
    *arguments: Any,
) -> Tensor:
    curvature = GaussNewton(log_posterior, weights)
    return function(curvature if dtype == weights.dtype else curvature.to(dtype), *arguments)


def _curved(likelihood: Likelihood, outputs: Tensor, sample_weight: Tensor, U: Tensor) -> Tensor:
    """Λ U in the precision of U."""
    return likelihood.curvature(outputs, sample_weight, U).to(U)

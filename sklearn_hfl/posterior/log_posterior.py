"""Log posterior: the function whose optima the package finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor

from sklearn_hfl.posterior.chunks import Chunks, Tensors
from sklearn_hfl.posterior.likelihood import Likelihood
from sklearn_hfl.posterior.network import Network
from sklearn_hfl.posterior.prior import GaussianPrior

__all__ = ["LogPosterior"]

# A block, or what is kept between calls, may use this part of the memory limit, since several of
# them are held at a time (tests/test_memory.py measures the peak).
MEMORY_SHARE = 1 / 16
# Numbers that a block of a Hessian product passes through, about what the processor's cache holds
# (docs/design/subspace.md).
CACHED_NUMBERS = 800_000
# Those of a block of a forward pass. In blocks of 250 MB the loss of 300 000 rows takes 1.7 times
# as long, its gradient 2.6 and a projection 2.3 times (docs/design/subspace.md).
PASS_NUMBERS = 2_000_000
# Rows of such a block at least, however many networks there are.
MIN_PASS_ROWS = 64
# Of more rows than this, a sample is drawn without a permutation of them all, 8 bytes a row.
MAX_PERMUTED = 10**7


@dataclass(frozen=True)
class LogPosterior:
    """Negative log posterior L(θ) = Σₙ wₙ ℓ(yₙ, f(xₙ; θ)) + ½ Σᵢ αᵢ θᵢ², a sum, in nats.

    Parameters
    ----------
    network : Network
        f.
    likelihood : Likelihood
        ℓ = −log p(y | f), with its constants.
    prior : GaussianPrior
        α, without its constants: they cancel in the evidence.
    X : Tensor of shape (N, D)
        Inputs.
    y : Tensor of shape (N, K)
        Targets.
    sample_weight : Tensor of shape (N,)
        w; a row of weight 2 counts as two rows.
    memory_limit : float
        Bytes that may be used beside the data; passes go block by block to meet this.
    variance_of_mean : Tensor of shape (N, K) or None
        Posterior variance of the mean at each row, over which the loss of a
        ``HeteroscedasticLikelihood`` averages.
    chunks : Chunks or None
        The rows, where this process does not hold them: X, y and the weights are then empty, and
        each sum over rows is added up over the chunks.
    """

    network: Network
    likelihood: Likelihood
    prior: GaussianPrior
    X: Tensor
    y: Tensor
    sample_weight: Tensor
    memory_limit: float = 4e9
    variance_of_mean: Tensor | None = None
    chunks: Chunks | None = None

    @property
    def n_weights(self) -> int:
        """P."""
        return self.network.n_weights

    @property
    def n_rows(self) -> int:
        """N."""
        return len(self.X) if self.chunks is None else self.chunks.n_rows

    @property
    def total_weight(self) -> Tensor:
        """Rows, each counted by its weight: a number ()."""
        chunks = self.chunks
        return self.sample_weight.sum() if chunks is None else chunks.total_weight

    @property
    def n_residuals(self) -> int:
        """N K."""
        return self.n_rows * self.network.n_outputs

    @cached_property
    def n_effective_residuals(self) -> float:
        """Residuals that would say as much, of equal weight, and of classes as frequent.

        (Σw)² / Σw² · K (Kish), times the likelihood's ``balance``.
        """
        total, sums = self.total_weight, self.over_rows(_sums_of_weights)
        balance = self.likelihood.balance(sums[1:] / total)
        return float(total.square() / sums[0]) * balance * self.network.n_outputs

    def says_as_much_as(self, n_residuals: int) -> bool:
        """Whether the rows say as much as so many residuals of equal weight."""
        # The effective number is at most the other one, and takes a pass over the rows.
        return n_residuals <= self.n_residuals and n_residuals <= self.n_effective_residuals

    def variance_on(self, other: LogPosterior) -> Tensor | None:
        """Mean over the rows of the variance of the mean, for the rows of another L."""
        variance = self.variance_of_mean
        return None if variance is None else variance.to(other.X).mean(0).expand(len(other.X), -1)

    def select(self, rows: Tensor) -> LogPosterior:
        """Return L of some of the rows, given by mask or index."""
        if self.chunks is not None:
            X, y, sample_weight = self.chunks.select(rows)
            return replace(self, X=X, y=y, sample_weight=sample_weight, chunks=None)
        part = {name: getattr(self, name)[rows] for name in ("X", "y", "sample_weight")}
        variance = self.variance_of_mean
        return replace(self, **part, variance_of_mean=None if variance is None else variance[rows])

    def sample(self, size: int, generator: Generator) -> LogPosterior:
        """Return L of ``size`` rows at random, in random order."""
        n = self.n_rows
        if n <= MAX_PERMUTED:
            rows = torch.randperm(n, generator=generator)[:size]
        else:
            rows = torch.empty(0, dtype=torch.long)
            while len(rows) < size:  # nearly always once: few numbers are drawn twice
                more = torch.randint(n, (size,), generator=generator)
                rows = torch.cat([rows, more]).unique()
            rows = rows[torch.randperm(len(rows), generator=generator)[:size]]
        return self.select(rows.to(self.X.device))

    def scaled_sample(self, n_residuals: int, generator: Generator) -> LogPosterior:
        """Return L of so many residuals of rows at random, which count as all; L with fewer."""
        size = -(-n_residuals // self.network.n_outputs)
        if size >= self.n_rows:
            return self
        sample = self.sample(size, generator)
        share = sample.total_weight / self.total_weight
        return replace(sample, sample_weight=sample.sample_weight / share)

    def targets(self, rows: slice) -> Tensor:
        """Targets as the likelihood takes them: (n, 2 K) with the variance of the mean."""
        y, variance = self.y[rows], self.variance_of_mean
        return y if variance is None else torch.cat([y, variance[rows]], -1)

    def without_data(self) -> LogPosterior:
        """Return L of no rows, with the same network, likelihood and prior."""
        # Copies, since views would keep the data in memory.
        empty = {name: getattr(self, name)[:0].clone() for name in ("X", "y", "sample_weight")}
        return replace(self, **empty, variance_of_mean=None, chunks=None)

    def over_chunks(self, function: Callable[..., Tensors], *arguments: Any) -> Tensors:
        """Sum of ``function(L, *arguments)`` over the chunks, for L of each: one pass."""
        assert self.chunks is not None
        return self.chunks.total(_of_chunk, self.without_data(), function, *arguments)

    def over_rows(self, function: Callable[..., Tensors], *arguments: Any) -> Tensors:
        """``function(L, *arguments)``, a sum over the rows, wherever these are."""
        if self.chunks is None:
            return function(self, *arguments)
        return self.over_chunks(function, *arguments)

    def fits(self, numbers: int) -> bool:
        """Whether so many numbers fit into ``MEMORY_SHARE`` of ``memory_limit``."""
        return numbers * self.X.element_size() <= MEMORY_SHARE * self.memory_limit

    def fits_sample(self, n_residuals: int) -> bool:
        """Whether a copy of so many residuals' rows does."""
        n_rows = -(-n_residuals // self.network.n_outputs)
        return self.fits(n_rows * (self.X.shape[1] + self.y.shape[1] + 1))

    def blocks(self, numbers_per_row: int, max_rows: int | None = None) -> Iterator[slice]:
        """Slices of at most ``max_rows`` rows that fit into ``MEMORY_SHARE`` of the limit."""
        n = self.X.shape[0]
        share = MEMORY_SHARE * self.memory_limit
        size = max(1, int(share / (numbers_per_row * self.X.element_size())))
        size = min(size, max_rows or n)
        for start in range(0, n, size):
            yield slice(start, min(start + size, n))

    def pass_blocks(self, n_networks: int = 1, extra: int = 0) -> Iterator[slice]:
        """Slices of rows for a forward pass of so many networks.

        ``extra`` is how many more numbers the caller keeps for each row.
        """
        numbers = n_networks * self.network.width
        return self.blocks(numbers + extra, max(MIN_PASS_ROWS, PASS_NUMBERS // numbers))

    def _data_loss(self, weights: Tensor, rows: slice) -> Tensor:
        return self._loss_of(self.network.forward(weights, self.X[rows]), rows)

    def _loss_of(self, outputs: Tensor, rows: slice) -> Tensor:
        return self.likelihood.loss(outputs, self.targets(rows), self.sample_weight[rows])

    def value(self, weights: Tensor) -> Tensor:
        """L of each row of weights (B, P), as (B,)."""
        if self.chunks is not None:
            return self.prior.energy(weights) + self.over_chunks(_value, weights)
        with torch.no_grad():
            total = self.prior.energy(weights)
            for rows in self.pass_blocks(weights.shape[0]):
                total = total + self._data_loss(weights, rows)
        return total

    def value_and_gradient(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """L (B,) and ∇L (B, P) of each row of weights (B, P)."""
        value = self.prior.energy(weights)
        gradient = self.prior.precision * weights
        if self.chunks is not None:
            of_rows = self.over_chunks(_value_and_gradient, weights)
            return value + of_rows[0], gradient + of_rows[1]
        w = weights.detach().requires_grad_()
        for rows in self.pass_blocks(weights.shape[0]):
            with torch.enable_grad():
                loss = self._data_loss(w, rows)
                (part,) = torch.autograd.grad(loss.sum(), w)
            value = value + loss.detach()
            gradient = gradient + part
        return value, gradient

    def hessian(self, weights: Tensor) -> Callable[[Tensor], Tensor]:
        """Return v ↦ H v, both (P,), for the Hessian H of L at weights (P,).

        What products have in common is kept if it fits the memory limit; if not, each of them
        computes it again.
        """
        if self.chunks is not None:
            return lambda v: self.prior.precision * v + self.over_chunks(_product, weights, v)
        width = self.network.hessian_width
        blocks = list(self.blocks(width, max(MIN_PASS_ROWS, CACHED_NUMBERS // self.network.width)))

        def of_rows(rows: slice) -> Callable[[Tensor], Tensor]:
            def loss(outputs: Tensor) -> Tensor:
                return self._loss_of(outputs[None], rows)[0]

            return self.network.hessian(weights, self.X[rows], loss)

        fits = self.fits(width * len(self.X))
        kept = [of_rows(rows) for rows in blocks] if fits else None

        def product(v: Tensor) -> Tensor:
            total = self.prior.precision * v
            for part in kept or map(of_rows, blocks):
                total += part(v)
            return total

        return product


def _sums_of_weights(log_posterior: LogPosterior) -> Tensor:
    """Σ w² and Σ w y, (1 + K,)."""
    w = log_posterior.sample_weight
    return torch.cat([w.square().sum()[None], w @ log_posterior.y])


def _of_chunk(
    X: Tensor,
    y: Tensor,
    sample_weight: Tensor,
    empty: LogPosterior,
    function: Callable[..., Tensors],
    *arguments: Any,
) -> Tensors:
    return function(replace(empty, X=X, y=y, sample_weight=sample_weight), *arguments)


# Of a chunk, without the prior, which counts once.


def _value(lp: LogPosterior, weights: Tensor) -> Tensor:
    return replace(lp, prior=lp.prior.flat()).value(weights)


def _value_and_gradient(lp: LogPosterior, weights: Tensor) -> tuple[Tensor, Tensor]:
    return replace(lp, prior=lp.prior.flat()).value_and_gradient(weights)


def _product(lp: LogPosterior, weights: Tensor, v: Tensor) -> Tensor:
    return replace(lp, prior=lp.prior.flat()).hessian(weights)(v)

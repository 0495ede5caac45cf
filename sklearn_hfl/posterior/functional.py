"""Functional: a scalar function of the weights, such as a prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sklearn_hfl.posterior.link import IDENTITY, Link
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import Network

__all__ = ["Functional", "Prediction", "PredictionFunction", "RowLoss", "WeightedSum"]


class Functional(Protocol):
    """G scalar functions g of the weights."""

    @property
    def n_functionals(self) -> int:
        """G."""

    def value(self, weights: Tensor) -> Tensor:
        """All g, (B, G), at each row of weights (B, P)."""

    def paired(self, weights: Tensor, index: Tensor) -> Tensor:
        """Functional number index[b] at row b of weights (B, P), as (B,)."""

    def gradient(self, weights: Tensor) -> Tensor:
        """∇g, (P, G), at one weight vector (P,)."""


@dataclass(frozen=True)
class Prediction:
    """g = link(f(x_q; θ))_c for each query q and each value c of the link, c fastest.

    Parameters
    ----------
    network : Network
        f.
    X : Tensor of shape (Q, D)
        Queries.
    link : Link
        Function of the outputs at a row: the outputs themselves, or the probability of
        each class.
    """

    network: Network
    X: Tensor
    link: Link = IDENTITY

    @property
    def _n_values(self) -> int:
        return self.link.n_values(self.network.n_outputs)

    @property
    def n_functionals(self) -> int:
        return self.X.shape[0] * self._n_values

    def value(self, weights: Tensor) -> Tensor:
        return self.link.value(self.network.forward(weights, self.X)).flatten(1)

    def paired(self, weights: Tensor, index: Tensor) -> Tensor:
        c = self._n_values
        outputs = self.network.forward(weights, self.X[index // c][:, None, :])[:, 0]
        return self.link.value(outputs).gather(1, (index % c)[:, None])[:, 0]

    def gradient(self, weights: Tensor) -> Tensor:
        return self.link.chain(*self.network.jacobian(weights, self.X)).flatten(0, 1).mT


@dataclass(frozen=True)
class WeightedSum:
    """g = Σ_q W_gq link(f(x_q; θ))_c for each row of W and each value c of the link, c fastest.

    Parameters
    ----------
    network : Network
        f.
    X : Tensor of shape (Q, D)
        The population.
    W : Tensor of shape (n_sums, Q)
        Weights of the sums; 1/Q everywhere is the population mean.
    link : Link
        Linear function of the outputs at a row.
    memory_limit : float
        Bytes that one pass over X may use; it goes block by block to meet this.
    """

    network: Network
    X: Tensor
    W: Tensor
    link: Link = IDENTITY
    memory_limit: float = 4e9

    @property
    def n_functionals(self) -> int:
        return self.W.shape[0] * self.link.n_values(self.network.n_outputs)

    def value(self, weights: Tensor) -> Tensor:
        outputs = _outputs(self.network, weights, self.X, self.memory_limit)
        return (self.W @ self.link.value(outputs)).flatten(1)

    def paired(self, weights: Tensor, index: Tensor) -> Tensor:
        return self.value(weights).gather(1, index[:, None])[:, 0]

    def gradient(self, weights: Tensor) -> Tensor:
        eye = torch.eye(self.network.n_outputs).to(self.W)[None]
        slope = self.link.chain(eye[:, 0], eye)[0]

        def sums(rows: slice) -> Tensor:
            return (self.W.mT[rows, :, None, None] * slope).flatten(1, 2)

        return _pulled_back(
            self.network, weights, self.X, sums, self.n_functionals, self.memory_limit
        )


@dataclass(frozen=True)
class PredictionFunction:
    """g = func(f(X; θ)): any differentiable torch function of the predictions.

    Parameters
    ----------
    network : Network
        f.
    X : Tensor of shape (Q, D)
        Rows at which ``func`` takes the predictions.
    func : callable
        Maps predictions (Q, K) to a scalar or to (G,).
    memory_limit : float
        Bytes that one pass over X may use; it goes block by block to meet this.
    """

    network: Network
    X: Tensor
    func: Callable[[Tensor], Tensor]
    memory_limit: float = 4e9

    @cached_property
    def n_functionals(self) -> int:
        zeros = self.X.new_zeros(self.X.shape[0], self.network.n_outputs)
        return self.func(zeros).numel()

    def value(self, weights: Tensor) -> Tensor:
        outputs = _outputs(self.network, weights, self.X, self.memory_limit)
        return torch.stack([self.func(f).reshape(-1) for f in outputs])

    def paired(self, weights: Tensor, index: Tensor) -> Tensor:
        return self.value(weights).gather(1, index[:, None])[:, 0]

    def gradient(self, weights: Tensor) -> Tensor:
        with torch.no_grad():
            (outputs,) = _outputs(self.network, weights[None], self.X, self.memory_limit)
        with torch.enable_grad():
            f = outputs.clone().requires_grad_()
            values = self.func(f).reshape(-1)
            rows = [torch.autograd.grad(g, f, retain_graph=True)[0] for g in values]
        slopes = torch.stack(rows, dim=1)
        return _pulled_back(
            self.network, weights, self.X, slopes.__getitem__, len(rows), self.memory_limit
        )


@dataclass(frozen=True)
class RowLoss:
    """g = wₙ ℓ(yₙ, f(xₙ; θ)), the part of L that each row is.

    With λ = 1 the perturbed optimum is the MAP without this row.

    Parameters
    ----------
    log_posterior : LogPosterior
        With the rows, and the weight of each that is meant.
    """

    log_posterior: LogPosterior

    @property
    def n_functionals(self) -> int:
        return len(self.log_posterior.X)

    def value(self, weights: Tensor) -> Tensor:
        return self._loss(self.log_posterior.network.forward(weights, self.log_posterior.X))

    def paired(self, weights: Tensor, index: Tensor) -> Tensor:
        lp = self.log_posterior.select(index)
        outputs = lp.network.forward(weights, lp.X[:, None, :])
        return RowLoss(lp)._loss(outputs[:, 0][None])[0]

    def gradient(self, weights: Tensor) -> Tensor:
        lp = self.log_posterior
        outputs, jacobian = lp.network.jacobian(weights, lp.X)
        score = lp.likelihood.score(outputs, lp.targets(slice(None)), lp.sample_weight)
        return torch.einsum("nk,nkp->pn", score, jacobian)

    def _loss(self, outputs: Tensor) -> Tensor:
        """Loss (B, N) of each row at outputs (B, N, K)."""
        lp = self.log_posterior
        # Each row is a problem of its own, since the likelihood adds up rows.
        flat = outputs.flatten(0, 1)[:, None]
        batch = outputs.shape[0]
        y = lp.targets(slice(None)).repeat(batch, 1)[:, None]
        w = lp.sample_weight.repeat(batch)[:, None]
        return lp.likelihood.loss(flat, y, w).view(batch, -1)


def _outputs(network: Network, weights: Tensor, X: Tensor, memory_limit: float) -> Tensor:
    """f(X; θ), (B, Q, K), at weights (B, P).

    Between blocks only the outputs are kept; a backward pass recomputes the rest.
    """
    size = _block_size(memory_limit, X, weights.shape[0] * network.width)
    if size >= len(X):
        return network.forward(weights, X)
    parts = [
        checkpoint(network.forward, weights, rows, use_reentrant=False, preserve_rng_state=False)
        for rows in X.split(size)
    ]
    return torch.cat(parts, dim=1)


def _pulled_back(
    network: Network,
    weights: Tensor,
    X: Tensor,
    slopes: Callable[[slice], Tensor],
    n_functionals: int,
    memory_limit: float,
) -> Tensor:
    """Σ_q J_qᵀ ∂g/∂f_q, (P, G), from the slopes (rows, G, K) of a block of rows."""
    size = _block_size(memory_limit, X, network.linearization_width + n_functionals * network.width)
    total = weights.new_zeros(network.n_weights, n_functionals)
    for start in range(0, len(X), size):
        rows = slice(start, start + size)
        total += network.linearize(weights, X[rows]).backward(slopes(rows))
    return total


def _block_size(memory_limit: float, X: Tensor, numbers_per_row: int) -> int:
    return max(1, int(memory_limit / (numbers_per_row * X.element_size())))

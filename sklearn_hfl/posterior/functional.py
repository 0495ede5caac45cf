"""Functional: a scalar of the network whose uncertainty is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from sklearn_hfl.posterior.link import IDENTITY, Link
from sklearn_hfl.posterior.network import Network

__all__ = ["Functional", "Prediction", "PredictionFunction", "WeightedSum"]


class Functional(Protocol):
    """G scalar functions g of the weights."""

    @property
    def n_functionals(self) -> int:
        """G."""

    def value(self, weights: Tensor) -> Tensor:
        """All g, (B, G), at each row of weights (B, P)."""

    def paired(self, weights: Tensor, index: Tensor) -> Tensor:
        """G number index[b] at row b of weights (B, P), as (B,)."""

    def gradient(self, weights: Tensor) -> Tensor:
        """∇g, (P, G), at one weight vector (P,)."""


@dataclass(frozen=True)
class Prediction:
    """g = link(f(x_q; θ))_c: every value of the link at every query, values fastest.

    Parameters
    ----------
    network : Network
        f.
    X : Tensor of shape (Q, D)
        Queries.
    link : Link
        What is read off the outputs at a row: the outputs themselves, or the
        probability of each class.
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
    """g = Σ_q W_gq f_k(x_q; θ): each row of W with each output, outputs fastest.

    Parameters
    ----------
    network : Network
        f.
    X : Tensor of shape (Q, D)
        The population.
    W : Tensor of shape (n_sums, Q)
        Weights of the sums; 1/Q everywhere is the population mean.
    """

    network: Network
    X: Tensor
    W: Tensor

    @property
    def n_functionals(self) -> int:
        return self.W.shape[0] * self.network.n_outputs

    def value(self, weights: Tensor) -> Tensor:
        return (self.W @ self.network.forward(weights, self.X)).flatten(1)

    def paired(self, weights: Tensor, index: Tensor) -> Tensor:
        return self.value(weights).gather(1, index[:, None])[:, 0]

    def gradient(self, weights: Tensor) -> Tensor:
        jacobian = self.network.jacobian(weights, self.X)[1]
        return torch.einsum("gq,qkp->pgk", self.W, jacobian).flatten(1)


@dataclass(frozen=True)
class PredictionFunction:
    """g = func(f(X; θ)): any differentiable torch function of the predictions.

    Parameters
    ----------
    network : Network
        f.
    X : Tensor of shape (Q, D)
        The rows that ``func`` sees.
    func : callable
        Maps predictions (Q, K) to a scalar or to (G,).
    """

    network: Network
    X: Tensor
    func: Callable[[Tensor], Tensor]

    @cached_property
    def n_functionals(self) -> int:
        zeros = self.X.new_zeros(self.X.shape[0], self.network.n_outputs)
        return self.func(zeros).numel()

    def value(self, weights: Tensor) -> Tensor:
        outputs = self.network.forward(weights, self.X)
        return torch.stack([self.func(f).reshape(-1) for f in outputs])

    def paired(self, weights: Tensor, index: Tensor) -> Tensor:
        return self.value(weights).gather(1, index[:, None])[:, 0]

    def gradient(self, weights: Tensor) -> Tensor:
        with torch.enable_grad():
            w = weights.detach().clone().requires_grad_()
            values = self.value(w[None])[0]
            rows = [torch.autograd.grad(g, w, retain_graph=True)[0] for g in values]
        return torch.stack(rows, dim=1)

"""Likelihood: how the data are distributed around the network's outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from sklearn_hfl.posterior.link import log_probabilities

__all__ = ["CategoricalLikelihood", "GaussianLikelihood", "Likelihood"]


class Likelihood(Protocol):
    """p(y | f) of independent rows, each with a weight w. N rows, K outputs."""

    def loss(self, outputs: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """−Σ wₙ log p(yₙ | fₙ) in nats, (B,), for outputs (B, N, K)."""

    def score(self, outputs: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """Derivative of the loss by the outputs, (N, K), for outputs (N, K)."""

    def curvature(self, outputs: Tensor, w: Tensor, U: Tensor) -> Tensor:
        """Λ U (N, m, K), with Λ the loss's second derivative by the outputs (N, K)."""


@dataclass(frozen=True)
class GaussianLikelihood:
    """y_k ~ N(f_k, 1/β_k).

    Parameters
    ----------
    noise_precision : Tensor of shape (K,)
        β of each output.
    """

    noise_precision: Tensor

    @property
    def noise_variance(self) -> Tensor:
        return 1 / self.noise_precision

    def loss(self, outputs: Tensor, y: Tensor, w: Tensor) -> Tensor:
        beta = self.noise_precision
        squares = (beta * (outputs - y).square()).sum(-1)
        constant = y.shape[-1] * math.log(2 * math.pi) - beta.log().sum()
        return 0.5 * (w * (squares + constant)).sum(-1)

    def score(self, outputs: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return w[:, None] * self.noise_precision * (outputs - y)

    def curvature(self, outputs: Tensor, w: Tensor, U: Tensor) -> Tensor:
        return w[:, None, None] * self.noise_precision * U

    def with_precision(self, noise_precision: Tensor) -> GaussianLikelihood:
        """Return the same likelihood at another noise precision."""
        return replace(self, noise_precision=noise_precision)


@dataclass(frozen=True)
class CategoricalLikelihood:
    """p(y = c) = softmax(f)_c for y (N, K) in one-hot rows.

    A single output f is the two-class case, softmax(0, f): y (N, 1) is then 1 for
    the second class. The Gauss-Newton block Λ of a row is w (diag(p) − ppᵀ).
    """

    def loss(self, outputs: Tensor, y: Tensor, w: Tensor) -> Tensor:
        log_p = log_probabilities(outputs)
        if outputs.shape[-1] > 1:
            return -(w * (y * log_p).sum(-1)).sum(-1)
        return -(w * (log_p[..., 0] + y[:, 0] * outputs[..., 0])).sum(-1)

    def score(self, outputs: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return w[:, None] * (log_probabilities(outputs).exp()[:, -outputs.shape[-1] :] - y)

    def curvature(self, outputs: Tensor, w: Tensor, U: Tensor) -> Tensor:
        p = log_probabilities(outputs).exp()
        if outputs.shape[-1] == 1:
            return (w * p.prod(-1))[:, None, None] * U
        p = p[:, None, :]
        weighted = (w[:, None, None] * p) * U
        return weighted.addcmul_(p, weighted.sum(-1, keepdim=True), value=-1)

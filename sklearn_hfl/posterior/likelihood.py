"""Likelihood: how the data are distributed around the network's outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

__all__ = ["GaussianLikelihood", "Likelihood"]


class Likelihood(Protocol):
    """p(y | f) of independent rows, each with a weight w. N rows, K outputs."""

    @property
    def noise_variance(self) -> Tensor:
        """Variance (K,) of y around f."""

    def loss(self, outputs: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """−Σ wₙ log p(yₙ | fₙ) in nats, (B,), for outputs (B, N, K)."""

    def score(self, outputs: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """Derivative of the loss by the outputs, (N, K), for outputs (N, K)."""

    def whiten(self, outputs: Tensor, w: Tensor, jacobian: Tensor) -> Tensor:
        """R = Λ^½ J, (N, K, P): RᵀR is the Gauss-Newton matrix of the loss."""


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

    def whiten(self, outputs: Tensor, w: Tensor, jacobian: Tensor) -> Tensor:
        root = (w[:, None] * self.noise_precision).sqrt()
        return root[:, :, None] * jacobian

    def with_precision(self, noise_precision: Tensor) -> GaussianLikelihood:
        """Return the same likelihood at another noise precision."""
        return replace(self, noise_precision=noise_precision)

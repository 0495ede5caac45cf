"""Likelihood: how the data are distributed around the network's outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from sklearn_hfl.posterior.link import IDENTITY, MEAN, Link, log_probabilities

__all__ = [
    "CategoricalLikelihood",
    "GaussianLikelihood",
    "HeteroscedasticLikelihood",
    "Likelihood",
    "curvature_slope",
]

# |s| is clipped here, a factor of 1000 in the noise std, so that no noise overflows far from the
# data. Only predictions far outside the range of the training rows' noise depend on it.
MAX_LOG_CONTRAST = math.log(1000)


class Likelihood(Protocol):
    """p(y | f) of independent rows, each with a weight w. N rows, K outputs."""

    def n_outputs(self, n_targets: int) -> int:
        """K for ``n_targets`` columns of y."""

    def loss(self, outputs: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """−Σ wₙ log p(yₙ | fₙ) in nats, (B,), for outputs (B, N, K)."""

    def score(self, outputs: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """Derivative (N, K) of the loss with respect to the outputs (N, K)."""

    def curvature(self, outputs: Tensor, w: Tensor, U: Tensor) -> Tensor:
        """Λ U (N, m, K), with the loss's second derivative Λ with respect to outputs (N, K)."""

    def balance(self, mean: Tensor) -> float:
        """How much a row says relative to the most it could, given the mean y (K,) of all."""


def curvature_slope(
    likelihood: Likelihood, outputs: Tensor, w: Tensor, covariance: Tensor
) -> Tensor:
    """Derivative of ½ tr(Λ S) with respect to the outputs, for each row.

    Parameters
    ----------
    likelihood : Likelihood
        Gives Λ.
    outputs : Tensor of shape (N, K)
        Where.
    w : Tensor of shape (N,)
        Weights.
    covariance : Tensor of shape (N, K, K)
        S, held fixed.

    Returns
    -------
    Tensor of shape (N, K)
    """
    with torch.enable_grad():
        f = outputs.detach().requires_grad_()
        curved = likelihood.curvature(f, w, covariance)
        energy = 0.5 * curved.diagonal(dim1=1, dim2=2).sum()
        if not energy.requires_grad:  # Λ is constant
            return torch.zeros_like(outputs)
        (slope,) = torch.autograd.grad(energy, f)
    return slope


@dataclass(frozen=True)
class GaussianLikelihood:
    """y_k ~ N(f_k, 1/β_k).

    Parameters
    ----------
    noise_precision : Tensor of shape (K,)
        β of each output.
    """

    noise_precision: Tensor

    mean_link: ClassVar[Link] = IDENTITY
    # Whether the noise of a row depends on its outputs.
    noise_varies: ClassVar[bool] = False

    def n_outputs(self, n_targets: int) -> int:
        return n_targets

    def noise_variance(self, outputs: Tensor) -> Tensor:
        """Variance (..., K) of the noise, given the network's ``outputs``."""
        return (1 / self.noise_precision).expand_as(outputs)

    def squares(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Squared residuals (..., K)."""
        return (outputs - y).square()

    def loss(self, outputs: Tensor, y: Tensor, w: Tensor) -> Tensor:
        beta = self.noise_precision
        squares = (beta * (outputs - y).square()).sum(-1)
        constant = y.shape[-1] * math.log(2 * math.pi) - beta.log().sum()
        return 0.5 * (w * (squares + constant)).sum(-1)

    def score(self, outputs: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return w[:, None] * self.noise_precision * (outputs - y)

    def curvature(self, outputs: Tensor, w: Tensor, U: Tensor) -> Tensor:
        return w[:, None, None] * self.noise_precision * U

    def balance(self, mean: Tensor) -> float:
        return 1.0

    def with_precision(self, noise_precision: Tensor) -> Self:
        """Return the same likelihood at another noise precision."""
        return replace(self, noise_precision=noise_precision)

    def to(self, like: Tensor) -> Self:
        """Return the same likelihood in the precision and on the device of ``like``."""
        parts = {
            name: value.to(like) for name, value in vars(self).items() if torch.is_tensor(value)
        }
        return replace(self, **parts)


@dataclass(frozen=True)
class HeteroscedasticLikelihood(GaussianLikelihood):
    """y_k ~ N(m_k, σ_k²), σ_k² = exp(2 s_k) / β_k, for outputs f = (m_1 .. m_K, s_1 .. s_K).

    The level β is a hyperparameter as in ``GaussianLikelihood``, of which this is the case of
    varying s: the prior of the weights shrinks the noise to a constant. The curvature is the
    Fisher information, 1 / σ² for m and 2 for s.

    Residuals of interpolated rows are smaller than the noise. So y may hold the posterior
    variance of m, in K more columns: the loss is then the mean over that posterior, with
    (y − m)² + variance instead of (y − m)². And each squared residual is increased by κ / β
    (docs/design/heteroscedastic.md).

    Parameters
    ----------
    noise_precision : Tensor of shape (K,)
        β of each target.
    guard : Tensor of shape (K,) or float
        κ, about the minimum noise variance of a row relative to 1/β.
    constant : bool
        Set s to 0, whatever the outputs are.
    """

    guard: Tensor | float = 1e-3
    constant: bool = False
    mean_link: ClassVar[Link] = MEAN
    noise_varies: ClassVar[bool] = True

    def n_outputs(self, n_targets: int) -> int:
        return 2 * n_targets

    def _split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, s = outputs.chunk(2, dim=-1)
        return mean, torch.zeros_like(s) if self.constant else s

    def noise_variance(self, outputs: Tensor) -> Tensor:
        s = self._split(outputs)[1].clamp(-MAX_LOG_CONTRAST, MAX_LOG_CONTRAST)
        return (2 * s).exp() / self.noise_precision

    def squares(self, outputs: Tensor, y: Tensor) -> Tensor:
        mean, k = self._split(outputs)[0], len(self.noise_precision)
        squares = (mean - y[..., :k]).square()
        return squares if y.shape[-1] == k else squares + y[..., k:]

    def loss(self, outputs: Tensor, y: Tensor, w: Tensor) -> Tensor:
        beta, s = self.noise_precision, self._split(outputs)[1]
        shrunk = (-2 * s).exp()
        squares = shrunk * beta * self.squares(outputs, y) + self.guard * (shrunk - 1)
        constant = len(beta) * math.log(2 * math.pi) - beta.log().sum()
        return 0.5 * (w * ((squares + 2 * s).sum(-1) + constant)).sum(-1)

    def score(self, outputs: Tensor, y: Tensor, w: Tensor) -> Tensor:
        mean, s = self._split(outputs)
        beta, shrunk = self.noise_precision, (-2 * s).exp()
        of_mean = shrunk * beta * (mean - y[:, : len(beta)])
        of_s = 1 - shrunk * (beta * self.squares(outputs, y) + self.guard)
        if self.constant:
            of_s = torch.zeros_like(s)
        return w[:, None] * torch.cat([of_mean, of_s], -1)

    def curvature(self, outputs: Tensor, w: Tensor, U: Tensor) -> Tensor:
        s = self._split(outputs)[1]
        shrunk = (-2 * s).exp()
        of_s = torch.zeros_like(s) if self.constant else 2 * (1 + self.guard * shrunk)
        blocks = torch.cat([self.noise_precision * shrunk, of_s], -1)
        return (w[:, None] * blocks)[:, None, :] * U


@dataclass(frozen=True)
class CategoricalLikelihood:
    """p(y = c) = softmax(f)_c, for one-hot y (N, K).

    A single output f is the two-class case, softmax(0, f): y (N, 1) is then 1 for
    the second class. The Gauss-Newton block Λ of a row is w (diag(p) − ppᵀ).
    """

    def n_outputs(self, n_targets: int) -> int:
        return n_targets

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

    def balance(self, mean: Tensor) -> float:
        """Variance of the indicator of the rarest class, relative to that of equal classes."""
        p = mean if len(mean) > 1 else torch.cat([1 - mean, mean])
        equal = 1 / len(p)
        return float((p * (1 - p)).min()) / (equal * (1 - equal))

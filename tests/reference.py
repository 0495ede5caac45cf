"""Slow and obvious second implementations, which the package is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy.special import erf, expit
from scipy.stats import multivariate_normal
from torch import Tensor
from torch.distributions import Bernoulli, Normal, OneHotCategorical

from sklearn_hfl.posterior.likelihood import (
    CategoricalLikelihood,
    GaussianLikelihood,
    HeteroscedasticLikelihood,
    Likelihood,
)
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import MLP

ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "silu": lambda z: z * expit(z),
    "gelu": lambda z: 0.5 * z * (1 + erf(z / np.sqrt(2))),
    "logistic": expit,
    "identity": lambda z: z,
}


def forward(network: MLP, weights: Tensor, X: Tensor) -> Tensor:
    """Outputs (N, K) at one weight vector (P,), row by row and layer by layer."""
    rows = []
    for x in X.numpy():
        a, left = x, weights.numpy()
        sizes = network.layer_sizes
        for layer, (n_in, n_out) in enumerate(pairwise(sizes)):
            W, b, left = np.split(left, [n_in * n_out, n_in * n_out + n_out])
            a = ACTIVATIONS[network.activation](a) if layer else a
            a = W.reshape(n_out, n_in) @ a + b
        rows.append(a)
    return torch.tensor(np.array(rows))


def negative_log_posterior(lp: LogPosterior, weights: Tensor) -> Tensor:
    """L at one weight vector (P,), by torch's distributions; differentiable."""
    outputs = lp.network.forward(weights[None], lp.X)[0]
    log_likelihood = log_density(lp.likelihood, outputs, lp.y)
    prior = Normal(0.0, lp.prior.precision.rsqrt())
    log_prior = prior.log_prob(weights) - prior.log_prob(torch.zeros_like(weights))
    return -(lp.sample_weight[:, None] * log_likelihood).sum() - log_prior.sum()


def log_density(likelihood: Likelihood, outputs: Tensor, y: Tensor) -> Tensor:
    """log p(y | f) of each row and target, by torch's distributions."""
    if isinstance(likelihood, CategoricalLikelihood):
        if outputs.shape[-1] == 1:
            return Bernoulli(logits=outputs).log_prob(y)
        return OneHotCategorical(logits=outputs).log_prob(y)[..., None]
    assert isinstance(likelihood, GaussianLikelihood)
    std = likelihood.noise_precision.rsqrt()
    if not isinstance(likelihood, HeteroscedasticLikelihood):
        return Normal(outputs, std).log_prob(y)
    mean, s = outputs.chunk(2, -1)
    # The guard is an inverse gamma density of exp(2 s), 1 at s = 0.
    guard = 0.5 * likelihood.guard * (1 - (-2 * s).exp())
    return Normal(mean, std * s.exp()).log_prob(y) + guard


def fisher(likelihood: GaussianLikelihood, outputs: Tensor) -> Tensor:
    """Λ (K, K) of one row's outputs (K,)."""
    if not isinstance(likelihood, HeteroscedasticLikelihood):
        return torch.diag(likelihood.noise_precision)
    shrunk = (-2 * outputs.chunk(2)[1]).exp()
    of_log_noise = 2 + 2 * likelihood.guard * shrunk
    return torch.diag(torch.cat([likelihood.noise_precision * shrunk, of_log_noise]))


def finite_differences(function: Callable[[Tensor], Tensor], at: Tensor, h: float = 1e-5) -> Tensor:
    """Derivative of function (P,) -> (...) by central differences, (..., P)."""
    steps = h * torch.eye(len(at), dtype=at.dtype)
    return torch.stack([(function(at + s) - function(at - s)) / (2 * h) for s in steps], dim=-1)


def log_evidence(lp: LogPosterior, weights: Tensor, matrix: Tensor) -> float:
    """log p(y, θ̂) + P/2 log 2π − ½ log det M for M (P, P), not whitened, all constants counted."""
    log_prior_at_zero = Normal(0.0, lp.prior.precision.rsqrt()).log_prob(torch.tensor(0.0)).sum()
    log_joint = log_prior_at_zero - negative_log_posterior(lp, weights)
    volume = 0.5 * len(weights) * np.log(2 * np.pi) - 0.5 * torch.linalg.slogdet(matrix)[1]
    return float(log_joint + volume)


def effective_parameters(lp: LogPosterior, matrix: Tensor) -> Tensor:
    """MacKay's 1 − αᵢ [M⁻¹]ᵢᵢ of each weight, (P,)."""
    return 1 - lp.prior.precision * torch.linalg.inv(matrix).diagonal()


@dataclass(frozen=True)
class BayesianLinearRegression:
    """The exact posterior of a network without hidden layers, output by output."""

    lp: LogPosterior

    def _output(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Features (N, D+1), row precisions (N,), prior precision and index of W_k and b_k."""
        lp, d = self.lp, self.lp.X.shape[1]
        features = np.column_stack([lp.X.numpy(), np.ones(len(lp.X))])
        precision = lp.sample_weight.numpy() * float(lp.likelihood.noise_precision[k])
        index = np.append(np.arange(k * d, (k + 1) * d), lp.y.shape[1] * d + k)
        return features, precision, lp.prior.precision.numpy()[index], index

    @property
    def mean(self) -> Tensor:
        """Posterior mean (P,), packed."""
        mean = np.empty(self.lp.n_weights)
        for k, y in enumerate(self.lp.y.numpy().T):
            features, precision, _, index = self._output(k)
            mean[index] = self._weight_covariance(k) @ features.T @ (precision * y)
        return torch.tensor(mean)

    def _weight_covariance(self, k: int) -> np.ndarray:
        features, precision, alpha, _ = self._output(k)
        return np.linalg.inv((features.T * precision) @ features + np.diag(alpha))

    def variance(self, X: Tensor) -> Tensor:
        """Posterior variance (Q, K) of the outputs."""
        features = np.column_stack([X.numpy(), np.ones(len(X))])
        variances = [
            ((features @ self._weight_covariance(k)) * features).sum(1)
            for k in range(self.lp.y.shape[1])
        ]
        return torch.tensor(np.column_stack(variances))

    @property
    def log_evidence(self) -> float:
        """log p(y | X): the density of y under its Gaussian marginal, for weights of 1."""
        total = 0.0
        for k, y in enumerate(self.lp.y.numpy().T):
            features, precision, alpha, _ = self._output(k)
            marginal = (features / alpha) @ features.T + np.diag(1 / precision)
            total += multivariate_normal(cov=marginal).logpdf(y)
        return float(total)


def module_jacobian(module: torch.nn.Module, X: Tensor) -> Tensor:
    """Derivatives (N, P) of the single output of a module by its trainable parameters, each once.

    By one backward pass for each row, as torch does it by itself.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    rows = []
    for output in module(X.clone())[:, 0]:
        grads = torch.autograd.grad(output, parameters, retain_graph=True, allow_unused=True)
        pairs = zip(grads, parameters, strict=True)
        rows.append(torch.cat([(0 * p if g is None else g).reshape(-1) for g, p in pairs]))
    return torch.stack(rows).detach()

"""Exact: dense Laplace matrices, the oracle of tests and benchmarks.

A second implementation, slow and plain, that shares no derivative code with the
matrix-free one. Estimators never call it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import hessian, jacrev, vmap

from sklearn_hfl.posterior.likelihood import HeteroscedasticLikelihood, Likelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["dense_ggn", "dense_hessian", "exact_covariance"]


def dense_hessian(log_posterior: LogPosterior, weights: Tensor) -> Tensor:
    """Hessian of L, by differentiating L twice.

    Parameters
    ----------
    log_posterior : LogPosterior
        L.
    weights : Tensor of shape (P,)
        Where.

    Returns
    -------
    Tensor of shape (P, P)
        Not whitened; indefinite where L is not convex.
    """
    lp = log_posterior

    def loss(w: Tensor) -> Tensor:
        outputs = lp.network.forward(w[None], lp.X)
        data = lp.likelihood.loss(outputs, lp.targets(slice(None)), lp.sample_weight)[0]
        return data + 0.5 * (lp.prior.precision * w.square()).sum()

    return torch.autograd.functional.hessian(loss, weights)


def dense_ggn(log_posterior: LogPosterior, weights: Tensor) -> Tensor:
    """Generalised Gauss-Newton matrix Σ Jₙᵀ Λₙ Jₙ + diag(α).

    Λ is the loss's second derivative by the outputs, expected over y from the likelihood.

    Parameters
    ----------
    log_posterior : LogPosterior
        L.
    weights : Tensor of shape (P,)
        Where the network is linearised.

    Returns
    -------
    Tensor of shape (P, P)
        Not whitened.
    """
    lp = log_posterior

    def row_loss(f: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return lp.likelihood.loss(f[None, None], y[None], w[None])[0]

    total = torch.diag(lp.prior.precision)
    for rows in torch.arange(len(lp.X)).split(512):
        X, y, w = lp.X[rows], lp.y[rows], lp.sample_weight[rows]

        def outputs(v: Tensor, X: Tensor = X) -> Tensor:
            return lp.network.forward(v[None], X)[0]

        jacobian = jacrev(outputs, chunk_size=64)(weights).detach()
        f = outputs(weights)
        expected = [vmap(hessian(row_loss))(f, node, w) for node in _nodes(lp.likelihood, f, y)]
        curvature = torch.stack(expected).mean(0).detach()
        total = total + torch.einsum("nkp,nkl,nlq->pq", jacobian, curvature, jacobian)
    return total


def _nodes(likelihood: Likelihood, f: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Values of y whose mean loss is the expected one, as far as it depends on the outputs f."""
    if not isinstance(likelihood, HeteroscedasticLikelihood):
        return (y,)
    # The loss is quadratic in y, so that one std on either side of the mean is enough.
    mean, log_noise = f.chunk(2, dim=-1)
    relative = 1.0 if likelihood.constant else log_noise.exp()
    std = relative * likelihood.noise_precision.rsqrt()
    return mean - std, mean + std


def exact_covariance(matrix: Tensor, gradient: Tensor) -> Tensor:
    """Laplace covariance ∇hᵀ M⁻¹ ∇g of functionals, by a dense solve.

    Parameters
    ----------
    matrix : Tensor of shape (P, P)
        Hessian or GGN.
    gradient : Tensor of shape (P, G)
        Gradients, not whitened.

    Returns
    -------
    Tensor of shape (G, G)
    """
    return gradient.mT @ torch.linalg.solve(matrix, gradient)

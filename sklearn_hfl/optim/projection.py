"""Projection: the output layer at its optimum, for hidden layers as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_hfl.optim.subspace import positive_factor, solved_by
from sklearn_hfl.posterior.likelihood import GaussianLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import MLP, is_linear

__all__ = ["can_project", "projected"]

# Units of the last hidden layer at most: a projection takes N H² multiplications. Not tuned.
MAX_UNITS = 1000


def can_project(log_posterior: LogPosterior) -> bool:
    """Whether L is quadratic in the output layer, of a network with hidden layers.

    Parameters
    ----------
    log_posterior : LogPosterior
        L.

    Returns
    -------
    bool
    """
    network = log_posterior.network
    if not isinstance(network, MLP) or is_linear(network):
        return False
    gaussian = isinstance(log_posterior.likelihood, GaussianLikelihood)
    return gaussian and network.layer_sizes[-2] <= MAX_UNITS


def projected(log_posterior: LogPosterior, weights: Tensor) -> Tensor:
    """Replace the output layer of the means by its optimum.

    Given the hidden layers this is a ridge regression on the activations of the last, so that
    what is left of L depends on the hidden layers alone: variable projection (G. H. Golub,
    V. Pereyra, SIAM J. Numer. Anal. 10, 1973).

    Parameters
    ----------
    log_posterior : LogPosterior
        L, which ``can_project``.
    weights : Tensor of shape (P,)
        Hidden layers to keep, and the log noise where it varies.

    Returns
    -------
    Tensor of shape (P,)
        Of no larger L.
    """
    lp = log_posterior
    equations = lp.over_rows(_normal_equations, weights)
    n_targets = len(equations)
    *hidden, W, b = lp.network.packing.unpack(weights)
    *_, scale_W, scale_b = lp.network.packing.unpack(lp.prior.scale)
    scale = torch.cat([scale_W, scale_b[:, None]], 1)[:n_targets].double()
    gram = scale[:, :, None] * equations[..., :-1] * scale[:, None, :]
    gram.diagonal(dim1=1, dim2=2).add_(1)
    solved = [
        s * solved_by(positive_factor(A, float(A.max())), (s * right)[:, None])[:, 0]
        for s, A, right in zip(scale, gram, equations[..., -1], strict=True)
    ]
    optimum = torch.stack(solved).to(weights)
    W, b = W.clone(), b.clone()
    W[:n_targets], b[:n_targets] = optimum[:, :-1], optimum[:, -1]
    return lp.network.packing.pack([*hidden, W, b])


def _normal_equations(log_posterior: LogPosterior, weights: Tensor) -> Tensor:
    """Φᵀ Λ_k (Φ, y_k) of each target k, (K, H + 1, H + 2), for activations and a one, Φ.

    In double precision: where the noise is small, their condition number is that of A, and a
    solution in single precision can be worse than the weights that it replaces.
    """
    lp, network, likelihood = log_posterior, log_posterior.network, log_posterior.likelihood
    assert isinstance(network, MLP)
    assert isinstance(likelihood, GaussianLikelihood)
    n_targets = len(likelihood.noise_precision)
    *_, W, b = network.packing.unpack(weights)
    size = W.shape[1] + 1
    total = weights.new_zeros(n_targets, size, size + 1, dtype=torch.float64)
    for rows in lp.pass_blocks(extra=(n_targets + 2) * (size + 1)):
        a = network.hidden(weights, lp.X[rows])
        outputs = a @ W.mT + b
        # Λ is diagonal, the inverse variance of the noise of each target.
        ones = torch.ones_like(outputs)[:, None]
        weight = likelihood.curvature(outputs, lp.sample_weight[rows], ones)[:, 0, :n_targets]
        features = torch.cat([a, torch.ones_like(a[:, :1])], 1).double()
        for k in range(n_targets):
            both = torch.cat([features, lp.y[rows, k, None].double()], 1)
            total[k] += (features * weight[:, k, None]).mT @ both
    return total

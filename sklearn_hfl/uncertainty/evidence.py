"""Evidence: Laplace's marginal likelihood, and how many weights the data determine."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sklearn_hfl.optim.subspace import MOST_NUMBERS, Subspace
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["effective_parameters", "log_evidence"]


def effective_parameters(subspace: Subspace) -> Tensor:
    """Share of each weight that the data determine, not the prior.

    Parameters
    ----------
    subspace : Subspace
        At the MAP.

    Returns
    -------
    Tensor of shape (P,)
        Diagonal of I − A⁻¹; its sum is γ. That is V (I − T⁻¹) Vᵀ in the basis, and
        beyond it, where A is near I, A − I to second order.
    """
    size = max(1, MOST_NUMBERS // max(1, subspace.rank))
    seen = [
        basis.square().sum(1)
        - torch.linalg.solve_triangular(subspace.factor, basis.mT, upper=False).square().sum(0)
        for basis in subspace.basis.split(size)
    ]
    return torch.cat(seen).clamp(min=0.0) + subspace.unseen()


def log_evidence(log_posterior: LogPosterior, weights: Tensor, subspace: Subspace) -> float:
    """Laplace's log p(y | X) = −L(θ̂) − ½ log det A, in nats; the constants of 2π cancel.

    Parameters
    ----------
    log_posterior : LogPosterior
        L.
    weights : Tensor of shape (P,)
        θ̂.
    subspace : Subspace
        log det A is log det T and, to second order, the trace of A − I that the
        basis has not seen.

    Returns
    -------
    float
    """
    log_det = 2 * float(subspace.factor.diagonal().log().sum()) + subspace.missing
    likely = replace(log_posterior, spread=None)  # what L averages over is in A already
    return -float(likely.value(weights[None])[0]) - 0.5 * log_det

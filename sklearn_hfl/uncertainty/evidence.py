"""Evidence: Laplace's marginal likelihood, and how many weights the data determine."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from sklearn_hfl.optim.dual import Dual
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import MLP, Network

__all__ = ["log_evidence", "log_multiplicity"]

# Activations whose units can change sign with the weights that leave them.
ODD = ("tanh", "identity")


def log_evidence(log_posterior: LogPosterior, weights: Tensor, curvature: Subspace | Dual) -> float:
    """Laplace's log p(y | X) of one mode, −L(θ̂) − ½ log det A, in nats; the 2π cancel.

    Parameters
    ----------
    log_posterior : LogPosterior
        L.
    weights : Tensor of shape (P,)
        θ̂.
    curvature : Subspace or Dual
        A.

    Returns
    -------
    float
    """
    plain = replace(log_posterior, variance_of_mean=None)  # log det A accounts for it already
    return -float(plain.value(weights[None])[0]) - 0.5 * curvature.log_det


def log_multiplicity(network: Network, gamma: Tensor) -> float:
    """Log of how many modes are the same function: units swap places, and tanh its sign.

    The evidence is a sum over modes, so that it is larger by this than the part of one (Bishop,
    Neural Networks for Pattern Recognition, 1995, section 10.6). Units that the data do not
    determine lie at zero, where swapping them leads to no other mode: of H units, h that are
    determined have H! / (H − h)! places.

    Parameters
    ----------
    network : Network
        Only perceptrons have such modes.
    gamma : Tensor of shape (P,)
        Share of each weight that the data determine: the largest of those that leave a unit
        says how far it is determined, and h is their sum.

    Returns
    -------
    float
    """
    if not isinstance(network, MLP):
        return 0.0
    total = 0.0
    signs = math.log(2) if network.activation in ODD else 0.0
    for leaving in network.packing.unpack(gamma)[2::2]:
        size, determined = leaving.shape[1], float(leaving.amax(0).clamp(max=1.0).sum())
        total += determined * signs
        total += math.lgamma(size + 1) - math.lgamma(size - determined + 1)
    return total

"""Influence: how functionals of the weights change when a training row is left out."""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_hfl.optim.linear_response import LinearResponse
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.perturbed_optima import PerturbedOptima
from sklearn_hfl.optim.subspace import Galerkin
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.uncertainty.variance import accepted

__all__ = ["influence", "inverse_product"]


def inverse_product(response: LinearResponse) -> Tensor:
    """A⁻¹ G, in the middle of what is known of it, as variances and covariances are.

    Parameters
    ----------
    response : LinearResponse
        Within a subspace, for right-hand sides G (P, g).

    Returns
    -------
    Tensor of shape (P, g)
        Its product with the gradient of a functional is the covariance that ``covariance``
        gives for the two: the error is at most the tolerance of both standard deviations.
    """
    galerkin = response.galerkin
    assert isinstance(galerkin, Galerkin)
    inside, beyond = galerkin.subspace.correlated(galerkin.coefficients, galerkin.residual)
    return inside + galerkin.bounds.share * beyond


def influence(
    estimate: MapEstimate, rows: Tensor, pull: Tensor, optima: PerturbedOptima, rtol: float
) -> Tensor:
    """Changes of functionals when each of some rows is left out.

    The perturbed optima θ^{±λ} of a functional move the outputs f of row n by 2λ times their
    covariance with it. The functional moves by this covariance times the row's pull, to first
    order in the functional.

    Parameters
    ----------
    estimate : MapEstimate
        θ̂, L and its data.
    rows : Tensor of shape (n,)
        Numbers of the rows.
    pull : Tensor of shape (n, K)
        Of their ``Deletion``.
    optima : PerturbedOptima
        Of G functionals.
    rtol : float
        Relative error to which each standard deviation was to be refined.

    Returns
    -------
    Tensor of shape (G, n)
        Functional without the row less that with it. From the network's perturbed optima where
        these gave the functional's variance.
    """
    own = estimate.log_posterior.select(rows)
    blocks = GaussNewton(own, estimate.weights).output_changes(inverse_product(optima.linear))
    linear = torch.cat([_pulled(changes, pull[block]) for block, changes in blocks], 1)
    if optima.network is None:
        return linear
    use = accepted(optima, rtol)
    plus, minus = optima.network.plus[use], optima.network.minus[use]
    strength = optima.network.strength[use]
    parts = [linear.new_zeros(len(plus), 0)]
    for block in own.blocks(2 * (1 + len(plus)) * own.network.width):
        difference = own.network.forward(plus, own.X[block]) - own.network.forward(
            minus, own.X[block]
        )
        slope = difference / torch.where(strength > 0, 2 * strength, 1.0)[:, None, None]
        parts.append(_pulled(slope.transpose(0, 1), pull[block]))
    linear[use] = torch.cat(parts, 1)
    return linear


def _pulled(changes: Tensor, pull: Tensor) -> Tensor:
    """Products (G, n) of changes (n, G, K) with the pull (n, K)."""
    return torch.einsum("ngk,nk->gn", changes, pull)

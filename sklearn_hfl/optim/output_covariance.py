"""Output covariance: of all outputs at a query, without a gradient for each of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.ritz import RitzPairs
from sklearn_hfl.optim.variance_bounds import VarianceBounds, middle_share
from sklearn_hfl.posterior.link import CENTRED

__all__ = ["OutputCovariance", "output_covariance"]

# Numbers that a block of queries keeps between two layers, and the minimum of its rows, which
# share the cost of reading all weights of a direction. Work memory and time only: no result
# depends on them.
MAX_BLOCK_NUMBERS = 16_000_000
MIN_ROWS = 16


@dataclass(frozen=True)
class OutputCovariance:
    """Covariances of K centred outputs at Q queries, and the bounds of their variances.

    Attributes
    ----------
    covariance : Tensor of shape (Q, K, K)
        In the middle of bounds in the Loewner order.
    bounds : VarianceBounds
        Of the G = Q · K variances on the diagonals, outputs fastest.
    """

    covariance: Tensor
    bounds: VarianceBounds


def output_covariance(estimate: MapEstimate, pairs: RitzPairs, X: Tensor) -> OutputCovariance:
    """Covariance J A⁻¹ Jᵀ of the outputs less their mean, by products with J alone.

    A product of the Jacobian of all K outputs with a direction costs two passes of the
    network, while K gradients cost K passes. ‖r‖² is ‖g‖² less the part of it along the
    directions, and ‖g‖² is computed layer by layer.

    Parameters
    ----------
    estimate : MapEstimate
        θ̂ and the network.
    pairs : RitzPairs
        A within a subspace.
    X : Tensor of shape (Q, D)
        Queries.

    Returns
    -------
    OutputCovariance
    """
    network, scale = estimate.log_posterior.network, estimate.scale
    directions = (pairs.vectors.mT * scale).contiguous().mT
    numbers = max(1, network.width * directions.shape[1])
    size = max(MIN_ROWS, MAX_BLOCK_NUMBERS // numbers)
    parts = [_of_block(estimate, pairs, directions, rows) for rows in X.split(size)]
    covariance, inside, outside, squares = (torch.cat(part) for part in zip(*parts, strict=True))
    bounds = pairs.bounds(inside.flatten(), outside.flatten(), squares.flatten())
    return OutputCovariance(covariance, bounds)


def _of_block(
    estimate: MapEstimate, pairs: RitzPairs, directions: Tensor, X: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Covariance (q, K, K), its variance inside, ‖r‖² and ‖g‖², all (q, K)."""
    m, share = pairs.rank, middle_share(pairs.beyond)
    linear = estimate.log_posterior.network.linearize(estimate.weights, X)
    products = CENTRED.value(linear.forward(directions))
    if m == len(directions):
        covariance = products.mT @ (products / pairs.values[:, None])
        inside = covariance.diagonal(dim1=1, dim2=2)
        return covariance, inside, torch.zeros_like(inside), torch.zeros_like(inside)
    inner, outer = products[:, :m], products[:, m:]
    coupled = outer - (pairs.coupling / pairs.values.sqrt()) @ inner
    gram = linear.gram(estimate.scale.square())
    # The mean of the outputs cancels, but its rounding does not.
    squares = gram.diagonal(dim1=1, dim2=2).amax(1, keepdim=True).expand(gram.shape[:2])
    gram = CENTRED.value(CENTRED.value(gram).mT)
    # ‖r‖² = ‖g‖² − ‖Uᵀg‖² − ‖b‖² + ‖b − Hz‖² (docs/design/amortized.md); the second term below.
    beyond = gram - outer.mT @ outer + coupled.mT @ coupled
    inverse = 1 / pairs.values
    sums = inner.square().mT @ torch.stack([inverse, torch.ones_like(inverse)], dim=1)
    inside, along = sums.unbind(-1)
    outside = (beyond.diagonal(dim1=1, dim2=2) - along).clamp(min=0.0)
    covariance = share * beyond + inner.mT @ (inner * (inverse - share)[:, None])
    return covariance, inside, outside, squares

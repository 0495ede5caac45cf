"""Output covariance: of all outputs at a query, without the gradient of any."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.ritz import RitzPairs
from sklearn_hfl.optim.variance_bounds import VarianceBounds, middle_share
from sklearn_hfl.posterior.link import CENTRED

__all__ = ["OutputCovariance", "output_covariance"]

# Numbers that a block of queries keeps between two layers, and rows among which the cost of
# bringing all weights of a direction is shared.
CACHED_NUMBERS = 16_000_000
LEAST_ROWS = 16


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
    network, where K gradients take K of them. ‖r‖² is ‖g‖² less what the directions see of
    g, and ‖g‖² is known layer by layer.

    Parameters
    ----------
    estimate : MapEstimate
        θ̂ and the network.
    pairs : RitzPairs
        What is known of A.
    X : Tensor of shape (Q, D)
        Queries.

    Returns
    -------
    OutputCovariance
    """
    network, scale = estimate.log_posterior.network, estimate.scale
    directions = (pairs.vectors.mT * scale).contiguous().mT
    numbers = max(1, network.width * directions.shape[1])
    size = max(LEAST_ROWS, CACHED_NUMBERS // numbers)
    parts = [_of_block(estimate, pairs, directions, rows) for rows in X.split(size)]
    covariance, inside, outside, squares = (torch.cat(part) for part in zip(*parts, strict=True))
    bounds = pairs.bounds(inside.flatten(), outside.flatten(), squares.flatten())
    return OutputCovariance(covariance, bounds)


def _of_block(
    estimate: MapEstimate, pairs: RitzPairs, directions: Tensor, X: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Covariance (q, K, K), what is found inside and outside, and ‖g‖², all (q, K)."""
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
    # What outputs share cancels, but its rounding does not.
    squares = gram.diagonal(dim1=1, dim2=2).amax(1, keepdim=True).expand(gram.shape[:2])
    gram = CENTRED.value(CENTRED.value(gram).mT)
    # ‖r‖² is ‖g‖² less what the directions see of g, and the rest of what couples.
    beyond = gram - outer.mT @ outer + coupled.mT @ coupled
    inverse = 1 / pairs.values
    seen = inner.square().mT @ torch.stack([inverse, torch.ones_like(inverse)], dim=1)
    outside = (beyond.diagonal(dim1=1, dim2=2) - seen[..., 1]).clamp(min=0.0)
    covariance = share * beyond + inner.mT @ (inner * (inverse - share)[:, None])
    return covariance, seen[..., 0], outside, squares

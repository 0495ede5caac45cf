"""Draws: weights from the posterior of the linearised model, joint over all that they predict."""

from __future__ import annotations

from torch import Tensor

from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.variance_bounds import middle_share

__all__ = ["n_normals", "weight_draws"]


def n_normals(estimate: MapEstimate) -> int:
    """Standard normal numbers that one draw takes.

    Parameters
    ----------
    estimate : MapEstimate
        θ̂ and what is known of A.

    Returns
    -------
    int
        m + P: one for each direction of the basis, and one for each weight.
    """
    known = estimate.ritz or estimate.subspace
    return known.rank + len(estimate.weights)


def weight_draws(estimate: MapEstimate, normals: Tensor) -> Tensor:
    """Draws of θ − θ̂ whose covariance is the one that variances and covariances report.

    With R = (I − A V T⁻¹ Vᵀ) G, the residual of the Galerkin solution of A Δ = G, the
    covariance of functionals with gradients G is Gᵀ V T⁻¹ Vᵀ G + s RᵀR, where s puts it in
    the middle of its bounds. It is that of Gᵀu for

        u = V T^-½ z + s^½ (I − V T⁻¹ Vᵀ A) e,   z ~ N(0, I_m), e ~ N(0, I_P).

    Parameters
    ----------
    estimate : MapEstimate
        θ̂ and what is known of A.
    normals : Tensor of shape (S, m + P)
        Standard normal numbers, (z, e) of each draw.

    Returns
    -------
    Tensor of shape (P, S)
        Not whitened.
    """
    known = estimate.ritz or estimate.subspace
    z, e = normals.mT.split([known.rank, len(estimate.weights)])
    inside, outside = known.correlated(z, e)
    share = middle_share(known.beyond)
    return estimate.scale[:, None] * (inside + share**0.5 * outside)

"""Influence: how functionals of the weights change when a training row is left out."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sklearn_hfl.optim.linear_response import LinearResponse
from sklearn_hfl.optim.subspace import Galerkin
from sklearn_hfl.posterior.curvature import GaussNewton

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


def influence(curvature: GaussNewton, step: Tensor, pull: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Changes of functionals when each of the rows is left out, to first order in the functional.

    The perturbed optima of the functionals move the outputs of row n by J_n A⁻¹ G, which is
    the covariance of both. So the functionals move by its product with the row's pull.

    Parameters
    ----------
    curvature : GaussNewton
        With the rows.
    step : Tensor of shape (P, g)
        A⁻¹ G of the functionals, whitened.
    pull : Tensor of shape (N, K)
        Of ``Deletion``.

    Yields
    ------
    rows : slice
        A block of them.
    change : Tensor of shape (g, n)
        Functional without the row less that with it.
    """
    for rows, changes in curvature.output_changes(step):
        yield rows, torch.einsum("ngk,nk->gn", changes, pull[rows])

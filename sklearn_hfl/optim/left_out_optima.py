"""Left-out optima: the MAP of all rows but one, found by a refit for each row."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sklearn_hfl.optim.conjugate_gradients import conjugate_gradients
from sklearn_hfl.optim.lbfgs import lbfgs
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.objective import PerturbedObjective
from sklearn_hfl.optim.solution import Solution
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.functional import RowLoss

__all__ = ["left_out_covariance", "left_out_optima"]

# Where training stopped at weights at which the Hessian is indefinite, as on most real data, the
# loss without a row has no minimum nearby. A refit first solves for what the data determine, then
# slides along a valley, and its gradient grows again. It ends at the smallest gradient, after
# this many iterations without a smaller one (benchmarks/leave_one_out.py).
PATIENCE = 8
MAX_ITER = 100
# Products with A for one solve. The subspace of all rows preconditions A without one of them, and
# a few are enough: a row changes A by a matrix of rank K.
MAX_CG_ITER = 200


def left_out_optima(
    estimate: MapEstimate, rows: Tensor, one: Tensor, step: Tensor, rtol: float
) -> Solution:
    """Refit the network without each of some rows, at the same precisions.

    The MAP without a row is the perturbed optimum of the row's own loss, with λ = 1.

    Parameters
    ----------
    estimate : MapEstimate
        θ̂ and L.
    rows : Tensor of shape (B,)
        Numbers of the rows.
    one : Tensor of shape (B,)
        Weight that is left out of each.
    step : Tensor of shape (P, B)
        Whitened steps to start with, those of the linearised network.
    rtol : float
        A refit has converged when it is this share of its step away from the optimum.

    Returns
    -------
    Solution
        In whitened weights. Not all converge to ``rtol``: their ``residual`` says how many
        posterior standard deviations away from the optimum they are.
    """
    own = replace(estimate.log_posterior.select(rows), sample_weight=one)
    index = torch.arange(len(rows), device=rows.device)
    objective = PerturbedObjective.around(estimate, RowLoss(own), index, torch.ones_like(one))
    # A row without any effect ends where rounding does.
    least = torch.finfo(step.dtype).eps ** 0.5
    tol = (rtol * torch.linalg.vector_norm(step, dim=0)).clamp(min=least)
    start = objective.center + step.mT
    return lbfgs(objective, start, tol=tol, max_iter=MAX_ITER, patience=PATIENCE)


def left_out_covariance(
    estimate: MapEstimate, row: Tensor, one: Tensor, weights: Tensor, rtol: float
) -> tuple[Tensor, Tensor]:
    """Outputs of a row, and their covariance, where the network was refitted without it.

    Parameters
    ----------
    estimate : MapEstimate
        L, and a subspace of the curvature with the row.
    row : Tensor of shape ()
        Number of the row.
    one : Tensor of shape ()
        Weight that is left out of it.
    weights : Tensor of shape (P,)
        Of the refit, whitened.
    rtol : float
        Relative error to which each standard deviation is found.

    Returns
    -------
    outputs : Tensor of shape (K,)
    covariance : Tensor of shape (K, K)
    """
    lp, scale = estimate.log_posterior, estimate.scale
    outputs, jacobian = lp.network.jacobian(scale * weights, lp.X[row][None])
    gradient = scale * jacobian[0]
    weight = lp.sample_weight.clone()
    weight[row] -= one
    curvature = GaussNewton(replace(lp, sample_weight=weight), scale * weights)
    precondition = estimate.subspace.preconditioner()
    # The error of gᵀA⁻¹g falls as the square of the residual's.
    solutions = [
        conjugate_gradients(
            curvature.product, g, precondition, rtol=rtol**0.5, max_iter=MAX_CG_ITER
        )[0]
        for g in gradient
    ]
    covariance = gradient @ torch.stack(solutions, dim=1)
    return outputs[0], 0.5 * (covariance + covariance.mT)

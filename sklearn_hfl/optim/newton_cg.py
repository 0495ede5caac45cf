"""Newton-CG: damped Gauss-Newton far from the MAP, Newton near it, products only."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from sklearn_hfl.optim.krylov import BLOCK_SIZE, krylov_subspace
from sklearn_hfl.optim.solution import Callback, Trajectory, no_callback
from sklearn_hfl.optim.subspace import Subspace, stationary_radius
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["conjugate_gradients", "newton_cg"]

# Below a Newton decrement of ten posterior standard deviations the true Hessian
# takes the place of Gauss-Newton, whose convergence is linear, and slow in the flat
# valley around a MAP (docs/design/training.md).
NEWTON_REGION = 10.0
START_DAMPING = 1e2
CG_MAX_ITER = 100
# A direction that took more products than this is worth a new preconditioner, once the
# products since the last one would have paid for it: one of rank m takes as long as about
# m / 4 products with single vectors (docs/design/training.md).
CG_PATIENCE = 20
PRODUCTS_PER_RANK = 0.25


def newton_cg(
    log_posterior: LogPosterior,
    weights: Tensor,
    *,
    max_iter: int,
    tol: float,
    n_iter_no_change: int,
    decrement_tol: float,
    generator: Generator,
    preconditioner: Subspace | None = None,
    callback: Callback = no_callback,
) -> Trajectory:
    """Minimise L by Levenberg-Marquardt steps in whitened weights.

    Each step solves (B + μI) d = −∇L by conjugate gradients, preconditioned by
    a Krylov subspace of an earlier step; B is the Gauss-Newton matrix or, near the
    optimum, the Hessian of a network that has one. μ follows the ratio of actual to
    predicted decrease (Nielsen, Damping Parameter in Marquardt's Method, 1999).

    Parameters
    ----------
    log_posterior : LogPosterior
        L.
    weights : Tensor of shape (P,)
        Start.
    max_iter : int
        Most steps.
    tol : float
        End when L fell by less than ``tol`` sqrt(γ) nats a step over ``n_iter_no_change``
        steps, once the decrement is below half of what counts as stationary. Draws from
        the posterior differ in L by sqrt(γ / 2).
    n_iter_no_change : int
        See ``tol``.
    decrement_tol : float
        End when the Newton decrement, sqrt(∇Lᵀ A⁻¹ ∇L), is below this.
    generator : torch.Generator
        Source of the preconditioners' starts.
    preconditioner : Subspace or None
        Curvature known already, from other weights or precisions.
    callback : callable
        Called with the loss after each step.

    Returns
    -------
    Trajectory
    """
    scale, twice = log_posterior.prior.scale, log_posterior.network.twice_differentiable
    loss = float(log_posterior.value(weights[None])[0])
    curvature = GaussNewton(log_posterior, weights)
    gradient = curvature.gradient()
    # Where one block holds all rows of R, the preconditioner is exact and cheap enough to
    # be renewed at every step. Small fits are then reproducible to rounding, while
    # truncated CG turns 1e-16 into 1e-3 within 50 steps when the network interpolates.
    subspace = preconditioner or krylov_subspace(curvature, generator, trace_rtol=1e-2)
    exact = subspace.rank < BLOCK_SIZE
    if exact and preconditioner is not None:
        subspace = krylov_subspace(curvature, generator, trace_rtol=1e-2)
    cg_rtol = 0.01 * torch.finfo(weights.dtype).eps ** 0.5
    damping, growth = START_DAMPING, 2.0
    decrement, newton = float(torch.linalg.vector_norm(gradient)), False
    spent = 0
    curve = [loss]
    for _ in range(max_iter):
        if decrement <= decrement_tol:
            break
        gamma = max(subspace.n_effective, 1.0)
        near = decrement <= 0.5 * stationary_radius(gamma)
        if near and _stalled(curve, tol * gamma**0.5, n_iter_no_change):
            break
        undamped = _hessian(log_posterior, weights) if newton else curvature.product
        direction, n_products, indefinite = conjugate_gradients(
            _shifted(undamped, damping),
            -gradient,
            subspace.preconditioner(damping),
            rtol=cg_rtol if exact else min(0.1, decrement**0.5),
            max_iter=CG_MAX_ITER,
        )
        predicted = -float(gradient @ direction + 0.5 * direction @ undamped(direction))
        trial = weights + scale * direction
        trial_loss = float(log_posterior.value(trial[None])[0])
        actual = loss - trial_loss
        # Near the optimum the decrease drowns in the rounding of L; the model is then trusted.
        rounding = 1e-12 * max(abs(loss), 1.0)
        ratio = 1.0 if max(abs(actual), predicted) < rounding else actual / predicted
        if predicted > 0 and ratio > 1e-4:
            weights, loss = trial, trial_loss
            curvature = GaussNewton(log_posterior, weights)
            gradient = curvature.gradient()
            # A model that was seen to be indefinite has earned no longer steps, however well
            # it foretold the decrease up to where its curvature ends.
            if not (exact and indefinite):
                damping *= max(0.2, 1 - (2 * min(ratio, 1.0) - 1) ** 3)
            damping, growth = max(damping, 1e-6), 2.0
        else:
            damping, growth = max(damping, 1e-3) * growth, 2 * growth
        spent += n_products
        if exact or (n_products > CG_PATIENCE and spent > PRODUCTS_PER_RANK * subspace.rank):
            spent = 0
            subspace = krylov_subspace(curvature, generator, trace_rtol=1e-2)
        squared = float(gradient @ subspace.preconditioner()(gradient))
        # The gradient's norm bounds the decrement from above, where rounding hides the latter.
        decrement = (squared if squared > 0 else float(gradient @ gradient)) ** 0.5
        newton = twice and decrement < NEWTON_REGION and not indefinite
        curve.append(loss)
        callback(loss)
    return Trajectory(weights, tuple(curve))


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    precondition: Callable[[Tensor], Tensor],
    *,
    rtol: float,
    max_iter: int,
) -> tuple[Tensor, int, bool]:
    """Solve B x = b, and stop at negative curvature.

    Parameters
    ----------
    product : callable
        v ↦ B v.
    b : Tensor of shape (P,)
        Right-hand side.
    precondition : callable
        v ↦ M⁻¹ v.
    rtol : float
        End when sqrt(rᵀM⁻¹r) has fallen by this factor.
    max_iter : int
        Most products.

    Returns
    -------
    x : Tensor of shape (P,)
        The last iterate; the first direction when B is negative along it already.
    n_products : int
        Products by B.
    indefinite : bool
        Whether a direction of curvature ≤ 0 was met.
    """
    x, r = torch.zeros_like(b), b
    p = z = precondition(r)
    rz = start = float(r @ z)
    for n in range(max_iter):
        if rz <= rtol**2 * start or rz == 0.0:
            return x, n, False
        Bp = product(p)
        curvature = float(p @ Bp)
        if curvature <= 0.0:
            return (x if n else p), n + 1, True
        step = rz / curvature
        x, r = x + step * p, r - step * Bp
        z = precondition(r)
        rz, previous = float(r @ z), rz
        p = z + (rz / previous) * p
    return x, max_iter, False


def _shifted(product: Callable[[Tensor], Tensor], shift: float) -> Callable[[Tensor], Tensor]:
    return lambda v: product(v) + shift * v


def _hessian(log_posterior: LogPosterior, weights: Tensor) -> Callable[[Tensor], Tensor]:
    scale, hessian = log_posterior.prior.scale, log_posterior.hessian(weights)
    return lambda v: scale * hessian(scale * v)


def _stalled(curve: list[float], tol: float, n_iter_no_change: int) -> bool:
    if len(curve) <= n_iter_no_change:
        return False
    return curve[-1 - n_iter_no_change] - curve[-1] <= tol * n_iter_no_change

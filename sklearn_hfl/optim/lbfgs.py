"""L-BFGS: many independent problems at once, each with its own steps and its own end."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sklearn_hfl.optim.line_search import backtracking
from sklearn_hfl.optim.objective import Objective
from sklearn_hfl.optim.solution import Solution, Status

__all__ = ["lbfgs"]


def lbfgs(
    objective: Objective,
    start: Tensor,
    *,
    tol: Tensor,
    max_iter: int,
    memory: int = 10,
    stop: Callable[[Tensor], bool] = lambda value: False,
) -> Solution:
    """Minimise B problems from the rows of ``start``.

    Every step and every stopping decision concerns its own row alone, so a
    row's result does not depend on the rows beside it.

    Parameters
    ----------
    objective : Objective
        The problems, with a preconditioner that serves as initial inverse Hessian.
    start : Tensor of shape (B, P)
        Whitened weights.
    tol : Tensor of shape (B,)
        A row ends when sqrt(rᵀ M⁻¹ r) falls to its tolerance.
    max_iter : int
        Most iterations a row may take.
    memory : int
        Pairs kept (Nocedal & Wright, algorithm 7.4).
    stop : callable
        Called with the values of the rows at work after each iteration; true ends all of them.

    Returns
    -------
    Solution
    """
    index = torch.arange(start.shape[0], device=start.device)
    U = start.clone()
    value, gradient = objective.value_and_gradient(U, index)
    scaled = objective.precondition(gradient)
    out_U, out_value = U.clone(), value.clone()
    out_residual = _norm(gradient, scaled)
    out_iter = torch.zeros_like(index)
    status = torch.full_like(index, Status.MAX_ITER)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    accepted, stopped = torch.ones_like(value, dtype=torch.bool), False
    for n_iter in range(max_iter + 1):
        residual = _norm(gradient, scaled)
        out_U[index], out_value[index], out_residual[index] = U, value, residual
        out_iter[index] = n_iter
        finite = torch.isfinite(residual) & torch.isfinite(value)
        done = residual <= tol[index]
        status[index[~accepted]] = Status.LINE_SEARCH
        status[index[done]] = Status.CONVERGED
        status[index[~finite]] = Status.NOT_FINITE
        keep = accepted & finite & ~done
        if stopped or not keep.any() or n_iter == max_iter:
            break
        if not keep.all():
            index, U, value = index[keep], U[keep], value[keep]
            gradient, scaled = gradient[keep], scaled[keep]
            pairs = [(s[keep], y[keep], rho[keep]) for s, y, rho in pairs]
        direction = -_two_loop(objective, gradient, scaled, pairs)
        ascent = (direction * gradient).sum(1) >= 0
        direction = torch.where(ascent[:, None], -scaled, direction)
        rounding = 64 * torch.finfo(value.dtype).eps * value.abs().clamp(min=1.0)
        step = backtracking(objective, U, value, gradient, direction, index, rounding)
        s, y = step.weights - U, step.gradient - gradient
        curvature = (s * y).sum(1)
        # A pair without positive curvature gets rho = 0, which leaves it out of the recursion.
        size = torch.linalg.vector_norm(s, dim=1) * torch.linalg.vector_norm(y, dim=1)
        useful = curvature > 1e-12 * size
        pairs = [*pairs, (s, y, torch.where(useful, 1 / curvature, 0.0))][-memory:]
        U, value, gradient, accepted = step.weights, step.value, step.gradient, step.accepted
        scaled = objective.precondition(gradient)
        stopped = stop(value)
    return Solution(out_U, out_value, out_residual, out_iter, status)


def _norm(gradient: Tensor, scaled: Tensor) -> Tensor:
    return (gradient * scaled).sum(1).clamp(min=0.0).sqrt()


def _two_loop(
    objective: Objective,
    gradient: Tensor,
    scaled: Tensor,
    pairs: list[tuple[Tensor, Tensor, Tensor]],
) -> Tensor:
    """Inverse Hessian estimate times gradient, for each row (Nocedal & Wright, 7.4)."""
    if not pairs:
        return scaled
    q = gradient.clone()
    alphas = []
    for s, y, rho in reversed(pairs):
        alpha = rho * (s * q).sum(1)
        q = q - alpha[:, None] * y
        alphas.append(alpha)
    r = objective.precondition(q)
    s, y, rho = pairs[-1]
    # Scale M⁻¹ so that it reproduces the newest curvature (their eq. 7.20, preconditioned).
    yMy = (y * objective.precondition(y)).sum(1)
    gamma = torch.where((rho > 0) & (yMy > 0), 1 / (rho * yMy).clamp(min=1e-300), 1.0)
    r = gamma[:, None] * r
    for (s, y, rho), alpha in zip(pairs, reversed(alphas), strict=True):
        beta = rho * (y * r).sum(1)
        r = r + (alpha - beta)[:, None] * s
    return r

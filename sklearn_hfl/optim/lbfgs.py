"""L-BFGS: a batch of independent problems, each with its own steps and its own end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_hfl.optim.line_search import Step, backtracking
from sklearn_hfl.optim.objective import Objective
from sklearn_hfl.optim.solution import Solution, Status

__all__ = ["lbfgs"]

# Allowance for rounding in a value, in units of eps: errors of a sum grow with the square root
# of its number of terms if they are independent (N. Higham, Accuracy and Stability of Numerical
# Algorithms, section 2.8), so that this is enough for 4096 rows.
VALUE_ROUNDING = 64
# Cosine between a step and the change of the gradient: below this, rounding decides its sign.
MIN_COSINE = 1e-12


def lbfgs(
    objective: Objective,
    start: Tensor,
    *,
    tol: Tensor,
    max_iter: int,
    memory: int = 10,
    stalled: Callable[[Tensor], bool] = lambda value: False,
    patience: int | None = None,
) -> Solution:
    """Minimise B problems from the rows of ``start``.

    Every step and every decision to stop depends on its own problem alone, so that a
    result does not depend on the problems beside it.

    Parameters
    ----------
    objective : Objective
        The problems, with a preconditioner that serves as initial inverse Hessian.
    start : Tensor of shape (B, P)
        Whitened weights.
    tol : Tensor of shape (B,)
        A problem has converged when sqrt(rᵀ M⁻¹ r) is at most its tolerance.
    max_iter : int
        Maximum number of iterations.
    memory : int
        Pairs kept (Nocedal & Wright, algorithm 7.4).
    stalled : callable
        Called after each iteration with the values of the problems still running; true stops
        all of them.
    patience : int or None
        Give each problem's iterate of the smallest residual instead of its last, and stop a
        problem whose residual has had no new minimum for so many iterations.

    Returns
    -------
    Solution
    """
    index = torch.arange(start.shape[0], device=start.device)
    running = _Problems.at(objective, index, start)
    solution = Solution(
        running.weights.clone(),
        running.value.clone(),
        running.residual.clone(),
        torch.full_like(index, Status.MAX_ITER),
    )
    accepted, stop = torch.ones_like(solution.converged), False
    newest = torch.zeros_like(index)
    for n_iter in range(max_iter + 1):
        status = running.status(tol, accepted)
        better = torch.ones_like(status, dtype=torch.bool)
        if patience is not None and n_iter:
            better = running.residual < solution.residual[running.index]
            waited = ~better & (n_iter - newest[running.index] >= patience)
            status[waited & (status == Status.MAX_ITER)] = Status.STALLED
        goes_on = status == Status.MAX_ITER
        which = running.index[better]
        newest[which] = n_iter
        solution.weights[which] = running.weights[better]
        solution.value[which] = running.value[better]
        solution.residual[which] = running.residual[better]
        solution.status[running.index] = torch.where(
            goes_on & stop, torch.full_like(status, Status.STALLED), status
        )
        if stop or not goes_on.any() or n_iter == max_iter:
            break
        if not goes_on.all():
            running = running.select(goes_on)
        running, accepted = running.stepped(objective, memory)
        stop = stalled(running.value)
    return solution


@dataclass(frozen=True)
class _Problems:
    """Problems still running: where they are, and their recent steps.

    Attributes
    ----------
    index : Tensor of shape (b,)
        Their numbers among all B.
    weights, value, gradient : Tensor
        Whitened weights (b, P), objective (b,) and its gradient (b, P).
    scaled : Tensor of shape (b, P)
        M⁻¹ times the gradient.
    pairs : tuple of (s, y, rho)
        Steps s, changes of the gradient y, both (b, P), and 1 / sᵀy (b,), oldest first.
    """

    index: Tensor
    weights: Tensor
    value: Tensor
    gradient: Tensor
    scaled: Tensor
    pairs: tuple[tuple[Tensor, Tensor, Tensor], ...] = ()

    @classmethod
    def at(cls, objective: Objective, index: Tensor, weights: Tensor) -> _Problems:
        value, gradient = objective.value_and_gradient(weights, index)
        return cls(index, weights, value, gradient, objective.precondition(gradient))

    @property
    def residual(self) -> Tensor:
        """Norm of the gradient (b,) in the metric of M⁻¹."""
        return (self.gradient * self.scaled).sum(1).clamp(min=0.0).sqrt()

    def status(self, tol: Tensor, accepted: Tensor) -> Tensor:
        """Status (b,) of each problem; ``Status.MAX_ITER`` where it goes on."""
        residual = self.residual
        status = torch.full_like(self.index, Status.MAX_ITER)
        status[~accepted] = Status.NO_STEP
        status[residual <= tol[self.index]] = Status.CONVERGED
        status[~(torch.isfinite(residual) & torch.isfinite(self.value))] = Status.NOT_FINITE
        return status

    def select(self, keep: Tensor) -> _Problems:
        return _Problems(
            self.index[keep],
            self.weights[keep],
            self.value[keep],
            self.gradient[keep],
            self.scaled[keep],
            tuple((s[keep], y[keep], rho[keep]) for s, y, rho in self.pairs),
        )

    def stepped(self, objective: Objective, memory: int) -> tuple[_Problems, Tensor]:
        """The problems after one step each, and which of the steps were accepted."""
        direction = -self._inverse_hessian_times_gradient(objective)
        ascent = (direction * self.gradient).sum(1) >= 0
        direction = torch.where(ascent[:, None], -self.scaled, direction)
        eps = torch.finfo(self.value.dtype).eps
        rounding = VALUE_ROUNDING * eps * self.value.abs().clamp(min=1.0)
        step = backtracking(
            objective, self.weights, self.value, self.gradient, direction, self.index, rounding
        )
        moved = _Problems(
            self.index,
            step.weights,
            step.value,
            step.gradient,
            objective.precondition(step.gradient),
            (*self.pairs, self._pair(step))[-memory:],
        )
        return moved, step.accepted

    def _pair(self, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        s, y = step.weights - self.weights, step.gradient - self.gradient
        curvature = (s * y).sum(1)
        # A pair without positive curvature gets rho = 0, which leaves it out of the recursion.
        size = torch.linalg.vector_norm(s, dim=1) * torch.linalg.vector_norm(y, dim=1)
        return s, y, torch.where(curvature > MIN_COSINE * size, 1 / curvature, 0.0)

    def _inverse_hessian_times_gradient(self, objective: Objective) -> Tensor:
        """Estimate (b, P) by the two-loop recursion (Nocedal & Wright, algorithm 7.4)."""
        if not self.pairs:
            return self.scaled
        q = self.gradient.clone()
        alphas = []
        for s, y, rho in reversed(self.pairs):
            alpha = rho * (s * q).sum(1)
            q = q - alpha[:, None] * y
            alphas.append(alpha)
        r = objective.precondition(q)
        s, y, rho = self.pairs[-1]
        # Scale M⁻¹ so that it reproduces the newest curvature (their eq. 7.20, preconditioned).
        yMy = (y * objective.precondition(y)).sum(1)
        gamma = torch.where((rho > 0) & (yMy > 0), 1 / (rho * yMy).clamp(min=1e-300), 1.0)
        r = gamma[:, None] * r
        for (s, y, rho), alpha in zip(self.pairs, reversed(alphas), strict=True):
            beta = rho * (y * r).sum(1)
            r = r + (alpha - beta)[:, None] * s
        return r

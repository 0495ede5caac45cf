"""Solution: what a batched optimiser found, and whether to believe it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor

__all__ = ["Callback", "Solution", "Status", "Trajectory", "no_callback"]


class Status(IntEnum):
    """Why the optimiser left a row."""

    CONVERGED = 0
    MAX_ITER = 1
    LINE_SEARCH = 2
    NOT_FINITE = 3

    @property
    def reason(self) -> str:
        """The status in English."""
        return _REASONS[self]


_REASONS = {
    Status.CONVERGED: "the residual fell below its tolerance",
    Status.MAX_ITER: "the iterations ran out before the residual fell below its tolerance",
    Status.LINE_SEARCH: "no step along the search direction lowered the objective",
    Status.NOT_FINITE: "the objective or its gradient is not finite",
}


@dataclass(frozen=True)
class Solution:
    """Optima of B independent problems.

    Attributes
    ----------
    weights : Tensor of shape (B, P)
        Whitened weights.
    value : Tensor of shape (B,)
        Objective there.
    residual : Tensor of shape (B,)
        sqrt(rᵀ M⁻¹ r) for the gradient r and the preconditioner M: the distance
        to the optimum in posterior standard deviations when M is the curvature.
    n_iter : Tensor of shape (B,)
        Iterations taken.
    status : Tensor of shape (B,)
        A ``Status`` for each row.
    """

    weights: Tensor
    value: Tensor
    residual: Tensor
    n_iter: Tensor
    status: Tensor

    @property
    def converged(self) -> Tensor:
        """Rows (B,) whose residual met its tolerance."""
        return self.status == Status.CONVERGED


Callback = Callable[[float], None]


def no_callback(loss: float) -> None:
    """Ignore the loss: the default callback of a training."""


@dataclass(frozen=True)
class Trajectory:
    """Where a training ended, and the losses on its way.

    Attributes
    ----------
    weights : Tensor of shape (P,)
        Last weights, not whitened.
    curve : tuple of float
        L at the start and after each step, in nats.
    """

    weights: Tensor
    curve: tuple[float, ...]

    @property
    def n_iter(self) -> int:
        """Steps taken."""
        return len(self.curve) - 1

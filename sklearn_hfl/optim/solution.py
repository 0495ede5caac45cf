"""Solution: the optima of a batch of problems, and why the search for each of them ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor

__all__ = ["Solution", "Status"]


class Status(IntEnum):
    """Why an optimiser stopped, of one problem of a batch or of a training."""

    CONVERGED = 0
    MAX_ITER = 1
    STALLED = 2
    NO_STEP = 3
    NOT_FINITE = 4

    @property
    def reason(self) -> str:
        """The status in English, to follow "since"."""
        return _REASONS[self]


_REASONS = {
    Status.CONVERGED: "the gradient fell below its tolerance",
    Status.MAX_ITER: "max_iter was reached",
    Status.STALLED: "the loss fell by less than tol per step",
    Status.NO_STEP: "no step along the search direction lowered the loss",
    Status.NOT_FINITE: "the loss or its gradient is not finite",
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
    status : Tensor of shape (B,)
        A ``Status`` for each problem.
    """

    weights: Tensor
    value: Tensor
    residual: Tensor
    status: Tensor

    @property
    def converged(self) -> Tensor:
        """Problems (B,) whose residual is within its tolerance."""
        return self.status == Status.CONVERGED

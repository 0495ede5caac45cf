"""L-BFGS trainer: L itself as the only problem of the batched L-BFGS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from sklearn_hfl.optim.lbfgs import lbfgs
from sklearn_hfl.optim.objective import MapObjective
from sklearn_hfl.optim.solution import Status
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.optim.training import (
    Callback,
    Trainer,
    Trajectory,
    no_callback,
    recent_decrease,
)
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["LBFGS"]


@dataclass(frozen=True)
class LBFGS(Trainer):
    """L-BFGS in whitened weights.

    ``tol`` is in nats. Training has converged when the norm of the whitened gradient is
    at most ``decrement_tol``.
    """

    name: ClassVar[str] = "lbfgs"

    def train(
        self,
        log_posterior: LogPosterior,
        weights: Tensor,
        generator: Generator,
        callback: Callback = no_callback,
        preconditioner: Subspace | None = None,
    ) -> Trajectory:
        """Lower L: see ``Trainer.train``."""
        scale = log_posterior.prior.scale
        curve = [float(log_posterior.value(weights[None])[0])]

        def stalled(value: Tensor) -> bool:
            curve.append(float(value[0]))
            callback(loss=curve[-1])
            return recent_decrease(curve, self.n_iter_no_change) < self.tol * self.n_iter_no_change

        solution = lbfgs(
            MapObjective(log_posterior),
            (weights / scale)[None],
            tol=weights.new_full((1,), self.decrement_tol),
            max_iter=self.max_iter,
            stalled=stalled,
        )
        status = Status(int(solution.status[0]))
        return Trajectory(scale * solution.weights[0], tuple(curve), status)

"""L-BFGS trainer: L itself as the only problem of the batched L-BFGS, with curvature known."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from sklearn_hfl.optim.krylov import krylov_subspace
from sklearn_hfl.optim.lbfgs import lbfgs
from sklearn_hfl.optim.objective import MapObjective
from sklearn_hfl.optim.solution import Status
from sklearn_hfl.optim.subspace import Subspace, stationary_radius
from sklearn_hfl.optim.training import (
    Callback,
    Trainer,
    Trajectory,
    no_callback,
    recent_decrease,
)
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["LBFGS"]

# L-BFGS iterations that count as one step: on Friedman's problem (1 000 to 20 000 rows) so many
# lower the loss about as far as one Newton-CG step (docs/design/training.md).
ITERATIONS_PER_STEP = 5
# Steps after which the preconditioner is computed again where the weights are now.
STEPS_PER_PRECONDITIONER = 20
# Pairs of steps and gradients, more than for queries: the preconditioner is older.
MEMORY = 20


@dataclass(frozen=True)
class LBFGS(Trainer):
    """L-BFGS in whitened weights, preconditioned by a subspace of the curvature.

    A step is ``ITERATIONS_PER_STEP`` iterations. Training converges and stalls as that of
    ``NewtonCG`` does, in the same units.
    """

    def train(
        self,
        log_posterior: LogPosterior,
        weights: Tensor,
        generator: Generator,
        callback: Callback = no_callback,
        preconditioner: Subspace | None = None,
    ) -> Trajectory:
        """Lower L: see ``Trainer.train``."""
        curve = [float(log_posterior.value(weights[None])[0])]
        subspace, status = preconditioner, Status.MAX_ITER
        while len(curve) <= self.max_iter:
            if subspace is None:
                curvature = GaussNewton(log_posterior, weights)
                subspace = krylov_subspace(curvature, generator, trace_rtol=1e-2)
            steps = min(STEPS_PER_PRECONDITIONER, self.max_iter + 1 - len(curve))
            weights, status = self._stage(log_posterior, weights, subspace, steps, curve, callback)
            if status is not Status.MAX_ITER:
                break
            subspace = None
        return Trajectory(weights, tuple(curve), status)

    def _stage(
        self,
        log_posterior: LogPosterior,
        weights: Tensor,
        subspace: Subspace,
        steps: int,
        curve: list[float],
        callback: Callback,
    ) -> tuple[Tensor, Status]:
        """Lower L with one preconditioner; losses are appended to ``curve``."""
        scale, gamma = log_posterior.prior.scale, max(subspace.n_effective, 1.0)
        n_iter, before = 0, len(curve) - 1
        enough = self.tol * gamma**0.5 * self.n_iter_no_change

        def stalled(value: Tensor) -> bool:
            nonlocal n_iter
            n_iter += 1
            if n_iter % ITERATIONS_PER_STEP == 0:
                curve.append(float(value[0]))
                callback(curve[-1])
            # Within a stage: the last preconditioner may have been the reason.
            return recent_decrease(curve[before:], self.n_iter_no_change) <= enough

        solution = lbfgs(
            MapObjective(log_posterior, subspace),
            (weights / scale)[None],
            tol=weights.new_full((1,), self.decrement_tol),
            max_iter=steps * ITERATIONS_PER_STEP,
            memory=MEMORY,
            stalled=stalled,
        )
        weights, status = scale * solution.weights[0], Status(int(solution.status[0]))
        if n_iter % ITERATIONS_PER_STEP:
            curve.append(float(solution.value[0]))
            callback(curve[-1])
        near = float(solution.residual[0]) <= 0.5 * stationary_radius(gamma)
        if status is Status.STALLED and not near:
            status = Status.MAX_ITER  # the preconditioner is too old, or the valley too flat
        return weights, status

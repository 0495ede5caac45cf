"""Training: lowering L by one of the solvers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from sklearn_hfl.optim.adam import adam
from sklearn_hfl.optim.lbfgs import lbfgs
from sklearn_hfl.optim.newton_cg import newton_cg
from sklearn_hfl.optim.objective import MapObjective
from sklearn_hfl.optim.solution import Callback, Trajectory, no_callback
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["Trainer"]


@dataclass(frozen=True)
class Trainer:
    """A solver with its settings.

    Parameters
    ----------
    solver : {"newton-cg", "lbfgs", "adam"}
        Which.
    max_iter : int
        Most steps (newton-cg, lbfgs) or passes (adam).
    tol : float
        Least progress, see the solvers.
    n_iter_no_change : int
        Steps or passes without progress before the end.
    decrement_tol : float
        Newton decrement that ends newton-cg, gradient norm that ends lbfgs.
    batch_size, learning_rate : int, float
        Of adam.
    validation_rows : Tensor or None
        Mask (N,) of the rows that adam holds out to decide when to stop.
    """

    solver: str
    max_iter: int
    tol: float
    n_iter_no_change: int
    decrement_tol: float = 1e-8
    batch_size: int = 200
    learning_rate: float = 1e-3
    validation_rows: Tensor | None = None

    def train(
        self,
        log_posterior: LogPosterior,
        weights: Tensor,
        generator: Generator,
        callback: Callback = no_callback,
        preconditioner: Subspace | None = None,
    ) -> Trajectory:
        """Lower L from ``weights`` (P,).

        Parameters
        ----------
        log_posterior : LogPosterior
            L.
        weights : Tensor of shape (P,)
            Start.
        generator : torch.Generator
            Source of randomness.
        callback : callable
            Called with the loss after each step.
        preconditioner : Subspace or None
            Curvature known already; newton-cg alone uses it.

        Returns
        -------
        Trajectory
        """
        if self.solver == "newton-cg":
            return newton_cg(
                log_posterior,
                weights,
                max_iter=self.max_iter,
                tol=self.tol,
                n_iter_no_change=self.n_iter_no_change,
                decrement_tol=self.decrement_tol,
                generator=generator,
                preconditioner=preconditioner,
                callback=callback,
            )
        if self.solver == "adam":
            training, validation = log_posterior, None
            if self.validation_rows is not None:
                training = log_posterior.select(~self.validation_rows)
                validation = log_posterior.select(self.validation_rows)
            return adam(
                training,
                weights,
                max_iter=self.max_iter,
                tol=self.tol,
                n_iter_no_change=self.n_iter_no_change,
                batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                validation=validation,
                generator=generator,
                callback=callback,
            )
        return self._lbfgs(log_posterior, weights, callback)

    def _lbfgs(
        self, log_posterior: LogPosterior, weights: Tensor, callback: Callback
    ) -> Trajectory:
        scale = log_posterior.prior.scale
        curve = [float(log_posterior.value(weights[None])[0])]

        def record(value: Tensor) -> bool:
            curve.append(float(value[0]))
            callback(curve[-1])
            recent = curve[-1 - self.n_iter_no_change :]
            return len(recent) > self.n_iter_no_change and (
                recent[0] - recent[-1] < self.tol * self.n_iter_no_change
            )

        tol = weights.new_full((1,), self.decrement_tol)
        solution = lbfgs(
            MapObjective(log_posterior),
            (weights / scale)[None],
            tol=tol,
            max_iter=self.max_iter,
            stop=record,
        )
        return Trajectory(scale * solution.weights[0], tuple(curve))

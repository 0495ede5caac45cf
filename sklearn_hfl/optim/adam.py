"""Adam: mini-batch training, for data that outgrow full passes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from sklearn_hfl.optim.solution import Status
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.optim.training import Callback, Trainer, Trajectory, no_callback
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["Adam"]

# Ten passes over few rows are few steps, of the learning rate each, that hardly move the weights:
# precisions would be learned, and training end, where it started. On curved functions of 60 to 3000
# rows, 100 and 400 do about as well.
MIN_BATCHES = 200
# Rounds that the passes are enough for, at least.
MIN_ROUNDS = 20


@dataclass(frozen=True)
class Adam(Trainer):
    """Adam over shuffled mini-batches.

    A pass counts as progress when the watched loss, that of the held-out rows if there are
    any, falls by more than ``tol`` nats per row. The weights of the pass with the lowest
    watched loss are returned, the start among them.

    Parameters
    ----------
    batch_size : int
        Rows per step.
    learning_rate : float
        Adam's step size.
    validation_rows : Tensor of shape (N,) or None
        Mask of the rows that are held out to decide when to stop.
    min_batches : int
        Of each round, and of the passes without progress that end the training, at least.
    """

    name: ClassVar[str] = "adam"
    takes_all_rows: ClassVar[bool] = False
    batch_size: int = 200
    learning_rate: float = 1e-3
    validation_rows: Tensor | None = None
    min_batches: int = MIN_BATCHES

    def steps_of_round(self, n_steps: int, n_rows: int) -> int:
        """Passes between two updates of the precisions: see ``Trainer.steps_of_round``."""
        few = self.max_iter // MIN_ROUNDS
        return max(n_steps, min(few, self._passes_of(self.min_batches, n_rows)))

    def _passes_of(self, n_batches: int, n_rows: int) -> int:
        return math.ceil(n_batches / math.ceil(n_rows / self.batch_size))

    def train(
        self,
        log_posterior: LogPosterior,
        weights: Tensor,
        generator: Generator,
        callback: Callback = no_callback,
        preconditioner: Subspace | None = None,
    ) -> Trajectory:
        """Lower L: see ``Trainer.train``."""
        training, validation = log_posterior, None
        if self.validation_rows is not None:
            training = log_posterior.select(~self.validation_rows)
            validation = log_posterior.select(self.validation_rows)
        n_watched = float((validation or training).sample_weight.sum())
        curve = [float(training.value(weights[None])[0])]

        def watched(current: Tensor) -> float:
            return (_data_term(validation, current) if validation else curve[-1]) / n_watched

        at_start = watched(weights)
        best, best_weights, idle = math.inf, weights, 0
        patience = max(self.n_iter_no_change, self._passes_of(self.min_batches, training.n_rows))
        for current in self._passes(training, weights, generator):
            curve.append(float(training.value(current[None])[0]))
            callback(loss=curve[-1])
            loss = watched(current)
            idle = 0 if loss < best - self.tol else idle + 1
            if loss < best:
                best, best_weights = loss, current
            if idle >= patience:
                break
        if not math.isfinite(curve[-1]):
            status = Status.NOT_FINITE
        else:
            status = Status.STALLED if idle >= patience else Status.MAX_ITER
        return Trajectory(best_weights if best < at_start else weights, tuple(curve), status)

    def _passes(
        self, log_posterior: LogPosterior, weights: Tensor, generator: Generator
    ) -> Iterator[Tensor]:
        """Yield the weights after each of ``max_iter`` passes over the data."""
        n = len(log_posterior.X)
        w = weights.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([w], lr=self.learning_rate)
        for _ in range(self.max_iter):
            order = torch.randperm(n, generator=generator).to(log_posterior.X.device)
            for rows in order.split(self.batch_size):
                batch = replace(
                    log_posterior.select(rows),
                    # Each batch stands for all the data, so that the prior keeps its weight.
                    sample_weight=log_posterior.sample_weight[rows] * (n / len(rows)),
                )
                # The mean loss has gradients of order one, as Adam's epsilon assumes.
                w.grad = batch.value_and_gradient(w.detach()[None])[1][0] / n
                optimizer.step()
            yield w.detach().clone()


def _data_term(log_posterior: LogPosterior, weights: Tensor) -> float:
    """Loss of held-out rows without the prior, which belongs to all rows."""
    return float(log_posterior.value(weights[None])[0]) - float(log_posterior.prior.energy(weights))

"""Adam: mini-batch training, for data that outgrow full passes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from sklearn_hfl.optim.solution import Callback, Trajectory, no_callback
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["adam"]


def adam(
    log_posterior: LogPosterior,
    weights: Tensor,
    *,
    max_iter: int,
    tol: float,
    n_iter_no_change: int,
    batch_size: int,
    learning_rate: float,
    validation: LogPosterior | None,
    generator: Generator,
    callback: Callback = no_callback,
) -> Trajectory:
    """Minimise L by Adam over shuffled mini-batches.

    Parameters
    ----------
    log_posterior : LogPosterior
        L.
    weights : Tensor of shape (P,)
        Start.
    max_iter : int
        Most passes over the data.
    tol : float
        A pass counts as progress when the watched loss falls by more than this, in nats a row.
    n_iter_no_change : int
        End after so many passes without progress.
    batch_size : int
        Rows a step.
    learning_rate : float
        Adam's step size.
    validation : LogPosterior or None
        Held-out rows whose loss is watched; without it the training loss is.
    generator : torch.Generator
        Source of the shuffles.
    callback : callable
        Called with the loss after each pass.

    Returns
    -------
    Trajectory
        Weights of the pass with the best watched loss.
    """
    n = log_posterior.X.shape[0]
    w = weights.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([w], lr=learning_rate)
    watched = validation or log_posterior
    per_row = 1 / float(watched.sample_weight.sum())
    curve = [float(log_posterior.value(weights[None])[0])]
    best, best_weights, idle = float("inf"), weights, 0
    for _ in range(max_iter):
        order = torch.randperm(n, generator=generator).to(log_posterior.X.device)
        for rows in order.split(batch_size):
            batch = replace(
                log_posterior.select(rows),
                # Each batch stands for all the data, so that the prior keeps its weight.
                sample_weight=log_posterior.sample_weight[rows] * (n / len(rows)),
            )
            # The mean loss has gradients of order one, which is what Adam's epsilon expects.
            w.grad = batch.value_and_gradient(w.detach()[None])[1][0] / n
            optimizer.step()
        current = w.detach().clone()
        curve.append(float(log_posterior.value(current[None])[0]))
        callback(curve[-1])
        loss = float(watched.value(current[None])[0])
        if validation is not None:
            # Held-out rows are few, and the prior belongs to all: their data term alone counts.
            loss -= float(validation.prior.energy(current))
        loss *= per_row
        idle = 0 if loss < best - tol else idle + 1
        if loss < best:
            best, best_weights = loss, current
        if idle >= n_iter_no_change:
            break
    return Trajectory(best_weights, tuple(curve))

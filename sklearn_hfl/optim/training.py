"""Training: the interface of the solvers that find a MAP, and their result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Generator, Tensor

from sklearn_hfl.optim.solution import Status
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["Callback", "Trainer", "Trajectory", "no_callback", "recent_decrease"]


class Callback(Protocol):
    """Takes what is worth showing while a fit runs."""

    def __call__(self, **facts: float | str) -> None:
        """Take the ``loss`` after each step, in nats, or a fact that is new.

        These are ``distance``, at most so many posterior standard deviations from the MAP,
        ``phase`` and ``evidence``, in nats.
        """


def no_callback(**facts: float | str) -> None:
    """Ignore all: the default callback of a training."""


@dataclass(frozen=True)
class Trajectory:
    """Where a training ended, and the losses on its way.

    Attributes
    ----------
    weights : Tensor of shape (P,)
        Last weights (of "adam", the best), not whitened.
    curve : tuple of float
        L at the start and after each step, in nats.
    status : Status
        Why it ended.
    """

    weights: Tensor
    curve: tuple[float, ...]
    status: Status

    @property
    def n_iter(self) -> int:
        """Steps taken."""
        return len(self.curve) - 1


@dataclass(frozen=True)
class Trainer(ABC):
    """A solver that lowers L, and when it stops.

    Parameters
    ----------
    max_iter : int
        Maximum number of steps (of "adam": passes over the data).
    tol : float
        Decrease of the loss per step below which training stops, in the solver's unit.
    n_iter_no_change : int
        Number of steps over which the decrease is averaged (of "adam": passes without one).
    decrement_tol : float
        Distance to the optimum at which training has converged; not used by "adam".
    """

    max_iter: int
    tol: float
    n_iter_no_change: int
    decrement_tol: float = 1e-8
    name: ClassVar[str]
    takes_all_rows: ClassVar[bool] = True  # in each step

    def described(self, log_posterior: LogPosterior) -> str:
        """Name of the solver, and how it takes the curvature of this L where it does."""
        return self.name

    def steps_of_round(self, n_steps: int, n_rows: int) -> int:
        """Steps between two updates of the precisions, ``n_steps`` or more."""
        return n_steps

    @abstractmethod
    def train(
        self,
        log_posterior: LogPosterior,
        weights: Tensor,
        generator: Generator,
        callback: Callback = no_callback,
        preconditioner: Subspace | None = None,
    ) -> Trajectory:
        """Lower L from ``weights``.

        Parameters
        ----------
        log_posterior : LogPosterior
            L.
        weights : Tensor of shape (P,)
            Start, not whitened.
        generator : torch.Generator
            Source of randomness.
        callback : callable
            Called after each step.
        preconditioner : Subspace or None
            Curvature known from other weights or precisions; used by "newton-cg" alone.

        Returns
        -------
        Trajectory
        """


def recent_decrease(curve: Sequence[float], n_iter_no_change: int) -> float:
    """Nats by which the loss fell over the last ``n_iter_no_change`` steps; inf before those."""
    if len(curve) <= n_iter_no_change:
        return float("inf")
    return curve[-1 - n_iter_no_change] - curve[-1]

"""Trained: a network with the weights that it was trained to elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Generator, Tensor

from sklearn_hfl._ensemble.threads import few_threads
from sklearn_hfl.optim.training import Trainer
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.module import seeded
from sklearn_hfl.posterior.network import Network
from sklearn_hfl.uncertainty.post_hoc import with_precisions
from sklearn_hfl.uncertainty.precisions import EvidenceOptions

__all__ = ["Start", "Trained"]

Start = Callable[[Tensor, int, Generator], tuple[Network, Tensor]]


@dataclass(frozen=True)
class Trained:
    """A network with the weights that it was trained to.

    Attributes
    ----------
    start : callable
        (X, n_outputs, generator) -> network and weights.
    polish : bool
        Whether to train on.
    alpha : float or None
        Penalty that training minimised, α of squared error + α ‖W‖² or of log loss + ½ α ‖W‖²,
        from which the prior follows; None takes the estimator's prior.
    classes : ndarray or None
        Labels in the order of the outputs, where known.
    """

    start: Start
    polish: bool
    alpha: float | None = None
    classes: NDArray[Any] | None = None

    def check_classes(self, classes: NDArray[Any]) -> None:
        """Compare the labels of y with those of the network."""
        if self.classes is not None and not np.array_equal(self.classes, classes):
            raise ValueError(
                f"mlp was trained on the classes {self.classes.tolist()}, but y has "
                f"{classes.tolist()}. Pass the data that it was trained on."
            )

    def begin(self, X: Tensor, n_outputs: int, generator: Generator) -> tuple[Network, Tensor]:
        """Network and weights; torch's global generator is left as it was."""
        with seeded(generator.initial_seed()):
            return self.start(X, n_outputs, generator)

    def trainer(self, trainer: Trainer) -> Trainer:
        """Return the trainer, without steps where the weights are not to be polished."""
        return trainer if self.polish else replace(trainer, max_iter=0)

    def with_precisions(
        self,
        log_posterior: LogPosterior,
        weights: Tensor,
        generator: Generator,
        options: EvidenceOptions,
    ) -> LogPosterior:
        """Return L with the precisions that belong to the weights as they are."""
        with few_threads(log_posterior.n_residuals, log_posterior.n_weights):
            return with_precisions(log_posterior, weights, self.alpha, options, generator)

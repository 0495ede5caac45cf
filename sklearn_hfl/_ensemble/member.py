"""Member: one MAP estimate of a fit with its Laplace posterior."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.solution import Status
from sklearn_hfl.posterior.likelihood import (
    GaussianLikelihood,
    HeteroscedasticLikelihood,
    Likelihood,
)
from sklearn_hfl.posterior.linearization import Linearization
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import MLP, ModuleNetwork, Network
from sklearn_hfl.posterior.prior import GaussianPrior
from sklearn_hfl.uncertainty.alternation import Fit
from sklearn_hfl.uncertainty.diagnostics import Diagnostics
from sklearn_hfl.uncertainty.precisions import EvidenceOptions

__all__ = ["Asked", "Member", "Resumed", "asked_for"]

# Precisions that were learned from fewer or more rows, by this factor, are searched for again.
MAX_GROWTH = 1.5


class Asked(NamedTuple):
    """What a fit was asked for.

    Attributes
    ----------
    model : tuple
        Network and units, in which weights have a meaning.
    given : tuple
        What else precisions depend on that are learned: likelihood, and those that are given.
    """

    model: tuple[object, ...]
    given: tuple[object, ...]


class Resumed(NamedTuple):
    """An earlier fit, to go on from.

    Attributes
    ----------
    fit : Fit
        Its model, precisions and weights, on the rows of the new one.
    facts : Diagnostics
        On the rows of its own.
    same_rows : bool
        Whether these are known to be the same rows.
    """

    fit: Fit
    facts: Diagnostics
    same_rows: bool


@dataclass(frozen=True)
class Member:
    """One MAP with its own Laplace posterior.

    Attributes
    ----------
    estimate : MapEstimate
        Weights, log posterior and subspace.
    diagnostics : Diagnostics
        Facts of the fit.
    loss_curve : tuple of float
        L on the way, in nats.
    shift : Tensor of shape (P,) or None
        From the MAP to the posterior mean, where the likelihood makes them differ.
    status : Status
        Why training ended.
    solver : str
        Which solver trained it, and how it took the curvature.
    place : int
        Which of the fit's seeds it started from. Members left out leave gaps.
    asked : Asked or None
        What the fit was asked for.
    n_rows : float
        Rows that its precisions were learned from, each counted by its weight.
    """

    estimate: MapEstimate
    diagnostics: Diagnostics
    loss_curve: tuple[float, ...]
    shift: Tensor | None = None
    status: Status = Status.MAX_ITER
    solver: str = ""
    place: int = 0
    asked: Asked | None = None
    n_rows: float = 0.0

    def __repr__(self) -> str:
        """Facts, without the tensors."""
        sizes = self.hidden_layer_sizes
        return (
            f"Member({'' if sizes is None else f'hidden_layer_sizes={sizes}, '}"
            f"n_weights={self.network.n_weights}, status={self.status.name.lower()}, "
            f"log_evidence={self.diagnostics.log_evidence:.6g})"
        )

    @property
    def hidden_layer_sizes(self) -> tuple[int, ...] | None:
        """Units of each hidden layer, none where the linear model is kept; None of a module."""
        return self.network.layer_sizes[1:-1] if isinstance(self.network, MLP) else None

    @property
    def facts(self) -> dict[str, Any]:
        """What ``diagnostics_`` has of it, for JSON too."""
        sizes = self.hidden_layer_sizes
        return {
            **asdict(self.diagnostics),
            "hidden_layer_sizes": None if sizes is None else list(sizes),
            "solver": self.solver,
            "n_iter": len(self.loss_curve) - 1,
            "training_ended": self.status.reason,
        }

    @property
    def solver_name(self) -> str:
        """The solver, without how it took the curvature."""
        return self.solver.partition(",")[0]

    @property
    def network(self) -> Network:
        """Network of the MAP estimate."""
        return self.estimate.log_posterior.network

    @property
    def n_outputs(self) -> int:
        """Outputs of the network."""
        return self.network.n_outputs

    def mean_outputs(self, linear: Linearization) -> Tensor:
        """Outputs (Q, K) at the posterior mean, which is not the MAP where there is a shift."""
        if self.shift is None:
            return linear.outputs
        return linear.outputs + linear.forward(self.shift[:, None])[:, 0]

    def with_data(self, X: Tensor, y: Tensor, weight: Tensor) -> Member:
        """Share training rows that are held already."""
        if self.estimate.log_posterior.chunks is not None:
            return self
        return self._with(X=X, y=y, sample_weight=weight)

    def within(self, memory_limit: float) -> Member:
        """Answer queries within so many bytes."""
        same = memory_limit == self.estimate.log_posterior.memory_limit
        return self if same else self._with(memory_limit=memory_limit)

    def starts(self, log_posterior: LogPosterior, weights: Tensor, asked: Asked) -> Tensor:
        """Weights (P,) to start a fit of ``log_posterior`` from: these if they fit, else those."""
        same = self.asked is not None and asked.model == self.asked.model
        fits = same and self._has_groups_of(log_posterior)
        return self.estimate.weights.to(weights) if fits else weights

    def resumed(
        self, log_posterior: LogPosterior, options: EvidenceOptions, asked: Asked
    ) -> Resumed | None:
        """Model, learned precisions and weights found here, on the rows of ``log_posterior``.

        None where something else was asked for, of far fewer or more rows, where the steps ended
        before the network was tried, or where a linear model was kept of other rows: the network
        may be better on these. The fit has ended unless steps were missing: at a kink more of them
        bring nothing.
        """
        old, new = self.estimate.log_posterior, log_posterior
        # Without its data a fit of varying noise lacks the variance that L averages over.
        lost = (
            isinstance(old.likelihood, HeteroscedasticLikelihood)
            and not old.likelihood.constant
            and old.variance_of_mean is None
        )
        growth = float(new.total_weight) / self.n_rows if self.n_rows else math.inf
        alike = asked == self.asked and 1 / MAX_GROWTH <= growth <= MAX_GROWTH
        if not (alike and self.diagnostics.finished) or lost:
            return None
        # A fit may have kept the network's linear model.
        same, same_rows = self._has_groups_of(new), _same_rows(old, new)
        if not (same or same_rows):
            return None
        prior, likelihood = new.prior, new.likelihood
        if options.prior:
            prior = GaussianPrior(
                old.prior.group_precision.to(new.X), old.prior.groups.to(new.X.device)
            )
        if isinstance(old.likelihood, GaussianLikelihood) and options.noise:
            likelihood = old.likelihood.to(new.X)
        resumed = replace(
            new,
            network=new.network if same else old.network,
            prior=prior,
            likelihood=likelihood,
            variance_of_mean=old.variance_on(new),
        )
        ended = self.diagnostics.stationary or self.status is not Status.MAX_ITER
        weights = self.estimate.weights.to(new.X)
        fit = Fit(resumed, weights, ended=ended, learned_from=self.n_rows)
        return Resumed(fit, self.diagnostics, same_rows)

    def without_data(self, rtol: float) -> Member:
        """Keep what answers queries to ``rtol``, and no training rows."""
        return replace(self, estimate=self.estimate.without_data(rtol))

    def _has_groups_of(self, log_posterior: LogPosterior) -> bool:
        groups = self.estimate.log_posterior.prior.groups
        return groups.names == log_posterior.prior.groups.names and (
            groups.labels.shape == log_posterior.prior.groups.labels.shape
        )

    def _with(self, **changes: Any) -> Member:
        log_posterior = replace(self.estimate.log_posterior, **changes)
        return replace(self, estimate=replace(self.estimate, log_posterior=log_posterior))


def _same_rows(old: LogPosterior, new: LogPosterior) -> bool:
    """Whether both hold the same rows; of rows on a cluster that is not known."""
    if old.chunks is not None or new.chunks is not None:
        return False
    pairs = (old.X, new.X), (old.y, new.y), (old.sample_weight, new.sample_weight)
    return all(torch.equal(a.to(b), b) for a, b in pairs)


def asked_for(
    network: Network,
    module: object,
    units: tuple[object, object],
    likelihood: Likelihood,
    *given: object,
) -> Asked:
    """What a warm start has to agree with.

    Parameters
    ----------
    network : Network
        Before a search may replace it by its linear model.
    module : callable or None
        What made it.
    units : tuple of (Affine or None, Affine or None)
        Of inputs and targets, None where these are standardised.
    likelihood : Likelihood
        Its kind counts.
    *given : object
        Parameters that are numbers, or say that these are learned.

    Returns
    -------
    Asked
    """
    named = network.module if isinstance(network, ModuleNetwork) else network
    model = (repr(named), module, *(unit is None for unit in units))
    return Asked(model, (type(likelihood).__name__, network.n_outputs, *map(repr, given)))

"""Member: one MAP estimate of a fit with its Laplace posterior, and how it is fitted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sklearn_hfl._ensemble.route import Route
from sklearn_hfl.optim.krylov import determined_subspace
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.solution import Status
from sklearn_hfl.optim.training import Callback, Trainer
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.likelihood import (
    CategoricalLikelihood,
    GaussianLikelihood,
    HeteroscedasticLikelihood,
)
from sklearn_hfl.posterior.linearization import Linearization
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import MLP, Network
from sklearn_hfl.posterior.prior import GaussianPrior
from sklearn_hfl.uncertainty.alternation import Alternation, Fit
from sklearn_hfl.uncertainty.diagnostics import Diagnostics, diagnose
from sklearn_hfl.uncertainty.posterior_mean import posterior_mean_shift
from sklearn_hfl.uncertainty.precisions import EvidenceOptions
from sklearn_hfl.uncertainty.search import maximize_evidence

__all__ = ["Member", "fit_member"]

# A classifier's subspace is extended until the std of every logit of any query is known to this
# relative error, which ``Subspace.beyond`` may be four times as large as: many classes are many
# logits, and none of them then needs directions of its own.
LOGIT_RTOL = 0.01
# What a progress bar shows of what a fit reports.
SHOWN = {"loss": "loss", "distance": "SDs from the MAP", "evidence": "log evidence"}


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
    """

    estimate: MapEstimate
    diagnostics: Diagnostics
    loss_curve: tuple[float, ...]
    shift: Tensor | None = None
    status: Status = Status.MAX_ITER
    solver: str = ""

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

    def starts(self, log_posterior: LogPosterior, weights: Tensor) -> Tensor:
        """Weights (P,) to start a fit of ``log_posterior`` from: these if they fit, else those."""
        fits = self.estimate.weights.shape == weights.shape and self._has_groups_of(log_posterior)
        return self.estimate.weights.to(weights) if fits else weights

    def resumed(self, log_posterior: LogPosterior, options: EvidenceOptions) -> Fit | None:
        """Model, learned precisions and weights found here, on the rows of ``log_posterior``.

        None where they do not fit it, or where this is no MAP.
        """
        old, new, facts = self.estimate.log_posterior, log_posterior, self.diagnostics
        # Without its data a fit of varying noise lacks the variance that L averages over.
        lost = (
            isinstance(old.likelihood, HeteroscedasticLikelihood)
            and not old.likelihood.constant
            and old.variance_of_mean is None
        )
        same_kind = type(old.likelihood) is type(new.likelihood)
        linear = options.prior and self._is_linear_model_of(new)
        # Another activation is another model.
        same = self._has_groups_of(new) and (
            old.network == new.network or not isinstance(new.network, MLP)
        )
        fits = same_kind and (same or linear)
        if not (facts.finished and facts.stationary and fits) or lost:
            return None
        prior, likelihood = new.prior, new.likelihood
        if options.prior:
            prior = GaussianPrior(
                old.prior.group_precision.to(new.X), old.prior.groups.to(new.X.device)
            )
        if isinstance(old.likelihood, GaussianLikelihood) and options.noise:
            beta = old.likelihood.noise_precision.to(new.X)
            likelihood = replace(old.likelihood, noise_precision=beta)
        resumed = replace(
            new,
            network=new.network if same else old.network,
            prior=prior,
            likelihood=likelihood,
            variance_of_mean=old.variance_on(new),
        )
        return Fit(resumed, self.estimate.weights.to(new.X))

    def _has_groups_of(self, log_posterior: LogPosterior) -> bool:
        groups = self.estimate.log_posterior.prior.groups
        return groups.names == log_posterior.prior.groups.names and (
            groups.labels.shape == log_posterior.prior.groups.labels.shape
        )

    def _is_linear_model_of(self, log_posterior: LogPosterior) -> bool:
        """Whether a fit of this perceptron kept its linear model."""
        own, other = self.network, log_posterior.network
        return (
            isinstance(own, MLP)
            and isinstance(other, MLP)
            and own.layer_sizes == (other.layer_sizes[0], other.layer_sizes[-1])
        )

    def _with(self, **changes: Any) -> Member:
        log_posterior = replace(self.estimate.log_posterior, **changes)
        return replace(self, estimate=replace(self.estimate, log_posterior=log_posterior))


def fit_member(
    log_posterior: LogPosterior,
    weights: Tensor,
    generator: torch.Generator,
    trainer: Trainer,
    options: EvidenceOptions,
    route: Route,
    verbose: bool,
    resumed: Fit | None = None,
) -> Member:
    """Train one MAP, at precisions that are learned from the evidence, given or ``resumed``."""
    if resumed is not None:
        log_posterior, weights = resumed.log_posterior, resumed.weights
    start = float(log_posterior.value(weights[None])[0])
    if not np.isfinite(start):
        raise ValueError(
            f"The loss at the starting weights is {start}: the data overflow "
            f"{log_posterior.X.dtype}, or a module of yours is undefined for some rows. Without "
            "normalize_X=True, and normalize_y=True of a regressor, rescale the data."
        )
    curve: tuple[float, ...] = (start,)
    finished = True
    # Without a total: no fit goes on until max_iter.
    with tqdm(desc="fit", unit=" steps", disable=not verbose) as bar:
        callback = _progress(bar)
        if resumed is not None:
            alternation = Alternation(trainer, options, generator, callback)
            fit = alternation.to_map(resumed)
            log_posterior, weights, status = fit.log_posterior, fit.weights, fit.status
            curve += tuple(alternation.losses)
        elif options.prior or options.noise:
            fit, steps, finished = maximize_evidence(
                log_posterior, weights, trainer, options, generator, callback
            )
            log_posterior, weights, status = fit.log_posterior, fit.weights, fit.status
            curve += steps
        else:
            callback(phase="to the MAP")
            trajectory = trainer.train(log_posterior, weights, generator, callback)
            weights, status = trajectory.weights, trajectory.status
            curve += trajectory.curve[1:]
    classes = isinstance(log_posterior.likelihood, CategoricalLikelihood)
    curvature = GaussNewton(log_posterior, weights)
    subspace = determined_subspace(curvature, generator, beyond=_beyond(route, classes))
    estimate = MapEstimate(log_posterior, weights, subspace)
    shift = posterior_mean_shift(estimate, generator) if classes else None
    facts = replace(diagnose(estimate), finished=finished)
    solver = trainer.described(log_posterior)
    if not route.needs_data:
        estimate = estimate.without_data(route.rtol)
    return Member(estimate, facts, curve, shift, status, solver)


def _beyond(route: Route, classes: bool) -> float:
    """ε of ``Subspace.beyond`` that a fit has to reach.

    Beyond the basis the variance of a query is known to a factor of 1 + ε, and the middle is
    off by ε / 4 in the standard deviation.
    """
    if not route.needs_data:
        return 2 * route.rtol  # half of what it may be, for any query at all
    if classes and route.mode == "linearized":
        return 4 * max(route.rtol, LOGIT_RTOL)
    return np.inf


def _progress(bar: Any) -> Callback:
    shown: dict[str, str] = {}

    def callback(**facts: float | str) -> None:
        if "phase" in facts:
            bar.set_description_str(f"fit, {facts['phase']}", refresh=False)
        shown.update({SHOWN[key]: f"{facts[key]:.5g}" for key in SHOWN if key in facts})
        bar.set_postfix(shown, refresh=False)
        if "loss" in facts:
            bar.update()

    return callback

"""Annealing: from other weights, or few rows, to a MAP under precisions that are known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from sklearn_hfl.optim.subsample import growing_subsamples
from sklearn_hfl.posterior.initialization import scaled_precision
from sklearn_hfl.posterior.likelihood import GaussianLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.uncertainty.alternation import ROUND_DECREMENT_TOL, Alternation, Fit
from sklearn_hfl.uncertainty.precisions import EvidenceOptions

__all__ = ["annealed_map", "by_subsamples", "started"]

# Shares of the way, in log precision, at which the weights are trained before the MAP, and the
# steps at each. Trained under the last precisions at once, they end in modes of 20 to 100 nats
# less evidence (docs/design/members.md).
SHARES = (0.0, 0.25, 0.5, 0.75)
STEPS = 10
# Newton decrement, in multiples of √P, at which a subsample has brought the weights near enough:
# the MAP of half of the rows is about √γ posterior standard deviations away from that of all.
# Trained until stationary, at 0.1, a million rows of a teacher ended at a saddle that the others
# left, and 250 000 rows with 34 nats less evidence (docs/design/training.md).
NEAR_ENOUGH = 0.3


def started(
    log_posterior: LogPosterior, start: tuple[float, float], options: EvidenceOptions
) -> LogPosterior:
    """Return L with the precisions of one of the search's starts.

    Parameters
    ----------
    log_posterior : LogPosterior
        What is not learned stays as it is.
    start : tuple of (float, float)
        Prior in multiples of the fan-in, noise in SDs of y.
    options : EvidenceOptions
        What is learned.

    Returns
    -------
    LogPosterior
        With these precisions.
    """
    strength, noise_std = start
    prior, likelihood = log_posterior.prior, log_posterior.likelihood
    if options.prior:
        precision = scaled_precision(log_posterior.network, strength).to(prior.group_precision)
        prior = prior.with_precision(precision)
    if options.noise and isinstance(likelihood, GaussianLikelihood):
        beta = (noise_std * torch.ones_like(likelihood.noise_precision) * options.noise_unit) ** -2
        likelihood = likelihood.with_precision(beta)
    return replace(log_posterior, prior=prior, likelihood=likelihood)


def annealed_map(
    known: LogPosterior, weights: Tensor, start: tuple[float, float], alternation: Alternation
) -> Fit:
    """Train to the MAP of known precisions from other weights.

    Parameters
    ----------
    known : LogPosterior
        The precisions.
    weights : Tensor of shape (P,)
        Start.
    start : tuple of (float, float)
        The precisions to begin with: see ``started``.
    alternation : Alternation
        Trains the weights, and says what was learned.

    Returns
    -------
    Fit
        With the evidence at the MAP.
    """
    alternation.callback(phase="annealing")
    trainer = alternation.trainer
    smallest = next(_subsamples(known, alternation), known)
    begin = started(smallest, start, alternation.options)
    for share in SHARES:
        steps = min(trainer.steps_of_round(STEPS, smallest.n_rows), alternation.left)
        between = _between(begin, smallest, share)
        weights = alternation.train(between, weights, steps, ROUND_DECREMENT_TOL).weights
    return alternation.to_map(Fit(known, by_subsamples(known, weights, alternation)))


def by_subsamples(log_posterior: LogPosterior, weights: Tensor, alternation: Alternation) -> Tensor:
    """Come near the MAP of very many rows by way of those of ever larger subsamples.

    Parameters
    ----------
    log_posterior : LogPosterior
        L of all rows.
    weights : Tensor of shape (P,)
        Start.
    alternation : Alternation
        Trains the weights.

    Returns
    -------
    Tensor of shape (P,)
        The start itself where there are fewer rows.
    """
    near = NEAR_ENOUGH * log_posterior.n_weights**0.5
    for rows in _subsamples(log_posterior, alternation):
        if alternation.left > 0:
            alternation.callback(phase=f"to the MAP of {rows.n_rows} rows")
            weights = alternation.train(rows, weights, alternation.left, near).weights
    return weights


def _subsamples(log_posterior: LogPosterior, alternation: Alternation) -> Iterator[LogPosterior]:
    """Ever larger, for a trainer that would take all rows in each step."""
    if alternation.trainer.takes_all_rows:
        yield from growing_subsamples(log_posterior, alternation.generator)


def _between(start: LogPosterior, end: LogPosterior, share: float) -> LogPosterior:
    """L with precisions on the straight line between logarithms."""
    alpha = torch.lerp(start.prior.group_precision.log(), end.prior.group_precision.log(), share)
    likelihood = end.likelihood
    if isinstance(likelihood, GaussianLikelihood):
        assert isinstance(start.likelihood, GaussianLikelihood)
        beta = torch.lerp(
            start.likelihood.noise_precision.log(), likelihood.noise_precision.log(), share
        )
        likelihood = likelihood.with_precision(beta.exp())
    return replace(end, prior=end.prior.with_precision(alpha.exp()), likelihood=likelihood)

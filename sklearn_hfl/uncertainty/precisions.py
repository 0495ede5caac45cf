"""Precisions: of noise and priors, those that make the data most probable."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor

from sklearn_hfl.optim.krylov import krylov_subspace
from sklearn_hfl.optim.solution import Callback, no_callback
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.optim.training import Trainer
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.initialization import scaled_precision
from sklearn_hfl.posterior.likelihood import GaussianLikelihood, HeteroscedasticLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.uncertainty.evidence import effective_parameters, log_evidence
from sklearn_hfl.uncertainty.hyperprior import Hyperprior
from sklearn_hfl.uncertainty.noise import (
    PSEUDO_RESIDUAL,
    freed_noise,
    mean_variance,
    noise_precision,
    squared_residuals,
)

__all__ = ["EvidenceOptions", "evidence_at", "maximize_evidence"]

PRIOR_PRECISION_RANGE = (1e-2, 1e5)
# No update changes a precision by more than this factor: the first ones are far from a MAP.
LARGEST_STEP = 5.0
# Where regression starts: prior in multiples of the fan-in, noise in SDs of y. From the
# first, all noise under a strong prior, noisy data end at larger evidence; from the
# second, little noise, a network finds the signal of few clean rows, under which the
# first stays a constant. The evidence chooses (docs/design/evidence.md).
STARTS = ((10.0, 1.0), (1.0, 0.3))
SCREENING_ROUNDS = 10
MAX_ROUNDS = 40
STEPS_PER_ROUND = 10
# The updates climb the evidence of a linear network, and may descend that of another one, whose
# curvature grows with its weights: noise shrinks, weights grow, and the data are over-fitted.
# Rounds end when so many brought less than an earlier one (docs/design/evidence.md).
PATIENCE = 3
# Log precisions are rounded to multiples of this, a 200th of what rounds end by. The last bits
# of one round otherwise grow over the next: rows weighted by 2 and rows repeated twice, one
# problem, could end 1e-6 apart.
RESOLUTION = 1e-4
# Share of the step, in log precision, from the best round's noise to that of the residuals at
# the MAP: without it intervals near the data are too wide, with all of it those in gaps too
# narrow (docs/design/evidence.md).
RENEWAL = 0.5
# Nats that do not count: the trace of the subspace leaves as much open.
EVIDENCE_TOL = 0.1
# A round need not end closer to its MAP than this. At a saddle (all units at zero under a
# strong prior) more would leave only rounding to say which way the next round escapes.
ROUND_DECREMENT = 1e-3


@dataclass(frozen=True)
class EvidenceOptions:
    """What is learned from the evidence.

    Attributes
    ----------
    prior : bool
        Whether the prior precision of each group is.
    noise : bool
        Whether the noise of each output is.
    least_prior : float
        Least precision of each group, in multiples of ``scaled_precision``.
    starts : tuple of (float, float)
        Where the search starts: prior precision in multiples of ``scaled_precision``,
        noise in SDs of y.
    rtol : float
        Rounds end when no precision changes by more than this factor less one.
    noise_unit : float or Tensor of shape (K,)
        SD of y, where it is not standardised.
    prior_unit : float or Tensor of shape (n_groups,)
        Precision under which the weights of each group are of order one, where inputs and
        targets are not standardised.
    """

    prior: bool
    noise: bool
    least_prior: float = 0.0
    starts: tuple[tuple[float, float], ...] = field(default_factory=lambda: STARTS)
    rtol: float = 0.02
    noise_unit: float | Tensor = 1.0
    prior_unit: float | Tensor = 1.0


def maximize_evidence(
    log_posterior: LogPosterior,
    weights: Tensor,
    trainer: Trainer,
    options: EvidenceOptions,
    generator: Generator,
    callback: Callback = no_callback,
) -> tuple[LogPosterior, Tensor, tuple[float, ...]]:
    """Find the precisions that make the data most probable, and weights near their MAP.

    Where the prior is learned, the search begins at each of ``options.starts`` and goes on
    from the one with the largest evidence after a few rounds.

    Parameters
    ----------
    log_posterior : LogPosterior
        Its noise, and its prior where that is not learned, are where the search starts.
    weights : Tensor of shape (P,)
        Start.
    trainer : Trainer
        Improves the weights; its ``max_iter`` bounds the steps in all.
    options : EvidenceOptions
        What to learn.
    generator : torch.Generator
        Source of randomness.
    callback : callable
        Called with the loss after each training step.

    Returns
    -------
    log_posterior : LogPosterior
        With the precisions found.
    weights : Tensor of shape (P,)
        Close to its MAP.
    curve : tuple of float
        Losses on the way; the precisions change between rounds, and L with them.
    """
    likelihood = log_posterior.likelihood
    if not (options.noise and isinstance(likelihood, HeteroscedasticLikelihood)):
        found = _search(log_posterior, weights, trainer, options, generator, callback)
        found = _noise_at_map(found, trainer, options, generator, callback)
        return found.log_posterior, found.weights, found.curve
    # A constant noise first, or rows that are hard to fit would be taken for noisy ones. Log
    # noise then varies around that level, which stays: a second one would drift against it.
    constant = replace(log_posterior, likelihood=replace(likelihood, constant=True))
    level = _search(constant, weights, trainer, options, generator, callback)
    freed = freed_noise(level.log_posterior, level.weights, generator, options.noise_unit)
    options = replace(options, noise=False)
    left = replace(trainer, max_iter=trainer.max_iter - len(level.curve))
    found = _alternate(freed, level.weights, left, options, MAX_ROUNDS, generator, callback)
    return found.log_posterior, found.weights, level.curve + found.curve


def _search(
    log_posterior: LogPosterior,
    weights: Tensor,
    trainer: Trainer,
    options: EvidenceOptions,
    generator: Generator,
    callback: Callback,
) -> _Round:
    """Alternate from each start for some rounds, and go on from the best."""
    if not options.prior:
        return _alternate(log_posterior, weights, trainer, options, MAX_ROUNDS, generator, callback)
    screened: list[_Round] = []
    steps = 0
    for strength, noise_std in options.starts:
        start = _started(log_posterior, strength, noise_std, options)
        left = replace(trainer, max_iter=trainer.max_iter - steps)
        if left.max_iter > 0:
            screened.append(
                _alternate(start, weights, left, options, SCREENING_ROUNDS, generator, callback)
            )
            steps += len(screened[-1].curve)
    best = max(screened, key=lambda found: found.log_evidence)
    curve = tuple(loss for found in screened if found is not best for loss in found.curve)
    curve += best.curve
    left = replace(trainer, max_iter=trainer.max_iter - steps)
    if not best.settled and left.max_iter > 0:
        rounds = MAX_ROUNDS - SCREENING_ROUNDS
        best = _alternate(
            best.log_posterior, best.weights, left, options, rounds, generator, callback
        )
        curve += best.curve
    return replace(best, curve=curve)


def _noise_at_map(
    found: _Round,
    trainer: Trainer,
    options: EvidenceOptions,
    generator: Generator,
    callback: Callback,
) -> _Round:
    """Move the noise towards that of the residuals at the MAP of the precisions found.

    The best round saw residuals of weights on their way, which are larger than those of the
    MAP: its noise made intervals too wide.
    """
    left = trainer.max_iter - len(found.curve)
    likelihood = found.log_posterior.likelihood
    # Where the prior is fixed the rounds end at a noise that the MAP's residuals agree with.
    if not (options.prior and options.noise and isinstance(likelihood, GaussianLikelihood)):
        return found
    if left <= 0:
        return found
    trajectory = _rough(trainer, left).train(
        found.log_posterior, found.weights, generator, callback
    )
    renewed, _ = _updated_at(
        found.log_posterior, trajectory.weights, replace(options, prior=False), generator
    )
    assert isinstance(renewed.likelihood, GaussianLikelihood)
    before, after = likelihood.noise_precision, renewed.likelihood.noise_precision
    beta = before * (after / before) ** RENEWAL
    log_posterior = replace(found.log_posterior, likelihood=likelihood.with_precision(beta))
    curve = found.curve + trajectory.curve[1:]
    return replace(found, log_posterior=log_posterior, weights=trajectory.weights, curve=curve)


@dataclass(frozen=True)
class _Round:
    """Where the best round of an alternation ended.

    ``log_evidence``, with the log density of the hyperpriors, is that of the precisions under
    which ``weights`` were trained; ``log_posterior`` holds these, or the last round's updates.
    """

    log_posterior: LogPosterior
    weights: Tensor
    curve: tuple[float, ...]
    log_evidence: float
    settled: bool


def _started(
    log_posterior: LogPosterior, strength: float, noise_std: float, options: EvidenceOptions
) -> LogPosterior:
    precision = scaled_precision(log_posterior.network, strength)
    prior = log_posterior.prior
    started = replace(
        log_posterior, prior=prior.with_precision(precision.to(prior.group_precision))
    )
    likelihood = log_posterior.likelihood
    if options.noise and isinstance(likelihood, GaussianLikelihood):
        beta = torch.full_like(likelihood.noise_precision, noise_std**-2)
        started = replace(started, likelihood=likelihood.with_precision(beta))
    return started


def _alternate(
    log_posterior: LogPosterior,
    weights: Tensor,
    trainer: Trainer,
    options: EvidenceOptions,
    rounds: int,
    generator: Generator,
    callback: Callback,
) -> _Round:
    """Alternate training with MacKay's updates of the precisions.

    α_g = γ_g / ‖θ_g‖² for each group g and β = (N − γ/K) / Σ w (y − f)² for each
    of K outputs (MacKay, Neural Computation 4, 1992), at weights that each round
    improves by a few steps only. The round with the largest evidence is kept.
    """
    curve: list[float] = []
    subspace: Subspace | None = None
    best = _Round(log_posterior, weights, (), -torch.inf, False)
    worse, settled = 0, False
    for _ in range(rounds):
        steps = min(STEPS_PER_ROUND, trainer.max_iter - len(curve))
        if steps <= 0 or settled or worse == PATIENCE:
            break
        trajectory = _rough(trainer, steps).train(
            log_posterior, weights, generator, callback, subspace
        )
        weights = trajectory.weights
        curve += trajectory.curve[1:]
        curvature = GaussNewton(log_posterior, weights)
        subspace = krylov_subspace(curvature, generator, trace_rtol=1e-2)
        gradient = curvature.gradient()
        # Of the Gaussian whose mode is not reached yet: its value there, not here.
        ahead = 0.5 * float(gradient @ subspace.preconditioner()(gradient))
        evidence = log_evidence(log_posterior, weights, subspace) + ahead
        gamma = effective_parameters(subspace)
        evidence += _log_hyperprior(log_posterior, weights, gamma, options)
        spread_change = 0.0
        if log_posterior.spread is not None:
            spread = mean_variance(curvature, subspace)
            spread_change = _change(log_posterior.spread.mean(0), spread.mean(0))
            log_posterior = replace(log_posterior, spread=spread)
        before = log_posterior
        log_posterior, change = _updated(log_posterior, weights, gamma, options)
        change = max(change, spread_change)
        settled = change < options.rtol
        fell = evidence < best.log_evidence - EVIDENCE_TOL
        # Noise alone, or a variance that L averages over, settles with the weights.
        worse = worse + 1 if fell and options.prior and log_posterior.spread is None else 0
        if not worse:
            best = _Round(before, weights, (), max(evidence, best.log_evidence), settled)
    if not worse:  # no round looks at the last updates, which are nearer to a fixed point
        best = replace(best, log_posterior=log_posterior)
    return replace(best, curve=tuple(curve), settled=settled or worse == PATIENCE)


def _rough(trainer: Trainer, max_iter: int) -> Trainer:
    tol = max(trainer.decrement_tol, ROUND_DECREMENT)
    return replace(trainer, max_iter=max_iter, decrement_tol=tol)


def _updated_at(
    log_posterior: LogPosterior, weights: Tensor, options: EvidenceOptions, generator: Generator
) -> tuple[LogPosterior, float]:
    """Update the precisions once, at weights whose curvature is not known yet."""
    curvature = GaussNewton(log_posterior, weights)
    gamma = effective_parameters(krylov_subspace(curvature, generator, trace_rtol=1e-2))
    return _updated(log_posterior, weights, gamma, options)


def _updated(
    log_posterior: LogPosterior, weights: Tensor, gamma: Tensor, options: EvidenceOptions
) -> tuple[LogPosterior, float]:
    change = 0.0
    prior, likelihood = log_posterior.prior, log_posterior.likelihood
    if options.prior:
        unit = options.prior_unit
        target = Hyperprior.at(log_posterior, weights, gamma, unit).update(
            prior.group_sum(gamma), prior.group_sum(weights.square())
        )
        least = options.least_prior * scaled_precision(log_posterior.network, 1.0).to(target)
        target = unit * torch.maximum((target / unit).clamp(*PRIOR_PRECISION_RANGE), least)
        alpha = _limited(prior.group_precision, target)
        change = max(change, _change(prior.group_precision, alpha))
        prior = prior.with_precision(alpha)
    if options.noise and isinstance(likelihood, GaussianLikelihood):
        squares = squared_residuals(log_posterior, weights)
        total = log_posterior.sample_weight.sum()
        share = gamma.sum() / len(squares)
        target = noise_precision(squares, share, total, options.noise_unit)
        beta = _limited(likelihood.noise_precision, target)
        change = max(change, _change(likelihood.noise_precision, beta))
        likelihood = likelihood.with_precision(beta)
    return replace(log_posterior, prior=prior, likelihood=likelihood), change


def _log_hyperprior(
    log_posterior: LogPosterior, weights: Tensor, gamma: Tensor, options: EvidenceOptions
) -> float:
    """Log density of the precisions that are learned, but for constants."""
    total, likelihood = 0.0, log_posterior.likelihood
    if options.prior:
        hyperprior = Hyperprior.at(log_posterior, weights, gamma, options.prior_unit)
        total += hyperprior.log_density(log_posterior.prior.group_precision)
    if options.noise and isinstance(likelihood, GaussianLikelihood):
        beta = likelihood.noise_precision
        unit = torch.as_tensor(options.noise_unit).to(beta)
        total += 0.5 * float((beta.log() - (PSEUDO_RESIDUAL * unit).square() * beta).sum())
    return total


def evidence_at(
    log_posterior: LogPosterior, weights: Tensor, options: EvidenceOptions, generator: Generator
) -> LogPosterior:
    """MacKay's updates of the precisions alone: the weights stay where they are.

    Parameters
    ----------
    log_posterior : LogPosterior
        Its precisions are where the updates start.
    weights : Tensor of shape (P,)
        Taken for the MAP at whatever precisions.
    options : EvidenceOptions
        What to learn.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    LogPosterior
        With the precisions found.
    """
    for _ in range(MAX_ROUNDS):
        log_posterior, change = _updated_at(log_posterior, weights, options, generator)
        if change < options.rtol:
            break
    return log_posterior


def _limited(old: Tensor, target: Tensor) -> Tensor:
    """The target or the largest step towards it, rounded to ``RESOLUTION``."""
    limited = old * (target / old).clamp(1 / LARGEST_STEP, LARGEST_STEP)
    return ((limited.log() / RESOLUTION).round() * RESOLUTION).exp()


def _change(old: Tensor, new: Tensor) -> float:
    return float((new / old).log().abs().max())

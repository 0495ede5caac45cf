"""Alternation: rounds of training and of updates of the precisions, and the MAP at their end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Generator, Tensor

from sklearn_hfl.optim.dual import Dual, inverse_curvature
from sklearn_hfl.optim.krylov import determined_subspace
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.solution import Status
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.optim.training import Callback, Trainer, Trajectory
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.likelihood import GaussianLikelihood, HeteroscedasticLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.uncertainty.evidence import log_evidence, log_multiplicity
from sklearn_hfl.uncertainty.leave_one_out import LeaveOneOut, leave_one_out
from sklearn_hfl.uncertainty.noise import variance_of_mean
from sklearn_hfl.uncertainty.precisions import (
    EvidenceOptions,
    log_hyperprior,
    updated,
    updated_at,
)

__all__ = ["EVIDENCE_TOL", "ROUND_DECREMENT_TOL", "Alternation", "Fit"]

# Steps of a round. Five and twenty cost about as much, and are better on some data and worse on
# others (docs/design/training.md).
STEPS_PER_ROUND = 10
# A round need not reach its MAP: the precisions change after it. At a saddle (all units at zero
# under a strong prior) a decrement below this would leave only rounding to decide in which
# direction the next round escapes (docs/design/evidence.md); far above it, rounds end before they
# escape, and remain linear.
ROUND_DECREMENT_TOL = 1e-3
# The updates increase the evidence of a linear network, but may decrease that of others, whose
# curvature grows with their weights: noise shrinks, weights grow, and the data are over-fitted.
# Rounds end when MAX_WORSE_ROUNDS of them had less evidence than an earlier one, by more than
# EVIDENCE_TOL nats, about the error of the subspace's trace (docs/design/evidence.md).
MAX_WORSE_ROUNDS = 3
EVIDENCE_TOL = 0.1
# They also end where so many gained less than this in nats a row (docs/design/evidence.md).
MIN_GAIN = 1e-3
# Share of the step, in log precision, from the best round's noise to that of the residuals at
# the MAP: without it intervals near the data are too wide, with all of it those in gaps too
# narrow (table in docs/design/evidence.md).
NOISE_STEP = 0.5
# Trainings to the MAP, after each of which the variance that L averages over is computed again;
# two or three are enough on the tables of benchmarks/reliable_fits.py.
MAX_MAP_TRAININGS = 5


@dataclass(frozen=True)
class Fit:
    """Precisions, and weights trained under them.

    Attributes
    ----------
    log_posterior : LogPosterior
        The precisions.
    weights : Tensor of shape (P,)
        On the way to their MAP, or there.
    log_evidence : float
        By Laplace's approximation at the MAP; before it is reached, at the mode of the quadratic
        approximation of L, an estimate.
    score : float
        The log evidence of one mode with the log density of the hyperpriors, by which rounds
        are compared.
    ended : bool
        Whether more rounds would bring nothing.
    converged : bool
        Whether rounds ended because the precisions no longer changed: the log evidence is then
        nearly that at the MAP.
    path : tuple of Fit
        The rounds before.
    status : Status
        Why the training to the MAP ended.
    subspace : Subspace or None
        All directions at the MAP, where the curvature was formed.
    trained : tuple of (int, int)
        First step of the training to the MAP among all that were taken, and the one after the
        last.
    learned_from : float or None
        Rows that the precisions were learned from, where these are other rows.
    """

    log_posterior: LogPosterior
    weights: Tensor
    log_evidence: float = -torch.inf
    score: float = -torch.inf
    ended: bool = False
    converged: bool = False
    path: tuple[Fit, ...] = ()
    status: Status = Status.MAX_ITER
    subspace: Subspace | None = None
    trained: tuple[int, int] = (0, 0)
    learned_from: float | None = None

    def on_rows(self, rows: LogPosterior) -> Fit:
        """Keep precisions and weights, as a start on other rows."""
        old = self.log_posterior
        variance = old.variance_on(rows)  # until the next round
        log_posterior = replace(
            old,
            X=rows.X,
            y=rows.y,
            sample_weight=rows.sample_weight,
            variance_of_mean=variance,
            chunks=rows.chunks,
        )
        return Fit(log_posterior, self.weights)

    @cached_property
    def rows(self) -> LeaveOneOut:
        """The training rows left out one at a time, at the MAP."""
        lp, weights, subspace = self.log_posterior, self.weights, self.subspace
        if subspace is None:
            seeded = Generator().manual_seed(0)
            subspace = determined_subspace(GaussNewton(lp, weights), seeded, trace_rtol=1e-2)
        return leave_one_out(MapEstimate(lp, weights, subspace))


@dataclass(frozen=True)
class _Gaussian:
    """The Gaussian that approximates the posterior at weights on the way to the MAP."""

    curvature: GaussNewton
    inverse: Subspace | Dual
    gamma: Tensor
    log_evidence: float
    score: float

    @classmethod
    def at(
        cls,
        log_posterior: LogPosterior,
        weights: Tensor,
        options: EvidenceOptions,
        generator: Generator,
    ) -> _Gaussian:
        curvature = GaussNewton(log_posterior, weights)
        inverse = inverse_curvature(curvature, generator)
        gradient = curvature.gradient()
        # L at the mode of its quadratic approximation, which is lower than at the weights.
        decrease = 0.5 * float(gradient @ inverse.preconditioner()(gradient))
        mode = log_evidence(log_posterior, weights, inverse) + decrease
        gamma = inverse.effective_parameters().to(weights)
        density = log_hyperprior(log_posterior, weights, gamma, options)
        evidence = mode + log_multiplicity(log_posterior.network, gamma)
        return cls(curvature, inverse, gamma, evidence, mode + density)

    @property
    def complete(self) -> Subspace | None:
        """All directions of A, where it is formed."""
        inverse = self.inverse
        return inverse if isinstance(inverse, Subspace) and inverse.is_complete else None

    def averaged(self, log_posterior: LogPosterior) -> tuple[LogPosterior, float]:
        """Renew the variance of the mean that L averages over, where it does.

        Also returns by what share of its sum it changes.
        """
        old = log_posterior.variance_of_mean
        if old is None:
            return log_posterior, 0.0
        assert isinstance(self.inverse, Subspace)
        new = variance_of_mean(self.curvature, self.inverse)
        change = ((new - old).abs().sum(0) / new.sum(0)).max()
        return replace(log_posterior, variance_of_mean=new), float(change)


class _Rounds:
    """The rounds so far: which was the best, and whether more are worth their time."""

    def __init__(self, start: Fit, options: EvidenceOptions, known: float) -> None:
        self.options, self.known = options, known
        self.best = replace(start, score=-torch.inf)
        self.path = start.path
        self.evidences: list[float] = []
        self.best_scores: list[float] = []
        self.n_worse = 0
        self.converged = self.ended = False

    def add(self, fit: Fit, change: float) -> None:
        """Take account of a round, after which precisions changed by ``change``."""
        worse = fit.score < self.best.score - EVIDENCE_TOL
        # Under a fixed prior rounds end where the noise agrees with the residuals.
        self.n_worse = self.n_worse + 1 if worse and self.options.prior else 0
        if not self.n_worse:
            self.best = replace(fit, score=max(fit.score, self.best.score), path=self.path)
        self.path += (fit,)
        self.evidences.append(fit.log_evidence)
        self.best_scores.append(self.best.score)
        self.converged = change < self.options.rtol
        given_up = self.n_worse == MAX_WORSE_ROUNDS or self._stays_behind()
        self.ended = self.converged or given_up or self._levels_off()

    def _levels_off(self) -> bool:
        """Whether the last rounds, of which the latest is not worse, gained too little to go on."""
        least = MIN_GAIN * float(self.best.log_posterior.total_weight)
        return self.options.prior and not self.n_worse and _recent_gain(self.best_scores) < least

    def _stays_behind(self) -> bool:
        """Whether the pace of the last rounds, kept up, would not reach the known evidence."""
        return self.evidences[-1] + _recent_gain(self.evidences) < self.known

    def result(self, log_posterior: LogPosterior) -> Fit:
        """Return the best round, given L after the last updates."""
        best = self.best
        if not self.n_worse:  # no round tries the last updates, which are nearer to a fixed point
            best = replace(best, log_posterior=log_posterior)
        return replace(best, ended=self.ended, converged=self.converged and not self.n_worse)


def _recent_gain(values: list[float]) -> float:
    """By how much the last ``MAX_WORSE_ROUNDS`` rounds raised a value; unknown, +inf, of fewer."""
    before = len(values) - 1 - MAX_WORSE_ROUNDS
    return values[-1] - values[before] if before >= 0 else torch.inf


@dataclass(frozen=True)
class Alternation:
    """Training and updates in turn, within one budget of steps.

    Parameters
    ----------
    trainer : Trainer
        Improves the weights; its ``max_iter`` bounds the total number of steps.
    options : EvidenceOptions
        What to learn.
    generator : torch.Generator
        Source of randomness.
    callback : callable
        Called after each training step and at each new phase.
    losses : list of float
        After each step that was taken, here or by a copy that shares the budget.
    """

    trainer: Trainer
    options: EvidenceOptions
    generator: Generator
    callback: Callback
    losses: list[float] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Steps that remain."""
        return self.trainer.max_iter - len(self.losses)

    def rounds(self, start: Fit, max_rounds: int, known: float = -torch.inf) -> Fit:
        """Alternate training with MacKay's updates of the precisions.

        The weights move by a few steps in each round, and the round with the largest score is
        kept. The updates are those of ``precisions.updated``.

        Parameters
        ----------
        start : Fit
            Where to begin.
        max_rounds : int
            Upper limit.
        known : float
            Evidence that another model has. Rounds end where, at the pace of the last
            ``MAX_WORSE_ROUNDS``, as many more would not reach it.

        Returns
        -------
        Fit
            With the precisions under which its weights were trained, or, where the last round
            was the best, those that came next.
        """
        log_posterior, weights, options = start.log_posterior, start.weights, self.options
        basis: Subspace | None = None
        rounds = _Rounds(start, options, known)
        self.callback(phase=f"search on {log_posterior.n_rows} rows")
        for _ in range(max_rounds):
            steps = self.trainer.steps_of_round(STEPS_PER_ROUND, log_posterior.n_rows)
            steps = min(steps, self.left)
            if steps <= 0 or rounds.ended:
                break
            weights = self.train(log_posterior, weights, steps, ROUND_DECREMENT_TOL, basis).weights
            now = _Gaussian.at(log_posterior, weights, options, self.generator)
            basis = now.inverse if isinstance(now.inverse, Subspace) else None
            before, change_of_variance = now.averaged(log_posterior)
            log_posterior, change = updated(before, weights, now.gamma, options)
            fit = Fit(before, weights, now.log_evidence, now.score)
            rounds.add(fit, max(change, change_of_variance))
            self.callback(evidence=now.log_evidence)
        return rounds.result(log_posterior)

    def at_map(self, fit: Fit, known: float = -torch.inf) -> Fit:
        """Train to the MAP of the precisions found, with a noise that its residuals agree with.

        Parameters
        ----------
        fit : Fit
            The best round.
        known : float
            Evidence that another model has. A MAP that loses half or more of the round's lead
            over it is compared with the MAPs of earlier rounds, the last first, of all that
            promise more than has been found.

        Returns
        -------
        Fit
            With the evidence at the MAP.
        """
        self.callback(phase="noise at the MAP")
        found = self.to_map(self._with_noise_of_map(fit))
        half_way = 0.5 * (known + fit.log_evidence)  # -inf where no other model is known
        if not found.log_evidence < half_way:
            return found
        for earlier in reversed(fit.path):
            if earlier.log_evidence > max(known, found.log_evidence) and self.left > 0:
                tried = self.to_map(self._with_noise_of_map(earlier))
                found = max(found, tried, key=lambda fit: fit.log_evidence)
        return found

    def to_map(self, fit: Fit) -> Fit:
        """Train to the MAP of the precisions as they are.

        Parameters
        ----------
        fit : Fit
            Where to begin.

        Returns
        -------
        Fit
            With the evidence at the MAP.
        """
        log_posterior, weights, before = fit.log_posterior, fit.weights, len(self.losses)
        self.callback(phase="to the MAP")
        status = fit.status
        for _ in range(MAX_MAP_TRAININGS):
            if self.left > 0:
                trajectory = self.train(log_posterior, weights, self.left)
                weights, status = trajectory.weights, trajectory.status
            now = _Gaussian.at(log_posterior, weights, self.options, self.generator)
            # The variance that L averages over is the round's, and has to be the MAP's.
            averaged, change = now.averaged(log_posterior)
            if log_posterior.variance_of_mean is None or change < self.options.rtol:
                break
            log_posterior = averaged
        return replace(
            fit,
            log_posterior=log_posterior,
            weights=weights,
            trained=(before, len(self.losses)),
            log_evidence=now.log_evidence,
            score=now.score,
            status=status,
            subspace=now.complete,
        )

    def _with_noise_of_map(self, fit: Fit) -> Fit:
        """Move the noise towards that of the residuals at the MAP of the precisions found.

        The best round had the residuals of weights on their way, which are larger than those of
        the MAP: its noise made intervals too wide.
        """
        likelihood, options = fit.log_posterior.likelihood, self.options
        # Under a fixed prior the rounds end where the noise agrees with the residuals.
        if not (options.prior and options.noise and isinstance(likelihood, GaussianLikelihood)):
            return fit
        # Noise that may vary is held at the level found: its shape is learned around it.
        if isinstance(likelihood, HeteroscedasticLikelihood) or self.left <= 0:
            return fit
        weights = self.train(fit.log_posterior, fit.weights, self.left, ROUND_DECREMENT_TOL).weights
        noise_alone = replace(options, prior=False)
        found, _ = updated_at(fit.log_posterior, weights, noise_alone, self.generator)
        assert isinstance(found.likelihood, GaussianLikelihood)
        before, after = likelihood.noise_precision, found.likelihood.noise_precision
        beta = before * (after / before) ** NOISE_STEP
        log_posterior = replace(fit.log_posterior, likelihood=likelihood.with_precision(beta))
        return replace(fit, log_posterior=log_posterior, weights=weights)

    def train(
        self,
        log_posterior: LogPosterior,
        weights: Tensor,
        steps: int,
        decrement_tol: float = 0.0,
        preconditioner: Subspace | None = None,
    ) -> Trajectory:
        """Take up to ``steps``, to this decrement or the trainer's, and count them."""
        tol = max(self.trainer.decrement_tol, decrement_tol)
        trainer = replace(self.trainer, max_iter=steps, decrement_tol=tol)
        trajectory = trainer.train(
            log_posterior, weights, self.generator, self.callback, preconditioner
        )
        self.losses.extend(trajectory.curve[1:])
        return trajectory

"""Alternation: rounds of training and of updates of the precisions, and what they end at."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Generator, Tensor

from sklearn_hfl.optim.krylov import krylov_subspace
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.solution import Status
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.optim.training import Callback, Trainer, Trajectory
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.likelihood import GaussianLikelihood, HeteroscedasticLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.uncertainty.evidence import (
    effective_parameters,
    log_evidence,
    log_multiplicity,
)
from sklearn_hfl.uncertainty.leave_one_out import LeaveOneOut, leave_one_out
from sklearn_hfl.uncertainty.noise import mean_variance
from sklearn_hfl.uncertainty.precisions import (
    EvidenceOptions,
    log_hyperprior,
    relative_change,
    updated,
    updated_at,
)

__all__ = ["EVIDENCE_TOL", "Alternation", "Fit"]

STEPS_PER_ROUND = 10
# The updates climb the evidence of a linear network, and may descend that of another one, whose
# curvature grows with its weights: noise shrinks, weights grow, and the data are over-fitted.
# Rounds end when so many brought less than an earlier one (docs/design/evidence.md).
PATIENCE = 3
# Share of the step, in log precision, from the best round's noise to that of the residuals at
# the MAP: without it intervals near the data are too wide, with all of it those in gaps too
# narrow (docs/design/evidence.md).
RENEWAL = 0.5
# Trainings to the MAP, of which each renews the variance that L averages over; two or three are
# enough on the tables of benchmarks/reliable_fits.py.
MAX_RENEWALS = 5
# Nats that do not count: the trace of the subspace leaves as much open.
EVIDENCE_TOL = 0.1
# A round need not end closer to its MAP than this. At a saddle (all units at zero under a
# strong prior) more would leave only rounding to say which way the next round escapes.
ROUND_DECREMENT = 1e-3


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
        Of the Gaussian at the weights, or of the one whose mode they are on the way to.
    score : float
        The same with the log density of the hyperpriors, in which precisions are compared.
    ended : bool
        Whether more rounds would bring nothing.
    converged : bool
        Whether they ended because the precisions no longer changed: the evidence is then nearly
        that at the MAP, and otherwise a promise.
    path : tuple of Fit
        The rounds before.
    status : Status
        Why the training to the MAP ended.
    subspace : Subspace or None
        At the MAP.
    trained : tuple of (int, int)
        First step of the training to the MAP among all that were taken, and the one after the
        last.
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

    @cached_property
    def rows(self) -> LeaveOneOut:
        """The training rows left out one at a time, at the MAP."""
        assert self.subspace is not None
        return leave_one_out(MapEstimate(self.log_posterior, self.weights, self.subspace))


@dataclass(frozen=True)
class _Gaussian:
    """The posterior at weights, as far as the evidence needs it."""

    curvature: GaussNewton
    subspace: Subspace
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
        subspace = krylov_subspace(curvature, generator, trace_rtol=1e-2)
        gradient = curvature.gradient()
        # Of the Gaussian whose mode is not reached yet: its value there, not here.
        ahead = 0.5 * float(gradient @ subspace.preconditioner()(gradient))
        mode = log_evidence(log_posterior, weights, subspace) + ahead
        gamma = effective_parameters(subspace)
        density = log_hyperprior(log_posterior, weights, gamma, options)
        evidence = mode + log_multiplicity(log_posterior.network, gamma)
        return cls(curvature, subspace, gamma, evidence, mode + density)


@dataclass(frozen=True)
class Alternation:
    """Training and updates in turn, within one budget of steps.

    Parameters
    ----------
    trainer : Trainer
        Improves the weights; its ``max_iter`` bounds the steps in all.
    options : EvidenceOptions
        What to learn.
    generator : torch.Generator
        Source of randomness.
    callback : callable
        Called with the loss after each training step.
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

    def rounds(self, start: Fit, most: int, least: float = -torch.inf) -> Fit:
        """Alternate training with MacKay's updates of the precisions.

        α_g = γ_g / ‖θ_g‖² for each group g and β = (N − γ/K) / Σ w (y − f)² for each
        of K outputs (MacKay, Neural Computation 4, 1992), at weights that each round
        improves by a few steps only. The round with the largest score is kept.

        Parameters
        ----------
        start : Fit
            Where to begin.
        most : int
            Rounds.
        least : float
            Evidence that is known already. A search ends where its last ``PATIENCE`` rounds
            gained so little that as many more would not reach it.

        Returns
        -------
        Fit
            With the precisions under which its weights were trained, or, where the last round
            was the best, those that came next.
        """
        log_posterior, weights, options = start.log_posterior, start.weights, self.options
        subspace: Subspace | None = None
        best = replace(start, score=-torch.inf)
        path = start.path
        worse, ended, converged = 0, False, False
        earlier: list[float] = []
        for _ in range(most):
            steps = min(STEPS_PER_ROUND, self.left)
            if steps <= 0 or ended:
                break
            weights = self._train(log_posterior, weights, steps, True, subspace).weights
            now = _Gaussian.at(log_posterior, weights, options, self.generator)
            subspace = now.subspace
            spread_change = 0.0
            if log_posterior.spread is not None:
                spread = mean_variance(now.curvature, subspace)
                spread_change = relative_change(log_posterior.spread.mean(0), spread.mean(0))
                log_posterior = replace(log_posterior, spread=spread)
            before = log_posterior
            log_posterior, change = updated(log_posterior, weights, now.gamma, options)
            fell = now.score < best.score - EVIDENCE_TOL
            # Noise alone ends with the weights.
            worse = worse + 1 if fell and options.prior else 0
            if not worse:
                score = max(now.score, best.score)
                best = Fit(before, weights, now.log_evidence, score, path=path)
            path += (Fit(before, weights, now.log_evidence, now.score),)
            earlier.append(now.log_evidence)
            gain = earlier[-1] - earlier[-1 - PATIENCE] if len(earlier) > PATIENCE else torch.inf
            behind = now.log_evidence + gain < least
            converged = max(change, spread_change) < options.rtol
            ended = converged or worse == PATIENCE or behind
        if not worse:  # no round looks at the last updates, which are nearer to a fixed point
            best = replace(best, log_posterior=log_posterior)
        return replace(best, ended=ended, converged=converged and not worse)

    def at_map(self, fit: Fit, least: float = -torch.inf) -> Fit:
        """Train to the MAP of the precisions found, with a noise that its residuals agree with.

        Parameters
        ----------
        fit : Fit
            The best round.
        least : float
            Evidence that is known already. Where the MAP has less, the rounds before are
            gone back, from MAP to MAP, for as long as that brings more.

        Returns
        -------
        Fit
            With the evidence at the MAP, whatever the round had promised.
        """
        found = self._mapped(self._noise_at_map(fit))
        # -inf where nothing is known.
        if not found.log_evidence < 0.5 * (least + fit.log_evidence):
            return found
        for earlier in reversed(fit.path):
            if earlier.log_evidence < max(least, found.log_evidence) or self.left <= 0:
                break
            tried = self._mapped(self._noise_at_map(earlier))
            if tried.log_evidence > found.log_evidence:
                found = tried
            elif found.log_evidence > least:
                break
        return found

    def _mapped(self, fit: Fit) -> Fit:
        log_posterior, weights, before = fit.log_posterior, fit.weights, len(self.losses)
        status = fit.status
        for _ in range(MAX_RENEWALS):
            if self.left > 0:
                trajectory = self._train(log_posterior, weights, self.left)
                weights, status = trajectory.weights, trajectory.status
            now = _Gaussian.at(log_posterior, weights, self.options, self.generator)
            if log_posterior.spread is None:
                break
            # The variance that L averages over is that of the round, and is to be the MAP's.
            spread = mean_variance(now.curvature, now.subspace)
            if relative_change(log_posterior.spread.mean(0), spread.mean(0)) < self.options.rtol:
                break
            log_posterior = replace(log_posterior, spread=spread)
        return replace(
            fit,
            log_posterior=log_posterior,
            weights=weights,
            trained=(before, len(self.losses)),
            log_evidence=now.log_evidence,
            score=now.score,
            status=status,
            subspace=now.subspace,
        )

    def _noise_at_map(self, fit: Fit) -> Fit:
        """Move the noise towards that of the residuals at the MAP of the precisions found.

        The best round saw residuals of weights on their way, which are larger than those of the
        MAP: its noise made intervals too wide.
        """
        likelihood, options = fit.log_posterior.likelihood, self.options
        # Where the prior is fixed the rounds end at a noise that the MAP's residuals agree with.
        if not (options.prior and options.noise and isinstance(likelihood, GaussianLikelihood)):
            return fit
        # Noise that will vary has yet to find its shape around the level.
        if isinstance(likelihood, HeteroscedasticLikelihood) or self.left <= 0:
            return fit
        weights = self._train(fit.log_posterior, fit.weights, self.left, True).weights
        noise_alone = replace(options, prior=False)
        renewed, _ = updated_at(fit.log_posterior, weights, noise_alone, self.generator)
        assert isinstance(renewed.likelihood, GaussianLikelihood)
        before, after = likelihood.noise_precision, renewed.likelihood.noise_precision
        beta = before * (after / before) ** RENEWAL
        log_posterior = replace(fit.log_posterior, likelihood=likelihood.with_precision(beta))
        return replace(fit, log_posterior=log_posterior, weights=weights)

    def _train(
        self,
        log_posterior: LogPosterior,
        weights: Tensor,
        steps: int,
        rough: bool = False,
        preconditioner: Subspace | None = None,
    ) -> Trajectory:
        tol = max(self.trainer.decrement_tol, ROUND_DECREMENT if rough else 0.0)
        trainer = replace(self.trainer, max_iter=steps, decrement_tol=tol)
        trajectory = trainer.train(
            log_posterior, weights, self.generator, self.callback, preconditioner
        )
        self.losses.extend(trajectory.curve[1:])
        return trajectory

"""Fit: the members of an ensemble, from where they start to their MAPs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.utils.parallel import Parallel, delayed
from torch import Generator, Tensor
from tqdm import tqdm

from sklearn_hfl._ensemble.member import Asked, Member, Resumed
from sklearn_hfl._ensemble.route import Route
from sklearn_hfl._ensemble.threads import few_threads
from sklearn_hfl.optim.krylov import determined_subspace
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.training import Callback, Trainer
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.likelihood import CategoricalLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import is_linear
from sklearn_hfl.uncertainty.alternation import Alternation, Fit
from sklearn_hfl.uncertainty.annealing import annealed_map
from sklearn_hfl.uncertainty.diagnostics import diagnose
from sklearn_hfl.uncertainty.posterior_mean import posterior_mean_shift
from sklearn_hfl.uncertainty.precisions import EvidenceOptions
from sklearn_hfl.uncertainty.search import (
    beats_linear_model,
    gone_on,
    maximize_evidence,
    trainer_of,
)

__all__ = ["fit_members"]

# A classifier's subspace is extended until the std of every logit of any query is known to this
# relative error, which ``Subspace.beyond`` may be four times as large as: many classes are many
# logits, and none of them then needs directions of its own.
LOGIT_RTOL = 0.01
# What a progress bar shows of what a fit reports.
SHOWN = {"loss": "loss", "distance": "SDs from the MAP", "evidence": "log evidence"}

# Nats a row, left out of the training, by which a member may predict worse than another: other
# modes scatter by less, bad ones lose more (docs/design/members.md). Precisions of an earlier fit
# that lose as much on new rows are learned anew, as are those that others would improve on by
# MAX_RESCALING_GAIN: new rows of the same function gain a third of it, of another one more.
MAX_LOSS = 0.1
MAX_RESCALING_GAIN = 0.05

# Where a member begins: L, weights (P,) and source of randomness.
Start = tuple[LogPosterior, Tensor, Generator]


@dataclass(frozen=True)
class _Settings:
    """What all members share."""

    trainer: Trainer
    options: EvidenceOptions
    route: Route
    verbose: bool
    asked: Asked | None

    @property
    def learns(self) -> bool:
        return self.options.prior or self.options.noise


def fit_members(
    starts: Sequence[Start],
    resumed: Sequence[Resumed | None],
    trainer: Trainer,
    options: EvidenceOptions,
    route: Route,
    n_jobs: int | None,
    verbose: bool,
    asked: Asked | None,
    places: Sequence[int],
) -> tuple[Member, ...]:
    """Train a MAP from each start, or go on from what is ``resumed``.

    Where precisions are learned, the first member learns them, and the others are the MAPs that
    their own weights are annealed to under the same precisions. Bad modes are then left out,
    the first among them (docs/design/members.md). A linear model has one MAP, and so one member.
    """
    settings = _Settings(trainer, options, route, verbose, asked)
    jobs = list(zip(places, starts, resumed, strict=True))
    # The first that goes on knows the precisions of all.
    jobs.sort(key=lambda job: job[2] is None)
    if is_linear(starts[0][0].network):
        jobs = jobs[:1]
    members: list[Member] = []
    learned_anew = False
    if settings.learns:
        (place, start, known), *jobs = jobs
        first = known and _resumed_member(start, known, settings)
        if first is None:
            known, first = None, _fit_member(start, None, settings)
        members = [replace(first, place=place)]
        jobs = [] if is_linear(first.network) else jobs
        # Where the first learns other precisions, those of earlier fits are no longer shared.
        learned_anew = known is None or not known.fit.ended
    others = Parallel(n_jobs=n_jobs)(
        delayed(_other_member)(members[0], *start[1:], settings)
        if members and (known is None or learned_anew)
        else delayed(_fit_member)(start, known and replace(known.fit, ended=True), settings)
        for _, start, known in jobs
    )
    # What comes back from another process holds a copy of ``asked``, which may not equal it.
    members += [
        replace(member, place=place, asked=asked)
        for (place, *_), member in zip(jobs, others, strict=True)
        if member is not None
    ]
    if settings.learns:
        best = max(_left_out(member) for member in members)
        # Where the best is not finite there is nothing to compare, and all stay.
        members = [member for member in members if not best - _left_out(member) >= MAX_LOSS]
    if not route.needs_data:
        return tuple(member.without_data(route.rtol) for member in members)
    # Members share the data, also when other processes trained them.
    rows = starts[0][0]
    return tuple(member.with_data(rows.X, rows.y, rows.sample_weight) for member in members)


def _resumed_member(start: Start, known: Resumed, settings: _Settings) -> Member | None:
    """Train under the precisions of an earlier fit; None where they do not suit these rows.

    They suit where rows left out are predicted about as well as then, precisions are about as near
    to a fixed point, and the network still replaces its linear model: on rows that are easier,
    the first alone would not tell what other precisions, or the linear model, would reach.
    """
    log_posterior, weights, generator = start
    # Of its own: a search that follows is that of a new fit.
    probes = Generator().manual_seed(generator.initial_seed())
    member = _fit_member((log_posterior, weights, probes), known.fit, settings)
    last, now = known.facts, member.diagnostics
    fallen = last.log_density_left_out - now.log_density_left_out
    gain = now.rescaling_gain - last.rescaling_gain
    if not (fallen < MAX_LOSS and gain < MAX_RESCALING_GAIN):
        return None
    if known.same_rows:
        return member
    at = member.estimate
    fit = Fit(at.log_posterior, at.weights, now.log_evidence, subspace=at.subspace)
    with _threads(log_posterior):
        suits = beats_linear_model(fit, log_posterior, settings.trainer, settings.options)
    return member if suits else None


def _fit_member(start: Start, resumed: Fit | None, settings: _Settings) -> Member:
    """Train one MAP, at precisions that are given, ``resumed``, or learned from the evidence."""
    log_posterior, weights, generator = start
    trainer, options = settings.trainer, settings.options
    if resumed is not None:
        log_posterior, weights = resumed.log_posterior, resumed.weights
    with _threads(log_posterior), _bar(settings) as bar:
        loss = _starting_loss(log_posterior, weights)
        own = trainer_of(log_posterior, trainer, options)
        alternation = Alternation(own, options, generator, _progress(bar))
        if resumed is None and settings.learns:
            fit, steps, finished = maximize_evidence(
                log_posterior, weights, trainer, options, generator, alternation.callback
            )
            return _member(fit, (loss, *steps), generator, settings, finished)
        if resumed is not None:
            fit = gone_on(resumed, alternation)
        else:
            alternation.callback(phase="to the MAP")
            trajectory = alternation.train(log_posterior, weights, trainer.max_iter)
            fit = Fit(log_posterior, trajectory.weights, status=trajectory.status)
        return _member(fit, (loss, *alternation.losses), generator, settings)


def _other_member(
    first: Member, weights: Tensor, generator: Generator, settings: _Settings
) -> Member | None:
    """Anneal to a MAP under the precisions of the ``first`` member.

    One that predicts the training rows, left out one at a time, much worse than the first is no
    second opinion but a bad mode: the next start is tried. None where all lead to such modes.
    """
    known = first.estimate.log_posterior
    with _threads(known), _bar(settings) as bar:
        loss = _starting_loss(known, weights)
        for begin in settings.options.starts:
            alternation = Alternation(settings.trainer, settings.options, generator, _progress(bar))
            fit = annealed_map(known, weights, begin, alternation)
            fit = replace(fit, learned_from=first.n_rows)
            member = _member(fit, (loss, *alternation.losses), generator, settings)
            if _left_out(first) - _left_out(member) < MAX_LOSS:
                return member
    return None


def _left_out(member: Member) -> float:
    """Nats a row, each left out of the training."""
    return member.diagnostics.log_density_left_out


def _starting_loss(log_posterior: LogPosterior, weights: Tensor) -> float:
    loss = float(log_posterior.value(weights[None])[0])
    if not np.isfinite(loss):
        raise ValueError(
            f"The loss at the starting weights is {loss}: the data or their squares overflow "
            f"{log_posterior.X.dtype}, or a module of yours is undefined for some rows. Rescale "
            "the data: with normalize_X=True, and normalize_y=True of a regressor, numbers below "
            "1e150 do not overflow in float64."
        )
    return loss


def _member(
    fit: Fit,
    curve: tuple[float, ...],
    generator: Generator,
    settings: _Settings,
    finished: bool = True,
) -> Member:
    log_posterior, weights = fit.log_posterior, fit.weights
    classes = isinstance(log_posterior.likelihood, CategoricalLikelihood)
    subspace = fit.subspace
    rows = None if subspace is None else fit.rows
    if subspace is None:
        curvature = GaussNewton(log_posterior, weights)
        beyond = _beyond(settings.route, classes)
        subspace = determined_subspace(curvature, generator, beyond=beyond)
    estimate = MapEstimate(log_posterior, weights, subspace)
    shift = posterior_mean_shift(estimate, generator) if classes else None
    facts = replace(diagnose(estimate, rows), finished=finished)
    trainer = trainer_of(log_posterior, settings.trainer, settings.options)
    solver = trainer.described(log_posterior)
    n_rows = fit.learned_from or float(log_posterior.total_weight)
    return Member(
        estimate, facts, curve, shift, fit.status, solver, asked=settings.asked, n_rows=n_rows
    )


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


def _threads(log_posterior: LogPosterior) -> AbstractContextManager[None]:
    return few_threads(log_posterior.n_residuals, log_posterior.n_weights)


def _bar(settings: _Settings) -> Any:
    # Without a total: no fit goes on until max_iter.
    return tqdm(desc="fit", unit=" steps", disable=not settings.verbose)


def _progress(bar: Any) -> Callback:
    shown: dict[str, str] = {}

    def callback(**facts: float | str) -> None:
        if "phase" in facts:
            bar.set_description_str(f"fit, {facts['phase']}")  # shown, however short it is
        shown.update({SHOWN[key]: f"{facts[key]:.5g}" for key in SHOWN if key in facts})
        bar.set_postfix(shown, refresh=False)
        if "loss" in facts:
            bar.update()

    return callback

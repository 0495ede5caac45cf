"""Fit: the members of an ensemble, from where they start to their MAPs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.utils.parallel import Parallel, delayed
from torch import Generator, Tensor
from tqdm import tqdm

from sklearn_hfl._ensemble.member import Member
from sklearn_hfl._ensemble.route import Route
from sklearn_hfl.optim.krylov import determined_subspace
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.training import Callback, Trainer
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.likelihood import CategoricalLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.uncertainty.alternation import Alternation, Fit
from sklearn_hfl.uncertainty.annealing import annealed_map
from sklearn_hfl.uncertainty.diagnostics import diagnose
from sklearn_hfl.uncertainty.posterior_mean import posterior_mean_shift
from sklearn_hfl.uncertainty.precisions import EvidenceOptions
from sklearn_hfl.uncertainty.search import maximize_evidence

__all__ = ["fit_members"]

# A classifier's subspace is extended until the std of every logit of any query is known to this
# relative error, which ``Subspace.beyond`` may be four times as large as: many classes are many
# logits, and none of them then needs directions of its own.
LOGIT_RTOL = 0.01
# What a progress bar shows of what a fit reports.
SHOWN = {"loss": "loss", "distance": "SDs from the MAP", "evidence": "log evidence"}


def fit_members(
    starts: Sequence[tuple[LogPosterior, Tensor, Generator]],
    resumed: Sequence[Fit | None],
    trainer: Trainer,
    options: EvidenceOptions,
    route: Route,
    n_jobs: int | None,
    verbose: bool,
) -> tuple[Member, ...]:
    """Train a MAP from the weights of each start, or go on from what is ``resumed``.

    The first member learns the precisions. The others are the MAPs that their own weights lead
    to under the same precisions (docs/design/members.md); a linear model has but one.
    """
    fit = partial(_fit_member, trainer=trainer, options=options, route=route, verbose=verbose)
    members: list[Member] = []
    shared: list[Fit | None] = [None] * len(starts)
    if options.prior or options.noise:
        members = [fit(*starts[0], resumed[0], None)]
        if members[0].is_linear:
            members *= len(starts)
        shared = [members[0].precisions_on(start[0], options) for start in starts]
    jobs = list(zip(starts, resumed, shared, strict=True))[len(members) :]
    members += Parallel(n_jobs=n_jobs)(delayed(fit)(*start, *fits) for start, *fits in jobs)
    if not route.needs_data:
        return tuple(member.without_data(route.rtol) for member in members)
    # Members share the data, also when other processes trained them.
    rows = starts[0][0]
    return tuple(member.with_data(rows.X, rows.y, rows.sample_weight) for member in members)


def _fit_member(
    log_posterior: LogPosterior,
    weights: Tensor,
    generator: Generator,
    resumed: Fit | None,
    shared: Fit | None,
    trainer: Trainer,
    options: EvidenceOptions,
    route: Route,
    verbose: bool,
) -> Member:
    """Train one MAP, at precisions that are given, ``resumed``, ``shared`` or learned."""
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
        if resumed is not None or shared is not None:
            alternation = Alternation(trainer, options, generator, callback)
            if resumed is not None:
                fit = alternation.to_map(resumed)
            elif shared is not None:
                fit = annealed_map(shared, weights, alternation)
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
    return Member(estimate, facts, curve, shift, status, trainer.described(log_posterior))


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

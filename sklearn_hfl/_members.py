"""Members: MAP estimates of one fit, and the answers that they give together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, cast

import numpy as np
import torch
from sklearn.utils.parallel import Parallel, delayed
from torch import Tensor
from tqdm import tqdm

from sklearn_hfl._validation import check_finite
from sklearn_hfl.optim.krylov import krylov_subspace
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.perturbed_optima import PerturbedOptima, perturbed_optima, scouted
from sklearn_hfl.optim.training import Trainer
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.functional import Functional, Prediction
from sklearn_hfl.posterior.likelihood import CategoricalLikelihood, GaussianLikelihood
from sklearn_hfl.posterior.linearization import Linearization
from sklearn_hfl.posterior.link import IDENTITY, Link
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.uncertainty.covariance import covariance
from sklearn_hfl.uncertainty.diagnostics import Diagnostics, diagnose
from sklearn_hfl.uncertainty.moderation import Moderation
from sklearn_hfl.uncertainty.posterior_mean import posterior_mean_shift
from sklearn_hfl.uncertainty.precisions import EvidenceOptions
from sklearn_hfl.uncertainty.profile import ProfileInterval, profile_interval
from sklearn_hfl.uncertainty.search import maximize_evidence
from sklearn_hfl.uncertainty.variance import Variance, variance

__all__ = [
    "Member",
    "Route",
    "concatenated",
    "fit_member",
    "for_chunks",
    "functional_moments",
    "functional_values",
    "joint_covariance",
    "member_means",
    "member_noise",
    "member_profiles",
    "member_variances",
    "warm_started",
    "with_data",
]

# Queries answered together at most: larger blocks gain nothing in matrix products.
MOST_QUERIES = 1024
# With more chunks than this, rows of all of them first find the directions to start from: 10 000
# queries of 6001 weights, each with a direction of its own, take 34 s in place of 53 s
# (benchmarks/growth.py; 39 s where the scouts stop at rtol, not at half of it).
CHUNKS_UNSCOUTED = 4
# A classifier's fit goes on until the logits of any query at all are known to this relative
# error of their std, four of which ε of ``Subspace.beyond`` may be: many classes are many
# logits, and none of them then needs directions of its own.
LOGIT_RTOL = 0.01


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
    """

    estimate: MapEstimate
    diagnostics: Diagnostics
    loss_curve: tuple[float, ...]
    shift: Tensor | None = None

    @property
    def n_outputs(self) -> int:
        """Outputs of the network."""
        return self.estimate.log_posterior.network.n_outputs

    def mean_outputs(self, linear: Linearization) -> Tensor:
        """Outputs (Q, K) at the posterior mean, which is not the MAP where there is a shift."""
        if self.shift is None:
            return linear.outputs
        return linear.outputs + linear.forward(self.shift[:, None])[:, 0]


@dataclass(frozen=True)
class Route:
    """How standard deviations are found: see ``perturbed_optima``.

    Attributes
    ----------
    mode : {"linearized", "network", "amortized"}
        Whose optima, and from what.
    rtol : float
        Relative error asked for.
    perturbation_scale : float or "auto"
        ε of the network's refit.
    """

    mode: str
    rtol: float
    perturbation_scale: float | str

    @property
    def needs_data(self) -> bool:
        """Whether queries may go back to the data."""
        return self.mode != "amortized"

    def optima(self, estimate: MapEstimate, functional: Functional) -> PerturbedOptima:
        """Perturbed optima of functionals, found this way."""
        return perturbed_optima(
            estimate,
            functional,
            self.mode,
            rtol=self.rtol,
            perturbation_scale=self.perturbation_scale,
        )


def fit_member(
    log_posterior: LogPosterior,
    weights: Tensor,
    generator: torch.Generator,
    trainer: Trainer,
    options: EvidenceOptions,
    route: Route,
    verbose: bool,
) -> Member:
    """Train one MAP, at precisions that are learned from the evidence or given."""
    start = float(log_posterior.value(weights[None])[0])
    if not np.isfinite(start):
        raise ValueError(
            f"The loss at the starting weights is {start}: the data overflow "
            f"{log_posterior.X.dtype}, or a module of yours is undefined for some rows. Without "
            "normalize_X=True, and normalize_y=True of a regressor, rescale the data."
        )
    curve: tuple[float, ...] = (start,)
    finished = True
    with tqdm(total=trainer.max_iter, desc="fit", unit="step", disable=not verbose) as bar:
        callback = _progress(bar)
        if options.prior or options.noise:
            log_posterior, weights, steps, finished = maximize_evidence(
                log_posterior, weights, trainer, options, generator, callback
            )
            curve += steps
        else:
            trajectory = trainer.train(log_posterior, weights, generator, callback)
            weights = trajectory.weights
            curve += trajectory.curve[1:]
    classes = isinstance(log_posterior.likelihood, CategoricalLikelihood)
    curvature = GaussNewton(log_posterior, weights)
    subspace = krylov_subspace(curvature, generator, beyond=_beyond(route, classes))
    estimate = MapEstimate(log_posterior, weights, subspace)
    shift = posterior_mean_shift(estimate, generator) if classes else None
    facts = replace(diagnose(estimate), finished=finished)
    if not route.needs_data:
        estimate = estimate.without_data(route.rtol)
    return Member(estimate, facts, curve, shift)


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


def _progress(bar: Any) -> Callable[[float], None]:
    def callback(loss: float) -> None:
        bar.update()
        bar.set_postfix(loss=f"{loss:.6g}", refresh=False)

    return callback


def warm_started(
    member: Member, log_posterior: LogPosterior, weights: Tensor
) -> tuple[LogPosterior, Tensor]:
    """Weights and precisions of the last fit, where they still fit the problem."""
    old = member.estimate
    if (
        old.weights.shape != weights.shape
        or old.log_posterior.prior.groups.names != log_posterior.prior.groups.names
    ):
        return log_posterior, weights
    return log_posterior, old.weights.to(weights)


def with_data(estimate: MapEstimate, X: Tensor, y: Tensor, weight: Tensor) -> MapEstimate:
    log_posterior = replace(estimate.log_posterior, X=X, y=y, sample_weight=weight)
    return replace(estimate, log_posterior=log_posterior)


def member_means(members: Sequence[Member], X: Tensor, link: Link = IDENTITY) -> list[Tensor]:
    """Values (Q, C) of the link at the MAP of each member, at queries (Q, D)."""
    means = []
    for member in members:
        lp, weights = member.estimate.log_posterior, member.estimate.weights
        size = max(1, int(lp.memory_limit / (8 * lp.network.width * X.element_size())))
        parts = [lp.network.forward(weights[None], part)[0] for part in torch.split(X, size)]
        outputs = torch.cat(parts)
        check_finite([outputs], "predictions")
        means.append(link.value(outputs))
    return means


def member_noise(members: Sequence[Member], X: Tensor) -> list[Tensor]:
    """Noise variances (Q, n_targets) of each member at queries (Q, D)."""
    variances = []
    for member in members:
        likelihood = cast(GaussianLikelihood, member.estimate.log_posterior.likelihood)
        # Noise that is the same for all rows is known without a pass of the network.
        outputs = (
            member_means([member], X)[0]
            if likelihood.noise_varies
            else X.new_empty(len(X), len(likelihood.noise_precision))
        )
        variances.append(likelihood.noise_variance(outputs))
    return variances


def member_variances(
    members: Sequence[Member],
    X: Tensor,
    route: Route,
    n_jobs: int | None,
    verbose: bool,
    link: Link = IDENTITY,
) -> list[Variance]:
    """Variances of the link's values at queries (Q, D), for each member."""

    def answer(member: Member, chunk: Tensor) -> tuple[Variance]:
        functional = Prediction(member.estimate.log_posterior.network, chunk, link)
        return (variance(route.optima(member.estimate, functional), route.rtol),)

    parts = for_chunks(answer, members, X, route, n_jobs, verbose)
    return [concatenated([v for (v,) in of_member]) for of_member in parts]


def member_profiles(
    members: Sequence[Member],
    X: Tensor,
    z: float,
    route: Route,
    n_jobs: int | None,
    verbose: bool,
    link: Link = IDENTITY,
) -> list[ProfileInterval]:
    """Profile intervals of the link's values at queries (Q, D), for each member."""

    def answer(member: Member, chunk: Tensor) -> ProfileInterval:
        functional = Prediction(member.estimate.log_posterior.network, chunk, link)
        return profile_interval(member.estimate, functional, z, rtol=route.rtol)

    # Whatever the variance is, the ends are the network's own.
    parts = for_chunks(answer, members, X, replace(route, mode="network"), n_jobs, verbose)
    return [concatenated(of_member) for of_member in parts]


def joint_covariance(
    members: Sequence[Member], X: Tensor, route: Route, link: Link = IDENTITY
) -> tuple[Tensor, list[Variance]]:
    """Epistemic covariance (Q, Q, K) of the mixture's values at queries (Q, D), and its verdicts.

    The outputs are taken one at a time: covariances between them are left out.
    """
    means = torch.stack(member_means(members, X, link))
    deviations = means - means.mean(0)
    total = torch.einsum("mik,mjk->ijk", deviations, deviations)
    q, k = means.shape[1:]
    verdicts = []
    for member in members:
        functional = Prediction(member.estimate.log_posterior.network, X, link)
        optima = route.optima(member.estimate, functional)
        joint = covariance(functional, optima, route.rtol).reshape(q, k, q, k)
        total += joint.diagonal(dim1=1, dim2=3)
        verdicts.append(variance(optima, route.rtol))
    return total / len(members), verdicts


def functional_values(
    members: Sequence[Member], functional: Callable[[LogPosterior], Functional]
) -> Tensor:
    """Values (M, G) of the G functionals of each of M members."""
    values = []
    with torch.no_grad():
        for estimate in (member.estimate for member in members):
            values.append(functional(estimate.log_posterior).value(estimate.weights[None])[0])
    return torch.stack(values)


def functional_moments(
    members: Sequence[Member],
    functional: Callable[[LogPosterior], Functional],
    route: Route,
    *,
    joint: bool,
) -> tuple[Tensor, Tensor, list[Variance]]:
    """Mixture's means (G,), variances (G,) or ``joint`` covariance (G, G), and verdicts."""
    values = functional_values(members, functional)
    deviations = values - values.mean(0)
    total = deviations.mT @ deviations if joint else deviations.square().sum(0)
    verdicts = []
    for member in members:
        own = functional(member.estimate.log_posterior)
        optima = route.optima(member.estimate, own)
        verdicts.append(variance(optima, route.rtol))
        total += covariance(own, optima, route.rtol) if joint else verdicts[-1].value
    return values.mean(0), total / len(members), verdicts


def chunk_size(log_posterior: LogPosterior, mode: str) -> int:
    """Queries that a chunk may hold, for peak memory to follow the limit."""
    # Gradient, step and residual; the network route adds its pairs and L-BFGS histories.
    vectors = 60 if mode == "network" else 8
    outputs = log_posterior.network.n_outputs
    per_query = vectors * log_posterior.n_weights * outputs * log_posterior.X.element_size()
    return max(1, min(MOST_QUERIES, int(log_posterior.memory_limit / (4 * per_query))))


_Answer = TypeVar("_Answer")


def for_chunks(
    answer: Callable[[Member, Tensor], _Answer],
    members: Sequence[Member],
    X: Tensor,
    route: Route,
    n_jobs: int | None,
    verbose: bool,
    size: int | None = None,
) -> list[list[_Answer]]:
    """Answer chunks of queries that fit the memory limit, in parallel, for each member.

    Chunks of another ``size`` than that of gradients are answered without any.
    """
    gradients = size is None
    size = size or chunk_size(members[0].estimate.log_posterior, route.mode)
    chunks = torch.split(X, min(size, MOST_QUERIES))
    if len(chunks) > CHUNKS_UNSCOUTED and route.needs_data and gradients:
        scouts = X[torch.linspace(0, len(X) - 1, len(chunks[0])).long()]
        members = [_scouted(member, scouts, route.rtol) for member in members]
    tasks = [(member, chunk) for member in members for chunk in chunks]
    progress = tqdm(tasks, desc="standard deviations", disable=not verbose)
    parts = Parallel(n_jobs=n_jobs)(delayed(answer)(*task) for task in progress)
    n = len(chunks)
    return [list(parts[i : i + n]) for i in range(0, len(parts), n)]


def _scouted(member: Member, X: Tensor, rtol: float) -> Member:
    functional = Prediction(member.estimate.log_posterior.network, X)
    return replace(member, estimate=scouted(member.estimate, functional, 0.5 * rtol))


_Tensors = TypeVar("_Tensors", Moderation, ProfileInterval, Variance)


def concatenated(parts: Sequence[_Tensors]) -> _Tensors:
    """One dataclass of tensors from those of the chunks."""
    names = [field.name for field in fields(parts[0])]
    return type(parts[0])(*(torch.cat([getattr(p, name) for p in parts]) for name in names))

"""Ensemble: the members of one fit, and what they answer together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from sklearn.utils.parallel import Parallel, delayed
from torch import Tensor
from tqdm import tqdm

from sklearn_hfl._data.validation import check_finite
from sklearn_hfl._ensemble.chunks import chunk_size, chunked, concatenated
from sklearn_hfl._ensemble.deletion import (
    FunctionalOf,
    Influence,
    chunk_of_rows,
    deletions,
    influences,
    refits,
)
from sklearn_hfl._ensemble.draws import member_draws
from sklearn_hfl._ensemble.logits import chunk_of_pairs, logit_posterior, with_pairs
from sklearn_hfl._ensemble.member import Member
from sklearn_hfl._ensemble.route import Route
from sklearn_hfl._ensemble.threads import few_threads
from sklearn_hfl.optim.linear_response import with_directions_of
from sklearn_hfl.posterior.functional import Functional, Prediction
from sklearn_hfl.posterior.likelihood import CategoricalLikelihood, GaussianLikelihood
from sklearn_hfl.posterior.link import IDENTITY, Link
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.uncertainty.covariance import covariance
from sklearn_hfl.uncertainty.deletion import Deletion
from sklearn_hfl.uncertainty.moderation import LogitPosterior, Moderation
from sklearn_hfl.uncertainty.profile import ProfileInterval, profile_interval
from sklearn_hfl.uncertainty.variance import Variance, variance

__all__ = ["Ensemble"]

# With more chunks than this, pilot queries spread over all of them first extend the subspace that
# every chunk starts from: 10 000 queries of 6001 weights, each with a direction of its own, take
# 34 s instead of 53 s (benchmarks/growth.py; 39 s where the pilot queries stop at rtol instead of
# half of it).
MAX_CHUNKS_WITHOUT_PILOT = 4
_Answer = TypeVar("_Answer")
_Numbers = tuple[Tensor, ...]


@dataclass(frozen=True)
class Ensemble:
    """M members, and how their standard deviations are found.

    Queries X are (Q, D); what is read off the network's outputs has C values a query.

    Attributes
    ----------
    members : tuple of Member
        MAP estimates with their Laplace posteriors.
    route : Route
        Where variances come from.
    n_jobs : int or None
        joblib workers, over members and chunks of queries.
    verbose : bool
        Whether to show progress bars.
    link : Link
        What is read off the outputs.
    """

    members: tuple[Member, ...]
    route: Route
    n_jobs: int | None = None
    verbose: bool = False
    link: Link = IDENTITY

    def means(self, X: Tensor) -> Tensor:
        """Values (M, Q, C) at each member's MAP."""
        return torch.stack([self.link.value(_outputs(member, X)) for member in self.members])

    def noise(self, X: Tensor) -> Tensor:
        """Noise variances (M, Q, n_targets); zeros for classes, which have none."""
        variances = []
        for member in self.members:
            likelihood = member.estimate.log_posterior.likelihood
            if not isinstance(likelihood, GaussianLikelihood):
                variances.append(X.new_zeros(len(X), self.link.n_values(member.n_outputs)))
                continue
            # Constant noise is known without a pass through the network.
            outputs = (
                _outputs(member, X)
                if likelihood.noise_varies
                else X.new_empty(len(X), len(likelihood.noise_precision))
            )
            variances.append(likelihood.noise_variance(outputs))
        return torch.stack(variances)

    def variances(self, X: Tensor) -> list[Variance]:
        """Variances of the Q·C values, for each member."""
        self._check_route()
        route, link = self.route, self.link  # not the members, which would travel with each task

        def answer(member: Member, chunk: Tensor) -> Variance:
            functional = Prediction(member.network, chunk, link)
            return variance(route.optima(member.estimate, functional), route.rtol)

        return [concatenated(parts) for parts in self._in_chunks(answer, X)]

    def profiles(self, X: Tensor, z: float) -> list[ProfileInterval]:
        """Profile intervals of the Q·C values at ``z`` standard deviations, for each member."""
        self._check_route()
        rtol, link = self.route.rtol, self.link

        def answer(member: Member, chunk: Tensor) -> ProfileInterval:
            functional = Prediction(member.network, chunk, link)
            return profile_interval(member.estimate, functional, z, rtol=rtol)

        # Whatever the variance is, the ends come from refits of the network.
        network = replace(self, route=replace(self.route, mode="network"))
        return [concatenated(parts) for parts in network._in_chunks(answer, X)]

    def logits(
        self, X: Tensor, moderate: Callable[[LogitPosterior], Moderation]
    ) -> tuple[list[Moderation], list[Variance]]:
        """``moderate`` of the posterior of the centred logits, and their variances' error bounds.

        For each member, and chunk by chunk, so that no more than a chunk's covariances are
        held. The mean of the logits is that of the posterior, not the MAP.
        """
        self._check_route()
        route = self.route
        paired = replace(self, members=with_pairs(self.members, len(X), route))

        def answer(member: Member, chunk: Tensor) -> tuple[Moderation, Variance]:
            logits, own = logit_posterior(member, chunk, route)
            return moderate(logits), own

        estimates = [member.estimate for member in paired.members]
        with_gradients = any(estimate.ritz is None for estimate in estimates)
        size = None if with_gradients else min(map(chunk_of_pairs, estimates))
        moderations, variances = [], []
        for parts in paired._in_chunks(answer, X, size):
            moderated, own = zip(*parts, strict=True)
            moderations.append(concatenated(moderated))
            variances.append(concatenated(own))
        return moderations, variances

    def covariance(self, X: Tensor) -> tuple[Tensor, list[Variance]]:
        """Epistemic covariance (Q, Q, C) of the mixture's values, and each member's variances.

        One value of a query at a time: covariances between the C of them are left out.
        """
        self._check_route()
        means = self.means(X)
        deviations = means - means.mean(0)
        total = torch.einsum("mik,mjk->ijk", deviations, deviations)
        q, c = means.shape[1:]
        variances = []
        for member in self.members:
            functional = Prediction(member.network, X, self.link)
            optima = self.route.optima(member.estimate, functional)
            joint = covariance(functional, optima, self.route.rtol).reshape(q, c, q, c)
            total += joint.diagonal(dim1=1, dim2=3)
            variances.append(variance(optima, self.route.rtol))
        return total / len(self.members), variances

    def values(self, functional: FunctionalOf) -> Tensor:
        """Values (M, G) of G functionals at each member's MAP."""
        values = []
        with torch.no_grad():
            for estimate in (member.estimate for member in self.members):
                own = functional(estimate.log_posterior)
                values.append(own.value(estimate.weights[None])[0])
        return torch.stack(values)

    def functionals(
        self, functional: FunctionalOf, *, joint: bool
    ) -> tuple[Tensor, Tensor, list[Variance]]:
        """Mixture's means (G,), variances (G,) or ``joint`` covariance (G, G) of G functionals.

        Also each member's variances.
        """
        self._check_route()
        values = self.values(functional)
        deviations = values - values.mean(0)
        total = deviations.mT @ deviations if joint else deviations.square().sum(0)
        variances = []
        for member in self.members:
            own = functional(member.estimate.log_posterior)
            optima = self.route.optima(member.estimate, own)
            variances.append(variance(optima, self.route.rtol))
            total += covariance(own, optima, self.route.rtol) if joint else variances[-1].value
        return values.mean(0), total / len(self.members), variances

    def draws(
        self, X: Tensor, n_draws: int, rng: np.random.RandomState
    ) -> tuple[list[Tensor], list[Variance]]:
        """Joint draws (Q, C, S_m) of functions from each member, whose S_m add up to ``n_draws``.

        Also the variances of each member that was drawn from.
        """
        self._check_route()
        share = np.full(len(self.members), 1 / len(self.members))
        draws, variances = [], []
        for member, count in zip(self.members, rng.multinomial(n_draws, share), strict=True):
            if count == 0:
                draws.append(X.new_empty(len(X), self.link.n_values(member.n_outputs), 0))
                continue
            values, own = member_draws(member, X, int(count), self.route, rng, self.link)
            check_finite([values], "draws")
            draws.append(values)
            variances.append(own)
        return draws, variances

    def left_out(
        self, rows: Tensor, refit: bool, read: Callable[[Member, Tensor, Deletion], _Numbers]
    ) -> tuple[list[_Numbers], list[Variance]]:
        """Training rows (n,) as the others predict them: what is ``read``, of each member.

        By the linearised posterior, or by a refit without each of them. ``read`` gets a chunk
        of the rows. Also the variances (n · K,) of their outputs.
        """
        route = replace(self.route, mode="linearized")
        find = refits if refit else deletions
        members = self.members
        if isinstance(members[0].estimate.log_posterior.likelihood, CategoricalLikelihood):
            members = members if refit else with_pairs(members, len(rows), route)

        def answer(member: Member, chunk: Tensor) -> tuple[_Numbers, Variance]:
            left, own = find(member, chunk, route)
            return read(member, chunk, left), own

        size = min(chunk_of_rows(member, refit) for member in members)
        numbers, variances = [], []
        for parts in replace(self, members=members)._in_chunks(answer, rows, size):
            left, own = zip(*parts, strict=True)
            numbers.append(tuple(torch.cat(each) for each in zip(*left, strict=True)))
            variances.append(concatenated(own))
        return numbers, variances

    def influence(
        self,
        X: Tensor,
        functional: Callable[[LogPosterior, Tensor], Functional],
        rows: Tensor,
        read: Callable[[Member, Tensor, Tensor], Tensor],
        *,
        top: int | None,
        whole: bool = False,
    ) -> tuple[Influence, list[Variance], list[Variance]]:
        """What leaving out each of the training rows (n,) changes at queries X, over all members.

        Of functionals of a chunk of X, or of the ``whole`` of X, whose changes ``read`` makes
        those of (Q, n, C) values. Also each member's variances: of the functionals, and of the
        outputs of the rows without them.
        """
        pulls, of_rows = self.left_out(rows, False, lambda member, chunk, left: (left.pull,))
        network = self.route.mode == "network"
        route = self.route if network else replace(self.route, mode="linearized")

        def answer(chunk: Tensor) -> tuple[Influence, list[Variance]]:
            return influences(
                self.members,
                lambda log_posterior: functional(log_posterior, chunk),
                rows,
                [pull for (pull,) in pulls],
                lambda member, change: read(member, chunk, change),
                route,
                top,
            )

        size = min(chunk_size(m.estimate.log_posterior, route.mode) for m in self.members)
        chunks = (X,) if whole else chunked(X, size)
        parts = Parallel(n_jobs=self.n_jobs)(delayed(answer)(chunk) for chunk in chunks)
        changes, variances = zip(*parts, strict=True)
        own = [concatenated(each) for each in zip(*variances, strict=True)]
        return Influence.joined(changes, 0), own, of_rows

    def _in_chunks(
        self, answer: Callable[[Member, Tensor], _Answer], X: Tensor, size: int | None = None
    ) -> list[list[_Answer]]:
        """Answers to chunks of X, for each member.

        Chunks of a given ``size`` are those that need no gradients, and no pilot queries.
        """
        members = self.members
        gradients = size is None
        # Members may differ: one that keeps its linear model has fewer weights.
        size = size or min(chunk_size(m.estimate.log_posterior, self.route.mode) for m in members)
        chunks = chunked(X, size)
        if len(chunks) > MAX_CHUNKS_WITHOUT_PILOT and self.route.needs_data and gradients:
            pilot = X[torch.linspace(0, len(X) - 1, len(chunks[0])).long()]
            members = tuple(_after_pilot(member, pilot, self.route.rtol) for member in members)
        tasks = [(member, chunk) for member in members for chunk in chunks]
        progress = tqdm(tasks, desc="standard deviations", disable=not self.verbose)
        lp, n = members[0].estimate.log_posterior, len(chunks)
        with few_threads(max(lp.n_residuals, len(chunks[0])), lp.n_weights):
            parts = Parallel(n_jobs=self.n_jobs)(delayed(answer)(*task) for task in progress)
        return [list(parts[i : i + n]) for i in range(0, len(parts), n)]

    def _check_route(self) -> None:
        self.route.check(self.members[0].estimate)


def _outputs(member: Member, X: Tensor) -> Tensor:
    """Outputs (Q, n_outputs) at the MAP, in blocks that the memory limit allows."""
    lp, weights = member.estimate.log_posterior, member.estimate.weights
    size = max(1, int(lp.memory_limit / (8 * lp.network.width * X.element_size())))
    parts = [lp.network.forward(weights[None], part)[0] for part in torch.split(X, size)]
    outputs = torch.cat(parts)
    check_finite([outputs], "predictions")
    return outputs


def _after_pilot(member: Member, pilot: Tensor, rtol: float) -> Member:
    functional = Prediction(member.network, pilot)
    return replace(member, estimate=with_directions_of(member.estimate, functional, 0.5 * rtol))

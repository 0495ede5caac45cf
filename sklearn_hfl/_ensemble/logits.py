"""Logits: their posterior at new rows, and what is made of it, for each member of a classifier."""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor

from sklearn_hfl._ensemble.chunks import chunk_size
from sklearn_hfl._ensemble.member import Member
from sklearn_hfl._ensemble.route import Route
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.output_covariance import output_covariance
from sklearn_hfl.optim.ritz import RitzPairs
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.posterior.link import CENTRED
from sklearn_hfl.uncertainty.covariance import block_covariance
from sklearn_hfl.uncertainty.moderation import LogitPosterior
from sklearn_hfl.uncertainty.variance import Variance, variance

__all__ = ["chunk_of_pairs", "logit_posterior", "with_pairs"]

# Minimum number of logits per direction of the subspace for which converting it to Ritz pairs
# pays off.
MIN_LOGITS_PER_DIRECTION = 3


def chunk_of_pairs(estimate: MapEstimate) -> int:
    """Queries that a chunk may hold, where no gradient is formed."""
    lp = estimate.log_posterior
    numbers = 8 * lp.network.n_outputs**2 + lp.network.linearization_width
    return max(1, int(lp.memory_limit / (4 * numbers * lp.X.element_size())))


def with_pairs(members: tuple[Member, ...], n_queries: int, route: Route) -> tuple[Member, ...]:
    """Convert all subspaces to Ritz pairs, where there are enough queries for it to pay off.

    Converting costs a few products of the basis with m columns, a gradient two products with
    one column.
    """
    k = members[0].n_outputs
    rank = max(member.estimate.subspace.rank for member in members)
    if route.mode != "linearized" or n_queries * k < MIN_LOGITS_PER_DIRECTION * rank:
        return members
    turned = []
    for member in members:
        pairs = RitzPairs.from_subspace(member.estimate.subspace, route.rtol)
        turned.append(replace(member, estimate=replace(member.estimate, ritz=pairs)))
    return tuple(turned)


def logit_posterior(member: Member, X: Tensor, route: Route) -> tuple[LogitPosterior, Variance]:
    """Posterior of the centred logits at X (Q, D), and the variances of its Q·K logits."""
    estimate = member.estimate
    linear = member.network.linearize(estimate.weights, X)
    covariance, own = _logit_covariance(estimate, X, route)
    return LogitPosterior(CENTRED.value(member.mean_outputs(linear)), covariance), own


def _logit_covariance(estimate: MapEstimate, X: Tensor, route: Route) -> tuple[Tensor, Variance]:
    """Covariance (Q, K, K) of the centred logits at X (Q, D), and its flags (Q · K)."""
    network = estimate.log_posterior.network
    if estimate.ritz is None or route.mode == "network":
        return _refined_logit_covariance(estimate, X, route)
    found = output_covariance(estimate, estimate.ritz, X)
    bounds = found.bounds
    own = Variance(bounds.variance, bounds.rel_error, bounds.rel_error <= route.rtol)
    missed = ~own.converged.unflatten(0, (-1, network.n_outputs)).all(1)
    if not (route.needs_data and missed.any()):
        return found.covariance, own
    k = network.n_outputs
    size = chunk_size(estimate.log_posterior, route.mode)
    for rows in torch.nonzero(missed)[:, 0].split(size):
        covariance, better = _refined_logit_covariance(estimate, X[rows], route)
        found.covariance[rows] = covariance
        for field in fields(Variance):
            values = getattr(own, field.name).view(-1, k)
            values[rows] = getattr(better, field.name).view(-1, k)
    return found.covariance, own


def _refined_logit_covariance(
    estimate: MapEstimate, X: Tensor, route: Route
) -> tuple[Tensor, Variance]:
    """Logit covariance by a gradient for each logit, with directions added until certified."""
    network = estimate.log_posterior.network
    functional = Prediction(network, X, CENTRED)
    optima = route.optima(estimate, functional)
    covariance = block_covariance(functional, optima, route.rtol, network.n_outputs)
    return covariance, variance(optima, route.rtol)

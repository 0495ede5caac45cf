"""Draws: functions from the posterior of a fit, joint over rows and outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sklearn_hfl._ensemble.chunks import chunk_size, concatenated
from sklearn_hfl._ensemble.member import Member
from sklearn_hfl._ensemble.route import Route
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.subspace import Galerkin
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.posterior.link import Link
from sklearn_hfl.uncertainty.covariance import covariance
from sklearn_hfl.uncertainty.draws import n_normals, weight_draws
from sklearn_hfl.uncertainty.variance import Variance, variance

__all__ = ["member_draws"]


def member_draws(
    member: Member, X: Tensor, n_draws: int, route: Route, rng: np.random.RandomState, link: Link
) -> tuple[Tensor, Variance]:
    """Draw functions from the posterior of a member.

    Each is one draw of the weights, seen through the linearisation at the MAP, so that rows
    and outputs are joint, and the cost is linear in the number of rows. With mode "network",
    whose variances are those of single queries, it is a draw from their joint covariance
    instead, cubic in the number of rows.

    Parameters
    ----------
    member : Member
        Fitted.
    X : Tensor of shape (Q, D)
        Queries.
    n_draws : int
        S.
    route : Route
        How variances are found.
    rng : RandomState
        Source of randomness.
    link : Link
        What is read off the outputs, C values that are linear in them.

    Returns
    -------
    draws : Tensor of shape (Q, C, S)
        Values.
    variances : Variance
        Those of the Q·C values.
    """
    of_member = _of_optima if route.mode == "network" else _of_weights
    return of_member(member, X, n_draws, route, rng, link)


def _of_optima(
    member: Member, X: Tensor, n_draws: int, route: Route, rng: np.random.RandomState, link: Link
) -> tuple[Tensor, Variance]:
    """Draws (Q, C, S) from the joint covariance of the network's perturbed optima."""
    estimate, network = member.estimate, member.network
    functional = Prediction(network, X, link)
    optima = route.optima(estimate, functional)
    values, vectors = torch.linalg.eigh(covariance(functional, optima, route.rtol))
    deviations = (vectors * values.clamp(min=0.0).sqrt()) @ _normals(rng, n_draws, X, len(values))
    mean = link.value(member.mean_outputs(network.linearize(estimate.weights, X)))
    return mean[..., None] + deviations.unflatten(0, mean.shape), variance(optima, route.rtol)


def _of_weights(
    member: Member, X: Tensor, n_draws: int, route: Route, rng: np.random.RandomState, link: Link
) -> tuple[Tensor, Variance]:
    """Draws (Q, C, S) of the linearised network."""
    estimate, variances = _refined(member.estimate, X, route, link)
    log_posterior = estimate.log_posterior
    network, limit = log_posterior.network, log_posterior.memory_limit / X.element_size()
    # Blocks of draws and of rows, each within a sixteenth of the memory limit.
    of_draw = 4 * n_normals(estimate)
    parts = []
    for count in _sizes(n_draws, limit / (16 * of_draw)):
        steps = weight_draws(estimate, _normals(rng, count, X, n_normals(estimate)).mT)
        of_row = network.linearization_width + 2 * count * network.width
        blocks = []
        for block in X.split(max(1, int(limit / (16 * of_row)))):
            linear = network.linearize(estimate.weights, block)
            outputs = member.mean_outputs(linear)[:, None, :] + linear.forward(steps)
            blocks.append(link.value(outputs).mT)
        parts.append(torch.cat(blocks))
    return torch.cat(parts, dim=2), variances


def _refined(
    estimate: MapEstimate, X: Tensor, route: Route, link: Link
) -> tuple[MapEstimate, Variance]:
    """One subspace in which the values at all queries meet the tolerance, as far as they can."""
    variances = []
    for chunk in X.split(chunk_size(estimate.log_posterior, route.mode)):
        optima = route.optima(estimate, Prediction(estimate.log_posterior.network, chunk, link))
        variances.append(variance(optima, route.rtol))
        if isinstance(optima.linear.galerkin, Galerkin):
            estimate = replace(estimate, subspace=optima.linear.galerkin.subspace)
    return estimate, concatenated(variances)


def _normals(rng: np.random.RandomState, n_draws: int, like: Tensor, width: int) -> Tensor:
    """Standard normal numbers (width, S); those of a draw do not depend on how many follow."""
    return torch.as_tensor(rng.standard_normal((n_draws, width))).to(like).mT


def _sizes(total: int, most: float) -> list[int]:
    """So many in parts of no more than ``most``, and of one at the least."""
    size = max(1, int(most))
    return [min(size, total - start) for start in range(0, total, size)]

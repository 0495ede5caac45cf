"""Deletion: training rows as each member predicts them from the others, and what each row moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sklearn_hfl._ensemble.chunks import chunk_size
from sklearn_hfl._ensemble.logits import chunk_of_pairs, logit_posterior
from sklearn_hfl._ensemble.member import Member
from sklearn_hfl._ensemble.route import Route
from sklearn_hfl.optim.left_out_optima import left_out_estimate, left_out_optima
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.subspace import stationary_radius
from sklearn_hfl.posterior.functional import Functional, Prediction
from sklearn_hfl.posterior.likelihood import CategoricalLikelihood
from sklearn_hfl.posterior.link import CENTRED, IDENTITY, Link
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.uncertainty.covariance import block_covariance
from sklearn_hfl.uncertainty.deletion import Deletion, deletion, left_out_weight
from sklearn_hfl.uncertainty.influence import influence, inverse_product
from sklearn_hfl.uncertainty.posterior_mean import posterior_mean_shift
from sklearn_hfl.uncertainty.variance import Variance, variance

__all__ = ["FunctionalOf", "Influence", "chunk_of_rows", "deletions", "influences", "refits"]

FunctionalOf = Callable[[LogPosterior], Functional]


def chunk_of_rows(member: Member, refit: bool) -> int:
    """Training rows of a chunk, for its peak to stay within a quarter of the memory limit."""
    estimate = member.estimate
    if estimate.ritz is not None and not refit:
        return chunk_of_pairs(estimate)
    return chunk_size(estimate.log_posterior, "network" if refit else "linearized")


def deletions(member: Member, rows: Tensor, route: Route) -> tuple[Deletion, Variance]:
    """Rows (n,) of the training data taken out of the linearised posterior.

    Also the variances (n · K,) of their outputs without them, with error bounds.
    """
    estimate = member.estimate
    X = estimate.log_posterior.X[rows]
    if _classes(member):
        # Neither score nor curvature depends on the mean of the logits.
        logits, own = logit_posterior(member, X, route)
        covariance = logits.covariance
    else:
        functional = Prediction(member.network, X)
        optima = route.optima(estimate, functional)
        covariance = block_covariance(functional, optima, route.rtol, member.n_outputs)
        own = variance(optima, route.rtol)
    left = _deletion(member, rows, covariance)
    return left, _without(left, own, route.rtol)


def refits(member: Member, rows: Tensor, route: Route) -> tuple[Deletion, Variance]:
    """Rows (n,) of the training data as the network predicts them, refitted without each.

    Also the variances (n · K,) of their outputs, with the larger of their error bound and the
    distance of the refit from its optimum as error. Rows whose refit does not converge, or whose
    variance without the row is not found to the tolerance, keep the linearised prediction.
    """
    estimate, k = member.estimate, member.n_outputs
    lp = estimate.log_posterior
    functional = Prediction(member.network, lp.X[rows], _link(member))
    optima = route.optima(estimate, functional)
    covariance = block_covariance(functional, optima, route.rtol, k)
    left = _deletion(member, rows, covariance)
    step = inverse_product(optima.linear).unflatten(1, (-1, k))
    one = left_out_weight(lp.sample_weight[rows])
    solution = left_out_optima(
        estimate, rows, one, torch.einsum("pnk,nk->pn", step, left.pull), route.rtol
    )
    # As near to the optimum as the MAP has to be.
    near = solution.residual <= stationary_radius(estimate.subspace.n_effective)
    converged = solution.converged | near
    moved, mean, posterior = left.moved.clone(), left.mean.clone(), left.covariance.clone()
    error = solution.residual[:, None].repeat(1, k)
    for i in torch.nonzero(converged)[:, 0]:
        refit = left_out_estimate(estimate, rows[i], one[i], solution.weights[i])
        outputs, at_mean, matrix, own = _refitted(member, refit, rows[i], route)
        finite = at_mean.isfinite().all() & matrix.isfinite().all()
        error[i] = error[i].maximum(own.rel_error)
        converged[i] = finite & own.converged.all()
        if converged[i]:
            moved[i], mean[i], posterior[i] = outputs, at_mean, matrix
    found = replace(left, moved=moved, mean=mean, covariance=posterior)
    return found, Variance(
        posterior.diagonal(dim1=1, dim2=2).flatten(),
        error.flatten(),
        converged.repeat_interleave(k),
    )


def _refitted(
    member: Member, refit: MapEstimate, row: Tensor, route: Route
) -> tuple[Tensor, Tensor, Tensor, Variance]:
    """Outputs (K,) of a row at a MAP and at its posterior mean, their covariance, variances."""
    x = refit.log_posterior.X[row][None]
    functional = Prediction(member.network, x, _link(member))
    optima = route.optima(refit, functional)
    covariance = block_covariance(functional, optima, route.rtol, member.n_outputs)
    shift = None
    if member.shift is not None:
        # Probes of its own, the same for every row.
        shift = posterior_mean_shift(refit, torch.Generator().manual_seed(0))
    linear = member.network.linearize(refit.weights, x)
    mean = replace(member, shift=shift).mean_outputs(linear)
    return linear.outputs[0], mean[0], covariance[0], variance(optima, route.rtol)


@dataclass(frozen=True)
class Influence:
    """What leaving out each of some training rows does to predictions: the largest, or all.

    Attributes
    ----------
    change : Tensor of shape (Q, n, C)
        Of C values at Q queries: all n rows, or those of the largest absolute changes first.
    rows : Tensor of shape (Q, n, C)
        Which rows these are; of shape (Q, 0, C) where they are all.
    """

    change: Tensor
    rows: Tensor

    def largest(self, top: int) -> Influence:
        """The ``top`` rows of each query and value."""
        order = self.change.abs().argsort(dim=1, descending=True, stable=True)[:, :top]
        return Influence(self.change.gather(1, order), self.rows.gather(1, order))

    @classmethod
    def joined(cls, parts: Sequence[Influence], dim: int) -> Influence:
        """Rows (``dim`` 1) or queries (0) of several together."""
        return cls(
            torch.cat([part.change for part in parts], dim),
            torch.cat([part.rows for part in parts], dim),
        )


def influences(
    members: Sequence[Member],
    functional: FunctionalOf,
    rows: Tensor,
    pulls: Sequence[Tensor],
    read: Callable[[Member, Tensor], Tensor],
    route: Route,
    top: int | None,
) -> tuple[Influence, list[Variance]]:
    """Changes when each of the training rows (n,) is left out: means over the members.

    ``read`` makes changes (Q, m, C) of a member from those of its functionals, (G, m), and
    ``pulls`` (n, K) are those of each member's ``Deletion``.
    """
    estimates = [member.estimate for member in members]
    optima = [route.optima(e, functional(e.log_posterior)) for e in estimates]
    variances = [variance(each, route.rtol) for each in optima]
    found: list[Influence] = []
    for block in _blocks(members, rows, len(variances[0].value)):
        changes = [
            read(m, influence(m.estimate, rows[block], pull[block], own, route.rtol))
            for m, pull, own in zip(members, pulls, optima, strict=True)
        ]
        change = torch.stack(changes).mean(0)
        if top is None:
            found.append(Influence(change, rows.new_empty(len(change), 0, change.shape[2])))
            continue
        numbers = torch.arange(len(rows), device=rows.device)[block][:, None]
        part = Influence(change, numbers.expand_as(change))
        found = [Influence.joined([*found, part], 1).largest(top)]
    return Influence.joined(found, 1), variances


def _blocks(members: Sequence[Member], rows: Tensor, n_functionals: int) -> Iterator[slice]:
    """Blocks of the rows for which all members' changes fit the memory limit."""
    numbers = n_functionals * members[0].n_outputs * (len(members) + 3)
    return members[0].estimate.log_posterior.select(rows).blocks(numbers)


def _classes(member: Member) -> bool:
    return isinstance(member.estimate.log_posterior.likelihood, CategoricalLikelihood)


def _link(member: Member) -> Link:
    return CENTRED if _classes(member) else IDENTITY


def _deletion(member: Member, rows: Tensor, covariance: Tensor) -> Deletion:
    lp = member.estimate.log_posterior
    own = lp.select(rows)
    linear = member.network.linearize(member.estimate.weights, own.X)
    shift = None if member.shift is None else member.mean_outputs(linear) - linear.outputs
    targets, one = own.targets(slice(None)), left_out_weight(own.sample_weight)
    return deletion(lp.likelihood, linear.outputs, covariance, targets, one, shift)


def _without(left: Deletion, own: Variance, rtol: float) -> Variance:
    """Variances without each row, from those with it: their errors are amplified."""
    k = left.moved.shape[1]
    error = own.rel_error / left.remaining.repeat_interleave(k)
    value = left.covariance.diagonal(dim1=1, dim2=2).flatten()
    return Variance(value, error, error <= rtol)

"""Ritz pairs: one product gives what the subspace gives with two, and the same bounds."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.optim.krylov import krylov_subspace
from sklearn_hfl.optim.perturbed_optima import perturbed_optima
from sklearn_hfl.optim.ritz import RitzPairs
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.uncertainty.exact import dense_ggn, exact_covariance
from tests.cases import F64, PROBLEMS, TASKS, amortized, generator, map_estimate, problem, randn

RANKS = [0, 1, 7, 20, 24]


def dense(seed=0, n=24):
    """A = I + RRᵀ with eigenvalues from 1 to 1e4."""
    Q, _ = torch.linalg.qr(randn(n, n, seed=seed))
    return Q @ torch.diag(1 + torch.logspace(-6, 4, n, dtype=F64)) @ Q.mT


def subspace_of(A, rank):
    return Subspace.empty(A.diagonal() - 1).extended(randn(len(A), rank, seed=5), A.matmul)


@pytest.mark.parametrize("rank", RANKS)
def test_a_solution_is_that_of_the_subspace(rank):
    A, G = dense(), randn(24, 6, seed=6)
    subspace = subspace_of(A, rank)
    ours, theirs = RitzPairs.from_subspace(subspace, 0.0).solve(G), subspace.solve(G)
    assert_close(ours.step, theirs.step, rtol=1e-6, atol=1e-9)
    assert_close(ours.residual, theirs.residual, rtol=1e-6, atol=1e-6)
    # Couplings are told from rounding to 1e-8 of the largest: bounds are wider by that.
    ours, theirs = ours.bounds, theirs.bounds
    assert_close(ours.inside, theirs.inside)
    assert_close(ours.outside, theirs.outside, rtol=1e-6, atol=1e-9)
    assert_close(ours.lower, theirs.lower, rtol=1e-5, atol=1e-9)
    assert_close(ours.upper, theirs.upper, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("rank", RANKS)
def test_the_largest_value_is_that_of_the_subspace(rank):
    subspace = subspace_of(dense(), rank)
    expected = max([1.0, *torch.linalg.eigvalsh(subspace.gram).tolist()])
    assert RitzPairs.from_subspace(subspace, 0.0).largest == pytest.approx(expected)


def test_coupling_within_the_tolerance_costs_no_vectors():
    subspace = subspace_of(dense(), 7)
    pairs = [RitzPairs.from_subspace(subspace, rtol) for rtol in (1.0, 100.0, 1000.0)]
    widths = [p.vectors.shape[1] for p in pairs]
    assert widths[0] > widths[1] > widths[2] == subspace.rank


@pytest.mark.parametrize("rtol", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("rank", RANKS)
def test_bounds_hold_whatever_coupling_is_neglected(rank, rtol):
    A, G = dense(1), randn(24, 200, seed=7)
    pairs = RitzPairs.from_subspace(subspace_of(A, rank), rtol)
    bounds = pairs.solve(G).bounds
    exact = (G * torch.linalg.solve(A, G)).sum(0)
    assert (bounds.lower <= exact * (1 + 1e-9)).all()
    assert (exact <= bounds.upper * (1 + 1e-9)).all()
    assert pairs.neglected <= max(0.1 * rtol, 1e-6)


def test_all_directions_leave_nothing_outside():
    A, G = dense(2), randn(24, 5)
    pairs = RitzPairs.from_subspace(subspace_of(A, 24), 1e-3)
    bounds = pairs.solve(G).bounds
    assert pairs.vectors.shape == (24, 24)
    assert not bounds.outside.any()
    assert_close(bounds.lower, bounds.upper, rtol=0, atol=0)
    assert_close(bounds.inside, (G * torch.linalg.solve(A, G)).sum(0))


@pytest.mark.parametrize("rtol", [1e-2, 1e-5])
@pytest.mark.parametrize("stretch", [1.0, 3.0, 30.0])
@pytest.mark.parametrize("name", [*PROBLEMS, *TASKS])
def test_every_query_is_certified_wherever_it_lies(name, stretch, rtol):
    estimate, case = map_estimate(name), problem(name)
    functional = Prediction(case.log_posterior.network, stretch * case.queries)
    linear = perturbed_optima(amortized(estimate, rtol), functional, "amortized", rtol=rtol).linear
    dense_matrix = dense_ggn(estimate.log_posterior, estimate.weights)
    exact = exact_covariance(dense_matrix, functional.gradient(estimate.weights)).diagonal()
    assert (linear.rel_error <= rtol).all()
    assert ((linear.variance / exact).sqrt() - 1).abs().le(linear.rel_error).all()


def test_queries_that_the_pairs_do_not_resolve_are_not_certified():
    estimate, case = map_estimate("sine with gap"), problem("sine with gap")
    few = krylov_subspace(estimate.curvature(), generator(0), trace_rtol=1.0, block_size=3)
    amortized_few = replace(estimate, subspace=few).without_data(1e-2)
    linear = perturbed_optima(amortized_few, case.prediction, "amortized", rtol=1e-2).linear
    dense_matrix = dense_ggn(estimate.log_posterior, estimate.weights)
    gradient = case.prediction.gradient(estimate.weights)
    exact = exact_covariance(dense_matrix, gradient).diagonal().sqrt()
    assert (linear.rel_error > 1e-2).any()
    assert ((linear.variance.sqrt() / exact - 1).abs() <= linear.rel_error).all()


def test_no_data_are_left():
    estimate = amortized(map_estimate("two outputs"), 1e-2)
    lp = estimate.log_posterior
    assert lp.X.shape == (0, 2)
    assert lp.y.shape == (0, 2)
    assert lp.sample_weight.shape == (0,)
    # Not even as the memory that an empty view keeps.
    assert all(t.untyped_storage().nbytes() == 0 for t in (lp.X, lp.y, lp.sample_weight))
    assert estimate.subspace.rank == 0

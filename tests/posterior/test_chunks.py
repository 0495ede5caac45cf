"""Chunks: sums over chunks of rows are those over all rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior import log_posterior
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.likelihood import GaussianLikelihood, HeteroscedasticLikelihood
from sklearn_hfl.uncertainty.leave_one_out import leave_one_out
from sklearn_hfl.uncertainty.precisions import squared_residuals
from tests.cases import PROBLEMS, problem, randn


class Parts:
    """Rows in three chunks, of which nothing but sums is used."""

    def __init__(self, lp):
        self.lp, self.parts = (
            lp,
            [lp.select(rows) for rows in torch.arange(len(lp.X)).tensor_split(3)],
        )
        self.n_rows, self.total_weight = len(lp.X), lp.sample_weight.sum()

    def total(self, function, *arguments):
        found = [function(p.X, p.y, p.sample_weight, *arguments) for p in self.parts]
        many = isinstance(found[0], tuple)
        return tuple(map(sum, zip(*found, strict=True))) if many else sum(found)

    def select(self, rows):
        return self.lp.X[rows], self.lp.y[rows], self.lp.sample_weight[rows]


# The variance of the mean at each row has no place among sums.
@pytest.fixture(params=PROBLEMS)
def case(request):
    found = problem(request.param)
    lp = found.log_posterior
    lp = replace(lp, sample_weight=randn(len(lp.X)).abs())
    if isinstance(lp.likelihood, HeteroscedasticLikelihood):
        lp = replace(lp, variance_of_mean=None)
    return lp, replace(lp.without_data(), chunks=Parts(lp)), found.weights()


def test_loss_gradient_and_hessian(case):
    lp, chunked, weights = case
    several = torch.stack([weights, 0.5 * weights])
    v = randn(len(weights))
    assert_close(chunked.value(several), lp.value(several))
    assert_close(chunked.value_and_gradient(several), lp.value_and_gradient(several))
    assert_close(chunked.hessian(weights)(v), lp.hessian(weights)(v))
    assert chunked.n_residuals == lp.n_residuals
    assert_close(chunked.total_weight, lp.total_weight)


def test_curvature(case):
    lp, chunked, weights = case
    ours, theirs = GaussNewton(chunked, weights), GaussNewton(lp, weights)
    S = randn(len(weights), 3)
    assert_close(ours.gradient(), theirs.gradient())
    assert_close(ours.product(S), theirs.product(S))
    assert_close(ours.product(S[:, 0]), theirs.product(S[:, 0]))
    assert_close(ours.matrix(), theirs.matrix())
    assert_close(ours.skew(S), theirs.skew(S))
    assert_close(ours.excess_diagonal(), theirs.excess_diagonal())


def test_residuals_and_rows_left_out(case):
    lp, chunked, weights = case
    if isinstance(lp.likelihood, GaussianLikelihood):
        assert_close(squared_residuals(chunked, weights), squared_residuals(lp, weights))
    found = []
    for each in (chunked, lp):
        subspace = Subspace.complete(GaussNewton(each, weights).matrix())
        rows, others = (
            leave_one_out(MapEstimate(each, w, subspace)) for w in (weights, 0.9 * weights)
        )
        gains = rows.gain_over(others)
        facts = rows.n_rows, rows.log_density, rows.log_density_left_out, *gains
        shape = vars(rows.tails).values() if rows.tails else ()
        found.append((*facts, float(rows.over_fitted), *shape))
    assert found[0] == pytest.approx(found[1], rel=1e-9)


@pytest.mark.parametrize("limit", [10**7, 10])
def test_samples_are_of_the_same_rows(case, limit, monkeypatch):
    lp, chunked, _ = case
    # Of more rows than this, a sample is drawn without a permutation.
    monkeypatch.setattr(log_posterior, "MAX_PERMUTED", limit)
    size = len(lp.X) - 2
    ours = chunked.sample(size, torch.Generator().manual_seed(0))
    theirs = lp.sample(size, torch.Generator().manual_seed(0))
    assert ours.chunks is None
    assert_close(ours.X, theirs.X, rtol=0, atol=0)
    assert_close(ours.y, theirs.y, rtol=0, atol=0)
    assert len(ours.sample_weight.unique()) == len(ours.X) == size  # each row once

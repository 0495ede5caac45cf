"""Subsample: which of very many rows are taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.optim.subsample import growing_subsamples, scaled_subsample, subsample_size
from tests.cases import F64, LINEAR, generator, problem, take_subsamples


@pytest.fixture
def lp(monkeypatch):
    """1500 rows, of which 300 are enough."""
    take_subsamples(monkeypatch, 300)
    return LINEAR["linear"].problem(seed=0, n_rows=1500).log_posterior


def sizes(lp, seed=0):
    return [rows.n_rows for rows in growing_subsamples(lp, generator(seed))]


def test_a_subsample_counts_as_all_rows(lp):
    assert subsample_size(lp) == 300
    rows = scaled_subsample(lp, generator(0))
    assert rows.n_rows == 300
    assert_close(rows.total_weight, lp.total_weight)


def test_subsamples_double_up_to_half_of_the_rows(lp):
    assert sizes(lp) == [375, 750]
    assert sizes(lp.select(torch.arange(1300))) == [325, 650]
    assert sizes(lp.select(torch.arange(1200))) == [600]
    for rows in growing_subsamples(lp, generator(0)):
        assert_close(rows.sample_weight, torch.ones(rows.n_rows, dtype=F64))
        assert rows.prior is lp.prior


def test_equal_generators_draw_equal_rows(lp):
    for one, other in zip(
        growing_subsamples(lp, generator(3)), growing_subsamples(lp, generator(3)), strict=True
    ):
        assert torch.equal(one.X, other.X)


def test_rows_are_counted_in_residuals(monkeypatch):
    """Of two outputs half as many rows are enough."""
    take_subsamples(monkeypatch, 300)
    many = problem("two outputs").log_posterior.select(torch.zeros(700, dtype=torch.long))
    assert subsample_size(many) == 300
    assert scaled_subsample(many, generator(0)).n_rows == 150
    assert sizes(many) == [175, 350]


def test_fewer_rows_are_taken_as_they_are(lp):
    fewer = lp.select(torch.arange(599))
    assert subsample_size(fewer) is None
    assert scaled_subsample(fewer, generator(0)) is fewer
    assert sizes(fewer) == []


def test_few_rows_that_have_most_of_the_weight_are_not_sampled(lp):
    weight = torch.where(torch.arange(1500) < 100, 100.0, 1e-3).to(F64)
    weighted = replace(lp, sample_weight=weight)
    assert subsample_size(weighted) is None
    assert scaled_subsample(weighted, generator(0)) is weighted
    assert sizes(weighted) == []


def test_subsamples_fit_into_the_memory_limit(lp):
    """They are copies, also of rows that are mapped or lie on a cluster."""
    numbers = lp.X.shape[1] + lp.y.shape[1] + 1
    limit = 400 * numbers * lp.X.element_size() * 16
    assert sizes(replace(lp, memory_limit=limit)) == [375]
    small = replace(lp, memory_limit=0.7 * limit)
    assert subsample_size(small) is None
    assert scaled_subsample(small, generator(0)) is small

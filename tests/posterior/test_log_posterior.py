from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, hessian, vmap
from torch.testing import assert_close

from sklearn_hfl.posterior.likelihood import CategoricalLikelihood
from tests import reference
from tests.cases import F64, PROBLEMS, generator, problem, randn

# Bytes a pass may use: blocks of one row, of a few rows, of all rows.
LIMITS = [1.0, 2000.0, 1e9]


@pytest.fixture(params=PROBLEMS)
def case(request):
    """Log posterior and weights (3, P) where it is not stationary."""
    case = problem(request.param)
    return case.log_posterior, case.weights(3)


@pytest.mark.parametrize("limit", LIMITS)
def test_value_equals_torch_distributions(case, limit):
    lp, weights = case
    expected = torch.stack([reference.negative_log_posterior(lp, w) for w in weights])
    assert_close(replace(lp, memory_limit=limit).value(weights), expected)


@pytest.mark.parametrize("limit", LIMITS)
def test_gradient_equals_automatic_differentiation(case, limit):
    lp, weights = case
    value, gradient = replace(lp, memory_limit=limit).value_and_gradient(weights)
    assert_close(value, lp.value(weights))
    assert_close(gradient, vmap(grad(lambda w: reference.negative_log_posterior(lp, w)))(weights))


@pytest.mark.parametrize("limit", LIMITS)
def test_hessian_product_equals_the_dense_hessian(case, limit):
    lp, (weights, *columns) = case
    dense = hessian(lambda w: reference.negative_log_posterior(lp, w))(weights)
    product = replace(lp, memory_limit=limit).hessian(weights)
    for v in columns:
        assert_close(product(v), dense @ v)


def test_results_are_outside_any_graph(case):
    lp, weights = case
    results = lp.value(weights), *lp.value_and_gradient(weights)
    assert not any(r.requires_grad for r in results)
    assert not lp.hessian(weights[0])(weights[1]).requires_grad


def test_a_row_of_weight_two_counts_as_two_rows(case):
    lp, weights = case
    twice = replace(lp, sample_weight=2 * lp.sample_weight)
    repeated = lp.select(torch.arange(len(lp.X)).repeat(2))
    assert_close(twice.value_and_gradient(weights), repeated.value_and_gradient(weights))


def test_a_row_of_weight_zero_does_not_count(case):
    lp, weights = case
    used = torch.arange(len(lp.X)) % 3 > 0
    without = replace(lp, sample_weight=lp.sample_weight * used)
    assert_close(without.value_and_gradient(weights), lp.select(used).value_and_gradient(weights))


def test_select_takes_masks_and_indices():
    lp = problem("two outputs").log_posterior
    mask = torch.arange(len(lp.X)) < 3
    by_mask, by_index = lp.select(mask), lp.select(torch.arange(3))
    assert by_mask.X.shape == (3, 2)
    assert by_mask.y.shape == (3, 2)
    assert_close(by_mask.value(randn(2, lp.n_weights)), by_index.value(randn(2, lp.n_weights)))


def test_a_scaled_sample_counts_as_all_rows():
    """With as much weight as all rows have, and as all of them where they are equal."""
    lp = problem("two outputs").log_posterior
    equal = lp.select(torch.zeros(400, dtype=torch.long))
    equal = replace(equal, sample_weight=torch.linspace(0.5, 1.5, 400, dtype=F64))
    sample = equal.scaled_sample(81, generator(0))
    assert len(sample.X) == 41  # of two residuals each
    weights = randn(1, lp.n_weights)
    assert_close(sample.value_and_gradient(weights), equal.value_and_gradient(weights))
    assert equal.scaled_sample(800, generator(0)) is equal


def test_effective_residuals_are_those_of_equal_weights():
    """Two outputs: twice the rows where weights are equal, twice the one that has all of it."""
    lp = problem("two outputs").log_posterior
    n = len(lp.X)
    for weight, rows in ((torch.full((n,), 3.0, dtype=F64), n), (torch.eye(n, dtype=F64)[0], 1)):
        found = replace(lp, sample_weight=weight).n_effective_residuals
        assert found == pytest.approx(2 * rows)


@pytest.mark.parametrize("name", ["one layer", "two outputs"])
def test_effective_residuals_of_a_rare_class_are_few(name):
    """All of them where classes are equally frequent, and else about as many as the rarest has."""
    lp = problem(name).log_posterior
    k = lp.network.n_outputs
    lp = replace(lp.select(torch.zeros(300, dtype=torch.long)), likelihood=CategoricalLikelihood())
    for n_rare in (150, 3):
        labels = (torch.arange(300) < n_rare).long()
        y = torch.eye(2, dtype=F64)[labels][:, -k:]
        expected = 4 * n_rare * (1 - n_rare / 300)
        assert replace(lp, y=y).n_effective_residuals == pytest.approx(k * expected)


def test_the_variance_of_the_mean_goes_with_its_rows():
    lp = problem("log noise").log_posterior
    variance, weights = randn(*lp.y.shape, seed=5) ** 2, randn(1, lp.n_weights)
    averaged = replace(lp, variance_of_mean=variance)
    assert_close(averaged.targets(slice(2, 4)), torch.cat([lp.y, variance], 1)[2:4])
    assert_close(lp.targets(slice(2, 4)), lp.y[2:4])
    outputs = lp.network.forward(weights, lp.X)
    expected = (
        lp.value(weights)
        + 0.5 * (lp.sample_weight @ (variance / lp.likelihood.noise_variance(outputs[0]))).sum()
    )
    assert_close(averaged.value(weights), expected)
    first, second = averaged.select(torch.arange(4)), averaged.select(torch.arange(4, len(lp.X)))
    total = first.value(weights) + second.value(weights) - lp.prior.energy(weights)
    assert_close(total, expected)
    assert_close(
        replace(averaged, memory_limit=1.0).value_and_gradient(weights),
        averaged.value_and_gradient(weights),
    )


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.integers(1, 60), st.integers(1, 50), st.floats(1.0, 1e5))
def test_blocks_cover_the_rows_within_the_limit(n_rows, numbers_per_row, limit):
    lp = problem("one layer").log_posterior
    lp = replace(lp, X=torch.zeros(n_rows, 1, dtype=F64), memory_limit=limit)
    blocks = [range(n_rows)[rows] for rows in lp.blocks(numbers_per_row)]
    assert [i for block in blocks for i in block] == list(range(n_rows))
    assert all(len(b) == 1 or len(b) * numbers_per_row * 8 <= limit for b in blocks)

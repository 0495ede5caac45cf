from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.uncertainty.exact import dense_ggn
from tests.cases import PROBLEMS, problem, randn


@pytest.fixture(params=[1.0, 3000.0, 1e9], ids=["row by row", "blocks", "cached"])
def limit(request):
    """Bytes a pass may use."""
    return request.param


@pytest.fixture(params=PROBLEMS)
def case(request, limit):
    """A with its dense whitened matrix."""
    case = problem(request.param)
    lp, weights = replace(case.log_posterior, memory_limit=limit), case.weights()
    scale = lp.prior.scale
    return GaussNewton(lp, weights), scale[:, None] * dense_ggn(lp, weights) * scale


def test_product_equals_the_dense_matrix(case):
    curvature, dense = case
    V = randn(curvature.n_weights, 3)
    assert_close(curvature.product(V), dense @ V)
    assert_close(curvature.product(V[:, 0]), dense @ V[:, 0])


def test_product_leaves_its_argument_alone(case):
    curvature, _ = case
    V = randn(curvature.n_weights, 3)
    curvature.product(V)
    assert_close(V, randn(curvature.n_weights, 3), rtol=0, atol=0)


def test_gradient_is_that_of_the_log_posterior(case):
    curvature, _ = case
    lp, weights = curvature.log_posterior, curvature.weights
    _, gradient = lp.value_and_gradient(weights[None])
    assert_close(curvature.gradient(), lp.prior.scale * gradient[0])


def test_excess_trace_equals_the_dense_trace(case):
    curvature, dense = case
    expected = float(torch.trace(dense)) - curvature.n_weights
    assert curvature.excess_trace() == pytest.approx(expected, rel=1e-10)


def test_no_eigenvalue_is_below_one(case):
    curvature, _ = case
    matrix = curvature.product(torch.eye(curvature.n_weights).to(curvature.weights))
    assert_close(matrix, matrix.mT)
    assert torch.linalg.eigvalsh(matrix).min() > 1 - 1e-10


def test_results_repeat(case):
    curvature, _ = case
    V = randn(curvature.n_weights, 2)
    first = curvature.product(V), curvature.gradient()
    assert_close((curvature.product(V), curvature.gradient()), first, rtol=0, atol=0)

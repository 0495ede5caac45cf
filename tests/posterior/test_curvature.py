from dataclasses import replace

import pytest
import torch
from torch.func import grad, hessian, vmap
from torch.testing import assert_close

from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.likelihood import CategoricalLikelihood
from sklearn_hfl.uncertainty.exact import dense_ggn
from tests.cases import F64, PROBLEMS, problem, randn


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


def test_matrix_equals_the_dense_one(case):
    curvature, dense = case
    assert_close(curvature.matrix(), dense)


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


def test_excess_diagonal_equals_the_dense_one(case):
    curvature, dense = case
    assert_close(curvature.excess_diagonal(), dense.diagonal() - 1, rtol=1e-10, atol=1e-12)


def test_output_variance_is_the_diagonal_of_the_outputs_covariance(case):
    curvature, _ = case
    lp, S = curvature.log_posterior, randn(curvature.n_weights, 4)
    _, jacobian = lp.network.jacobian(curvature.weights, lp.X)
    expected = (jacobian * curvature.scale @ S).square().sum(-1)
    assert_close(curvature.output_variance(S), expected)


def test_skew_is_the_derivative_by_the_outputs(case):
    lp, weights = case[0].log_posterior, case[0].weights
    k = lp.network.n_outputs
    one_hot = torch.eye(k, dtype=F64)[torch.arange(len(lp.y)) % k]
    lp = replace(lp, likelihood=CategoricalLikelihood(), y=one_hot)
    curvature, S = GaussNewton(lp, weights), randn(len(weights), 4)
    outputs, jacobian = lp.network.jacobian(curvature.weights, lp.X)
    jacobian = jacobian * curvature.scale

    def energy(u):
        f = outputs + jacobian @ u

        def row(f, y, w):
            return lp.likelihood.loss(f[None, None], y[None], w[None])[0]

        blocks = vmap(hessian(row))(f, lp.y, lp.sample_weight)
        U = jacobian @ S
        return 0.5 * torch.einsum("nkm,nkl,nlm->", U, blocks, U)

    expected = grad(energy)(torch.zeros_like(curvature.weights))
    assert_close(curvature.skew(S), expected, rtol=1e-7, atol=1e-8)


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


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_output_variance_of_no_direction_is_zero(name):
    lp = problem(name).log_posterior
    curvature = GaussNewton(lp, problem(name).weights())
    expected = torch.zeros(len(lp.X), lp.network.n_outputs, dtype=torch.float64)
    assert_close(
        curvature.output_variance(torch.zeros(lp.n_weights, 0, dtype=torch.float64)), expected
    )

import pytest
import torch
from torch.func import jacrev
from torch.testing import assert_close

from sklearn_hfl.uncertainty.exact import dense_ggn, dense_hessian, exact_covariance
from tests import reference
from tests.cases import LINEAR, PROBLEMS, problem, randn


@pytest.fixture(params=PROBLEMS)
def case(request):
    """Log posterior and weights that are no optimum."""
    case = problem(request.param)
    return case.log_posterior, case.weights()


def test_hessian_equals_finite_differences_of_the_gradient(case):
    lp, weights = case
    hessian = dense_hessian(lp, weights)
    expected = reference.finite_differences(
        lambda w: jacrev(lambda v: reference.negative_log_posterior(lp, v))(w), weights
    )
    assert_close(hessian, hessian.mT)
    assert_close(hessian, expected, rtol=1e-5, atol=1e-5)


def test_ggn_equals_its_formula(case):
    lp, weights = case
    expected = torch.diag(lp.prior.precision)
    for x, w in zip(lp.X, lp.sample_weight, strict=True):
        J = jacrev(lambda v, x=x: lp.network.forward(v[None], x[None])[0, 0])(weights)
        f = lp.network.forward(weights[None], x[None])[0, 0]
        expected = expected + w * J.mT @ reference.fisher(lp.likelihood, f) @ J
    assert_close(dense_ggn(lp, weights), expected)


@pytest.mark.parametrize("name", LINEAR)
def test_both_agree_where_the_network_is_linear(name):
    lp, weights = problem(name).log_posterior, problem(name).weights()
    assert_close(dense_ggn(lp, weights), dense_hessian(lp, weights))


@pytest.mark.parametrize("name", LINEAR)
def test_covariance_of_a_linear_network_is_the_closed_form(name):
    case = problem(name)
    lp, weights = case.log_posterior, case.weights()
    covariance = exact_covariance(dense_ggn(lp, weights), case.prediction.gradient(weights))
    expected = reference.BayesianLinearRegression(lp).variance(case.queries).flatten()
    assert_close(covariance.diagonal(), expected)


def test_covariance_is_that_of_the_inverse():
    root, G = randn(5, 5), randn(5, 3, seed=1)
    matrix = root @ root.mT + torch.eye(5).to(root)
    assert_close(exact_covariance(matrix, G), G.mT @ torch.linalg.inv(matrix) @ G)

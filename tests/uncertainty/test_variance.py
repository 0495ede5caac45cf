from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.optim.perturbed_optima import perturbed_optima
from sklearn_hfl.posterior.functional import Prediction, PredictionFunction, WeightedSum
from sklearn_hfl.uncertainty.exact import dense_ggn, dense_hessian, exact_covariance
from sklearn_hfl.uncertainty.variance import MAX_SCALE_DISAGREEMENT, accepted, variance
from tests.cases import CURVED, F64, LINEAR, TASKS, estimate_at, map_estimate, problem, randn

ORACLES = {"linearized": dense_ggn, "network": dense_hessian}


@pytest.fixture(params=ORACLES)
def mode(request):
    return request.param


def exact_variance(mode, functional, estimate):
    matrix = ORACLES[mode](estimate.log_posterior, estimate.weights)
    assert torch.linalg.eigvalsh(matrix)[0] > 0
    return exact_covariance(matrix, functional.gradient(estimate.weights)).diagonal()


def predictions(case):
    return case.prediction


def mean_and_contrast(case):
    W = torch.full((2, len(case.queries)), 1 / len(case.queries), dtype=F64)
    W[1] = randn(len(case.queries))
    return WeightedSum(case.log_posterior.network, case.queries, W)


def variance_of_outputs(case):
    return PredictionFunction(case.log_posterior.network, case.queries, lambda f: f.var(0))


@pytest.mark.parametrize("functional", [predictions, mean_and_contrast, variance_of_outputs])
@pytest.mark.parametrize("name", CURVED)
def test_any_functional_equals_the_dense_matrix(name, functional, mode):
    estimate, functional = map_estimate(name), functional(problem(name))
    result = variance(perturbed_optima(estimate, functional, mode, rtol=1e-4), 1e-4)
    expected = exact_variance(mode, functional, estimate)
    assert result.converged.all()
    assert (result.rel_error <= 1e-4).all()
    assert_close(result.value, expected, rtol=2e-4, atol=0)


@pytest.mark.parametrize("rtol", [1e-2, 1e-4])
@pytest.mark.parametrize("name", TASKS)
def test_every_linearized_row_meets_its_bound_on_the_tasks(name, rtol):
    estimate, functional = map_estimate(name, 1), problem(name, 1).prediction
    result = variance(perturbed_optima(estimate, functional, "linearized", rtol=rtol), rtol)
    exact = exact_variance("linearized", functional, estimate)
    error = (result.value.sqrt() / exact.sqrt() - 1).abs()
    assert result.converged.all()
    assert (error <= result.rel_error).all()
    assert (result.rel_error <= rtol).all()


@pytest.mark.parametrize("name", LINEAR)
def test_both_modes_agree_where_the_network_is_linear(name):
    estimate, functional = map_estimate(name), problem(name).prediction
    linear, network = (
        variance(perturbed_optima(estimate, functional, mode, rtol=1e-6), 1e-6).value
        for mode in ORACLES
    )
    assert_close(linear, network, rtol=1e-5, atol=0)


def example(rel_error):
    """Optima whose network rows have the given errors."""
    estimate, functional = map_estimate("two layers"), problem("two layers").prediction
    optima = perturbed_optima(estimate, functional, "network", rtol=1e-3)
    network = replace(optima.network, rel_error=torch.tensor(rel_error, dtype=F64))
    return replace(optima, network=network)


ERRORS = [1e-4, MAX_SCALE_DISAGREEMENT, 0.2, torch.inf]


@pytest.mark.parametrize(
    ("rtol", "expected"),
    [
        (1e-3, [True, True, False, False]),
        (0.3, [True, True, True, False]),
    ],
)
def test_rows_are_accepted_within_the_tolerance_or_scale_agreement(rtol, expected):
    assert accepted(example(ERRORS), rtol).tolist() == expected


def test_no_row_of_the_linearisation_is_a_network_row():
    optima = replace(example(ERRORS), network=None)
    assert accepted(optima, 1e-3).tolist() == [False] * 4


def test_rows_that_are_not_accepted_are_linearized():
    optima = example(ERRORS)
    result, use = variance(optima, 1e-3), accepted(optima, 1e-3)
    linear, network = optima.linear, optima.network
    assert_close(result.value[use], network.variance[use], rtol=0, atol=0)
    assert_close(result.value[~use], linear.variance[~use], rtol=0, atol=0)
    assert_close(result.rel_error[~use], linear.rel_error[~use], rtol=0, atol=0)


@pytest.mark.parametrize("rtol", [1e-3, 0.1, 0.3])
def test_converged_rows_meet_the_tolerance(rtol):
    result = variance(example(ERRORS), rtol)
    assert (result.rel_error[result.converged] <= max(rtol, MAX_SCALE_DISAGREEMENT)).all()


def test_variances_are_finite_where_the_hessian_is_indefinite():
    case = problem("one layer")
    estimate = estimate_at(case.log_posterior, 5 * randn(case.log_posterior.n_weights, seed=3))
    few = Prediction(case.log_posterior.network, case.queries[:2])
    optima = perturbed_optima(estimate, few, "network", rtol=1e-2)
    result = variance(optima, 1e-2)
    assert not result.converged.all()
    assert (result.value > 0).all()
    assert torch.isfinite(result.value).all()

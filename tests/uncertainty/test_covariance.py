from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.optim.perturbed_optima import perturbed_optima
from sklearn_hfl.posterior.functional import Prediction, PredictionFunction
from sklearn_hfl.uncertainty.covariance import block_covariance, covariance
from sklearn_hfl.uncertainty.exact import dense_ggn, dense_hessian, exact_covariance
from sklearn_hfl.uncertainty.variance import variance
from tests.cases import CURVED, PROBLEMS, amortized, map_estimate, problem, without_subspace

ORACLES = {"linearized": dense_ggn, "network": dense_hessian, "amortized": dense_ggn}


@pytest.fixture(params=ORACLES)
def mode(request):
    return request.param


@pytest.fixture(params=[1e-1, 1e-4])
def rtol(request):
    return request.param


def asked(name, mode):
    """The MAP with as little as the mode needs."""
    estimate = map_estimate(name)
    if mode == "amortized":
        return amortized(estimate, 1e-6)
    return without_subspace(estimate) if mode == "linearized" else estimate


def solve(name, mode, rtol):
    """Estimate, functional and optima."""
    functional = problem(name).prediction
    optima = perturbed_optima(asked(name, mode), functional, mode, rtol=rtol)
    return map_estimate(name), functional, optima


@pytest.mark.parametrize("name", [*PROBLEMS, "sine with gap"])
def test_diagonal_is_the_variance(name, mode, rtol):
    _, functional, optima = solve(name, mode, rtol)
    diagonal = covariance(functional, optima, rtol).diagonal()
    assert_close(diagonal, variance(optima, rtol).value, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", [*PROBLEMS, "sine with gap"])
def test_matrix_is_symmetric_and_semi_definite(name, mode, rtol):
    _, functional, optima = solve(name, mode, rtol)
    matrix = covariance(functional, optima, rtol)
    assert_close(matrix, matrix.mT, rtol=1e-12, atol=1e-15)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert eigenvalues[0] >= -1e-12 * eigenvalues[-1]


@pytest.mark.parametrize("name", PROBLEMS)
def test_matrix_equals_the_dense_covariance(name, mode):
    estimate, functional, optima = solve(name, mode, 1e-6)
    dense = ORACLES[mode](estimate.log_posterior, estimate.weights)
    expected = exact_covariance(dense, functional.gradient(estimate.weights))
    scale = expected.diagonal().sqrt()
    error = covariance(functional, optima, 1e-6) - expected
    assert (error.abs() <= 1e-3 * scale[:, None] * scale).all()


@pytest.mark.parametrize("name", CURVED)
def test_pairs_with_a_failed_refit_are_linearized(name):
    _, functional, optima = solve(name, "network", 1e-4)
    found = optima.network
    failed = torch.arange(len(found.variance)) == 1
    network = replace(
        found,
        plus=torch.where(failed[:, None], torch.nan, found.plus),
        rel_error=torch.where(failed, torch.inf, found.rel_error),
        variance=torch.where(failed, torch.nan, found.variance),
    )
    mixed = covariance(functional, replace(optima, network=network), 1e-4)
    linear = covariance(functional, replace(optima, network=None), 1e-4)
    assert mixed.isfinite().all()
    assert mixed[1, 1].item() == pytest.approx(linear[1, 1].item(), rel=1e-9)
    assert torch.linalg.eigvalsh(mixed)[0] >= -1e-12 * mixed.diagonal().max()


def test_repeated_queries_are_fully_correlated(mode):
    estimate, case = asked("two layers", mode), problem("two layers")
    functional = Prediction(case.log_posterior.network, case.queries[[0, 1, 0]])
    optima = perturbed_optima(estimate, functional, mode, rtol=1e-4)
    matrix = covariance(functional, optima, 1e-4)
    assert_close(matrix[0], matrix[2], rtol=1e-6, atol=0)
    assert_close(matrix[0, 0], matrix[0, 2], rtol=1e-6, atol=0)


def test_a_functional_without_gradient_covaries_with_nothing(mode):
    estimate, case = asked("two layers", mode), problem("two layers")
    functional = PredictionFunction(
        case.log_posterior.network, case.queries, lambda f: torch.stack([f[0, 0], 0 * f[1, 0]])
    )
    optima = perturbed_optima(estimate, functional, mode, rtol=1e-4)
    matrix = covariance(functional, optima, 1e-4)
    assert matrix[0, 0] > 0
    assert matrix[1].tolist() == pytest.approx([0, 0], abs=1e-15)


@pytest.mark.parametrize("name", ["two outputs", "module"])
def test_blocks_are_those_on_the_diagonal(name, mode):
    _, functional, optima = solve(name, mode, 1e-4)
    joint = covariance(functional, optima, 1e-4).unflatten(0, (-1, 2)).unflatten(2, (-1, 2))
    expected = joint.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    # The nearest semi-definite matrix is taken of each block, not of the joint matrix.
    rtol = 1e-2 if mode == "network" else 1e-9
    assert_close(block_covariance(functional, optima, 1e-4, 2), expected, rtol=rtol, atol=1e-9)

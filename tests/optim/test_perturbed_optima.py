from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.optim.network_response import network_response
from sklearn_hfl.optim.perturbed_optima import perturbed_optima
from sklearn_hfl.posterior.functional import Prediction, PredictionFunction, WeightedSum
from sklearn_hfl.uncertainty.exact import dense_ggn, dense_hessian, exact_covariance
from tests import reference
from tests.cases import (
    CURVED,
    F64,
    LINEAR,
    PROBLEMS,
    TASKS,
    estimate_at,
    in_precision,
    map_estimate,
    problem,
    randn,
    without_subspace,
)


def prediction(name):
    return problem(name).prediction


def exact_std(matrix, functional, estimate):
    gradient = functional.gradient(estimate.weights)
    return exact_covariance(matrix, gradient).diagonal().sqrt()


def ggn_std(functional, estimate):
    return exact_std(dense_ggn(estimate.log_posterior, estimate.weights), functional, estimate)


def hessian_std(functional, estimate):
    """The oracle of the network route, which needs a positive definite Hessian."""
    matrix = dense_hessian(estimate.log_posterior, estimate.weights)
    assert torch.linalg.eigvalsh(matrix)[0] > 0
    return exact_std(matrix, functional, estimate)


# ------------------------------------------------------------- linearized


@pytest.mark.parametrize("fitted", [False, True], ids=["no subspace", "fitted subspace"])
@pytest.mark.parametrize("rtol", [1e-1, 1e-3, 1e-8])
@pytest.mark.parametrize("name", [*PROBLEMS, *TASKS])
def test_bound_covers_the_error_of_every_query(name, rtol, fitted):
    estimate, functional = map_estimate(name), prediction(name)
    if not fitted:
        estimate = without_subspace(estimate)
    linear = perturbed_optima(estimate, functional, "linearized", rtol=rtol).linear
    error = (linear.variance.sqrt() / ggn_std(functional, estimate) - 1).abs()
    assert (error <= linear.rel_error).all()
    assert (linear.rel_error <= rtol).all()


@pytest.mark.parametrize("name", CURVED)
def test_linearized_needs_no_optimum(name):
    case = problem(name)
    estimate = without_subspace(estimate_at(case.log_posterior, case.weights()))
    linear = perturbed_optima(estimate, case.prediction, "linearized", rtol=1e-8).linear
    assert_close(linear.variance.sqrt(), ggn_std(case.prediction, estimate))


@pytest.mark.parametrize("limit", [16_000.0, 30_000.0])
def test_linearized_does_not_depend_on_the_memory_limit(limit):
    estimate, functional = map_estimate("two outputs"), prediction("two outputs")
    estimate = without_subspace(estimate)
    small = replace(estimate, log_posterior=replace(estimate.log_posterior, memory_limit=limit))
    first, second = (
        perturbed_optima(e, functional, "linearized", rtol=1e-6).linear for e in (estimate, small)
    )
    assert_close(first.variance, second.variance, rtol=1e-10, atol=0)


def test_more_queries_than_a_block_are_refined():
    estimate, case = map_estimate("sine with gap"), problem("sine with gap")
    estimate = without_subspace(estimate)
    many = Prediction(case.log_posterior.network, torch.linspace(-3, 3, 150, dtype=F64)[:, None])
    linear = perturbed_optima(estimate, many, "linearized", rtol=1e-6).linear
    assert_close(linear.variance.sqrt(), ggn_std(many, estimate), rtol=1e-6, atol=0)


# ---------------------------------------------------------------- network


@pytest.mark.parametrize("name", LINEAR)
def test_all_routes_of_a_linear_network_give_the_closed_form(name):
    estimate, functional = map_estimate(name), prediction(name)
    optima = perturbed_optima(estimate, functional, "network", rtol=1e-6)
    exact = reference.BayesianLinearRegression(estimate.log_posterior)
    variance = exact.variance(functional.X).flatten()
    assert_close(optima.linear.variance, variance)
    assert_close(optima.network.variance, variance, rtol=1e-6, atol=0)
    assert (optima.network.rel_error <= 1e-6).all()


@pytest.mark.parametrize("name", CURVED)
def test_network_equals_the_dense_hessian(name):
    estimate, functional = map_estimate(name), prediction(name)
    network = perturbed_optima(estimate, functional, "network", rtol=1e-4).network
    exact = hessian_std(functional, estimate)
    assert (network.rel_error <= 1e-4).all()
    assert_close(network.variance.sqrt(), exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", TASKS)
def test_network_equals_the_dense_hessian_on_the_tasks(name, seed):
    estimate, functional = map_estimate(name, seed), problem(name, seed).prediction
    exact = hessian_std(functional, estimate)

    def error(rtol):
        network = perturbed_optima(estimate, functional, "network", rtol=rtol).network
        return (network.variance.sqrt() / exact - 1).abs()

    tight = error(1e-5)
    assert tight.median() <= 1e-4
    assert tight.max() <= 1e-2
    assert error(1e-2).max() <= 2e-2


@pytest.mark.parametrize(
    "name", ["one layer", "two outputs", "weighted", "module", "sine with gap"]
)
def test_network_allows_for_a_gradient_that_is_not_zero(name):
    optimum, functional = map_estimate(name), prediction(name)
    # Off the MAP along the stiffest direction, no further than the Hessian stays definite.
    values, vectors = torch.linalg.eigh(dense_hessian(optimum.log_posterior, optimum.weights))
    shift = 0.02 * vectors[:, -1] / values[-1].sqrt()
    estimate = estimate_at(optimum.log_posterior, optimum.weights + shift)
    _, gradient = estimate.log_posterior.value_and_gradient(estimate.weights[None])
    assert torch.linalg.vector_norm(estimate.scale * gradient) > 0.2
    network = perturbed_optima(estimate, functional, "network", rtol=1e-4).network
    exact = hessian_std(functional, estimate)
    assert_close(network.variance.sqrt(), exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize("scale", [0.3, 0.01])
@pytest.mark.parametrize("name", ["linear", "one layer", "two outputs"])
def test_a_given_scale_is_taken_as_it_is(name, scale):
    estimate, functional = map_estimate(name), prediction(name)
    optima = perturbed_optima(estimate, functional, "network", rtol=1e-6, perturbation_scale=scale)
    network, g = optima.network, functional.value
    assert_close(network.strength, scale / optima.linear.variance.sqrt())
    difference = (g(network.plus) - g(network.minus)).diagonal() / (2 * network.strength)
    assert_close(network.variance, difference)


@pytest.mark.parametrize("name", CURVED)
def test_the_error_of_a_given_scale_falls_as_its_square(name):
    estimate, functional = map_estimate(name), prediction(name)
    exact = hessian_std(functional, estimate)

    def error(scale):
        optima = perturbed_optima(
            estimate, functional, "network", rtol=1e-9, perturbation_scale=scale
        )
        return (optima.network.variance.sqrt() - exact).abs().max().item()

    assert error(0.01) == pytest.approx(error(0.02) / 4, rel=0.1)


@pytest.mark.parametrize("name", CURVED)
def test_two_scales_are_extrapolated_and_compared(name):
    estimate, functional = map_estimate(name), prediction(name)
    linear = perturbed_optima(estimate, functional, "linearized", rtol=1e-9).linear
    large, small, both = (
        network_response(estimate, functional, linear, 1e-9, scales)
        for scales in ((0.2,), (0.1,), (0.2, 0.1))
    )
    expected = small.variance + (small.variance - large.variance) / 3
    assert_close(both.variance, expected, rtol=1e-6, atol=0)
    disagreement = (large.variance.sqrt() / small.variance.sqrt() - 1).abs()
    assert_close(both.rel_error, disagreement, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("name", CURVED)
def test_the_optima_are_stationary(name):
    estimate, functional = map_estimate(name), prediction(name)
    network = perturbed_optima(
        estimate, functional, "network", rtol=1e-8, perturbation_scale=0.3
    ).network
    for sign, weights in ((1, network.plus), (-1, network.minus)):
        _, gradient = estimate.log_posterior.value_and_gradient(weights)
        pull = torch.stack([functional.gradient(w)[:, i] for i, w in enumerate(weights)])
        expected = sign * network.strength[:, None] * pull
        assert_close(estimate.scale * gradient, estimate.scale * expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", LINEAR)
def test_optima_of_a_linear_network_lie_on_both_sides(name):
    estimate, functional = map_estimate(name), prediction(name)
    network = perturbed_optima(estimate, functional, "network", rtol=1e-8).network
    assert_close(network.plus + network.minus, 2 * estimate.weights.expand_as(network.plus))


@pytest.mark.parametrize("name", ["two layers", "sine with gap"])
def test_the_sign_of_a_functional_swaps_its_optima(name):
    estimate, case = map_estimate(name), problem(name)
    eye = torch.eye(len(case.queries), dtype=F64)
    first, second = (
        perturbed_optima(
            estimate,
            WeightedSum(case.log_posterior.network, case.queries, sign * eye),
            "network",
            rtol=1e-3,
        ).network
        for sign in (1, -1)
    )
    assert_close(first.variance, second.variance)
    assert_close(first.plus, second.minus, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rows", [[2], [7, 13], list(range(21))[::-1]], ids=["one", "two", "all"])
@pytest.mark.parametrize("mode", ["linearized", "network"])
def test_rows_do_not_depend_on_each_other(mode, rows):
    estimate, case = map_estimate("sine with gap"), problem("sine with gap")
    some = Prediction(case.log_posterior.network, case.queries[rows])
    together, alone = (
        perturbed_optima(estimate, functional, mode, rtol=1e-4)
        for functional in (case.prediction, some)
    )
    part = "linear" if mode == "linearized" else "network"
    expected = getattr(together, part).variance[rows].sqrt()
    assert_close(getattr(alone, part).variance.sqrt(), expected, rtol=2e-4, atol=0)


@pytest.mark.parametrize("mode", ["linearized", "network"])
@pytest.mark.parametrize("name", ["linear", "one layer", "two outputs"])
def test_error_covers_single_precision(name, mode):
    estimate, case = map_estimate(name), problem(name)
    exact = (ggn_std if mode == "linearized" else hessian_std)(case.prediction, estimate)
    functional = Prediction(case.log_posterior.network, case.queries.float())
    single = estimate_at(in_precision(case.log_posterior, torch.float32), estimate.weights.float())
    optima = perturbed_optima(single, functional, mode, rtol=1e-2)
    response = optima.linear if mode == "linearized" else optima.network
    assert (response.rel_error <= 1e-2).all()
    assert ((response.variance.double().sqrt() / exact - 1).abs() <= response.rel_error).all()


def test_a_basis_does_not_grow_where_rounding_is_the_error():
    """It would until it holds every direction, and the errors be as large as before."""
    case, estimate = problem("two layers"), map_estimate("two layers")
    lp = in_precision(case.log_posterior, torch.float32, noise_factor=1e4)
    single = without_subspace(estimate_at(lp, estimate.weights.float()))
    functional = Prediction(case.log_posterior.network, case.queries.float())
    response = perturbed_optima(single, functional, "linearized", rtol=1e-2).linear
    bounds = response.galerkin.bounds
    assert 2 * bounds.rounding > 1e-2
    assert (response.rel_error <= 2 * bounds.rounding).all()
    assert response.galerkin.subspace.rank < lp.n_weights


# --------------------------------------------------- functionals without gradient


@pytest.mark.parametrize("mode", ["linearized", "network"])
@pytest.mark.parametrize(
    "func",
    [
        lambda f: torch.stack([f.sum(), 0 * f.sum(), f[0, 0]]),
        lambda f: 0 * f.sum(),
        lambda f: f[0] - f[0],
    ],
    ids=["among others", "alone", "contrast of a row with itself"],
)
def test_a_functional_without_gradient_has_no_variance(func, mode):
    estimate, case = map_estimate("two layers"), problem("two layers")
    functional = PredictionFunction(case.log_posterior.network, case.queries, func)
    optima = perturbed_optima(estimate, functional, mode, rtol=1e-3)
    response = optima.linear if mode == "linearized" else optima.network
    zero = ~functional.gradient(estimate.weights).any(0)
    assert not response.variance[zero].any()
    assert (response.rel_error[zero] <= 1e-12).all()
    assert (response.variance[~zero] > 0).all()


@pytest.mark.parametrize("mode", ["linearized", "network"])
def test_no_functionals_have_no_optima(mode):
    estimate, case = map_estimate("two layers"), problem("two layers")
    nothing = Prediction(case.log_posterior.network, case.queries[:0])
    assert perturbed_optima(estimate, nothing, mode, rtol=1e-3).linear.variance.shape == (0,)


# ------------------------------------------------------------ rows that fail


def test_rows_without_an_optimum_are_flagged():
    case = problem("one layer")
    # Far from an optimum the Hessian is indefinite: nothing holds the refit.
    weights = 5 * randn(case.log_posterior.n_weights, seed=3)
    assert torch.linalg.eigvalsh(dense_hessian(case.log_posterior, weights))[0] < -1
    few = Prediction(case.log_posterior.network, case.queries[:2])
    optima = perturbed_optima(estimate_at(case.log_posterior, weights), few, "network", rtol=1e-2)
    found, nothing = optima.network, optima.network.rel_error.isinf()
    assert (found.rel_error > 1e-2).all()
    assert_close(found.variance[nothing], optima.linear.variance[nothing])

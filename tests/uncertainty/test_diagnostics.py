from dataclasses import replace

import pytest
import torch

from sklearn_hfl.optim.subspace import STATIONARY_SHARE
from sklearn_hfl.uncertainty.diagnostics import diagnose
from sklearn_hfl.uncertainty.evidence import log_evidence
from sklearn_hfl.uncertainty.exact import dense_ggn, exact_covariance
from sklearn_hfl.uncertainty.leave_one_out import leave_one_out
from tests import reference
from tests.cases import PROBLEMS, TASKS, estimate_at, map_estimate, problem, without_subspace


@pytest.fixture(params=PROBLEMS)
def estimate(request):
    """An estimate that is no optimum."""
    case = problem(request.param)
    return estimate_at(case.log_posterior, case.weights())


def test_loss_and_gradient_norm_are_those_of_the_log_posterior(estimate):
    lp, facts = estimate.log_posterior, diagnose(estimate)
    _, gradient = lp.value_and_gradient(estimate.weights[None])
    expected = reference.negative_log_posterior(lp, estimate.weights).item()
    assert facts.loss == pytest.approx(expected, rel=1e-12)
    assert facts.grad_norm == pytest.approx(gradient.norm().item(), rel=1e-12)


@pytest.mark.parametrize("fitted", [False, True], ids=["no subspace", "fitted subspace"])
def test_decrement_equals_the_dense_formula(estimate, fitted):
    lp, weights = estimate.log_posterior, estimate.weights
    _, gradient = lp.value_and_gradient(weights[None])
    expected = exact_covariance(dense_ggn(lp, weights), gradient.mT).sqrt().item()
    facts = diagnose(estimate if fitted else without_subspace(estimate))
    assert facts.decrement == pytest.approx(expected, rel=0.1)


def test_the_rest_comes_from_the_subspace(estimate):
    facts, subspace = diagnose(estimate), estimate.subspace
    assert facts.rank == subspace.rank
    assert facts.n_effective_parameters == subspace.effective_parameters().sum().item()
    mode = log_evidence(estimate.log_posterior, estimate.weights, subspace)
    assert facts.log_evidence == mode + facts.log_multiplicity


@pytest.mark.parametrize("name", [*PROBLEMS, *TASKS])
def test_a_map_is_stationary(name):
    facts = diagnose(map_estimate(name))
    assert facts.stationary
    assert facts.decrement < 1e-8


def test_weights_that_are_no_optimum_are_not_stationary(estimate):
    assert not diagnose(estimate).stationary


@pytest.mark.parametrize(("gamma", "radius"), [(0.2, 1.0), (1.0, 1.0), (100.0, 10.0)])
def test_stationary_is_relative_to_the_radius_of_the_posterior(gamma, radius):
    limit = STATIONARY_SHARE * radius
    for decrement, expected in ((0.99 * limit, True), (1.01 * limit, False)):
        facts = replace(diagnose(map_estimate("linear")), decrement=decrement)
        facts = replace(facts, n_effective_parameters=gamma)
        assert facts.stationary is expected


def test_facts_do_not_change():
    estimate = map_estimate("two layers")
    assert diagnose(estimate) == diagnose(estimate)
    assert torch.isfinite(estimate.weights).all()


def test_rows_left_out_may_be_known():
    estimate = map_estimate("two layers")
    assert diagnose(estimate, leave_one_out(estimate)) == diagnose(estimate)

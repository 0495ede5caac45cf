from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.uncertainty.evidence import effective_parameters, log_evidence
from sklearn_hfl.uncertainty.exact import dense_ggn
from sklearn_hfl.uncertainty.noise import squared_residuals
from tests import reference
from tests.cases import LINEAR, PROBLEMS, TASKS, map_estimate, problem


@pytest.fixture(params=[*PROBLEMS, *TASKS])
def estimate(request):
    return map_estimate(request.param)


def test_effective_parameters_equal_the_dense_formula(estimate):
    lp, weights = estimate.log_posterior, estimate.weights
    gamma = effective_parameters(estimate.subspace)
    expected = reference.effective_parameters(lp, dense_ggn(lp, weights))
    assert gamma.sum().item() == pytest.approx(expected.sum().item(), rel=1e-3)
    assert_close(gamma, expected, rtol=0, atol=1e-3 * expected.sum().item())
    assert (gamma >= 0).all()


def test_effective_parameters_never_exceed_rows_or_weights(estimate):
    gamma, lp = effective_parameters(estimate.subspace), estimate.log_posterior
    assert (gamma <= 1).all()
    assert gamma.sum() <= lp.y.numel()


def test_log_evidence_equals_the_dense_formula(estimate):
    lp, weights = estimate.log_posterior, estimate.weights
    expected = reference.log_evidence(lp, weights, dense_ggn(lp, weights))
    gamma = effective_parameters(estimate.subspace).sum().item()
    # log det T misses at most the trace that the subspace has not seen.
    bound = 0.5e-3 * max(gamma, 1.0)
    assert log_evidence(lp, weights, estimate.subspace) == pytest.approx(expected, abs=bound + 1e-9)


@pytest.mark.parametrize("name", LINEAR)
def test_log_evidence_of_a_linear_network_is_the_marginal_density(name):
    estimate = map_estimate(name)
    lp = estimate.log_posterior
    expected = reference.BayesianLinearRegression(lp).log_evidence
    if "weighted" in name:
        # A row of weight w is no Gaussian of its own normalisation.
        w, beta = lp.sample_weight, lp.likelihood.noise_precision
        expected += ((w - 1) / 2 * (beta / (2 * torch.pi)).log() - w.log() / 2).sum().item()
    assert log_evidence(lp, estimate.weights, estimate.subspace) == pytest.approx(expected)


@pytest.mark.parametrize("limit", [1.0, 1e9])
@pytest.mark.parametrize("name", PROBLEMS)
def test_squared_residuals_equal_a_loop(name, limit):
    lp, weights = problem(name).log_posterior, problem(name).weights()
    f = lp.network.forward(weights[None], lp.X)[0]
    f = f[:, : lp.y.shape[1]]  # means, before log noise
    expected = sum(w * (y - out) ** 2 for w, y, out in zip(lp.sample_weight, lp.y, f, strict=True))
    assert_close(squared_residuals(replace(lp, memory_limit=limit), weights), expected)

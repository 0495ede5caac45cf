import math
from dataclasses import replace
from itertools import permutations, product

import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.posterior.network import MLP
from sklearn_hfl.uncertainty.evidence import (
    log_evidence,
    log_multiplicity,
)
from sklearn_hfl.uncertainty.exact import dense_ggn
from sklearn_hfl.uncertainty.precisions import squared_residuals
from tests import reference
from tests.cases import LINEAR, PROBLEMS, TASKS, map_estimate, problem


@pytest.fixture(params=[*PROBLEMS, *TASKS])
def estimate(request):
    return map_estimate(request.param)


def test_effective_parameters_equal_the_dense_formula(estimate):
    lp, weights = estimate.log_posterior, estimate.weights
    gamma = estimate.subspace.effective_parameters()
    expected = reference.effective_parameters(lp, dense_ggn(lp, weights))
    assert gamma.sum().item() == pytest.approx(expected.sum().item(), rel=1e-3)
    assert_close(gamma, expected, rtol=0, atol=1e-3 * expected.sum().item())
    assert (gamma >= 0).all()


def test_effective_parameters_never_exceed_rows_or_weights(estimate):
    gamma, lp = estimate.subspace.effective_parameters(), estimate.log_posterior
    assert (gamma <= 1).all()
    assert gamma.sum() <= lp.y.numel()


def test_log_evidence_equals_the_dense_formula(estimate):
    lp, weights = estimate.log_posterior, estimate.weights
    expected = reference.log_evidence(lp, weights, dense_ggn(lp, weights))
    gamma = estimate.subspace.effective_parameters().sum().item()
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


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("determined", [0, 1, 2, 3])
def test_multiplicity_counts_the_weights_of_the_same_function(activation, determined):
    network = MLP((1, 3, 1), activation)
    W, b, V, c = network.packing.unpack(torch.arange(1.0, 11.0))
    V = V * (torch.arange(3) < determined)
    x = torch.linspace(-2, 2, 9)[:, None]
    f = network.forward(network.packing.pack([W, b, V, c])[None], x)
    modes = set()
    for order, signs in product(permutations(range(3)), product([1.0, -1.0], repeat=3)):
        s, places = torch.tensor(signs), list(order)
        moved = [W[places] * s[:, None], b[places] * s, V[:, places] * s, c]
        if torch.allclose(network.forward(network.packing.pack(moved)[None], x), f):
            # Units whose output weight is zero are all one.
            hidden = torch.where(moved[2] == 0, 0.0, moved[0].T)
            modes.add(tuple(torch.cat([hidden, moved[2]]).reshape(-1).tolist()))
    gamma = network.packing.pack([torch.ones(3, 1), torch.ones(3), (V != 0).float(), c])
    assert log_multiplicity(network, gamma) == pytest.approx(math.log(len(modes)), abs=1e-6)


def test_only_perceptrons_have_units_to_swap():
    for name in ("linear", "module"):
        estimate = map_estimate(name)
        network = estimate.log_posterior.network
        assert log_multiplicity(network, torch.ones(network.n_weights)) == 0


@pytest.mark.parametrize("limit", [1.0, 1e9])
@pytest.mark.parametrize("name", PROBLEMS)
def test_squared_residuals_equal_a_loop(name, limit):
    lp, weights = problem(name).log_posterior, problem(name).weights()
    f = lp.network.forward(weights[None], lp.X)[0]
    f = f[:, : lp.y.shape[1]]  # means, before log noise
    expected = sum(w * (y - out) ** 2 for w, y, out in zip(lp.sample_weight, lp.y, f, strict=True))
    assert_close(squared_residuals(replace(lp, memory_limit=limit), weights), expected)

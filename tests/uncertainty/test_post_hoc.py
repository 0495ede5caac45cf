"""Post hoc: precisions that belong to weights which stay as they are."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.uncertainty.exact import dense_ggn
from sklearn_hfl.uncertainty.post_hoc import (
    BIAS_SHARE,
    equivalent_precisions,
    evidence_at,
    with_precisions,
)
from sklearn_hfl.uncertainty.precisions import PSEUDO_RESIDUAL, EvidenceOptions, squared_residuals
from tests import reference
from tests.cases import generator, map_estimate, problem
from tests.uncertainty.fixed_point import assert_fixed_point


@pytest.mark.parametrize("name", ["linear", "linear, weighted"])
def test_precisions_at_given_weights_are_a_fixed_point(name):
    estimate, options = map_estimate(name), EvidenceOptions(True, True, rtol=1e-4)
    lp = evidence_at(estimate.log_posterior, estimate.weights, options, generator(0))
    assert_fixed_point(lp, estimate.weights)


def test_a_loose_tolerance_ends_the_updates_early():
    estimate = map_estimate("linear")
    loose, tight = (
        evidence_at(
            estimate.log_posterior,
            estimate.weights,
            EvidenceOptions(True, True, rtol=rtol),
            generator(0),
        ).prior.group_precision
        for rtol in (0.9, 1e-4)
    )
    assert ((loose - tight).abs() > 0.01 * tight).any()


def gradient(loss, weights):
    w = weights.clone().requires_grad_()
    return torch.autograd.grad(loss(w), w)[0]


@pytest.mark.parametrize("learns_noise", [True, False])
@pytest.mark.parametrize("name", ["linear, two outputs", "two layers", "weighted"])
def test_the_gradient_is_a_multiple_of_that_of_the_penalised_squares(name, learns_noise):
    case, alpha = problem(name), 0.3
    beta = torch.full_like(case.log_posterior.likelihood.noise_precision, 4.0)
    lp = replace(case.log_posterior, likelihood=case.log_posterior.likelihood.with_precision(beta))
    weights = case.weights()
    found = equivalent_precisions(lp, weights, alpha, learns_noise, generator(0))
    groups = lp.prior.groups
    share = torch.where(groups.of_kind("biases")[groups.labels], BIAS_SHARE, 1.0)

    def penalised(w):
        residual = lp.network.forward(w[None], lp.X)[0] - lp.y
        return (lp.sample_weight @ residual.square()).sum() + alpha * (share * w.square()).sum()

    (ours,) = found.value_and_gradient(weights[None])[1]
    noise = found.likelihood.noise_precision
    assert (noise == noise[0]).all()
    assert learns_noise or noise[0] == 4.0
    # L has half of each square.
    assert_close(ours, 0.5 * noise[0] * gradient(penalised, weights), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["linear", "linear, two outputs", "one layer"])
def test_the_equivalent_noise_is_mackays_at_its_own_gamma(name):
    case = problem(name)
    lp, k = case.log_posterior, case.log_posterior.y.shape[1]
    found = equivalent_precisions(lp, case.weights(), 0.3, True, generator(0))
    gamma = reference.effective_parameters(found, dense_ggn(found, case.weights())).sum()
    std = lp.y.std(0, correction=0)
    squares = squared_residuals(lp, case.weights()).sum()
    expected = (k * len(lp.y) - gamma + 1) / (squares + PSEUDO_RESIDUAL**2 * std.square().mean())
    assert_close(found.likelihood.noise_precision, expected.expand(k), rtol=1e-3, atol=0)


def test_what_is_given_stays():
    case = problem("one layer")
    nothing = EvidenceOptions(False, False)
    found = with_precisions(case.log_posterior, case.weights(), None, nothing, generator(0))
    assert found is case.log_posterior


@pytest.mark.parametrize("unit", [1e-3, 50.0])
def test_precisions_have_the_units_of_the_targets(unit):
    """A linear network of 50 y has 50 times the weights and the noise."""
    case, options = problem("linear"), EvidenceOptions(True, True, rtol=1e-4)
    lp, weights = case.log_posterior, case.weights()
    first = with_precisions(lp, weights, None, options, generator(0))
    scaled = replace(
        lp, y=unit * lp.y, prior=lp.prior.with_precision(lp.prior.group_precision / unit**2)
    )
    second = with_precisions(scaled, unit * weights, None, options, generator(0))
    assert_close(
        second.prior.group_precision * unit**2, first.prior.group_precision, rtol=1e-3, atol=0
    )
    assert_close(
        second.likelihood.noise_precision * unit**2,
        first.likelihood.noise_precision,
        rtol=1e-3,
        atol=0,
    )

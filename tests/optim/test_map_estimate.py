from torch.testing import assert_close

from tests.cases import map_estimate, randn


def test_scale_turns_whitened_weights_into_weights():
    estimate = map_estimate("two outputs")
    prior = estimate.log_posterior.prior
    assert_close(prior.energy(estimate.scale * randn(3, 22)), 0.5 * randn(3, 22).square().sum(1))


def test_curvature_is_that_at_the_weights():
    estimate = map_estimate("two outputs")
    curvature = estimate.curvature()
    assert_close(curvature.weights, estimate.weights, rtol=0, atol=0)
    assert_close(curvature.product(estimate.subspace.basis), estimate.subspace.image)

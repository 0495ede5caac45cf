import numpy as np
import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.uncertainty.predictive import mixture
from sklearn_hfl.uncertainty.variance import Variance
from tests.cases import randn

Q, K = 5, 2


def members(n):
    """Means (n, Q, K), variances of Q·K predictions and constant noise (n, Q, K) of n members."""
    variances = [
        Variance(v, e, e < 1)
        for v, e in zip(randn(n, Q * K, seed=1) ** 2, randn(n, Q * K, seed=2).abs(), strict=True)
    ]
    noise = (randn(n, 1, K, seed=3) ** 2).expand(n, Q, K)
    return randn(n, Q, K), variances, noise


@pytest.mark.parametrize("n", [1, 2, 5])
def test_moments_are_those_of_the_mixture(n):
    means, variances, noise = members(n)
    result = mixture(means, variances, noise)
    # E[f] and E[f²] − E[f]² of an equal mixture of Gaussians.
    mean = np.mean(means.numpy(), axis=0)
    second = np.mean(
        [
            v.value.reshape(Q, K).numpy() + m.numpy() ** 2
            for v, m in zip(variances, means, strict=True)
        ],
        axis=0,
    )
    np.testing.assert_allclose(result.mean, mean)
    np.testing.assert_allclose(result.epistemic, second - mean**2, atol=1e-12)
    np.testing.assert_allclose(result.aleatoric, np.mean(noise.numpy(), axis=0))


def test_noise_may_depend_on_the_query():
    means, variances, _ = members(2)
    noise = randn(2, Q, K, seed=4) ** 2
    assert_close(mixture(means, variances, noise).aleatoric, (noise[0] + noise[1]) / 2)


def test_one_member_is_itself():
    means, variances, noise = members(1)
    result = mixture(means, variances, noise)
    assert_close(result.mean, means[0])
    assert_close(result.epistemic, variances[0].value.reshape(Q, K))
    assert_close(result.rel_error, variances[0].rel_error.reshape(Q, K))


def test_flags_and_bounds_are_those_of_the_worst_member():
    means, variances, noise = members(4)
    result = mixture(means, variances, noise)
    errors = torch.stack([v.rel_error.reshape(Q, K) for v in variances])
    assert_close(result.rel_error, errors.max(0).values)
    assert_close(result.converged, result.rel_error < 1)


def test_members_that_disagree_add_to_the_epistemic_part():
    means, variances, noise = members(2)
    apart = mixture(torch.stack([means[0], means[0] + 2]), [variances[0]] * 2, noise)
    alone = mixture(means[:1], [variances[0]], noise[:1])
    assert_close(apart.epistemic, alone.epistemic + 1)

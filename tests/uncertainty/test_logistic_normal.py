import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import expit, log_expit
from torch.testing import assert_close

from sklearn_hfl.uncertainty.logistic_normal import logistic_normal
from tests.cases import F64

MEANS = [0.0, 0.5, -2.0, 5.0, -12.0, 30.0, -36.9, 50.0, -300.0]
STDS = [1e-3, 0.1, 1.0, 3.0, 4.0, 5.0, 8.0, 20.0, 100.0, 1e3, 1e6]


def integral(function, mean, std):
    """E function(f) for f ~ N(mean, std²), piece by piece."""

    def inside(f):
        return function(f) * np.exp(-0.5 * ((f - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))

    ends = mean - 40 * std, mean + 40 * std
    points = np.concatenate([mean + std * np.linspace(-14, 14, 57), np.linspace(-50, 50, 41), ends])
    points = np.unique(np.clip(points, *ends))
    return sum(quad(inside, a, b, epsabs=0, epsrel=1e-10)[0] for a, b in pairwise(points))


def moments(mean, std):
    return logistic_normal(torch.tensor([mean], dtype=F64), torch.tensor([std**2], dtype=F64))


@pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning")
@pytest.mark.parametrize("std", STDS)
@pytest.mark.parametrize("mean", MEANS)
def test_moments_equal_the_integrals(mean, std):
    sign = 1 if mean <= 0 else -1  # of the less probable class, whose digits are kept
    log_mean, variance, entropy = moments(mean, std)
    first = integral(lambda f: expit(sign * f), mean, std)
    assert float(log_mean[0, 1 if mean <= 0 else 0]) == pytest.approx(math.log(first), rel=1e-8)
    assert float(log_mean.exp().sum()) == pytest.approx(1.0, abs=1e-14)
    second = integral(lambda f: (expit(sign * f) - first) ** 2, mean, std)
    assert float(variance.sqrt()) == pytest.approx(math.sqrt(second), rel=1e-8, abs=1e-13)
    expected = integral(lambda f: -expit(f) * log_expit(f) - expit(-f) * log_expit(-f), mean, std)
    assert float(entropy) == pytest.approx(expected, rel=1e-8, abs=1e-13)


@pytest.mark.parametrize("mean", [*MEANS, 1e3, -1e8])
def test_without_variance_it_is_the_logistic_function(mean):
    log_mean, variance, entropy = moments(mean, 0.0)
    expected = log_expit(np.array([-mean, mean]))
    np.testing.assert_allclose(log_mean[0], expected, rtol=1e-13, atol=1e-15)
    assert float(variance) < 1e-28
    p = np.exp(expected)
    assert float(entropy) == pytest.approx(-(p * expected).sum(), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("std", [1e-8, 1e-6, 1e-4])
@pytest.mark.parametrize("mean", [0.3, -5.0])
def test_small_variances_are_those_of_the_delta_method(mean, std):
    slope = expit(mean) * expit(-mean)
    assert float(moments(mean, std)[1].sqrt()) == pytest.approx(slope * std, rel=1e-6)


@pytest.mark.parametrize("mean", [-1e8, -1e4, 0.0, 1e300])
@pytest.mark.parametrize("std", [0.0, 1e-30, 1.0, 1e8, 1e150])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whatever_comes_in_numbers_come_out(mean, std, dtype):
    most = torch.finfo(dtype).max
    inputs = [torch.tensor([min(each, most)], dtype=dtype) for each in (mean, std**2)]
    log_mean, variance, entropy = logistic_normal(*inputs)
    for value in (log_mean, variance, entropy):
        assert value.dtype == dtype
        assert value.isfinite().all()
    p = log_mean.exp()
    assert_close(p.sum(1), torch.ones(1, dtype=dtype))
    assert (variance >= 0).all()
    assert (variance <= p[:, 0] * p[:, 1] + 1e-6).all()

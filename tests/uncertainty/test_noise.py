"""Noise precisions: the mode of what residuals and hyperprior say, within its limits."""

import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.uncertainty.precisions import MIN_NOISE_STD, PSEUDO_RESIDUAL, noise_precision
from tests.cases import F64

SQUARES, GAMMA = torch.tensor([0.5, 3.0], dtype=F64), torch.tensor(4.0, dtype=F64)
ROWS = torch.tensor(20.0, dtype=F64)


def test_the_precision_is_the_mode():
    """Of (N − γ)/2 log β − ½ β Σ(y − f)², and the hyperprior, which is one more row."""
    best = noise_precision(SQUARES, GAMMA, ROWS)

    def density(beta):
        return (ROWS - GAMMA + 1) * beta.log() - beta * (SQUARES + PSEUDO_RESIDUAL**2)

    for factor in (0.99, 1.01):
        assert (density(best) > density(factor * best)).all()


@pytest.mark.parametrize("share", [1.0, 3.0])
def test_a_twentieth_of_the_rows_is_left_for_the_noise(share):
    found = noise_precision(SQUARES, share * ROWS, ROWS)
    assert_close(found, noise_precision(SQUARES, 0.95 * ROWS, ROWS))


@pytest.mark.parametrize("unit", [1.0, 50.0])
def test_many_rows_without_residuals_prove_no_less_than_the_least_noise(unit):
    found = noise_precision(torch.zeros(2, dtype=F64), GAMMA, 1e6 * ROWS, unit)
    assert_close(found.rsqrt(), torch.full((2,), MIN_NOISE_STD * unit, dtype=F64))


def test_the_noise_has_the_unit_of_the_targets():
    unit = torch.tensor([3.0, 0.1], dtype=F64)
    found = noise_precision(unit**2 * SQUARES, GAMMA, ROWS, unit)
    assert_close(found.rsqrt(), unit * noise_precision(SQUARES, GAMMA, ROWS).rsqrt())

"""Noise that varies: where it starts."""

from dataclasses import replace

import torch
from torch.testing import assert_close

from sklearn_hfl.uncertainty.noise import MIN_VARIANCE_SHARE, with_varying_noise
from tests.cases import F64, generator, problem


def test_rows_that_are_interpolated_keep_the_share_of_the_hyperprior():
    case = problem("log noise")
    constant = replace(case.log_posterior.likelihood, constant=True)
    lp = replace(case.log_posterior, likelihood=constant)
    freed = with_varying_noise(lp, case.weights(), generator(0)).likelihood
    assert (freed.guard >= MIN_VARIANCE_SHARE).all()
    assert not freed.constant
    outputs = lp.network.forward(case.weights()[None], lp.X)[0]
    fitted = replace(lp, y=outputs[:, :2])
    assert_close(
        with_varying_noise(fitted, case.weights(), generator(0)).likelihood.guard,
        torch.ones(2, dtype=F64),
    )

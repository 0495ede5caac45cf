import pytest
import torch
from torch.func import jacrev, vmap
from torch.testing import assert_close

from sklearn_hfl.posterior.link import (
    CENTRED,
    IDENTITY,
    LOG_NOISE,
    MEAN,
    SOFTMAX,
    log_probabilities,
)
from tests.cases import F64, randn

EACH = [(link, k) for link in (IDENTITY, CENTRED, SOFTMAX) for k in (1, 2, 4)]
HALVES = [(link, k) for link in (MEAN, LOG_NOISE) for k in (2, 4)]


@pytest.mark.parametrize(("link", "k"), EACH + HALVES)
def test_chain_is_the_derivative_of_the_value(link, k):
    outputs, jacobian = randn(5, k), randn(5, k, 7, seed=1)
    derivative = vmap(jacrev(link.value))(outputs)
    assert link.value(outputs).shape == (5, link.n_values(k))
    assert_close(link.chain(outputs, jacobian), derivative @ jacobian)


def test_one_output_is_the_second_of_two_classes():
    f = randn(6, 1)
    expected = torch.cat([torch.zeros_like(f), f], 1).log_softmax(1)
    assert_close(log_probabilities(f), expected)


@pytest.mark.parametrize("k", [1, 3])
def test_probabilities_that_round_to_one_keep_their_derivative(k):
    outputs = torch.tensor([[40.0, 0.0, -3.0]], dtype=F64)[:, :k]
    chained = SOFTMAX.chain(outputs, torch.eye(k, dtype=F64)[None])[0]
    total = chained.sum(0)
    assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-30)
    largest = chained[-1, 0] if k == 1 else chained[0, 0]
    others = torch.exp(-outputs[0, :1] + torch.tensor([0.0, -3.0], dtype=F64)[: max(1, k - 1)])
    assert_close(largest, others.sum(), rtol=1e-12, atol=0)


def test_mean_and_log_noise_are_the_halves_of_the_outputs():
    f = randn(3, 6)
    assert_close(torch.cat([MEAN.value(f), LOG_NOISE.value(f)], 1), f)


def test_a_common_shift_is_centred_away():
    f = randn(5, 3)
    assert_close(CENTRED.value(f + 2.5), CENTRED.value(f))
    assert_close(log_probabilities(CENTRED.value(f)), log_probabilities(f))


def test_extreme_logits_have_finite_log_probabilities():
    f = 1e4 * randn(5, 3)
    assert log_probabilities(f).isfinite().all()

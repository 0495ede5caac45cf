import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.posterior.initialization import (
    OUTPUT_SCALE,
    initial_weights,
    scaled_precision,
)
from sklearn_hfl.posterior.network import MLP
from tests.cases import F64, as_module_network, generator

NETWORKS = [MLP((2, 1)), MLP((1, 50, 1)), MLP((3, 4, 5, 2), "relu")]


@pytest.mark.parametrize("network", NETWORKS)
def test_weights_are_reproduced_by_the_generator(network):
    weights = initial_weights(network, generator(3))
    assert weights.dtype == F64
    assert weights.shape == (network.n_weights,)
    assert_close(weights, initial_weights(network, generator(3)), rtol=0, atol=0)
    assert not torch.equal(weights, initial_weights(network, generator(4)))


def test_weights_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    initial_weights(NETWORKS[1], generator(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_outputs_start_near_zero_and_without_biases():
    network = MLP((100, 400, 200, 2))
    W, b = network.packing.unpack(initial_weights(network, generator(0)))[-2:]
    assert_close(b, torch.zeros(2, dtype=F64))
    assert float(W.std()) == pytest.approx(OUTPUT_SCALE / 200**0.5, rel=0.1)


@pytest.mark.parametrize(("layer", "fan_in"), [(0, 100), (1, 400)])
def test_hidden_layers_keep_the_scale_of_their_inputs(layer, fan_in):
    network = MLP((100, 400, 200, 2))
    tensors = network.packing.unpack(initial_weights(network, generator(0)))
    W, b = tensors[2 * layer : 2 * layer + 2]
    assert float(W.std()) == pytest.approx(fan_in**-0.5, rel=0.05)
    assert float(b.std()) == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize("strength", [1.0, 10.0])
def test_scaled_precision_is_in_proportion_to_fan_in(strength):
    expected = [3 * strength, 3 * strength, 3 * strength, 1, 4 * strength, 1, 5 * strength, 1]
    assert scaled_precision(MLP((3, 4, 5, 2)), strength).tolist() == expected


def test_scaled_precision_of_a_module_goes_by_its_tensors():
    assert scaled_precision(as_module_network(MLP((3, 4, 2))), 10.0).tolist() == [30, 1, 40, 1]

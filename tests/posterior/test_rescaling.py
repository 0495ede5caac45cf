"""Rescaling: the same function, of inputs and to targets in other units."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.posterior.network import MLP
from sklearn_hfl.posterior.rescaling import Affine, rescaled_module, rescaled_weights
from tests.cases import as_module_network, randn

INPUTS = Affine(torch.tensor([2.0, 1e-3], dtype=torch.float64), torch.tensor([5.0, -1.0]).double())
OUTPUTS = Affine(torch.tensor([1e4, 0.1]).double(), torch.tensor([3.0, 1e3]).double())
NETWORKS = {
    "linear": MLP((2, 2)),
    "one layer": MLP((2, 3, 2)),
    "two layers": MLP((2, 4, 3, 2), "silu"),
    "with log noise": MLP((2, 3, 4), "tanh", 2),
}
X = randn(6, 2, seed=1)


def in_units(outputs):
    """The first two outputs in units, the others as they are."""
    return torch.cat([outputs[:, :2] * OUTPUTS.scale + OUTPUTS.mean, outputs[:, 2:]], 1)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_weights_in_units_give_the_same_function(network):
    weights = randn(network.n_weights)
    expected = in_units(network.forward(weights[None], X)[0])
    raw = X * INPUTS.scale + INPUTS.mean
    rescaled = rescaled_weights(network, weights, INPUTS, OUTPUTS)
    assert_close(network.forward(rescaled[None], raw)[0], expected, rtol=1e-9, atol=1e-9)
    assert_close(rescaled_module(network, weights, INPUTS, OUTPUTS)(raw), expected)
    assert_close(rescaled_weights(network, weights, None, None), weights, rtol=0, atol=0)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_modules_take_the_units_of_outputs_behind_them(network):
    weights = randn(network.n_weights)
    module = rescaled_module(as_module_network(network), weights, None, OUTPUTS)
    assert_close(module(X), in_units(network.forward(weights[None], X)[0]))

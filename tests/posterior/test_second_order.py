import pytest
import torch
from torch.func import hessian
from torch.testing import assert_close

from sklearn_hfl.posterior.network import ACTIVATIONS, MLP
from sklearn_hfl.posterior.second_order import second_derivative
from tests.cases import F64, as_module_network, randn

SIZES = [(2, 1), (2, 4, 1), (3, 4, 5, 2), (1, 3, 3, 3, 4)]


def loss(outputs):
    """Neither quadratic nor a sum over outputs, so that its second derivative matters."""
    return (outputs.sin() * outputs.sum(1, keepdim=True)).sum() + outputs.exp().sum()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("layers", [True, False], ids=["layer by layer", "by the graph"])
def test_products_equal_the_dense_hessian(sizes, activation, layers):
    network = MLP(sizes, activation)
    weights, X = 0.5 * randn(network.n_weights), randn(7, sizes[0], seed=1)
    dense = hessian(lambda w: loss(network.forward(w[None], X)[0]))(weights)
    product = (network if layers else as_module_network(network)).hessian(weights, X, loss)
    for v in randn(2, network.n_weights, seed=2):
        assert_close(product(v), dense @ v)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_second_derivatives_of_activations(name):
    """Those of central differences; zero for the identity, and for relu at its kink too."""
    z, h = torch.linspace(-3, 3, 13, dtype=F64), 1e-4
    act = ACTIVATIONS[name]()
    differences = (act(z + h) - 2 * act(z) + act(z - h)) / h**2
    if name == "relu":
        differences = torch.zeros_like(z)
    found = second_derivative(act, z)
    assert_close(found, differences, rtol=0, atol=1e-6)
    assert not found.requires_grad

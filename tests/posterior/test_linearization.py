import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.posterior.linearization import JacobianLinearization
from sklearn_hfl.posterior.network import ACTIVATIONS, MLP
from tests.cases import randn

SIZES = [(2, 1), (2, 4, 1), (3, 4, 5, 2), (1, 3, 3, 3, 4)]


@pytest.fixture(params=SIZES, ids=str)
def case(request):
    """A perceptron's own linearisation and the one that holds its Jacobian."""
    network = MLP(request.param)
    weights, X = 0.5 * randn(network.n_weights), randn(7, request.param[0], seed=1)
    dense = JacobianLinearization(*network.jacobian(weights, X))
    return network.linearize(weights, X), dense, network


@pytest.mark.parametrize("m", [1, 3])
def test_products_equal_those_with_the_jacobian(case, m):
    layers, dense, network = case
    V, U = randn(network.n_weights, m), randn(7, m, network.n_outputs)
    assert_close(layers.outputs, dense.outputs)
    assert_close(layers.forward(V), dense.forward(V))
    assert_close(layers.backward(U), dense.backward(U))


def test_diagonal_is_that_of_the_product_with_the_curvature(case):
    layers, dense, network = case
    root = randn(7, network.n_outputs, network.n_outputs, seed=2)
    blocks = root @ root.mT
    J = dense.jacobian
    expected = torch.einsum("nkp,nkl,nlp->p", J, blocks, J)
    for linear in (layers, dense):
        assert_close(linear.diagonal(lambda U: U @ blocks), expected)


def test_gram_is_that_of_the_weighted_jacobian(case):
    layers, dense, network = case
    weight = randn(network.n_weights, seed=4).square()
    expected = torch.einsum("nkp,p,nlp->nkl", dense.jacobian, weight, dense.jacobian)
    for linear in (layers, dense):
        assert_close(linear.gram(weight), expected)


def test_backward_is_the_transpose_of_forward(case):
    layers, _, network = case
    V, U = randn(network.n_weights, 3), randn(7, 3, network.n_outputs)
    assert_close((layers.forward(V) * U).sum(), (V * layers.backward(U)).sum())


def test_rows_are_a_part(case):
    V = randn(case[2].n_weights, 2)
    for linear in case[:2]:
        part = linear.rows(slice(2, 5))
        assert_close(part.outputs, linear.outputs[2:5])
        assert_close(part.forward(V), linear.forward(V)[2:5])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_is_the_directional_derivative(activation):
    network, X = MLP((2, 4, 3), activation), randn(5, 2)
    weights, v, h = 0.5 * randn(network.n_weights), randn(network.n_weights, seed=1), 1e-5
    ends = network.forward(torch.stack([weights + h * v, weights - h * v]), X)
    derivative = network.linearize(weights, X).forward(v[:, None])[:, 0]
    assert_close(derivative, (ends[0] - ends[1]) / (2 * h), rtol=1e-7, atol=1e-7)


def test_products_leave_their_arguments_alone(case):
    layers, _, network = case
    V, U = randn(network.n_weights, 2), randn(7, 2, network.n_outputs)
    layers.forward(V)
    layers.backward(U)
    assert_close(V, randn(network.n_weights, 2), rtol=0, atol=0)
    assert_close(U, randn(7, 2, network.n_outputs), rtol=0, atol=0)
    assert_close(layers.forward(V), layers.forward(V), rtol=0, atol=0)

import pickle

import pytest
import torch
from torch import nn
from torch.func import jacrev
from torch.testing import assert_close

from sklearn_hfl.posterior.network import ACTIVATIONS, MLP, ModuleNetwork
from tests import reference
from tests.cases import F64, as_module_network, randn

LAYERS = [(2, 1), (3, 2), (1, 4, 1), (2, 3, 2), (3, 2, 4, 3, 2)]
MLPS = [
    *(pytest.param(MLP(sizes), id="x".join(map(str, sizes))) for sizes in LAYERS),
    *(pytest.param(MLP((2, 4, 3, 2), name), id=name) for name in ACTIVATIONS),
]
NETWORKS = [
    pytest.param(MLP((2, 3, 2), "silu"), id="mlp"),
    pytest.param(as_module_network(MLP((2, 3, 2), "silu")), id="module"),
]


def inputs(network, *lead):
    return randn(*lead, network.layer_sizes[0], seed=1)


@pytest.mark.parametrize("mlp", MLPS)
def test_forward_equals_a_loop(mlp):
    X, weights = inputs(mlp, 5), randn(3, mlp.n_weights)
    expected = torch.stack([reference.forward(mlp, w, X) for w in weights])
    assert_close(mlp.forward(weights, X), expected)


@pytest.mark.parametrize("mlp", MLPS)
def test_jacobian_equals_automatic_differentiation(mlp):
    X, weights = inputs(mlp, 5), randn(mlp.n_weights)
    outputs, jacobian = mlp.jacobian(weights, X)
    assert_close(outputs, mlp.forward(weights[None], X)[0])
    assert_close(jacobian, jacrev(lambda w: mlp.forward(w[None], X)[0])(weights))


@pytest.mark.parametrize("mlp", MLPS)
def test_module_network_equals_the_mlp_of_the_same_module(mlp):
    X, weights = inputs(mlp, 5), randn(3, mlp.n_weights)
    network = as_module_network(mlp)
    assert network.packing == mlp.packing
    assert_close(network.forward(weights, X), mlp.forward(weights, X))
    assert_close(network.jacobian(weights[0], X), mlp.jacobian(weights[0], X))


@pytest.mark.parametrize("network", NETWORKS)
def test_forward_takes_inputs_of_each_weight_vector(network):
    X, weights = randn(3, 5, 2, seed=1), randn(3, network.n_weights)
    expected = [network.forward(w[None], x)[0] for w, x in zip(weights, X, strict=True)]
    assert_close(network.forward(weights, X), torch.stack(expected))


@pytest.mark.parametrize("network", NETWORKS)
def test_to_module_computes_forward(network):
    X, weights = randn(5, 2, seed=1), randn(network.n_weights)
    module = network.to_module(weights)
    assert_close(module(X), network.forward(weights[None], X)[0])
    assert module.state_dict().keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}


@pytest.mark.parametrize("network", NETWORKS)
def test_to_module_shares_nothing_with_the_weights(network):
    weights = randn(network.n_weights)
    module = network.to_module(weights)
    nn.utils.vector_to_parameters(torch.zeros_like(weights), module.parameters())
    assert_close(weights, randn(network.n_weights))
    assert_close(
        nn.utils.parameters_to_vector(network.to_module(weights).parameters()).detach(), weights
    )


@pytest.mark.parametrize("network", NETWORKS)
def test_results_are_outside_any_graph(network):
    outputs, jacobian = network.jacobian(randn(network.n_weights), randn(5, 2, seed=1))
    assert not outputs.requires_grad
    assert not jacobian.requires_grad


class Shifted(nn.Module):
    """A module with a parameter of no dimensions."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.shift = nn.Parameter(torch.tensor(0.5))

    def forward(self, X):
        return self.linear(X) + self.shift


class Tied(nn.Module):
    """A module that uses one parameter twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight

    def forward(self, X):
        return self.second(torch.tanh(self.first(X)))


class Twice(nn.Module):
    """A module with one layer under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = self.first

    def forward(self, X):
        return self.second(torch.tanh(self.first(X)))


def frozen():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3).eval(), nn.Tanh(), nn.Linear(3, 2))
    module[:2].requires_grad_(False)
    return module


MODULES = {
    "linear": nn.Linear(2, 2),
    "layer norm": nn.Sequential(nn.Linear(2, 3, bias=False), nn.LayerNorm(3), nn.Linear(3, 2)),
    "scalar parameter": Shifted(),
    "tied parameters": Tied(),
    "a layer used twice": Twice(),
    "frozen parameters": frozen(),
    "no rule for the derivative of a batch": nn.Sequential(
        nn.Linear(2, 3), nn.PReLU(), nn.Linear(3, 2)
    ),
}


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_module_network_drives_any_module(module):
    network = ModuleNetwork(module.to(F64), 2)
    X, weights = randn(5, 2, seed=1), randn(network.n_weights)
    assert_close(network.forward(weights[None], X)[0], network.to_module(weights)(X).detach())
    jacobian = jacrev(lambda w: network.forward(w[None], X)[0])(weights)
    assert_close(network.jacobian(weights, X)[1], jacobian)


@pytest.mark.parametrize(("module", "size"), [(Tied(), 8), (Twice(), 6), (frozen(), 8)])
def test_weights_are_the_trainable_parameters_each_once(module, size):
    network = ModuleNetwork(module.to(F64), 2)
    assert network.n_weights == size
    weights = randn(size)
    copied = network.to_module(weights)
    values = [p.detach().reshape(-1) for p in copied.parameters() if p.requires_grad]
    assert_close(torch.cat(values), weights, rtol=0, atol=0)
    for p, q in zip(copied.parameters(), module.parameters(), strict=True):
        assert p.requires_grad or torch.equal(p, q)


def test_a_call_leaves_the_module_alone_also_if_it_fails():
    module = frozen().to(F64)
    network = ModuleNetwork(module, 2)
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    weights, X = randn(network.n_weights), randn(5, 2)
    expected = network.forward(weights[None], X)
    with pytest.raises(ValueError, match=r"submodule '0' \(Linear\)"):
        network.forward(weights[None], randn(5, 3))
    assert_close(network.forward(weights[None], X), expected, rtol=0, atol=0)
    assert_close(dict(network.module.state_dict()), before, rtol=0, atol=0)
    twin = pickle.loads(pickle.dumps(network))
    assert_close(twin.forward(weights[None], X), expected, rtol=0, atol=0)


def test_module_network_keeps_a_copy():
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).to(F64)
    network = ModuleNetwork(module, 1)
    weights, X = randn(2, network.n_weights), randn(5, 2)
    before = network.forward(weights, X)
    module[1] = nn.ReLU()
    assert_close(network.forward(weights, X), before, rtol=0, atol=0)


def test_groups_of_an_mlp_are_features_then_layers():
    groups = MLP((2, 3, 1)).weight_groups()
    assert groups.names == (
        "layer 0 feature 0",
        "layer 0 feature 1",
        "layer 0 biases",
        "layer 1 weights",
        "layer 1 biases",
    )
    assert groups.kinds == ("feature", "feature", "biases", "weights", "biases")
    assert not any(groups.noise_only)
    assert groups.labels.tolist() == [0, 1] * 3 + [2] * 3 + [3] * 3 + [4]


def test_groups_of_a_module_are_its_tensors():
    groups = as_module_network(MLP((2, 3, 1))).weight_groups()
    assert groups.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert groups.labels.tolist() == [0] * 6 + [1] * 3 + [2] * 3 + [3]


@pytest.mark.parametrize("name", ["biases", "a feature of", "weights of log noise"])
def test_names_of_a_module_do_not_decide_what_its_groups_hold(name):
    module = torch.nn.Linear(2, 1)
    module.register_module(name, torch.nn.Linear(2, 1))
    groups = ModuleNetwork(module, 1).weight_groups()
    assert any(name in each for each in groups.names)
    assert set(groups.kinds) == {"weights"}
    assert not any(groups.noise_only)


def test_log_noise_has_groups_of_its_own_in_the_last_layer():
    groups = MLP((2, 3, 4), n_noise=2).weight_groups()
    assert groups.names[3:] == (
        "layer 1 weights",
        "layer 1 biases",
        "layer 1 weights of log noise",
        "layer 1 biases of log noise",
    )
    assert groups.kinds[3:] == ("weights", "biases") * 2
    assert groups.noise_only == (False,) * 5 + (True,) * 2
    assert groups.labels[9:].tolist() == [3] * 6 + [5] * 6 + [4] * 2 + [6] * 2
    groups = MLP((2, 2), n_noise=1).weight_groups()
    assert groups.names[3:] == ("layer 0 weights of log noise", "layer 0 biases of log noise")
    assert groups.labels.tolist() == [0, 1, 3, 3, 2, 4]


NOISY = pytest.param(MLP((2, 3, 4), n_noise=2), id="log noise")


@pytest.mark.parametrize("network", [*NETWORKS, NOISY])
def test_every_group_has_weights_a_name_and_a_kind(network):
    groups = network.weight_groups()
    assert groups.labels.shape == (network.n_weights,)
    assert set(groups.labels.tolist()) == set(range(len(groups)))
    assert len(groups.names) == len(groups.kinds) == len(groups.noise_only)

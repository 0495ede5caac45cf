"""Network: outputs and their Jacobian as functions of a flat weight vector."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from sklearn_hfl.posterior.linearization import (
    JacobianLinearization,
    Linearization,
    PerceptronLinearization,
)
from sklearn_hfl.posterior.packing import Packing
from sklearn_hfl.posterior.prior import Kind, WeightGroups
from sklearn_hfl.posterior.second_order import (
    PerceptronHessian,
    graph_product,
    second_derivative,
)
from sklearn_hfl.posterior.traced import FAILURES, Traced, trainable

__all__ = ["ACTIVATIONS", "MLP", "ModuleNetwork", "Network", "is_linear"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "logistic": nn.Sigmoid,
    "identity": nn.Identity,
}


class Network(Protocol):
    """A map from weights and inputs to outputs. P weights, D inputs, K outputs."""

    @property
    def packing(self) -> Packing:
        """Shapes of the weight tensors."""

    @property
    def n_weights(self) -> int:
        """P."""

    @property
    def n_outputs(self) -> int:
        """K."""

    @property
    def width(self) -> int:
        """Numbers that a forward pass keeps for each row, which limits the rows of a block."""

    @property
    def twice_differentiable(self) -> bool:
        """Whether outputs have second derivatives with respect to the weights."""

    def forward(self, weights: Tensor, X: Tensor) -> Tensor:
        """Outputs (B, N, K) of weight vectors (B, P) at X (N, D) or (B, N, D)."""

    @property
    def linearization_width(self) -> int:
        """Numbers that a linearization keeps for each row."""

    @property
    def matrix_width(self) -> int:
        """Numbers that ``Linearization.matrix`` keeps for each row."""

    @property
    def hessian_width(self) -> int:
        """Numbers that ``hessian`` keeps for each row."""

    def linearize(self, weights: Tensor, X: Tensor) -> Linearization:
        """Products with the Jacobian at one weight vector (P,)."""

    def jacobian(self, weights: Tensor, X: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (N, K) and their derivatives (N, K, P) at one weight vector (P,)."""

    def hessian(
        self, weights: Tensor, X: Tensor, loss: Callable[[Tensor], Tensor]
    ) -> Callable[[Tensor], Tensor]:
        """Products v ↦ H v (P,) with the Hessian of a loss () of the outputs (N, K)."""

    def weight_groups(self) -> WeightGroups:
        """Which weights share a prior precision."""

    def to_module(self, weights: Tensor) -> nn.Module:
        """A new torch module that computes ``forward`` at ``weights``."""


@dataclass(frozen=True)
class MLP:
    """A multi-layer perceptron with linear outputs.

    Parameters
    ----------
    layer_sizes : tuple of int
        (D, width of each hidden layer, K). Without hidden layers the network
        is linear, and its Laplace posterior is exact.
    activation : str
        One of ``ACTIVATIONS``.
    n_noise : int
        How many of the last outputs are log noise; weights and biases that lead to these
        alone have prior groups of their own.

    Notes
    -----
    Layer l maps a to act(W a + b); the flat vector holds W (out, in) and
    b (out) of each layer in turn.
    """

    layer_sizes: tuple[int, ...]
    activation: str = "tanh"
    n_noise: int = 0

    @property
    def twice_differentiable(self) -> bool:
        return True

    @cached_property
    def packing(self) -> Packing:
        """Shapes W, b, W, b, ... of the layers."""
        shapes: list[tuple[int, ...]] = []
        for n_in, n_out in zip(self.layer_sizes[:-1], self.layer_sizes[1:], strict=True):
            shapes += [(n_out, n_in), (n_out,)]
        return Packing(tuple(shapes))

    @cached_property
    def _activation(self) -> nn.Module:
        return ACTIVATIONS[self.activation]()

    @property
    def n_weights(self) -> int:
        return self.packing.n_weights

    @property
    def n_outputs(self) -> int:
        return self.layer_sizes[-1]

    @property
    def width(self) -> int:
        # Each hidden unit keeps its pre-activation, its activation and their gradients.
        return self.layer_sizes[0] + 4 * sum(self.layer_sizes[1:])

    @property
    def linearization_width(self) -> int:
        return 2 * sum(self.layer_sizes)

    @property
    def matrix_width(self) -> int:
        # Products of two units' deltas, and of two inputs.
        most = max(self.layer_sizes) + 1
        return self.linearization_width + (2 + self.n_outputs) * sum(self.layer_sizes) + 3 * most**2

    @property
    def hessian_width(self) -> int:
        # Of each unit: the input of the next layer, its slope, the derivative and its bend.
        return self.width

    def _layers(self, weights: Tensor) -> list[tuple[Tensor, Tensor]]:
        tensors = self.packing.unpack(weights)
        return list(zip(tensors[::2], tensors[1::2], strict=True))

    def hidden(self, weights: Tensor, X: Tensor) -> Tensor:
        """Activations of the last hidden layer, which the outputs are linear in."""
        a = X
        for W, b in self._layers(weights)[:-1]:
            a = self._activation(torch.matmul(a, W.mT) + b[..., None, :])
        return a

    def forward(self, weights: Tensor, X: Tensor) -> Tensor:
        W, b = self._layers(weights)[-1]
        return torch.matmul(self.hidden(weights, X), W.mT) + b[..., None, :]

    def linearize(self, weights: Tensor, X: Tensor) -> PerceptronLinearization:
        layers = self._layers(weights)
        inputs, slopes = [X], []
        for W, b in layers[:-1]:
            with torch.enable_grad():
                z = (inputs[-1] @ W.mT + b).detach().requires_grad_()
                a = self._activation(z)
                (slope,) = torch.autograd.grad(a.sum(), z)
            inputs.append(a.detach())
            slopes.append(slope)
        W, b = layers[-1]
        outputs = inputs[-1] @ W.mT + b
        return PerceptronLinearization(
            self.packing, tuple(layers), tuple(inputs), tuple(slopes), outputs
        )

    def jacobian(self, weights: Tensor, X: Tensor) -> tuple[Tensor, Tensor]:
        dense = self.linearize(weights, X).dense()
        return dense.outputs, dense.jacobian

    def hessian(
        self, weights: Tensor, X: Tensor, loss: Callable[[Tensor], Tensor]
    ) -> Callable[[Tensor], Tensor]:
        linear = self.linearize(weights, X)
        hidden = zip(linear.inputs[:-1], linear.layers[:-1], strict=True)
        seconds = [second_derivative(self._activation, a @ W.mT + b) for a, (W, b) in hidden]
        return PerceptronHessian.at(linear, tuple(seconds), loss).product

    def weight_groups(self) -> WeightGroups:
        """Group first-layer weights by input feature, the others by layer and kind."""
        groups: list[tuple[str, Kind, bool]] = [
            (f"layer 0 feature {d}", "feature", False) for d in range(self.layer_sizes[0])
        ]
        labels: list[Tensor] = []
        for layer, (n_out, n_in) in enumerate(self.packing.shapes[::2]):
            if layer == 0:
                labels.append(torch.arange(n_in).expand(n_out, n_in).reshape(-1))
            else:
                labels.append(torch.full((n_out * n_in,), len(groups)))
                groups.append((f"layer {layer} weights", "weights", False))
            labels.append(torch.full((n_out,), len(groups)))
            groups.append((f"layer {layer} biases", "biases", False))
        if self.n_noise:
            # Noise needs less freedom than the mean: what leads to it alone is shrunk by itself.
            kinds: tuple[Kind, Kind] = ("weights", "biases")
            for own, kind in zip((-2, -1), kinds, strict=True):
                n_own = self.n_noise * len(labels[own]) // self.n_outputs
                shared = labels[own][: len(labels[own]) - n_own]
                labels[own] = torch.cat([shared, torch.full((n_own,), len(groups))])
                groups.append((f"layer {layer} {kind} of log noise", kind, True))
        return WeightGroups(torch.cat(labels), *zip(*groups, strict=True))

    def to_module(self, weights: Tensor) -> nn.Sequential:
        modules: list[nn.Module] = []
        for layer, (W, b) in enumerate(self._layers(weights)):
            if layer:
                modules.append(ACTIVATIONS[self.activation]())
            # Draws no random numbers, as ``skip_init``, for which torch imports sympy.
            linear = nn.Linear(W.shape[1], W.shape[0], device="meta")
            linear.weight = nn.Parameter(W.detach().clone())
            linear.bias = nn.Parameter(b.detach().clone())
            modules.append(linear)
        return nn.Sequential(*modules)


class ModuleNetwork:
    """Any torch module, driven through ``torch.func``.

    Its trainable parameters are the weights, each of them once, also if it has several names.
    Frozen parameters (``requires_grad=False``) and buffers are constants.

    Parameters
    ----------
    module : torch.nn.Module
        Maps (N, D) to (N, K); only the shapes of its trainable parameters matter.
    n_outputs : int
        K.
    """

    # Whether the gradient can be differentiated; that of some operations of torch cannot.
    twice_differentiable = True

    def __init__(self, module: nn.Module, n_outputs: int) -> None:
        self.module = copy.deepcopy(module)
        self.n_outputs = n_outputs
        self.names = tuple(names[0] for names in self._aliases)
        self.packing = Packing(tuple(tuple(p.shape) for p in trainable(self.module)))
        # Activations are unknown; four for each row of a parameter are a cautious guess.
        self.width = 4 * sum(p.shape[0] if p.ndim else 1 for p in self.module.parameters())

    @property
    def n_weights(self) -> int:
        return self.packing.n_weights

    @property
    def linearization_width(self) -> int:
        return self.n_outputs * self.n_weights

    @property
    def matrix_width(self) -> int:
        return 3 * self.n_outputs * self.n_weights

    @property
    def hessian_width(self) -> int:
        return 4 * self.width

    @cached_property
    def _aliases(self) -> tuple[tuple[str, ...], ...]:
        """Names of each weight tensor: a tied parameter has several."""
        names: dict[Tensor, list[str]] = {p: [] for p in trainable(self.module)}
        # A submodule that is used in several places needs one name; torch fails with two.
        for prefix, part in self.module.named_modules():
            for name, p in part.named_parameters(prefix, recurse=False, remove_duplicate=False):
                if p.requires_grad:
                    names[p].append(name)
        return tuple(map(tuple, names.values()))

    @cached_property
    def _idle(self) -> list[Traced]:
        """Copies not in use: a call takes one for itself, since it replaces its parameters."""
        return []

    def __getstate__(self) -> dict[str, Any]:
        """State without the copies."""
        return {name: value for name, value in self.__dict__.items() if name != "_idle"}

    def _call(self, weights: Tensor, X: Tensor) -> Tensor:
        tensors = zip(self._aliases, self.packing.unpack(weights), strict=True)
        named = {name: tensor for names, tensor in tensors for name in names}
        try:
            module = self._idle.pop()
        except IndexError:
            module = Traced(self.module)
        output: Tensor = module(named, X)
        self._idle.append(module)  # not reached by a call that failed or was interrupted
        return output

    def forward(self, weights: Tensor, X: Tensor) -> Tensor:
        in_dims = (0, 0 if X.ndim == 3 else None)
        return vmap(self._call, in_dims=in_dims, randomness="error")(weights, X)

    def linearize(self, weights: Tensor, X: Tensor) -> JacobianLinearization:
        return JacobianLinearization(*self.jacobian(weights, X))

    def jacobian(self, weights: Tensor, X: Tensor) -> tuple[Tensor, Tensor]:
        def row(w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            output = self._call(w, x[None])[0]
            return output, output

        try:
            derivative, outputs = vmap(jacrev(row, has_aux=True), in_dims=(None, 0))(weights, X)
        except FAILURES:
            return self._jacobian_by_backward(weights, X)
        return outputs.detach(), derivative.detach()

    def hessian(
        self, weights: Tensor, X: Tensor, loss: Callable[[Tensor], Tensor]
    ) -> Callable[[Tensor], Tensor]:
        return graph_product(lambda w: loss(self.forward(w[None], X)[0]), weights)

    def _jacobian_by_backward(self, weights: Tensor, X: Tensor) -> tuple[Tensor, Tensor]:
        """Jacobian without derivatives inside vmap, which PReLU and GRUCell do not support.

        Each row has its own copy of the weights; a perceptron takes up to four times as long.
        """
        W = weights.detach().expand(len(X), -1).requires_grad_()
        with torch.enable_grad():
            outputs = self.forward(W, X[:, None])[:, 0]
            columns = [
                torch.autograd.grad(column.sum(), W, retain_graph=True)[0]
                for column in outputs.unbind(1)
            ]
        return outputs.detach(), torch.stack(columns, 1)

    def weight_groups(self) -> WeightGroups:
        """Group by parameter tensor, of which none is known to hold features or biases."""
        sizes = torch.tensor([s.numel() for s in map(torch.Size, self.packing.shapes)])
        labels = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        kinds: list[Kind] = ["weights"] * len(sizes)
        return WeightGroups(labels, self.names, tuple(kinds), (False,) * len(sizes))

    def to_module(self, weights: Tensor) -> nn.Module:
        module = copy.deepcopy(self.module).to(weights)
        with torch.no_grad():
            tensors = self.packing.unpack(weights)
            for parameter, tensor in zip(trainable(module), tensors, strict=True):
                parameter.copy_(tensor)
        return module


def is_linear(network: Network) -> bool:
    """Whether a network is a perceptron without hidden layers, which has one MAP.

    Parameters
    ----------
    network : MLP or ModuleNetwork
        What a module is, is not known.

    Returns
    -------
    bool
    """
    return isinstance(network, MLP) and len(network.layer_sizes) == 2

"""Second order: products with the Hessian of a loss of a network's outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_hfl.posterior.linearization import PerceptronLinearization

__all__ = ["PerceptronHessian", "graph_product", "second_derivative"]


@dataclass(frozen=True)
class PerceptronHessian:
    """Hessian of a loss of a perceptron's outputs: products go layer by layer.

    They are the derivative of backpropagation along the change of the weights (B. A. Pearlmutter,
    Fast exact multiplication by the Hessian, Neural Computation 6, 1994), and take one to two
    times as long as those with the Gauss-Newton matrix (docs/design/subspace.md).

    Parameters
    ----------
    linear : PerceptronLinearization
        The network at its weights.
    deltas : tuple of Tensor of shape (N, n_out)
        Derivative of the loss with respect to the pre-activations of each layer.
    bends : tuple of Tensor of shape (N, n_out)
        Derivative of the loss with respect to the activations of each layer but the last, times
        the second derivative of the activation.
    curve : callable
        U (N, K) ↦ Λ U, with the loss's second derivative Λ with respect to the outputs.
    """

    linear: PerceptronLinearization
    deltas: tuple[Tensor, ...]
    bends: tuple[Tensor, ...]
    curve: Callable[[Tensor], Tensor]

    @classmethod
    def at(
        cls,
        linear: PerceptronLinearization,
        seconds: tuple[Tensor, ...],
        loss: Callable[[Tensor], Tensor],
    ) -> PerceptronHessian:
        """Hessian of ``loss`` of outputs (N, K), given the activations' second derivatives."""
        score, curve = _derivatives(loss, linear.outputs)
        deltas, bends = [score], []
        for layer in reversed(range(1, len(linear.layers))):
            of_activation = deltas[-1] @ linear.layers[layer][0]
            bends.append(of_activation * seconds[layer - 1])
            deltas.append(of_activation * linear.slopes[layer - 1])
        return cls(linear, tuple(deltas[::-1]), tuple(bends[::-1]), curve)

    def product(self, v: Tensor) -> Tensor:
        """H v for v (P,)."""
        linear, tensors = self.linear, self.linear.packing.unpack(v)
        changes = list(zip(tensors[::2], tensors[1::2], strict=True))
        # How the pre-activations of each layer, and its inputs, change along v.
        of_layers: list[Tensor] = []
        of_inputs: list[Tensor] = []
        for layer, (dW, db) in enumerate(changes):
            change = torch.addmm(db, linear.inputs[layer], dW.mT)
            if layer:
                of_inputs.append(of_layers[-1] * linear.slopes[layer - 1])
                change.addmm_(of_inputs[-1], linear.layers[layer][0].mT)
            of_layers.append(change)
        # How the derivatives with respect to both change.
        delta = self.curve(of_layers[-1])
        parts: list[Tensor] = []
        for layer in reversed(range(len(changes))):
            of_weights = delta.mT @ linear.inputs[layer]
            if layer:
                of_weights.addmm_(self.deltas[layer].mT, of_inputs[layer - 1])
            parts += [delta.sum(0), of_weights.flatten()]
            if layer:
                delta = (delta @ linear.layers[layer][0]).addmm_(
                    self.deltas[layer], changes[layer][0]
                )
                delta.mul_(linear.slopes[layer - 1])
                delta.addcmul_(self.bends[layer - 1], of_layers[layer - 1])
        return torch.cat(parts[::-1])


def graph_product(loss: Callable[[Tensor], Tensor], weights: Tensor) -> Callable[[Tensor], Tensor]:
    """Return v ↦ H v for the Hessian of any ``loss`` of weights (P,), whose graph is kept.

    Parameters
    ----------
    loss : callable
        Weights (P,) ↦ a number ().
    weights : Tensor of shape (P,)
        Where.

    Returns
    -------
    callable
        v (P,) ↦ H v (P,).
    """
    w = weights.detach().clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(w), w, create_graph=True)
    return _derivative_along(gradient, w)


def second_derivative(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Second derivative of an elementwise function; zero at kinks.

    Parameters
    ----------
    function : callable
        Maps each element by itself.
    z : Tensor
        Where.

    Returns
    -------
    Tensor
        Of the shape of z.
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(z).sum(), z, create_graph=True)
        if not slope.requires_grad:  # of the identity
            return torch.zeros_like(z)
        (second,) = torch.autograd.grad(slope.sum(), z, materialize_grads=True)
    return second


def _derivatives(
    loss: Callable[[Tensor], Tensor], outputs: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """First derivative (N, K) of a loss of outputs (N, K), and products with its second one."""
    with torch.enable_grad():
        f = outputs.detach().requires_grad_()
        (score,) = torch.autograd.grad(loss(f), f, create_graph=True)
    return score.detach(), _derivative_along(score, f)


def _derivative_along(gradient: Tensor, at: Tensor) -> Callable[[Tensor], Tensor]:
    """V ↦ H V, given the graph of a gradient."""

    def product(V: Tensor) -> Tensor:
        # Of a number: with ``grad_outputs`` torch imports sympy first, two seconds of a process.
        with torch.enable_grad():
            along = (gradient * V).sum()
        return torch.autograd.grad(along, at, retain_graph=True)[0]

    return product

"""Rescaling: the same network for inputs and targets in other units."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sklearn_hfl.posterior.network import MLP, Network

__all__ = ["Affine", "rescaled_module", "rescaled_weights"]


@dataclass(frozen=True)
class Affine:
    """z ↦ scale · z + mean for each column: from standardised values to units.

    Parameters
    ----------
    scale, mean : Tensor of shape (n_columns,)
        Both of them finite, and scale > 0.
    """

    scale: Tensor
    mean: Tensor


class _Rescaled(nn.Module):
    """The first outputs of a module in units; others, such as log noise, as they are."""

    def __init__(self, module: nn.Module, of_outputs: Affine, n_outputs: int) -> None:
        super().__init__()
        self.module = module
        rest = n_outputs - len(of_outputs.scale)
        scale = torch.cat([of_outputs.scale, torch.ones(rest).to(of_outputs.scale)])
        mean = torch.cat([of_outputs.mean, torch.zeros(rest).to(of_outputs.mean)])
        self.register_buffer("scale", scale)
        self.register_buffer("mean", mean)

    def forward(self, X: Tensor) -> Tensor:
        """Outputs (n, n_outputs) in units."""
        outputs: Tensor = self.module(X) * self.scale + self.mean
        return outputs


def rescaled_weights(
    network: MLP, weights: Tensor, of_inputs: Affine | None, of_outputs: Affine | None
) -> Tensor:
    """Weights (P,) that do to inputs in units what ``weights`` do to standardised ones.

    Parameters
    ----------
    network : MLP
        Any perceptron.
    weights : Tensor of shape (P,)
        For standardised inputs and targets.
    of_inputs : Affine or None
        Units of the D inputs: W (x − mean) / scale + b = W′ x + b′ in the first layer.
    of_outputs : Affine or None
        Units of the first outputs; others, such as log noise, stay as they are.

    Returns
    -------
    Tensor of shape (P,)
    """
    tensors = [tensor.clone() for tensor in network.packing.unpack(weights)]
    if of_inputs is not None:
        tensors[0] /= of_inputs.scale
        tensors[1] -= tensors[0] @ of_inputs.mean
    if of_outputs is not None:
        k = len(of_outputs.scale)
        tensors[-2][:k] *= of_outputs.scale[:, None]
        tensors[-1][:k] = tensors[-1][:k] * of_outputs.scale + of_outputs.mean
    return network.packing.pack(tensors)


def rescaled_module(
    network: Network, weights: Tensor, of_inputs: Affine | None, of_outputs: Affine | None
) -> nn.Module:
    """A torch module of its own that maps inputs in units to outputs in units.

    Parameters
    ----------
    network : Network
        Perceptrons take the units into their first and last layer.
    weights : Tensor of shape (P,)
        For inputs and targets as they were in training.
    of_inputs, of_outputs : Affine or None
        Units of what was standardised in training but is not to be in the module. Inputs
        of networks other than perceptrons come in the units in which they were trained.

    Returns
    -------
    torch.nn.Module
    """
    if isinstance(network, MLP):
        return network.to_module(rescaled_weights(network, weights, of_inputs, of_outputs))
    module = network.to_module(weights)
    return module if of_outputs is None else _Rescaled(module, of_outputs, network.n_outputs)

"""Rescaling: the same network, with inputs and targets in other units."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sklearn_hfl.posterior.network import MLP, Network

__all__ = ["Affine", "rescaled_module", "rescaled_weights"]


@dataclass(frozen=True)
class Affine:
    """z ↦ scale · z + mean for each column: from standardised values to the original units.

    Parameters
    ----------
    scale, mean : Tensor of shape (n_columns,)
        Finite, with scale > 0.
    """

    scale: Tensor
    mean: Tensor


class _Rescaled(nn.Module):
    """A module with its first outputs in their units; others, as log noise, are unchanged."""

    def __init__(self, module: nn.Module, of_outputs: Affine, n_outputs: int) -> None:
        super().__init__()
        self.module = module
        rest = n_outputs - len(of_outputs.scale)
        scale = torch.cat([of_outputs.scale, torch.ones(rest).to(of_outputs.scale)])
        mean = torch.cat([of_outputs.mean, torch.zeros(rest).to(of_outputs.mean)])
        self.register_buffer("scale", scale)
        self.register_buffer("mean", mean)

    def forward(self, X: Tensor) -> Tensor:
        """Outputs (n, n_outputs) in their units."""
        outputs: Tensor = self.module(X) * self.scale + self.mean
        return outputs


def rescaled_weights(
    network: MLP, weights: Tensor, of_inputs: Affine | None, of_outputs: Affine | None
) -> Tensor:
    """Weights of the same function of inputs in their units, to outputs in theirs.

    Parameters
    ----------
    network : MLP
        Any perceptron.
    weights : Tensor of shape (P,)
        For standardised inputs and targets.
    of_inputs : Affine or None
        Units of the D inputs: W (x − mean) / scale + b = W′ x + b′ in the first layer.
    of_outputs : Affine or None
        Units of the first outputs; others, as log noise, are unchanged.

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
    """A new torch module of the same function of inputs in their units, to outputs in theirs.

    Parameters
    ----------
    network : Network
        Perceptrons absorb the units into their first and last layer.
    weights : Tensor of shape (P,)
        For inputs and targets as they were in training.
    of_inputs, of_outputs : Affine or None
        Units of inputs and targets that were standardised in training. Networks other than
        perceptrons ignore those of the inputs, and take inputs as in training.

    Returns
    -------
    torch.nn.Module
    """
    if isinstance(network, MLP):
        return network.to_module(rescaled_weights(network, weights, of_inputs, of_outputs))
    module = network.to_module(weights)
    return module if of_outputs is None else _Rescaled(module, of_outputs, network.n_outputs)

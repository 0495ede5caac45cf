"""Initialization: random starting weights of a network."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from sklearn_hfl.posterior.network import MLP, Network

__all__ = ["initial_weights", "scaled_precision"]

# Outputs start small, near the prior's mean, but not at zero, where hidden layers have no
# gradient. Not tuned: it only moves the start.
OUTPUT_SCALE = 0.3


def initial_weights(network: MLP, generator: Generator) -> Tensor:
    """Draw starting weights (P,), float64, on the CPU.

    Parameters
    ----------
    network : MLP
        The network to start.
    generator : torch.Generator
        Source of randomness. Draws do not depend on the number of rows, so that
        repeated rows and weighted ones start from the same weights.

    Returns
    -------
    Tensor
        Weights ~ N(0, 1 / fan-in), which keeps standardised inputs near unit
        scale in every layer, times ``OUTPUT_SCALE`` in the output layer. Hidden biases
        ~ N(0, 1), so that the units bend at different places; output biases are zero.
    """
    parts: list[Tensor] = []
    last = len(network.layer_sizes) - 2
    for layer, (n_out, n_in) in enumerate(network.packing.shapes[::2]):
        draw = torch.randn(n_out, n_in + 1, generator=generator, dtype=torch.float64)
        W, b = draw[:, :-1] / n_in**0.5, draw[:, -1]
        parts += [OUTPUT_SCALE * W, torch.zeros_like(b)] if layer == last else [W, b]
    return network.packing.pack(parts)


def scaled_precision(network: Network, strength: float) -> Tensor:
    """Prior precision of each group, proportional to its layer's fan-in.

    Parameters
    ----------
    network : Network
        Its tensors of two and more dimensions are weights, the others biases.
    strength : float
        At 1, a layer's outputs have the scale of its inputs under the prior.

    Returns
    -------
    Tensor of shape (n_groups,)
        ``strength`` times the fan-in for groups of weights, 1 for biases.
    """
    groups = network.weight_groups()
    each = [
        torch.full(shape, strength * shape[1:].numel() if len(shape) > 1 else 1.0)
        for shape in map(torch.Size, network.packing.shapes)
    ]
    precision = torch.ones(len(groups))
    return precision.index_copy(0, groups.labels, network.packing.pack(each))

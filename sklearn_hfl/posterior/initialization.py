"""Initialization: random starting weights of a network."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from sklearn_hfl.posterior.network import MLP

__all__ = ["initial_weights"]


def initial_weights(network: MLP, generator: Generator) -> Tensor:
    """Draw starting weights (P,), float64, on the CPU.

    Parameters
    ----------
    network : MLP
        The network to start.
    generator : torch.Generator
        Source of randomness. Nothing here depends on the number of rows, so
        repeating or weighting rows leaves the start alone.

    Returns
    -------
    Tensor
        Weights ~ N(0, 1 / fan-in), which keeps standardised inputs near unit
        scale in every layer. Hidden biases ~ N(0, 1), which spreads the bends
        of the units over the data; output biases are zero.
    """
    parts: list[Tensor] = []
    last = len(network.layer_sizes) - 2
    for layer, (n_out, n_in) in enumerate(network.packing.shapes[::2]):
        draw = torch.randn(n_out, n_in + 1, generator=generator, dtype=torch.float64)
        bias = draw[:, -1]
        parts += [draw[:, :-1] / n_in**0.5, torch.zeros_like(bias) if layer == last else bias]
    return network.packing.pack(parts)

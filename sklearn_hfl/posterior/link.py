"""Link: a function of the network's outputs at one row, such as class probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["CENTRED", "IDENTITY", "LOG_NOISE", "MEAN", "SOFTMAX", "Link", "log_probabilities"]


class Link(Protocol):
    """A function with C values of the K outputs at a row."""

    def n_values(self, n_outputs: int) -> int:
        """C for K outputs."""

    def value(self, outputs: Tensor) -> Tensor:
        """Values (..., C) of outputs (..., K)."""

    def chain(self, outputs: Tensor, jacobian: Tensor) -> Tensor:
        """Derivatives (N, C, P) from those of the outputs (N, K), (N, K, P)."""


class _Identity:
    """The outputs themselves."""

    def n_values(self, n_outputs: int) -> int:
        return n_outputs

    def value(self, outputs: Tensor) -> Tensor:
        return outputs

    def chain(self, outputs: Tensor, jacobian: Tensor) -> Tensor:
        return jacobian


@dataclass(frozen=True)
class _Half:
    """The first half of the outputs, or the second: means and log noise."""

    second: bool

    def _of(self, n_outputs: int) -> slice:
        middle = n_outputs // 2
        return slice(middle, None) if self.second else slice(middle)

    def n_values(self, n_outputs: int) -> int:
        return n_outputs // 2

    def value(self, outputs: Tensor) -> Tensor:
        return outputs[..., self._of(outputs.shape[-1])]

    def chain(self, outputs: Tensor, jacobian: Tensor) -> Tensor:
        return jacobian[:, self._of(outputs.shape[-1])]


class _Centred:
    """Logits less their mean over the classes; softmax depends on these alone.

    A single output is already the difference of two logits, and is left as it is.
    """

    def n_values(self, n_outputs: int) -> int:
        return n_outputs

    def value(self, outputs: Tensor) -> Tensor:
        return outputs if outputs.shape[-1] == 1 else outputs - outputs.mean(-1, keepdim=True)

    def chain(self, outputs: Tensor, jacobian: Tensor) -> Tensor:
        return jacobian if outputs.shape[-1] == 1 else jacobian - jacobian.mean(1, keepdim=True)


class _Softmax:
    """The probability of each class; a single output is the logit of the second of two."""

    def n_values(self, n_outputs: int) -> int:
        return max(n_outputs, 2)

    def value(self, outputs: Tensor) -> Tensor:
        return log_probabilities(outputs).exp()

    def chain(self, outputs: Tensor, jacobian: Tensor) -> Tensor:
        # p_c (δ_cj − p_j), with 1 − p_c as the sum of the others: exact where p_c rounds to 1.
        p = self.value(outputs)
        derivative = -p[..., :, None] * p[..., None, :]
        diagonal = derivative.diagonal(dim1=-2, dim2=-1)
        diagonal.zero_()
        diagonal.copy_(-derivative.sum(-1))
        return derivative[..., -outputs.shape[-1] :] @ jacobian


IDENTITY, CENTRED, SOFTMAX = _Identity(), _Centred(), _Softmax()
MEAN, LOG_NOISE = _Half(second=False), _Half(second=True)


def log_probabilities(outputs: Tensor) -> Tensor:
    """Log probabilities of the classes; a single output is the logit of the second of two.

    Parameters
    ----------
    outputs : Tensor of shape (..., K)
        Logits.

    Returns
    -------
    Tensor of shape (..., C)
        log softmax(f), finite for all finite f; C = K, or 2 for K = 1.
    """
    if outputs.shape[-1] == 1:
        outputs = torch.cat([torch.zeros_like(outputs), outputs], -1)
    return outputs.log_softmax(-1)

"""Traced: torch modules that say where in them a call failed, and why."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["FAILURES", "Traced", "explained", "place", "trainable"]

# What torch raises where a module cannot do what is asked, and Python where it is miswired.
FAILURES = (RuntimeError, TypeError, ValueError, IndexError, AssertionError)
IN_PLACE = "Write it without changing tensors in place."
CONTROL_FLOW = "Use torch.where instead of if and while on values, which must stay tensors."
INDICES = "Every index in X must be one that the module has."
ADVICE = {
    "Batching rule": "torch.func.vmap has no rule for this operation. Write it with others, such "
    "as a recurrence as a loop over nn.GRUCell or nn.Linear.",
    "control flow": CONTROL_FLOW,
    ".item()": CONTROL_FLOW,
    "inplace": IN_PLACE,
    "doesn't match the broadcast shape": IN_PLACE,
    "out of range": INDICES,
    "num_embeddings": INDICES,
    "same dtype": "Constants must be buffers (register_buffer) to be converted to the dtype of X.",
    "checkpoint": "Take out the checkpoints: torch.func does not know them.",
    "deepcopy protocol": "Weights that are computed from others can be copied if that is done by "
    "torch.nn.utils.parametrizations.",
    "does not require grad": "Its output must be differentiable in the weights: without detach or "
    "no_grad on the way.",
}


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that are not frozen, each once."""
    return [p for p in module.parameters() if p.requires_grad]


def place(name: str, part: nn.Module) -> str:
    """Where a submodule is; nothing for the module itself."""
    return f" in submodule {name!r} ({type(part).__name__})" if name else ""


def explained(error: Exception) -> str:
    """First line of an error of torch; where it is known, what to do about it."""
    line = str(error).strip().split("\n")[0]
    for cause, advice in ADVICE.items():
        if cause in line:
            return f"{line.split('. ')[0].rstrip('.')}. {advice}"
    return line


class Traced:
    """A copy of a module that says where in it a call failed.

    It shares parameters and buffers with the module, but may be called while another
    thread calls another copy: ``functional_call`` replaces the parameters meanwhile.

    Parameters
    ----------
    module : torch.nn.Module
        Left unchanged.
    """

    def __init__(self, module: nn.Module) -> None:
        tensors = (*module.parameters(), *module.buffers())
        self.module = copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
        self._entered: list[str] = []
        for name, part in self.module.named_modules():
            # In eval mode attention takes a fused path that autograd has no derivative of. In
            # training mode it does not, and without dropout computes the same.
            if isinstance(part, nn.MultiheadAttention) and not part.training:
                part.training, part.dropout = True, 0.0
            elif isinstance(part, nn.TransformerEncoderLayer):
                part.training = True
            part.register_forward_pre_hook(partial(self._enter, place(name, part)))
            part.register_forward_hook(self._leave)

    def _enter(self, where: str, *_: Any) -> None:
        self._entered.append(where)

    def _leave(self, *_: Any) -> None:
        self._entered.pop()

    def __call__(self, named: dict[str, Tensor], X: Tensor) -> Any:
        """Output at X (N, D) with some parameters replaced, by name.

        Raises
        ------
        ValueError
            If the module fails: with the submodule, the cause, and what to do about it.
        """
        self._entered.clear()
        try:
            # Of X a copy, which the module may change in place. Ties are among the names.
            return functional_call(self.module, named, (X.clone(),), tie_weights=False)
        except FAILURES as error:
            where = self._entered[-1] if self._entered else ""
            raise ValueError(
                f"module failed on rows of shape {tuple(X.shape)} and {X.dtype}{where}: "
                f"{explained(error)}"
            ) from error

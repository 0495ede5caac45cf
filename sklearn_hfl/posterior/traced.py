"""Traced: torch modules whose errors name the submodule that failed, and the cause."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["FAILURES", "Traced", "explained", "place", "trainable"]

# Raised by torch for unsupported operations, and by Python for errors in a module's code.
FAILURES = (RuntimeError, TypeError, ValueError, IndexError, AssertionError)
IN_PLACE = "Write it without changing tensors in place."
CONTROL_FLOW = "Use torch.where instead of if and while on values, which must stay tensors."
INDICES = "Every index in X must be within the range of the module."
ADVICE = {
    "Batching rule": "torch.func.vmap has no rule for this operation. Write it with others, such "
    "as a loop over nn.GRUCell or nn.Linear for a recurrence.",
    "control flow": CONTROL_FLOW,
    ".item()": CONTROL_FLOW,
    "inplace": IN_PLACE,
    "doesn't match the broadcast shape": IN_PLACE,
    "out of range": INDICES,
    "num_embeddings": INDICES,
    "same dtype": "Constants must be buffers (register_buffer) to be converted to the dtype of X.",
    "checkpoint": "Remove the checkpoints, which torch.func does not support.",
    "deepcopy protocol": "Weights that are computed from others can be copied only if "
    "torch.nn.utils.parametrizations computes them.",
    "does not require grad": "Its output must be differentiable with respect to the weights: "
    "remove detach and no_grad.",
}


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that are not frozen, each of them once."""
    return [p for p in module.parameters() if p.requires_grad]


def place(name: str, part: nn.Module) -> str:
    """Phrase that names a submodule; empty for the module itself."""
    return f" in submodule {name!r} ({type(part).__name__})" if name else ""


def explained(error: Exception) -> str:
    """First line of a torch error, followed by advice where the cause is known."""
    line = str(error).strip().split("\n")[0]
    for cause, advice in ADVICE.items():
        if cause in line:
            return f"{line.split('. ')[0].rstrip('.')}. {advice}"
    return line


class Traced:
    """A copy of a module whose errors name the submodule that failed.

    It shares parameters and buffers with the module, but can be called while another thread
    calls another copy, since ``functional_call`` replaces the copy's parameters only.

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
            # In eval mode attention uses a fused kernel without a derivative. Training mode does
            # not, and computes the same if there is no dropout.
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
        """Output at X (N, D) with the named parameters replaced.

        Raises
        ------
        ValueError
            If the module fails; the message names the submodule, the cause, and a remedy.
        """
        self._entered.clear()
        try:
            # The module may change its copy of X in place. Tied parameters are all named.
            return functional_call(self.module, named, (X.clone(),), tie_weights=False)
        except FAILURES as error:
            where = self._entered[-1] if self._entered else ""
            raise ValueError(
                f"module failed on rows of shape {tuple(X.shape)} and {X.dtype}{where}: "
                f"{explained(error)}"
            ) from error

"""Module: trained torch modules, and fresh copies of them for refits."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from sklearn_hfl._adoption.parameters import FIXED, check_fixed
from sklearn_hfl.posterior.module import copied
from sklearn_hfl.posterior.traced import FAILURES, trainable

__all__ = ["FreshCopies", "LogitDifference", "gives_two", "module_params"]


class LogitDifference(nn.Module):
    """The one logit of two classes, from a module that gives one for each.

    Parameters
    ----------
    module : torch.nn.Module
        Maps (n, n_features) to (n, 2).
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, X: Tensor) -> Tensor:
        """Second logit less the first, (n, 1)."""
        logits = self.module(X)
        return cast(Tensor, logits[:, 1:] - logits[:, :1])


class FreshCopies:
    """Factory of untrained copies of a module, for refits.

    Layers start again by their ``reset_parameters``: a refit from the trained weights
    would have seen the rows that cross-validation holds out. Frozen parameters and buffers
    are no weights, and keep their values.

    Parameters
    ----------
    module : torch.nn.Module
        Copied.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = copied(module)

    def __call__(self, n_features: int, n_outputs: int) -> nn.Module:
        module = copied(self.module)
        tensors = (*module.parameters(), *module.buffers())
        constants = [(t, t.clone()) for t in tensors if not t.requires_grad]
        _reset(module, "")
        with torch.no_grad():
            for tensor, value in constants:
                tensor.copy_(value)
        return module

    def __repr__(self) -> str:
        inner = self.module.module if isinstance(self.module, LogitDifference) else self.module
        return f"{type(self).__name__}({type(inner).__name__})"


def _reset(module: nn.Module, name: str) -> None:
    if not trainable(module):
        return
    # A reset of a parametrized tensor would change the value that is computed, and be lost.
    computed = is_parametrized(module)
    reset = getattr(module, "reset_parameters", None)
    if callable(reset) and not computed:
        reset()
        return
    if computed or any(p.requires_grad for p in module.parameters(recurse=False)):
        why = "a parametrization" if computed else "parameters and no reset_parameters method"
        raise ValueError(
            f"Refitting needs fresh weights, but {type(module).__name__} {name!r} has {why}. Set "
            "module to a factory (n_features, n_outputs) -> torch.nn.Module, or add the method."
        )
    for child_name, child in module.named_children():
        _reset(child, f"{name}.{child_name}" if name else child_name)


def module_params(module: Any, params: dict[str, Any]) -> dict[str, Any]:
    """Parameters of an estimator that refits copies of the module."""
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"from_torch expects a trained torch.nn.Module, but got {type(module).__name__}."
        )
    check_fixed(params, FIXED)
    return {"module": FreshCopies(module), "n_estimators": 1, **params}


def gives_two(module: nn.Module, X: Tensor) -> bool:
    """Whether the module gives two logits; what else is wrong with it is found later."""
    try:
        with torch.no_grad():
            output = copied(module).to(X)(X[:2].clone())
    except FAILURES:
        return False
    return isinstance(output, Tensor) and output.shape == (len(X[:2]), 2)

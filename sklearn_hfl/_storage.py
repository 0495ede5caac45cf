"""Storage: fitted state as plain arrays, for files that are read without running code."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch

from sklearn_hfl._validation import Array

__all__ = ["StoredTensor", "restored", "stored"]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as an array.

    Attributes
    ----------
    array : ndarray
        Its numbers.
    device : str
        Where it was.
    """

    array: Array
    device: str


def stored(value: Any, seen: dict[int, StoredTensor] | None = None) -> Any:
    """Replace each tensor in nested containers and dataclasses by an array.

    Parameters
    ----------
    value : object
        What is not a tensor, a container or a dataclass comes back as it is. Values that
        a dataclass has cached are left out.
    seen : dict of int to StoredTensor
        Tensors stored already: what shares a tensor will share an array.

    Returns
    -------
    object
    """
    seen = {} if seen is None else seen
    if isinstance(value, torch.Tensor):
        if id(value) not in seen:
            seen[id(value)] = StoredTensor(value.detach().cpu().numpy(), str(value.device))
        return seen[id(value)]
    return _mapped(value, lambda part: stored(part, seen))


def restored(value: Any, seen: dict[int, torch.Tensor] | None = None) -> Any:
    """Undo ``stored``.

    Parameters
    ----------
    value : object
        As ``stored`` returns it.
    seen : dict of int to Tensor
        Arrays restored already.

    Returns
    -------
    object
    """
    seen = {} if seen is None else seen
    if isinstance(value, StoredTensor):
        if id(value) not in seen:
            # Memory-mapped files are read-only, over which torch would warn.
            array = np.require(value.array, requirements="W")
            seen[id(value)] = torch.from_numpy(array).to(value.device)
        return seen[id(value)]
    return _mapped(value, lambda part: restored(part, seen))


def _mapped(value: Any, change: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        changed = object.__new__(type(value))
        for field in fields(value):
            object.__setattr__(changed, field.name, change(getattr(value, field.name)))
        return changed
    if isinstance(value, dict):
        return {key: change(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(change(part) for part in value)
    return value

"""Storage: an estimator's state as plain arrays, for files that are read without running code."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, cast

import numpy as np
import torch

from sklearn_hfl._data.validation import Array
from sklearn_hfl._version import __version__
from sklearn_hfl.exceptions import HFLWarning, warn

__all__ = ["StoredTensor", "packed", "restored", "stored", "unpacked"]

# One more whenever fitted state changes so that older files no longer load.
FORMAT = 2


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


def packed(state: dict[str, Any]) -> dict[str, Any]:
    """Make the state of an estimator ready to be written.

    Parameters
    ----------
    state : dict
        Attributes by name.

    Returns
    -------
    dict
        The same, stored, with the format and who wrote it.
    """
    return {**stored(state), "_format": FORMAT, "_written_by": __version__}


def unpacked(state: dict[str, Any]) -> dict[str, Any]:
    """Undo ``packed``.

    Parameters
    ----------
    state : dict
        As ``packed`` returns it, perhaps of another version.

    Returns
    -------
    dict
        Attributes by name.

    Raises
    ------
    ValueError
        If the format is another one.

    Warns
    -----
    HFLWarning
        If it was fitted on a GPU, and there is none: it is then on the CPU.
    """
    state = dict(state)
    found = state.pop("_format", None)
    writer = state.pop("_written_by", "before 0.1.0")
    if found != FORMAT:
        raise ValueError(
            f"Expected an estimator written in format {FORMAT}, as sklearn_hfl {__version__} "
            f"does, but it was written by sklearn_hfl {writer} in format {found}. Load it with "
            "that version, or fit again."
        )
    device = str(state.get("device", "cpu"))
    if (found := _available(device)) != device:
        state["device"] = found
        warn(
            f"The estimator was fitted with device={device!r}, which this machine does not have: "
            f"it is now on device={found!r}.",
            HFLWarning,
        )
    return cast(dict[str, Any], restored(state))


def stored(value: Any, seen: dict[int, StoredTensor] | None = None) -> Any:
    """Replace each tensor in nested containers and dataclasses by an array.

    Parameters
    ----------
    value : object
        What is not a tensor, a container or a dataclass comes back as it is. Values cached
        by a dataclass are not stored.
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
            seen[id(value)] = torch.from_numpy(array).to(_available(value.device))
        return seen[id(value)]
    return _mapped(value, lambda part: restored(part, seen))


def _available(device: str) -> str:
    """The device itself, or the CPU where that is of a kind that this machine lacks."""
    lacking = device.startswith("cuda") and not torch.cuda.is_available()
    return "cpu" if lacking else device


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

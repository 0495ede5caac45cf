"""Cluster chunks: training rows of a fit on the workers of a cluster, of which only sums come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_hfl._data.collections import computed, folded, shared, task
from sklearn_hfl._data.conformity import fingerprints
from sklearn_hfl.calibration.fingerprints import Fingerprints
from sklearn_hfl.posterior.chunks import Tensors

__all__ = ["ClusterChunks"]


class ClusterChunks:
    """Training rows as tensors, in chunks on the workers of a cluster.

    See ``sklearn_hfl.posterior.chunks.Chunks``. A worker that is lost costs the time to compute
    its chunks again: dask knows how, and every pass sends what it needs.

    Parameters
    ----------
    parts : sequence of Delayed
        X (n, D), y (n, K) and sample weights (n,) of each chunk.
    sizes : sequence of int
        n of each.
    total_weight : Tensor of shape ()
        Sum of all weights.
    """

    def __init__(self, parts: Sequence[Any], sizes: Sequence[int], total_weight: Tensor) -> None:
        self._parts = tuple(parts)
        self._ends = np.array(list(accumulate(sizes)))
        self.total_weight = total_weight

    @property
    def n_rows(self) -> int:
        """N."""
        return int(self._ends[-1])

    def total(self, function: Callable[..., Tensors], *arguments: Any) -> Tensors:
        """Sum over the chunks: see ``Chunks.total``."""
        call = shared(_Call(function, arguments))
        return self._folded(partial(_called, call), _added)

    def fingerprints(self) -> Fingerprints:
        """Hashes of the rows."""
        return self._folded(partial(task, _fingerprints), Fingerprints.merged)

    def select(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Some rows, to hold here: see ``Chunks.select``."""
        numbers = rows.cpu().numpy()
        chunk = np.searchsorted(self._ends, numbers, side="right")
        order = np.argsort(chunk, kind="stable")
        used, first = np.unique(chunk[order], return_index=True)
        starts = np.concatenate([[0], self._ends])[used]
        picked = [
            task(_picked, self._parts[i], own - start)
            for i, start, own in zip(used, starts, np.split(numbers[order], first[1:]), strict=True)
        ]
        X, y, sample_weight = map(torch.cat, zip(*computed(*picked), strict=True))
        back = torch.from_numpy(np.argsort(order)).to(X.device)
        return X[back], y[back], sample_weight[back]

    def _folded(self, of_part: Callable[[Any], Any], combine: Callable[[list[Any]], Any]) -> Any:
        return computed(folded([of_part(part) for part in self._parts], combine))[0]

    def __deepcopy__(self, memo: Any) -> ClusterChunks:
        return self

    def __reduce__(self) -> Any:
        return _LostChunks, (self.n_rows, float(self.total_weight))


class _LostChunks:
    """What a file knows of the rows in chunks to which a model was fitted."""

    def __init__(self, n_rows: int, total_weight: float) -> None:
        self.n_rows, self.total_weight = n_rows, torch.tensor(total_weight)

    def total(self, function: Any, *arguments: Any) -> Any:
        raise ValueError(
            f"Expected the {self.n_rows} training rows, but they were in a dask collection, and a "
            "copy of the model does not have them. Use the model in the process that fitted it, "
            "or fit with variance='amortized', whose queries need no training rows."
        )

    select = total


@dataclass(frozen=True)
class _Call:
    """A function with what it takes beside the rows."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def _called(call: Any, part: Any) -> Any:
    return task(_applied, call, part)


def _applied(call: _Call, part: Any) -> Any:
    return call.function(*part, *call.arguments)


def _added(parts: list[Any]) -> Any:
    """Sum of tensors, or of tuples of them."""
    if isinstance(parts[0], tuple):
        return tuple(map(sum, zip(*parts, strict=True)))
    return sum(parts)


def _picked(part: Any, rows: NDArray[np.intp]) -> tuple[Tensor, ...]:
    return tuple(tensor[torch.from_numpy(rows).to(tensor.device)] for tensor in part)


def _fingerprints(part: Any) -> Fingerprints:
    X, y, _ = part
    return fingerprints(X, y)

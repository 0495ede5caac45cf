"""Collections: arrays and frames of dask, whose chunks may lie on the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import numpy as np
from sklearn.utils import Bunch

__all__ = [
    "blocks",
    "by_chunks",
    "computed",
    "dask_array",
    "folded",
    "is_collection",
    "kept",
    "shared",
    "task",
]

# Partial results that are combined at a time, on the way to that of all chunks.
FAN_IN = 8


def is_collection(values: Any) -> bool:
    """Whether these are values of dask, of which NumPy would load all.

    Parameters
    ----------
    values : object
        Anything.

    Returns
    -------
    bool
    """
    return hasattr(type(values), "__dask_graph__")


def dask_array(name: str, values: Any, rows: tuple[int, ...] | None = None) -> Any:
    """Give a dask array in chunks of rows.

    Parameters
    ----------
    name : str
        For messages.
    values : dask array, dask frame or array-like
        The lengths of a frame's partitions are counted.
    rows : tuple of int, default=None
        Lengths of the chunks; None keeps those that there are.

    Returns
    -------
    dask.array.Array of shape (n,) or (n, n_columns)

    Raises
    ------
    ValueError
        If the lengths of its chunks are not known.
    """
    import dask.array as da

    if not is_collection(values):
        array = da.from_array(np.asarray(values), chunks=-1)
    else:
        array = values.to_dask_array(lengths=True) if hasattr(values, "to_dask_array") else values
    if any(np.isnan(size) for size in array.shape):
        raise ValueError(
            f"Expected {name} of known shape, but the chunks of this dask array are of unknown "
            f"sizes. Call {name}.compute_chunk_sizes() before fit."
        )
    lengths = array.chunks[0] if rows is None else rows
    return array.rechunk((lengths, *array.shape[1:]))


def blocks(array: Any) -> list[Any]:
    """Delayed chunks of rows.

    Parameters
    ----------
    array : dask array or frame
        With its columns in one chunk.

    Returns
    -------
    list of Delayed
    """
    return list(np.ravel(array.to_delayed()))


# -------------------------------------------------------------------- tasks


def task(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function later, of delayed values among others."""
    from dask import delayed

    return delayed(function, pure=False)(*arguments)


def shared(value: Any) -> Any:
    """Send a value that many tasks take once, as it is."""
    from dask import delayed

    return delayed(value, name=f"shared-{uuid4()}", traverse=False)


def folded(parts: Sequence[Any], combine: Callable[[list[Any]], Any]) -> Any:
    """Combine delayed parts by a tree: its shape, and so the result, do not depend on timing."""
    while len(parts) > 1:
        groups = [list(parts[i : i + FAN_IN]) for i in range(0, len(parts), FAN_IN)]
        parts = [task(combine, group) for group in groups]
    return parts[0]


def computed(*values: Any) -> tuple[Any, ...]:
    """Compute delayed values, where dask does: on a cluster with a client, or by threads here."""
    import dask

    with _large_graphs():
        return dask.compute(*values)


def kept(values: Sequence[Any]) -> tuple[Any, ...]:
    """Keep delayed values on the workers of a cluster; without one, compute them at each use."""
    import dask

    with _large_graphs() as on_cluster:
        return tuple(dask.persist(*values)) if on_cluster else tuple(values)


@contextmanager
def _large_graphs() -> Iterator[bool]:
    """Whether dask computes on a cluster, which then takes large graphs without a warning."""
    import dask
    from dask.base import get_scheduler

    if not hasattr(getattr(get_scheduler(), "__self__", None), "scheduler_info"):
        yield False
        return
    # Weights and directions travel with the graph: sent any other way, they would be lost with
    # the worker that has them. The warning means data that should be on the workers.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):
        yield True


# ------------------------------------------------------------------- queries


def by_chunks(method: Callable[..., Any], X: Any, *arguments: Any) -> Any:
    """Answer queries in a dask collection chunk by chunk, by a method that takes rows one by one.

    Parameters
    ----------
    method : callable
        (X, ...) -> array, or a tuple or Bunch of arrays, with one row for each of X.
    X : dask array or frame
        Queries.
    *arguments : object
        What the method takes beside them.

    Returns
    -------
    ndarray, tuple or Bunch
        The answers to all chunks, one after the other.
    """
    return _joined([method(block, *arguments) for block in _loaded(X)])


def _loaded(X: Any) -> Iterator[Any]:
    """Load one chunk of rows after the other, but for empty ones; the last, where all are."""
    whole = X.rechunk({1: -1}) if getattr(X, "ndim", 0) == 2 and hasattr(X, "rechunk") else X
    n_rows = 0
    for block in (parts := blocks(whole)):
        (rows,) = computed(block)
        n_rows += rows.shape[0]
        if rows.shape[0] or (n_rows == 0 and block is parts[-1]):
            yield rows


def _joined(answers: list[Any]) -> Any:
    first = answers[0]
    if isinstance(first, tuple):
        return tuple(_joined(list(parts)) for parts in zip(*answers, strict=True))
    if isinstance(first, Bunch):
        return Bunch(**{name: _joined([part[name] for part in answers]) for name in first})
    return np.concatenate(answers)

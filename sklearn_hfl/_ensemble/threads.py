"""Threads: torch's within one fit or query, no more than pay."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock

import torch
from joblib import cpu_count

__all__ = ["few_threads"]

# Rows times weights from which a second thread pays. Below it a fit's passes take less than some
# milliseconds, of which threads save a third at the most; and wherever another process has one of
# the cores, each pass waits for a thread that is not running: two fits of 835 rows side by side
# on two cores take 2.9 s each with one thread, 38 s with two (docs/cost.md).
MIN_ENTRIES = 2e6

_one_at_a_time = Lock()


@contextmanager
def few_threads(n_rows: int, n_weights: int) -> Iterator[None]:
    """Limit torch's threads in the block: to one for little work, always to the cores there are.

    A container may have fewer cores than its machine, which torch does not ask for. The limit is
    that of the calling thread, which gets its own number back at the end.

    Parameters
    ----------
    n_rows : int
        Rows of one pass, times outputs.
    n_weights : int
        P.
    """
    before = torch.get_num_threads()
    most = 1 if n_rows * n_weights < MIN_ENTRIES else cpu_count()
    if before <= most:
        yield
        return
    try:
        _set_here(most)
        yield
    finally:
        _set_here(before)


def _set_here(n_threads: int) -> None:
    """Set the number of the calling thread alone.

    Torch also stores it for the process, where threads to come find theirs. A new thread, which
    has the process's number, puts that back.
    """
    with _one_at_a_time, ThreadPoolExecutor(1) as other:
        of_process = other.submit(torch.get_num_threads).result()
        torch.set_num_threads(n_threads)
        other.submit(torch.set_num_threads, of_process).result()

"""Threads: torch's within one fit or query, no more than pay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from joblib import cpu_count

__all__ = ["few_threads"]

# Rows times weights from which a second thread pays. Below it a fit's passes take less than some
# milliseconds, of which threads save a third at the most; and wherever another process has one of
# the cores, each pass waits for a thread that is not running: two fits of 927 rows side by side
# on two cores take 1.5 s each with one thread, 36 s with two (docs/cost.md).
MIN_ENTRIES = 2e6


@contextmanager
def few_threads(n_rows: int, n_weights: int) -> Iterator[None]:
    """Limit torch's threads in the block: to one for little work, always to the cores there are.

    A container may have fewer cores than its machine, which torch does not ask for. The number is
    that of the calling thread, and is given back at the end.

    Parameters
    ----------
    n_rows : int
        Rows of one pass, times outputs.
    n_weights : int
        P.
    """
    before = torch.get_num_threads()
    most = 1 if n_rows * n_weights < MIN_ENTRIES else cpu_count()
    torch.set_num_threads(min(before, most))
    try:
        yield
    finally:
        torch.set_num_threads(before)

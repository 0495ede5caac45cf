"""Threads: fits alone and side by side, with one thread and with torch's.

Run where the repository lies:

    python benchmarks/threads.py --data ../shared/data/uci
"""

from __future__ import annotations

import argparse
import time
import warnings
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from problems import Problem, inner
from reporting import heading, machine

from sklearn_hfl._ensemble import threads

SETS = "concrete", "kin8nm"
SIDE_BY_SIDE = "concrete"  # the other takes minutes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci"))
    arguments = parser.parse_args()
    print(machine())
    heading("Threads: seconds of a fit, one member, medians of the second of two fits")
    print(f"{'':32s}{'torch threads':>14s}{'alone':>8s}{'two side by side':>18s}")
    for problem in inner(arguments.data, 1):
        name, family = problem.name.split()
        if name not in SETS or family != "standard":
            continue
        for n_threads in (1, torch.get_num_threads()):
            line = f"{f'{name}, {len(problem.y)} rows':32s}{n_threads:14d}"
            line += f"{seconds(problem, n_threads, 1):8.1f}"
            if name == SIDE_BY_SIDE:
                line += f"{seconds(problem, n_threads, 2):18.1f}"
            print(line, flush=True)


def seconds(problem: Problem, n_threads: int, n_processes: int) -> float:
    """Wall seconds of a fit while as many processes make the same one."""
    with get_context("spawn").Pool(n_processes) as pool:
        times = pool.starmap(fitted, [(problem, n_threads)] * n_processes, chunksize=1)
        pool.close()
        pool.join()
    return float(np.median(times))


def fitted(problem: Problem, n_threads: int) -> float:
    warnings.simplefilter("ignore")
    torch.set_num_threads(n_threads)
    with patch.object(threads, "MIN_ENTRIES", 0):  # as many threads as are asked for
        for _ in range(2):  # the first fit of a process loads what later ones have
            began = time.perf_counter()
            problem.model().fit(problem.X, problem.y)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()

"""Reporting: printing and scores shared by the scripts of this folder."""

from __future__ import annotations

import csv
import os
import platform
import resource
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import sklearn
import torch

__all__ = [
    "RESULTS", "Z90", "append", "heading", "machine", "normal_scores", "peak", "peak_above", "save",
    "sign",
]  # fmt: skip

RESULTS = Path("benchmarks/results")

# Half the width of a central 90 % interval, in standard deviations.
Z90 = 1.6448536269514722


def machine() -> str:
    """Machine and versions that the numbers come from."""
    return (
        f"{processor()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"scikit-learn {sklearn.__version__}"
    )


def processor() -> str:
    """Architecture, and the processor's name where Linux knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return ", ".join([platform.machine(), *names[:1]])


def heading(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


def sign(found: float, aim: float, signs: str) -> str:
    """The first of "≥<" or "≤>" where a figure reaches its aim, the second where it does not."""
    better = found >= aim if signs[0] == "≥" else found <= aim
    return signs[0] if better else signs[1]


def save(name: str, rows: Sequence[dict[str, object]]) -> None:
    """Write the rows of a table, which may have different columns, to a CSV file."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with (RESULTS / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})


def append(path: Path, columns: Sequence[str], rows: Iterable[dict[str, object]]) -> None:
    """Add rows to a CSV file, each as soon as it is known."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        for row in rows:
            writer.writerow(row)
            file.flush()


def peak() -> float:
    """Peak memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


@contextmanager
def peak_above() -> Iterator[list[float]]:
    """Peak memory, in GB, within the block, beyond what was allocated before it."""
    page = resource.getpagesize()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    before, most, done = resident(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], (resident() - before) / 1e9)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        done.set()
        watcher.join()


def normal_scores(y: np.ndarray, mean: np.ndarray, std: np.ndarray) -> tuple[float, float]:
    """Mean log-likelihood of y, and the coverage of 90 % intervals."""
    z = (y - mean) / std
    log_likelihood = np.mean(-0.5 * z**2 - np.log(std) - 0.5 * np.log(2 * np.pi))
    return float(log_likelihood), float(np.mean(np.abs(z) < Z90))

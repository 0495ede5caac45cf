"""GPU: seconds of fits and of queries beside one core's, and how far their answers are apart.

    python benchmarks/gpu.py

Says so, and stops, where torch finds no GPU.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from reporting import heading, machine
from sklearn.datasets import make_friedman1

from sklearn_hfl import HFLRegressor

SIZES = (1_000, 10_000, 100_000)
N_QUERIES = 10_000


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("Expected a GPU, but torch finds none: nothing was measured.")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(machine(), torch.cuda.get_device_name(), sep=", ")
    heading("GPU: one member, Friedman 1 with 10 features, seconds; one core of the CPU")
    columns = {"rows": 9, "fit, CPU": 11, "GPU": 9, "queries, CPU": 15, "GPU ": 9, "std apart": 12}
    print("".join(f"{name:>{width}s}" for name, width in columns.items()))
    for n in SIZES:
        X, y = make_friedman1(n + N_QUERIES, 10, noise=1.0, random_state=0)
        times, stds = [], []
        for device in ("cpu", "cuda"):
            model = HFLRegressor(n_estimators=1, random_state=0, device=device)
            model.fit(X[:100], y[:100])  # loads what is loaded once
            times.append(timed(model.fit, X[:n], y[:n])[0])
            elapsed, (_, std) = timed(model.predict, X[n:], return_std=True)
            times.append(elapsed)
            stds.append(std)
        fit, query, fit_there, query_there = times
        apart = np.abs(stds[1] / stds[0] - 1).max()
        print(f"{n:9d}{fit:11.1f}{fit_there:9.1f}{query:15.2f}{query_there:9.2f}{apart:12.1e}")


def timed(action: Callable[..., object], *data: object, **params: object) -> tuple[float, Any]:
    """Seconds that a call takes on both devices, and what it returns."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    result = action(*data, **params)
    torch.cuda.synchronize()
    return time.perf_counter() - began, result


if __name__ == "__main__":
    main()

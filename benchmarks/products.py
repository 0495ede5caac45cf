"""Products: what one multiplication by the Gauss-Newton matrix costs, and in which form.

Prints the time of JᵀJV in milliseconds (median of five) with the Jacobian kept, and layer
by layer in blocks of rows that keep so many numbers between two layers. The constants of
sklearn_hfl/posterior/curvature.py come from this table. Run as

    python benchmarks/products.py
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

import numpy as np
import torch

from sklearn_hfl.posterior.initialization import initial_weights
from sklearn_hfl.posterior.linearization import JacobianLinearization, Linearization
from sklearn_hfl.posterior.network import MLP

SHAPES = ((927, 8, (50,), 1), (7373, 8, (50,), 1), (927, 8, (50, 50), 1), (927, 8, (50,), 2),
          (927, 8, (50,), 4), (1437, 64, (50,), 10))  # fmt: skip
KEPT_NUMBERS = (200_000, 2_000_000, 20_000_000)


def main() -> None:
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    title = "Products: milliseconds of JᵀJV, m columns"
    print(f"{title}\n{'-' * len(title)}")
    kept = "  ".join(f"{n:>10,d}" for n in KEPT_NUMBERS)
    print(f"{'N, D, hidden, K':26s} {'m':>3s}   Jacobian   layers, keeping {kept}")
    for n, d, hidden, k in SHAPES:
        network = MLP((d, *hidden, k))
        weights = initial_weights(network, torch.Generator().manual_seed(0))
        X = torch.randn(n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        dense = JacobianLinearization(*network.jacobian(weights, X))
        layers = network.linearize(weights, X)
        for m in (1, 64):
            V = torch.ones(network.n_weights, m, dtype=torch.float64)
            with_jacobian = milliseconds(lambda: product(dense, V, n))  # noqa: B023
            by_layers = [
                milliseconds(lambda: product(layers, V, max(1, c // (m * network.width))))  # noqa: B023
                for c in KEPT_NUMBERS
            ]
            cells = "  ".join(f"{t:10.1f}" for t in by_layers)
            shape = f"{n}, {d}, {hidden}, {k}"
            print(f"{shape:26s} {m:3d} {with_jacobian:10.1f}                   {cells}", flush=True)


def product(linear: Linearization, V: torch.Tensor, rows: int) -> torch.Tensor:
    parts = (
        linear.rows(slice(start, start + rows)) for start in range(0, len(linear.outputs), rows)
    )
    return sum(part.backward(part.forward(V)) for part in parts)


def milliseconds(task: Callable[[], object]) -> float:
    task()
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        task()
        seconds.append(time.perf_counter() - began)
    return 1e3 * float(np.median(seconds))


if __name__ == "__main__":
    main()

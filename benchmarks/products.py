"""Products: the cost of one product with the Gauss-Newton matrix, in each implementation.

Prints the time of JᵀJV in milliseconds (median of five): with the Jacobian kept, with the Jacobian
recomputed in blocks of rows, and layer by layer in blocks of rows. The constants
of sklearn_hfl/posterior/curvature.py come from this table. Run as

    python benchmarks/products.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from reporting import heading, machine

from sklearn_hfl.posterior.initialization import initial_weights
from sklearn_hfl.posterior.linearization import JacobianLinearization, Linearization
from sklearn_hfl.posterior.network import MLP

SHAPES = ((927, 8, (50,), 1), (7373, 8, (50,), 1), (927, 8, (50, 50), 1), (2000, 8, (200, 200), 1),
          (500, 10, (4000,), 1), (927, 8, (50,), 2), (927, 8, (50,), 4),
          (1437, 64, (50,), 10))  # fmt: skip
JACOBIAN_ROWS = (64, 256, 1024)
LAYER_ROWS = (16, 64, 256, 1024)
# A Jacobian with more entries than this exceeds the memory limit, and is not kept.
MAX_KEPT = 10**7


def main() -> None:
    print(machine())
    heading("Products: milliseconds of JᵀJV, m columns")
    blocks = "".join(f"{f'by {n}':>8s}" for n in JACOBIAN_ROWS)
    layers = "".join(f"{f'by {n}':>8s}" for n in LAYER_ROWS)
    print(f"{'N, D, hidden, K':26s} {'m':>3s}   Jacobian: kept{blocks}   layers:{layers}")
    for n, d, hidden, k in SHAPES:
        network = MLP((d, *hidden, k))
        weights = initial_weights(network, torch.Generator().manual_seed(0))
        X = torch.randn(n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

        def formed(rows: slice) -> Linearization:
            return JacobianLinearization(*network.jacobian(weights, X[rows]))  # noqa: B023

        layered = network.linearize(weights, X)
        for m in (1, 64):
            V = torch.ones(network.n_weights, m, dtype=torch.float64)
            kept = "-"
            if n * k * network.n_weights <= MAX_KEPT:
                dense = formed(slice(None))
                kept = f"{milliseconds(lambda: product(dense.rows, V, n, n)):.1f}"  # noqa: B023
            cells = "".join(
                f"{milliseconds(lambda: product(formed, V, n, rows)):8.1f}"  # noqa: B023
                for rows in JACOBIAN_ROWS
            )
            by_layers = "".join(
                f"{milliseconds(lambda: product(layered.rows, V, n, rows)):8.1f}"  # noqa: B023
                for rows in LAYER_ROWS
            )
            shape = f"{n}, {d}, {hidden}, {k}"
            print(f"{shape:26s} {m:3d} {kept:>16s}{cells}          {by_layers}", flush=True)


def product(
    part: Callable[[slice], Linearization], V: torch.Tensor, n: int, rows: int
) -> torch.Tensor:
    total = torch.zeros_like(V)
    for start in range(0, n, rows):
        linear = part(slice(start, start + rows))
        total += linear.backward(linear.forward(V))
    return total


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

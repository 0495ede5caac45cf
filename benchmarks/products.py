"""Products and passes: what training and queries are made of, by the size of a block of rows.

The first table has the time of JᵀJV in milliseconds (median of five): with the Jacobian kept, with
the Jacobian recomputed in blocks of rows, and layer by layer in blocks of rows. The second has the
times of the loss, of its gradient and of a projection, the third those of a product with the
Hessian, the fourth those of a solve with a factor of A. The constants of curvature.py and
log_posterior.py in sklearn_hfl/posterior come from these tables. Run as

    python benchmarks/products.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import torch
from reporting import heading, machine

from sklearn_hfl.optim.projection import projected
from sklearn_hfl.optim.subspace import solved_by
from sklearn_hfl.posterior import log_posterior
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.initialization import initial_weights
from sklearn_hfl.posterior.likelihood import GaussianLikelihood
from sklearn_hfl.posterior.linearization import JacobianLinearization, Linearization
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import MLP, ModuleNetwork
from sklearn_hfl.posterior.prior import GaussianPrior

SHAPES = ((927, 8, (50,), 1), (7373, 8, (50,), 1), (927, 8, (50, 50), 1), (2000, 8, (200, 200), 1),
          (500, 10, (4000,), 1), (927, 8, (50,), 2), (927, 8, (50,), 4),
          (1437, 64, (50,), 10))  # fmt: skip
JACOBIAN_ROWS = (64, 256, 1024)
LAYER_ROWS = (16, 64, 256, 1024)
# A Jacobian with more entries than this exceeds the memory limit, and is not kept.
MAX_KEPT = 10**7
# Numbers in a block of a pass; the last is more than the memory limit allows.
BLOCKS = (200_000, 500_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000, 10**12)
HESSIANS = ((1000, 10, (50,)), (7000, 10, (50,)), (2000, 8, (50, 50)), (100_000, 10, (50,)))
HESSIAN_BLOCKS = (100_000, 200_000, 400_000, 800_000, 2_000_000)


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
    passes()
    hessians()
    solves()


def passes() -> None:
    """Time passes of a network of 10-50-1, by the numbers that a block holds."""
    heading("Passes: milliseconds, by numbers in a block; 10 features, 50 units")
    titles = "".join(f"{f'{n / 1e6:g} million':>14s}" for n in BLOCKS[:-1])
    print(f"{'rows, networks':34s}{titles}{'250 MB':>14s}")
    network = MLP((10, 50, 1))
    for n, n_networks in ((20_000, 1), (300_000, 1), (1000, 64), (20_000, 64)):
        lp = rows(network, n)
        weights = initial_weights(network, torch.Generator().manual_seed(0))
        many = weights[None].repeat(n_networks, 1)
        timed = {
            "loss": lambda: lp.value(many),  # noqa: B023
            "gradient": lambda: lp.value_and_gradient(many),  # noqa: B023
            "projection": lambda: projected(lp, weights),  # noqa: B023
        }
        for name, task in timed.items():
            if name == "projection" and n_networks > 1:
                continue
            cells = []
            for numbers in BLOCKS:
                with patch.object(log_posterior, "PASS_NUMBERS", numbers):
                    cells.append(f"{milliseconds(task):14.0f}")
            label = f"{n:,}, {n_networks}: {name}"
            print(f"{label:34s}{''.join(cells)}", flush=True)


def hessians() -> None:
    """Time products with the Hessian layer by layer, and by the graph of the gradient."""
    heading("Hessian: milliseconds of a product, by numbers in a block, and of one with A")
    titles = "".join(f"{f'{n / 1e6:g} million':>14s}" for n in HESSIAN_BLOCKS)
    print(f"{'N, D, hidden':22s}{'':12s}{titles}{'A':>10s}")
    for n, d, hidden in HESSIANS:
        network = MLP((d, *hidden, 1))
        lp = rows(network, n)
        weights = initial_weights(network, torch.Generator().manual_seed(0))
        v, gauss_newton = torch.ones_like(weights), GaussNewton(lp, weights)
        of_a = milliseconds(lambda: gauss_newton.product(v))  # noqa: B023
        for name, method in (("layers", MLP.hessian), ("graph", ModuleNetwork.hessian)):
            cells = []
            for numbers in HESSIAN_BLOCKS:
                with (
                    patch.object(MLP, "hessian", method),
                    patch.object(log_posterior, "CACHED_NUMBERS", numbers),
                ):
                    product = lp.hessian(weights)
                    cells.append(f"{milliseconds(lambda: product(v)):14.2f}")  # noqa: B023
            print(
                f"{f'{n:,}, {d}, {hidden}':22s}{name:12s}{''.join(cells)}{of_a:10.2f}", flush=True
            )


def solves() -> None:
    """Time the factor of A, and two ways to solve for one vector with it."""
    heading("Solves: milliseconds, for one vector")
    print(f"{'weights':10s}{'type':10s}{'factor':>12s}{'cholesky_solve':>16s}{'solved_by':>12s}")
    for p in (50, 500, 1000, 2000):
        for dtype in (torch.float32, torch.float64):
            R = torch.randn(p, p, generator=torch.Generator().manual_seed(0), dtype=dtype)
            A, b = torch.eye(p, dtype=dtype) + R.mT @ R, torch.ones(p, 1, dtype=dtype)
            L = torch.linalg.cholesky(A)
            times = (
                milliseconds(lambda: torch.linalg.cholesky(A)),  # noqa: B023
                milliseconds(lambda: torch.cholesky_solve(b, L)),  # noqa: B023
                milliseconds(lambda: solved_by(L, b)),  # noqa: B023
            )
            name = str(dtype).removeprefix("torch.")
            print(f"{p:<10,}{name:10s}{times[0]:12.3f}{times[1]:16.3f}{times[2]:12.3f}", flush=True)


def rows(network: MLP, n: int) -> LogPosterior:
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(n, network.layer_sizes[0], generator=generator, dtype=torch.float64)
    unit = torch.ones(1, dtype=torch.float64)
    groups = network.weight_groups()
    prior = GaussianPrior(torch.ones(len(groups), dtype=torch.float64), groups)
    y, weight = X[:, :1].sin(), torch.ones(n, dtype=torch.float64)
    return LogPosterior(network, GaussianLikelihood(unit), prior, X, y, weight)


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

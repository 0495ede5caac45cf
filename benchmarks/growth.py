"""Growth: time and memory of standard deviations against weights, rows and queries.

    python benchmarks/growth.py

Every size runs in a separate process, on samples of a smooth function, at the initial random
weights: the cost of a build and of a query does not depend on how good the weights are. The prior
scales with the fan-in and the noise with the square root of the rows, so that the number of
effective parameters γ is about the same at each size. "floor" is the time of the unavoidable
products at the rate at which this machine multiplies matrices of that shape. `make
benchmark-speed` runs it with one thread.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from reporting import heading, machine, peak_above, save
from scale import drawn

from sklearn_hfl._ensemble.ensemble import Ensemble
from sklearn_hfl._ensemble.member import Member
from sklearn_hfl._ensemble.route import Route
from sklearn_hfl.optim.krylov import krylov_subspace
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.initialization import initial_weights, scaled_precision
from sklearn_hfl.posterior.likelihood import GaussianLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import MLP
from sklearn_hfl.posterior.prior import GaussianPrior
from sklearn_hfl.uncertainty.diagnostics import diagnose

PICTURE = Path("docs/images/growth.png")
N_FEATURES = 10
RTOL = 0.01
# There are 12 weights per hidden unit, and one more.
AXES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "weights": tuple((500, h, 1000) for h in (500, 1000, 2000, 4000, 8000)),
    "rows": tuple((n, 50, 1000) for n in (500, 2000, 8000, 32_000, 128_000)),
    "queries": tuple((2000, 500, q) for q in (10, 100, 1000, 10_000)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", type=int, nargs=3, metavar=("ROWS", "UNITS", "QUERIES"))
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(*arguments.one)))
        return
    print(machine())
    table = []
    for axis, sizes in AXES.items():
        heading(f"Growth: against {axis}, medians of {arguments.repeats}")
        print(
            f"{'rows':>8s}{'weights':>9s}{'queries':>9s}{'γ':>6s}{'directions':>11s}"
            f"{'build s':>9s}{'floor':>8s}{'query s':>9s}{'floor':>8s}{'peak GB':>9s}"
        )
        found = [medians(size, arguments.repeats) for size in sizes]
        for row in found:
            print(
                f"{row['rows']:8.0f}{row['weights']:9.0f}{row['queries']:9.0f}{row['gamma']:6.0f}"
                f"{row['directions']:11.0f}{row['build_s']:9.3f}{row['build_floor_s']:8.3f}"
                f"{row['query_s']:9.4f}{row['query_floor_s']:8.4f}{row['peak_gb']:9.3f}"
            )
        # Of the larger half, where constant costs are relatively small.
        rest = found[len(found) // 2 :]
        slopes = {name: slope(rest, axis, name) for name in ("build_s", "query_s", "peak_gb")}
        print("slopes of the larger half: " + ", ".join(f"{k} {v:.2f}" for k, v in slopes.items()))
        table += [{"axis": axis} | row for row in found]
    save("growth.csv", table)
    draw(table)


def medians(size: tuple[int, int, int], repeats: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", *map(str, size)]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(repeats)
    ]
    return {name: float(np.median([run[name] for run in runs])) for name in runs[0]}


def slope(rows: list[dict[str, float]], axis: str, name: str) -> float:
    x, y = (np.log([row[key] for row in rows]) for key in (axis, name))
    return float(np.polyfit(x, y, 1)[0])


def measured(n: int, units: int, n_queries: int) -> dict[str, float]:
    """Time and peak memory of one build and of one batch of queries."""
    X, y = (torch.as_tensor(a) for a in drawn(n, N_FEATURES, seed=0))
    Q = torch.as_tensor(drawn(n_queries, N_FEATURES, seed=1)[0])
    network = MLP((N_FEATURES, units, 1))
    groups = network.weight_groups()
    noise = 0.2 * float(y.std()) * (n / 500) ** 0.5
    log_posterior = LogPosterior(
        network,
        GaussianLikelihood(torch.tensor([noise**-2], dtype=torch.float64)),
        GaussianPrior(scaled_precision(network, 1.0).double(), groups),
        X,
        y[:, None],
        torch.ones(n, dtype=torch.float64),
    )
    weights = initial_weights(network, torch.Generator().manual_seed(0))
    empty = MapEstimate(log_posterior, weights, Subspace.empty(torch.zeros_like(weights)))
    with peak_above() as peak:
        began = time.perf_counter()
        generator = torch.Generator().manual_seed(0)
        subspace = krylov_subspace(empty.curvature(), generator)
        built = time.perf_counter()
        estimate = MapEstimate(log_posterior, weights, subspace)
        member = Member(estimate, diagnose(estimate), ())
        queried = time.perf_counter()
        (answer,) = Ensemble((member,), Route("linearized", RTOL, "auto")).variances(Q)
        answered = time.perf_counter()
    assert answer.converged.all()
    P, m = len(weights), subspace.rank
    # A product with the Jacobian and its transpose for each direction, and orthogonalisation.
    build = 2 * n * P * m / rate(n, P, min(m, 64)) + 2 * P * m * m / rate(P, m, min(m, 64))
    query = 2 * P * m * n_queries / rate(P, m, min(n_queries, 1000))
    return {
        "rows": n, "weights": P, "queries": n_queries, "gamma": subspace.n_effective,
        "directions": m, "build_s": built - began, "build_floor_s": build,
        "query_s": answered - queried, "query_floor_s": query, "peak_gb": peak[0],
    }  # fmt: skip


def rate(rows: int, inner: int, columns: int) -> float:
    """Multiply-adds per second of a matrix product of this shape, or of part of its rows."""
    rows = max(1, min(rows, 10**7 // inner))
    A, B = torch.randn(rows, inner).double(), torch.randn(inner, columns).double()
    spent = []
    for _ in range(5):
        began = time.perf_counter()
        _ = A @ B
        spent.append(time.perf_counter() - began)
    return rows * inner * columns / min(spent)


def draw(table: list[dict[str, object]]) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    for ax, axis in zip(axes, AXES, strict=True):
        rows = [row for row in table if row["axis"] == axis]
        x = [row[axis] for row in rows]
        for name, label, style in (
            ("build_s", "build", "C0-"), ("build_floor_s", "build, floor", "C0:"),
            ("query_s", "queries", "C1-"), ("query_floor_s", "queries, floor", "C1:"),
        ):  # fmt: skip
            ax.loglog(x, [row[name] for row in rows], style, marker="o", ms=3, label=label)
        memory = ax.twinx()
        memory.loglog(x, [row["peak_gb"] for row in rows], "C2--", marker="s", ms=3)
        memory.set_ylim(1e-3, 1e1)
        memory.tick_params(axis="y", colors="C2")
        ax.set(xlabel=axis, title=f"against {axis}")
    axes[0].set_ylabel("seconds")
    memory.set_ylabel("peak memory in GB (dashed)", color="C2")
    axes[0].legend(fontsize="small")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=150)


if __name__ == "__main__":
    main()

"""Cluster: passes and bytes of fits to a dask array on two workers, and what they come to on 64.

    python benchmarks/cluster.py

Rows of a smooth function with noise are drawn where they lie, on the workers of a local cluster.
Each fit learns its precisions. Counted are the passes over the rows, and what each sends to every
worker and gets back from each; the last table is an extrapolation, not a run.
"""

from __future__ import annotations

import os
import pickle
import time
import warnings
from collections import defaultdict
from typing import Any

import dask.array as da
import distributed
import numpy as np
from reporting import heading, machine, peak, save
from scale import NOISE, smooth

from sklearn_hfl import HFLRegressor
from sklearn_hfl._data.cluster_chunks import ClusterChunks

N_WORKERS = 2
N_FEATURES = 9
HIDDEN = (10,)
SIZES = (5_000, 20_000, 80_000)
LARGE = 10**9, 64
NAMES = {
    "_value": "loss",
    "_value_and_gradient": "loss and gradient",
    "_product": "Hessian, one vector",
    "_added_gradient": "gradient",
    "_product_of_rows": "curvature, its product",
    "_matrix_of_rows": "curvature, its matrix",
    "_skew_of_rows": "skew",
    "_diagonal_of_rows": "curvature, its diagonal",
    "squared_residuals": "squared residuals",
    "_sums": "rows left out",
    "_gain_sums": "rows left out, two fits",
    "_total": "sums of targets",
    "_squares": "sums of targets",
    "_sums_of_weights": "sums of weights",
    "_normal_equations": "output layer, sums",
}


class Passes:
    """What passes send to each worker and get from it."""

    def __init__(self) -> None:
        self.count: dict[str, int] = defaultdict(int)
        self.sent: dict[str, int] = defaultdict(int)
        self.got: dict[str, int] = defaultdict(int)
        self.seconds: dict[str, float] = defaultdict(float)
        total = ClusterChunks.total

        def counted(chunks: Any, function: Any, *arguments: Any) -> Any:
            began = time.perf_counter()
            found = total(chunks, function, *arguments)
            name = arguments[1].__name__
            name = arguments[2].__name__ if name == "_of_chunk" else name
            kind = NAMES.get(name, name)
            self.count[kind] += 1
            self.sent[kind] += len(pickle.dumps((function, arguments)))
            self.got[kind] += len(pickle.dumps(found))
            self.seconds[kind] += time.perf_counter() - began
            return found

        ClusterChunks.total = counted

    def clear(self) -> None:
        for each in vars(self).values():
            each.clear()


def generated(block_info: Any = None) -> np.ndarray:
    place = block_info[None]
    rng = np.random.default_rng(place["chunk-location"][0])
    X = rng.standard_normal(place["chunk-shape"])
    X[:, -1] = smooth(X) + NOISE * X[:, -1]
    return X


def cpu_seconds() -> float:
    return time.process_time()


def main() -> None:
    warnings.simplefilter("ignore")
    print(machine())
    passes = Passes()
    with (
        distributed.LocalCluster(
            n_workers=N_WORKERS, threads_per_worker=1, processes=True, dashboard_address=None
        ) as local,
        distributed.Client(local) as client,
    ):
        rows = [fit(client, n, passes) for n in SIZES]
    save("cluster.csv", rows)
    report(rows)
    by_kind(passes)
    on_paper(*rows[-2:])


def fit(client: Any, n: int, passes: Passes) -> dict[str, Any]:
    passes.clear()
    size = n // (2 * N_WORKERS)  # two chunks for each worker
    data = da.map_blocks(
        generated,
        chunks=((size,) * 2 * N_WORKERS, (N_FEATURES + 1,)),
        dtype=float,
        meta=np.empty((0, 0)),
    )
    before, began = client.run(cpu_seconds), time.perf_counter()
    model = HFLRegressor(hidden_layer_sizes=HIDDEN, n_estimators=1, random_state=0).fit(
        data[:, :-1], data[:, -1]
    )
    wall = time.perf_counter() - began
    after = client.run(cpu_seconds)
    return {
        "rows": n,
        "weights": model.diagnostics_["n_weights"],
        "steps": model.n_iter_,
        "passes": sum(passes.count.values()),
        "sent": sum(passes.sent.values()),
        "got": sum(passes.got.values()),
        "seconds": wall,
        "worker_seconds": sum(after[w] - before[w] for w in after) / N_WORKERS,
        "client_gb": peak(),
    }


def report(rows: list[dict[str, Any]]) -> None:
    heading(
        f"Cluster: fits of {N_FEATURES}-{HIDDEN[0]}-1 on {N_WORKERS} workers, precisions learned"
    )
    print("MB: to each worker, and the sum back from one; memory of the client includes libraries")
    print(f"{'rows':>9}{'steps':>8}{'passes':>8}{'MB to':>8}{'MB back':>9}{'fit':>9}"
          f"{'CPU of a worker':>17}{'peak of client':>16}")  # fmt: skip
    for row in rows:
        print(f"{row['rows']:9,}{row['steps']:8}{row['passes']:8}{row['sent'] / 1e6:8.1f}"
              f"{row['got'] / 1e6:9.1f}{row['seconds']:7.0f} s{row['worker_seconds']:15.0f} s"
              f"{row['client_gb']:13.2f} GB")  # fmt: skip


def by_kind(passes: Passes) -> None:
    heading(f"Cluster, passes of the fit to {SIZES[-1]:,} rows")
    print(f"{'':24}{'passes':>8}{'KB to':>8}{'KB back':>9}{'ms':>7}   each")
    for kind in sorted(passes.count, key=passes.count.get, reverse=True):
        count = passes.count[kind]
        sizes = passes.sent[kind] / count / 1e3, passes.got[kind] / count / 1e3
        print(f"{kind:24}{count:8}{sizes[0]:8.1f}{sizes[1]:9.1f}"
              f"{1e3 * passes.seconds[kind] / count:7.0f}")  # fmt: skip


def on_paper(smaller: dict[str, Any], row: dict[str, Any]) -> None:
    n, workers = LARGE
    own = n / workers
    heading(f"Cluster, on paper: {n:.0e} rows on {workers} workers, as many passes")
    # CPU of a pass beyond its fixed cost, which small chunks consist of.
    passes = [each["worker_seconds"] / each["passes"] for each in (smaller, row)]
    per_row = (passes[1] - passes[0]) / ((row["rows"] - smaller["rows"]) / N_WORKERS)
    hours = per_row * own * row["passes"] / 3600
    traffic = (row["sent"] + row["got"]) / 1e6
    print(f"rows of a worker               {own:14,.0f}")
    print(f"memory for them                {8 * own * (N_FEATURES + 2) / 1e9:14.2f} GB")
    print(f"CPU of a worker                {hours:14.2f} h, {1e6 * per_row:.2f} µs a row and pass")
    print(f"through the network, a worker  {traffic:14.1f} MB, whatever the number of rows")
    print(f"round trips                    {row['passes']:14,}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()

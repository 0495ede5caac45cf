"""Scale: many rows, next to averaged MLPRegressors, and more rows than fit in memory.

    python benchmarks/scale.py rows
    python benchmarks/scale.py memory-mapped --rows 2000000

Both draw samples of a smooth function with noise. ``rows`` fits a network of 100 units to 41 000
rows of 9 features, computes 4500 standard deviations, and does the same with five MLPRegressors,
in alternation; ratios are taken within each repetition. ``memory-mapped`` writes X of float32 to
a file, reads it through a memory map, and reports the peak memory.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from reporting import heading, machine, peak, save
from sklearn.neural_network import MLPRegressor

from sklearn_hfl import HFLRegressor

NOISE = 0.2
N_MEMBERS = 5
N_QUERIES = 4500
BLOCK = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("rows", "memory-mapped"))
    parser.add_argument("--rows", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--passes", type=int, default=30, help="of adam over 41 000 rows")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(machine())
    if arguments.part == "rows":
        rows(arguments.rows or 41_000, arguments.repeats, arguments.passes)
    else:
        memory_mapped(arguments.rows or 2_000_000)


def smooth(X: np.ndarray) -> np.ndarray:
    waves = np.sin(1.5 * X[:, 0]) + 0.2 * X[:, 6] ** 2 * np.cos(X[:, 7])
    return waves + 0.5 * X[:, 1] * X[:, 2] + np.tanh(X[:, 4] - X[:, 5])


def drawn(n: int, n_features: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, n_features))
    return X, smooth(X) + NOISE * rng.standard_normal(n)


def rows(n: int, repeats: int, passes: int) -> None:
    (X, y), (Q, _) = drawn(n, 9, seed=0), drawn(N_QUERIES, 9, seed=1)
    truth, unit = smooth(Q), y.std()
    heading(f"Scale: {n} rows, 9 features, 1×100, fit and {N_QUERIES} standard deviations")
    seconds = []
    for seed in range(repeats):
        began = time.perf_counter()
        model = HFLRegressor(
            hidden_layer_sizes=(100,),
            solver="adam",
            max_iter=passes,
            n_estimators=1,
            random_state=seed,
        ).fit(X, y)
        result = model.predict_uncertainty(Q)
        fitted = time.perf_counter()
        members = np.array(
            [
                MLPRegressor(hidden_layer_sizes=(100,), random_state=5 * seed + member)
                .fit(X, (y - y.mean()) / unit)
                .predict(Q)
                for member in range(N_MEMBERS)
            ]
        )
        seconds.append((fitted - began, time.perf_counter() - fitted))
    ours, theirs = np.median(seconds, axis=0)
    ratio = np.median([a / b for a, b in seconds])
    mean, peer_std = y.mean() + unit * members.mean(0), unit * members.std(0, ddof=1)
    print(f"medians of {repeats}; RMSE and coverage are of the function without noise")
    for name, spent, centre, std in (
        ("HFLRegressor, adam", ours, result.mean, result.epistemic_std),
        ("5 MLPRegressors", theirs, mean, peer_std),
    ):
        error = np.abs(centre - truth)
        print(
            f"{name:20s}{spent:7.1f} s   RMSE {np.sqrt(np.mean(error**2)):.3f}   "
            f"1.645 std cover {np.mean(error < 1.645 * std):.2f}"
        )
    print(f"ratio {ratio:.2f}; {result.converged.mean():.1%} of our stds converged")
    save(
        "scale-rows.csv",
        [
            {"rows": n, "method": "HFLRegressor, adam", "seconds": ours},
            {"rows": n, "method": "5 MLPRegressors", "seconds": theirs},
        ],
    )


def memory_map(path: Path, n: int) -> tuple[np.ndarray, np.ndarray]:
    """X of ten features as a memory map of the new file, and y; both float32."""
    X = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, 10))
    y = np.empty(n, dtype=np.float32)
    for start in range(0, n, BLOCK):
        block = slice(start, min(n, start + BLOCK))
        X[block], y[block] = drawn(block.stop - start, 10, seed=start)
    X.flush()
    return np.load(path, mmap_mode="r"), y


def memory_mapped(n: int) -> None:
    heading(f"Scale: {n} rows × 10, X a memory map of float32, 1×50, adam")
    with TemporaryDirectory() as folder:
        X, y = memory_map(Path(folder, "X.npy"), n)
        Q, _ = drawn(N_QUERIES, 10, seed=1)
        before, began = peak(), time.perf_counter()
        model = HFLRegressor(
            solver="adam", max_iter=2, variance="amortized", n_estimators=1, random_state=0
        )
        model.fit(X, y)
        fitted = time.perf_counter()
        result = model.predict_uncertainty(Q)
        seconds = time.perf_counter() - fitted
    error = np.sqrt(np.mean((result.mean - smooth(Q)) ** 2))
    row = {"rows": n, "fit_s": fitted - began, "query_s": seconds, "peak_gb": peak() - before}
    save("scale-memory-mapped.csv", [row])
    print(
        f"fit {fitted - began:.0f} s, peak memory {peak() - before:.2f} GB above {before:.2f} GB; "
        f"{N_QUERIES} standard deviations {seconds:.2f} s, "
        f"{result.converged.mean():.1%} converged; RMSE to the function {error:.3f}"
    )


if __name__ == "__main__":
    main()

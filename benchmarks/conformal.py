"""Conformal: do 90 % intervals cover 90 % of new samples, and how wide are they?

Random splits into training, calibration and test rows. On each, one network gives three
kinds of intervals: Gaussian ones, conformal ones from the same standard deviations, and
conformal ones of constant width (MAPIE's "absolute" score) from the same calibration rows.

    python benchmarks/conformal.py --data ../shared/data/uci

where the folder holds concrete.npz and power.npz, each with X and y. Without it these are
left out, and the script says so. Needs the test extra, for MAPIE.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import mapie
import numpy as np
import sklearn
import torch
from joblib import Parallel, delayed
from mapie.regression import SplitConformalRegressor
from sklearn.datasets import load_diabetes

from sklearn_hfl import HFLRegressor, HFLWarning
from sklearn_hfl.metrics import coverage_score

LEVEL = 0.9
KINDS = ("gaussian", "conformal", "absolute")
# Rows of each split; power and the synthetic set have more, which are not used.
ROWS = {
    "concrete": (300, 350, 350),
    "power": (300, 500, 1000),
    "diabetes": (200, 121, 121),
    "varying": (200, 500, 1000),
}
CASES = [
    ("concrete", "gaussian"),
    ("power", "gaussian"),
    ("diabetes", "gaussian"),
    ("varying", "gaussian"),
    ("varying", "heteroscedastic"),
]
# 100 steps end near the MAP, not always at it. Coverage needs no more. Log noise is
# learned after the mean, and takes longer: only a quarter of the splits is run.
MAX_ITER = {"gaussian": 100, "heteroscedastic": 600}

Rows = tuple[np.ndarray, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci"))
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"scikit-learn {sklearn.__version__}, MAPIE {mapie.__version__}"
    )
    began = time.perf_counter()
    cases = CASES
    if not arguments.data.is_dir():
        print(f"\nNo data at {arguments.data}: concrete and power are left out.")
        cases = CASES[2:]
    title = f"Conformal intervals of level {LEVEL:g}, means of {arguments.splits} splits"
    print(f"\n{title}\n{'-' * len(title)}")
    print("widths in SDs of y; ± is the standard error over splits; 'largest stds' is the coverage")
    print("of the quarter of each test set with the largest std; 'varying' is sin(3x) with noise")
    print("whose std grows from 0.05 to 0.5 along x", flush=True)
    for case in cases:
        report(*case, arguments)
    print(f"\n{time.perf_counter() - began:.0f} s in all")


def report(name: str, likelihood: str, arguments: argparse.Namespace) -> None:
    draw = source(name, arguments.data)
    n = arguments.splits if likelihood == "gaussian" else max(2, arguments.splits // 4)
    splits = (delayed(measure)(*draw(seed), ROWS[name], likelihood, seed) for seed in range(n))
    # Splits × kinds × (coverage, width, coverage of the largest stds), and how std varies.
    numbers, std_ratio = map(np.array, zip(*Parallel(n_jobs=arguments.jobs)(splits), strict=True))
    train, calibration, test = ROWS[name]
    print(
        f"{name}, {likelihood}, {n} splits: {train} rows to train, {calibration} to "
        f"calibrate, {test} to test; "
        f"largest std / smallest {np.median(std_ratio):.2f} (median)"
    )
    for i, kind in enumerate(KINDS):
        coverage, width, widest = (mean_and_error(numbers[:, i, j]) for j in range(3))
        print(f"    {kind:9s}  coverage {coverage}  width {width}  largest stds {widest}")
    ratio = numbers[:, 1, 1] / numbers[:, 2, 1]
    print(f"    width of conformal / absolute {mean_and_error(ratio)}", flush=True)


def mean_and_error(values: np.ndarray) -> str:
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{values.mean():.3f} ± {error:.3f}"


def source(name: str, folder: Path) -> Callable[[int], Rows]:
    """Rows to split: the same for every seed, or new draws of synthetic data."""
    if name == "varying":
        return varying
    if name == "diabetes":
        X, y = load_diabetes(return_X_y=True)
    else:
        with np.load(folder / f"{name}.npz") as data:
            X, y = data["X"], data["y"]
    return lambda seed: (X, y)


def varying(seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, sum(ROWS["varying"]))
    std = 0.05 + 0.45 * (x + 1) / 2
    return x[:, None], np.sin(3 * x) + std * rng.standard_normal(len(x))


def measure(
    X: np.ndarray, y: np.ndarray, rows: tuple[int, int, int], likelihood: str, seed: int
) -> tuple[np.ndarray, float]:
    order = np.random.default_rng(seed).permutation(len(y))[: sum(rows)]
    train, calibration, test = np.split(order, np.cumsum(rows)[:2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HFLWarning)
        model = HFLRegressor(
            hidden_layer_sizes=(10,), likelihood=likelihood, max_iter=MAX_ITER[likelihood],
            n_estimators=1, random_state=seed,
        )  # fmt: skip
        model.fit(X[train], y[train]).conformalize(X[calibration], y[calibration])
        std = model.predict(X[test], return_std=True)[1]
        intervals = [model.predict_interval(X[test], LEVEL, kind)[1] for kind in KINDS[:2]]
        constant = SplitConformalRegressor(model, LEVEL, conformity_score="absolute", prefit=True)
        constant.conformalize(X[calibration], y[calibration])
        intervals.append(constant.predict_interval(X[test])[1][..., 0])
    widest = std >= np.quantile(std, 0.75)
    numbers = [
        (
            coverage_score(y[test], interval),
            np.diff(interval, axis=1).mean() / y.std(),
            coverage_score(y[test][widest], interval[widest]),
        )
        for interval in intervals
    ]
    return np.array(numbers), std.max() / std.min()


if __name__ == "__main__":
    main()

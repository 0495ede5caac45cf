"""UCI: log-likelihood, RMSE and coverage on the standard and gap splits, next to other methods.

Every method has one set of settings for all data sets. Splits already in the results are
not run again, so that an interrupted run resumes where it stopped:

    python benchmarks/uci.py run --data ../shared/data/uci --jobs 2
    python benchmarks/uci.py print
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from peers.regressors import METHODS, Prediction
from reporting import Z90, append, heading, machine, normal_scores, sign

RESULTS = Path("benchmarks/results/uci.csv")
SETS = ("yacht", "energy", "concrete", "wine", "power", "kin8nm")
FAMILIES = ("standard", "gap")
KEYS = ["method", "data", "family", "split"]
FIGURES = ["rmse", "ll", "coverage", "width", "fit_s", "predict_s"]
# Deep Ensembles (Lakshminarayanan et al., 2017), the best found on these splits, and for the gap
# splits the best of six methods in Antorán et al., 2020: log-likelihoods.
PUBLISHED = {
    "standard": {
        "Deep Ensembles 2017": (-1.18, -1.38, -3.06, -0.94, -2.79, 1.20),
        "best published, these splits": (-1.18, -0.975, -2.825, -0.898, -2.663, 1.28),
    },
    "gap": {
        "best of six, DUN 2020": (-2.11, -5.42, -3.46, -0.965, -2.90, 1.215),
    },
}

# What the defaults are to reach: log-likelihood and RMSE on the standard splits; log-likelihood and
# coverage of 90 % intervals, at least, on the gap splits.
AIMS = {
    "yacht": (0.30, 0.40, -1.10, 0.90),
    "energy": (-0.46, 0.38, -1.5, 0.80),
    "concrete": (-2.86, 4.4, -3.40, 0.86),
    "wine": (-0.93, 0.62, -0.95, 0.88),
    "power": (-2.70, 3.6, -2.90, 0.86),
    "kin8nm": (1.34, 0.063, 1.31, 0.88),
}
COVERAGE_AIM = 0.88, 0.93


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["run", "print"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--splits", type=int, default=20, help="of each family and set, at most")
    arguments = parser.parse_args()
    if arguments.action == "run":
        run(arguments)
    else:
        rows = read()
        print_tables(rows)
        print_aims(rows)
        print_repeated(arguments.data)


def run(arguments: argparse.Namespace) -> None:
    """Run the missing splits; each result is written as soon as it is known."""
    done = {key(row) for row in read()}
    jobs = [job for job in wanted(arguments) if job not in done]
    found = Parallel(n_jobs=arguments.jobs, return_as="generator_unordered")(
        delayed(evaluate)(arguments.data, *job) for job in jobs
    )
    append(RESULTS, KEYS + FIGURES, found)


def wanted(arguments: argparse.Namespace) -> Iterator[tuple[str, str, str, int]]:
    for name in arguments.sets:
        masks = np.load(arguments.data / f"{name}.npz")
        for family in arguments.families:
            n_splits = min(arguments.splits, len(masks[f"test_mask_{family}"]))
            for split in range(n_splits):
                for method in arguments.methods:
                    yield method, name, family, split


def evaluate(folder: Path, method: str, name: str, family: str, split: int) -> dict[str, object]:
    """Scores on the test rows of one split, in units of y."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    data = np.load(folder / f"{name}.npz")
    X, y, test = data["X"], data["y"].ravel(), data[f"test_mask_{family}"][split]
    began = time.perf_counter()
    predict = METHODS[method](X[~test], y[~test], split)
    fitted = time.perf_counter()
    prediction: Prediction = predict(X[test])
    seconds = time.perf_counter() - fitted
    mean, std = prediction
    log_likelihood, coverage = normal_scores(y[test], mean, std)
    row: dict[str, object] = dict(zip(KEYS, (method, name, family, split), strict=True))
    figures = {
        "rmse": np.sqrt(np.mean((y[test] - mean) ** 2)),
        "ll": log_likelihood,
        "coverage": coverage,
        "width": np.mean(2 * Z90 * std),
        "fit_s": fitted - began,
        "predict_s": seconds,
    }
    return row | {field: f"{value:.5g}" for field, value in figures.items()}


def key(row: dict[str, str]) -> tuple[str, str, str, int]:
    return row["method"], row["data"], row["family"], int(row["split"])


def read() -> list[dict[str, str]]:
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return sorted(csv.DictReader(file), key=key)


def print_tables(rows: list[dict[str, str]]) -> None:
    print(f"{machine()}\none thread for each fit; test rows, units of y")
    for family in FAMILIES:
        title = f"UCI {family} splits: mean log-likelihood ± standard error, higher is better"
        heading(title)
        print(f"{'':30s}" + "".join(f"{name:>17s}" for name in SETS))
        for method in METHODS:
            cells = [cell(pick(rows, method, name, family)) for name in SETS]
            if any(cells):
                print(f"{method:30s}" + "".join(f"{text:>17s}" for text in cells))
        for source, figures in PUBLISHED[family].items():
            print(f"{source:30s}" + "".join(f"{value:>17.3f}" for value in figures))
    title = "Details: means over splits, but where said"
    heading(title)
    print(
        f"{'data':8s} {'family':9s}{'method':30s}{'splits':>6s}{'LL':>8s}{'median':>8s}"
        f"{'worst':>8s}{'RMSE':>8s}{'cover 90 %':>11s}{'worst':>6s}{'width':>8s}"
        f"{'seconds':>9s}"
    )
    for name in SETS:
        for family in FAMILIES:
            for method in METHODS:
                found = pick(rows, method, name, family)
                if not found["ll"].size:
                    continue
                ll, cover = found["ll"], found["coverage"]
                print(
                    f"{name:8s} {family:9s}{method:30s}{ll.size:6d}{ll.mean():8.3f}"
                    f"{np.median(ll):8.3f}{ll.min():8.2f}{found['rmse'].mean():8.4g}"
                    f"{cover.mean():11.3f}{cover.min():6.2f}{found['width'].mean():8.3g}"
                    f"{np.median(found['fit_s'] + found['predict_s']):9.1f}"
                )
    print("seconds: fit and predictions together, which peers in other environments do at once")


def print_aims(rows: list[dict[str, str]]) -> None:
    low, high = COVERAGE_AIM
    heading("Aims for the defaults: what they reach, ≥ or ≤ what was aimed at; < and > miss it")
    print(
        f"{'':9s}{'LL':>17s}{'RMSE':>17s}{'coverage':>17s}{'LL in gaps':>17s}"
        f"{'coverage in gaps':>18s}"
    )
    for name, (ll, rmse, gap_ll, gap_coverage) in AIMS.items():
        standard, gap = (pick(rows, "HFLRegressor", name, family) for family in FAMILIES)
        # One split of energy's gaps has most of the mean.
        center = np.median if name == "energy" else np.mean
        coverage = standard["coverage"].mean()
        bound, signs = (high, "≤>") if coverage > high else (low, "≥<")
        print(
            f"{name:9s}{compared(standard['ll'].mean(), ll, '≥<'):>17s}"
            f"{compared(standard['rmse'].mean(), rmse, '≤>'):>17s}"
            f"{compared(coverage, bound, signs):>17s}"
            f"{compared(center(gap['ll']), gap_ll, '≥<'):>17s}"
            f"{compared(gap['coverage'].mean(), gap_coverage, '≥<'):>18s}"
        )
    print(f"coverage: {low} to {high}; LL in energy's gaps: the median over splits")


def compared(found: float, aim: float, signs: str) -> str:
    """A figure, the sign of whether it reaches its aim, and the aim."""
    return f"{found:.4g} {sign(found, aim, signs)} {aim:g}"


def print_repeated(folder: Path) -> None:
    heading("Test rows that are training rows too, target included: share, mean over splits")
    print(f"{'':9s}" + "".join(f"{name:>10s}" for name in SETS))
    for family in FAMILIES:
        shares = []
        for name in SETS:
            data = np.load(folder / f"{name}.npz")
            rows = np.column_stack([data["X"], data["y"]])
            masks = data[f"test_mask_{family}"]
            shares.append(np.mean([repeated(rows[~test], rows[test]) for test in masks]))
        print(f"{family:9s}" + "".join(f"{share:10.3f}" for share in shares))


def repeated(rows: np.ndarray, others: np.ndarray) -> float:
    """Share of the others that are among the rows."""
    known = {row.tobytes() for row in rows}
    return float(np.mean([row.tobytes() in known for row in others]))


def pick(rows: list[dict[str, str]], method: str, name: str, family: str) -> dict[str, np.ndarray]:
    chosen = [row for row in rows if key(row)[:3] == (method, name, family)]
    return {field: np.array([float(row[field]) for row in chosen]) for field in FIGURES}


def cell(found: dict[str, np.ndarray]) -> str:
    ll = found["ll"]
    if not ll.size:
        return ""
    error = ll.std(ddof=1) / ll.size**0.5 if ll.size > 1 else np.nan
    return f"{ll.mean():.3f} ± {error:.3f}"


if __name__ == "__main__":
    main()

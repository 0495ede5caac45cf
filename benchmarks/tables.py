"""Real tables: distributions, intervals and time of the regressor beside other methods.

Every method has one set of settings for all tables, and the encoding of the user guide, fitted on
the training rows of each fold. Defaults may be chosen by the development half, never by the
reporting half (table_data.py). Folds already in the results are not run again, so that an
interrupted run resumes where it stopped:

    python benchmarks/tables.py run --half development --jobs 2
    python benchmarks/tables.py run --half reporting --jobs 2
    python benchmarks/tables.py print

A method that fails, or that takes longer than the limit, leaves a row with the reason alone;
"run --retry" tries these again.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from forecasts import FIGURES, scores
from joblib import Parallel, delayed
from peers.forecasters import METHODS, THROUGH_LOG
from reporting import append, machine
from table_data import DEVELOPMENT, N_FOLDS, REPORTING, TABLES, positive_and_skewed, split
from tables_report import print_half

RESULTS = Path("benchmarks/results/tables.csv")
HALVES = {"development": DEVELOPMENT, "reporting": REPORTING}
KEYS = ["method", "table", "fold"]
COLUMNS = [*KEYS, "rows", "features", *FIGURES, "fit_s", "predict_s", "reason", "heavy_tailed"]

Key = tuple[str, str, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["run", "print"])
    parser.add_argument("--half", nargs="+", choices=HALVES, default=list(HALVES))
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--folds", type=int, default=N_FOLDS, help="of the five, at most")
    parser.add_argument("--limit", type=int, default=1800, help="seconds of a fold, at most")
    parser.add_argument("--retry", action="store_true", help="what failed")
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.action == "run":
        run(arguments)
        return
    rows = pd.DataFrame(latest().values())
    if rows.empty:
        raise SystemExit(f"Expected results in {RESULTS}, but there are none. Run first.")
    print(machine())
    print("one thread for each fit; test rows of cross-validation, units of y")
    for half in arguments.half:
        print_half(half, rows[rows["table"].isin(HALVES[half])], list(METHODS))


def run(arguments: argparse.Namespace) -> None:
    """Run the missing folds; each result is written as soon as it is known."""
    done = {key for key, row in latest().items() if not (row["reason"] and arguments.retry)}
    jobs = [job for job in wanted(arguments) if job not in done]
    found = Parallel(n_jobs=arguments.jobs, return_as="generator_unordered")(
        delayed(evaluate)(*job, arguments.limit) for job in jobs
    )
    append(RESULTS, COLUMNS, reported(found))


def reported(rows: Iterator[dict[str, object]]) -> Iterator[dict[str, object]]:
    for row in rows:
        if "reason" in row:
            print(
                f"{row['table']}, fold {row['fold']}, {row['method']}: {row['reason']}", flush=True
            )
        yield row


def wanted(arguments: argparse.Namespace) -> Iterator[Key]:
    for name in (name for half in arguments.half for name in HALVES[half]):
        if name not in arguments.tables:
            continue
        for fold in range(min(arguments.folds, N_FOLDS)):
            for method in arguments.methods:
                if method not in THROUGH_LOG or positive_and_skewed(TABLES[name]):
                    yield method, name, fold


def evaluate(method: str, name: str, fold: int, limit: int) -> dict[str, object]:
    """Scores of one method on the test rows of one fold, or the reason why there are none."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    X, y, Q, y_test = split(TABLES[name], fold)
    row: dict[str, object] = dict(zip(KEYS, (method, name, fold), strict=True))
    row |= {"rows": len(y) + len(y_test), "features": X.shape[1]}
    try:
        with at_most(limit):
            began = cpu_seconds()
            predict = METHODS[method](X, y, fold)
            fitted = cpu_seconds()
            forecast = predict(Q)
            seconds = {"fit_s": fitted - began, "predict_s": cpu_seconds() - fitted}
        figures = scores(forecast, y_test) | seconds
        undefined = [name for name, value in figures.items() if np.isnan(value)]
        if undefined:
            raise ValueError(f"NaN: {', '.join(undefined)}")
    except Exception as error:  # of any of a dozen packages: the other methods go on
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return row | {"reason": text[:300]}
    row |= {field: f"{value:.6g}" for field, value in figures.items()}
    if forecast.heavy_tailed is not None:
        row["heavy_tailed"] = int(forecast.heavy_tailed)
    return row


def cpu_seconds() -> float:
    """CPU seconds of this process, and of the children that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the block after so many seconds; compiled code ends first."""
    began = time.perf_counter()

    def stop(*_: object) -> None:
        raise TimeoutError(f"stopped after {time.perf_counter() - began:.0f} s, limit {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def latest() -> dict[Key, dict[str, object]]:
    """The last row of each fold, with numbers as numbers and NaN where there is none."""
    if not RESULTS.exists():
        return {}
    with RESULTS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    numbers = [column for column in COLUMNS if column not in ("method", "table", "reason")]
    for row in rows:
        row |= {column: float(row[column] or "nan") for column in numbers}
    return {(row["method"], row["table"], int(row["fold"])): row for row in rows}


if __name__ == "__main__":
    main()

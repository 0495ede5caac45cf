"""Tails: the residuals of training rows left out, where noise is normal and where it is not.

Run where the repository lies, with the tables of reliable_fits.py on the path:

    PYTHONPATH=build/tables python benchmarks/tails.py --data ../shared/data/uci
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from problems import inner
from reporting import heading, machine
from scipy.stats import norm
from scipy.stats import t as student
from table_data import DEVELOPMENT, TABLES, split

from sklearn_hfl import HFLRegressor

LEVELS = 0.5, 0.9, 0.99
N_NORMAL = 20
NORMAL_ROWS = 20, 50, 200, 1000
UCI = "yacht", "energy", "concrete", "wine"
MAX_ROWS = 5000
LOG = "ceosal2", "mlb1"


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci"))
    arguments = parser.parse_args()
    print(machine())
    heading("Tails: residuals left out, one member; nats a row that a Student t gains on a normal")
    print(
        f"{'':28s}{'rows':>6s}{'kurtosis':>10s}{'SEs':>7s}{'skewness':>10s}{'heavy':>7s}"
        f"{'t gains':>9s}" + "".join(f"{f'cover {level:.0%}':>11s}" for level in LEVELS)
    )
    for name, X, y in [*made_up(), *uci(arguments.data), *tables()]:
        show(name, X, y)
    for n in NORMAL_ROWS:
        draws = (fit(*normal(n, seed)) for seed in range(N_NORMAL))
        flagged = sum(model.members_[0].diagnostics.heavy_tailed for model in draws)
        print(f"normal noise, {n} rows: heavy in {flagged} of {N_NORMAL} draws")


def show(name: str, X: np.ndarray, y: np.ndarray) -> None:
    model = fit(X, y)
    facts, rows = model.members_[0].diagnostics, model.loo_predict()
    z = (y - rows["mean"]) / rows["std"]
    level = "".join(f"{np.mean(np.abs(z) < norm.ppf((1 + p) / 2)):11.3f}" for p in LEVELS)
    print(
        f"{name:28s}{len(y):6d}{facts.excess_kurtosis:10.2f}"
        f"{facts.excess_kurtosis / (24 / len(y)) ** 0.5:7.1f}{facts.skewness:10.2f}"
        f"{'yes' if facts.heavy_tailed else 'no':>7s}{gain_of_student(z):9.3f}{level}",
        flush=True,
    )


def fit(X: np.ndarray, y: np.ndarray) -> HFLRegressor:
    return HFLRegressor(n_estimators=1, random_state=0).fit(X, y)


def gain_of_student(z: np.ndarray) -> float:
    """Mean log density of the best Student t minus that of the best normal, both around 0."""
    z = z / np.sqrt(np.mean(z**2))
    df, _, scale = student.fit(z, floc=0)
    return float(np.mean(student.logpdf(z, df, 0, scale) - norm.logpdf(z)))


def mean(X: np.ndarray) -> np.ndarray:
    return np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2]


def normal(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, (n, 3))
    return X, mean(X) + 0.2 * rng.standard_normal(n)


def made_up(n: int = 300) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, (n, 3))
    noise = {
        "uniform": rng.uniform(-1, 1, n),
        "normal": rng.standard_normal(n),
        "Laplace": rng.laplace(size=n),
        "Student t, 3 degrees": rng.standard_t(3, n),
        "exponential": rng.exponential(size=n),
        "normal, SD exp(x)": np.exp(X[:, 0]) * rng.standard_normal(n),
        "normal, 5 % eight-fold": rng.standard_normal(n) * np.where(rng.random(n) < 0.05, 8, 1),
    }
    for name, values in noise.items():
        yield name, X, mean(X) + 0.2 * values


def uci(folder: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Training rows of the first split, split once more."""
    for problem in inner(folder, 1):
        name, family = problem.name.split()
        if name in UCI and family == "standard":
            yield name, problem.X, problem.y


def tables() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Training rows of the first fold of tables by which defaults may be chosen."""
    for name in DEVELOPMENT:
        X, y, *_ = split(TABLES[name], 0)
        if len(y) < MAX_ROWS:
            yield name, X, y
        if name in LOG:
            yield f"{name}, log y", X, np.log(y)


if __name__ == "__main__":
    main()

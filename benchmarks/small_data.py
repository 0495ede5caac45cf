"""Few rows: coverage of 90 % intervals after fits of 10, 20 and 40 rows, with the defaults.

python benchmarks/small_data.py --data ../shared/data/uci
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from peers.regressors import METHODS
from reporting import heading, machine, normal_scores
from sklearn.datasets import load_diabetes

SIZES = (10, 20, 40)
CHOSEN = ("HFLRegressor", "GaussianProcessRegressor", "BayesianRidge", "5 MLPRegressors", "NGBoost")
# NGBoost starts a Python process for each fit.
MAX_DRAWS = {"NGBoost": 10}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci"))
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    print(machine())
    yacht = np.load(arguments.data / "yacht.npz")
    sets = {"diabetes": load_diabetes(return_X_y=True), "yacht": (yacht["X"], yacht["y"].ravel())}
    title = f"Few rows: coverage of 90 % intervals, log-likelihood; {arguments.draws} draws of rows"
    heading(title)
    print(f"{'':36s}" + "".join(f"{f'{n} rows':>20s}" for n in SIZES))
    for name, (X, y) in sets.items():
        for method in CHOSEN:
            draws = range(min(arguments.draws, MAX_DRAWS.get(method, arguments.draws)))
            cells = []
            for n in SIZES:
                found = Parallel(n_jobs=arguments.jobs)(
                    delayed(scores)(method, X, y, n, seed) for seed in draws
                )
                ll, covered = np.array(found).T
                cells.append(f"{covered.mean():10.3f}{np.median(ll):10.2f}")
            print(f"{name:10s}{method:26s}" + "".join(cells), flush=True)
    print("Log-likelihoods are medians over draws; NGBoost has 10 draws at most.")


def scores(
    method: str, X: np.ndarray, y: np.ndarray, n_rows: int, seed: int
) -> tuple[float, float]:
    """Mean log-likelihood and coverage on the rows that were not drawn."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    drawn = np.random.default_rng([seed, n_rows]).permutation(len(y)) < n_rows
    mean, std = METHODS[method](X[drawn], y[drawn], seed)(X[~drawn])
    return normal_scores(y[~drawn], mean, std)


if __name__ == "__main__":
    main()

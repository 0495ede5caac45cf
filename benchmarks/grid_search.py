"""Grid search: does choosing by log density find better densities than choosing by R²?

    python benchmarks/grid_search.py --data ../shared/data/uci --splits 5

One search per split over prior precision and hidden units, through a pipeline, scored both
ways by 3-fold cross-validation on at most 200 training rows of the standard splits. Each
score's choice is refitted to these rows; the table has the mean NLPD of both on the test rows.
No default of the package was chosen here.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import warnings
from pathlib import Path

import numpy as np
import sklearn
import torch
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer

from sklearn_hfl import HFLRegressor
from sklearn_hfl.metrics import negative_log_predictive_density, nlpd_scorer

SETS = ("concrete", "energy", "kin8nm", "power", "wine", "yacht")
GRID = {
    "hflregressor__prior_precision": [0.001, 0.01, 0.1, 1.0, 10.0, 100.0],
    "hflregressor__hidden_layer_sizes": [(10,), (50,)],
}
MAX_ROWS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci"))
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"scikit-learn {sklearn.__version__}\n"
    )
    title = f"Grid search: NLPD of test rows, {arguments.splits} splits, by the score that chose"
    print(f"{title}\n{'-' * len(title)}")
    began, better = time.perf_counter(), 0
    for name in SETS:
        data = np.load(arguments.data / f"{name}.npz")
        rows = Parallel(n_jobs=arguments.jobs)(
            delayed(compare)(data["X"], data["y"].ravel(), mask, seed)
            for seed, mask in enumerate(data["test_mask_standard"][: arguments.splits])
        )
        by_density, by_r2 = np.array([row[:2] for row in rows]).T
        difference = by_density - by_r2
        error = difference.std(ddof=1) / len(rows) ** 0.5 if len(rows) > 1 else np.nan
        same = sum(row[2] for row in rows)
        better += difference.mean() < 0
        print(
            f"{name:9s} nlpd_scorer {by_density.mean():8.3f}  r2 {by_r2.mean():8.3f}  "
            f"difference {difference.mean():+.3f} ± {error:.3f}  same choice in {same} splits",
            flush=True,
        )
    print(f"nlpd_scorer's choice is better on {better} of {len(SETS)} sets")
    print(f"\n{time.perf_counter() - began:.0f} s in all")


def compare(X: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> tuple[float, float, bool]:
    """Test NLPD of the choice by each score, and whether both choices agree."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    train = np.random.default_rng(seed).permutation(np.flatnonzero(~test))[:MAX_ROWS]
    pipeline = make_pipeline(
        PowerTransformer(), HFLRegressor(max_iter=100, n_estimators=1, random_state=seed)
    )
    search = GridSearchCV(
        pipeline,
        GRID,
        scoring={"density": nlpd_scorer, "r2": "r2"},
        refit=False,
        cv=KFold(3, shuffle=True, random_state=seed),
    ).fit(X[train], y[train])
    chosen, scores = [], []
    for scorer in ("density", "r2"):
        params = search.cv_results_["params"][search.cv_results_[f"rank_test_{scorer}"].argmin()]
        model = clone(pipeline).set_params(**params).fit(X[train], y[train])
        mean, std = model.predict(X[test], return_std=True)
        chosen.append(params)
        scores.append(negative_log_predictive_density(y[test], mean, std))
    return scores[0], scores[1], chosen[0] == chosen[1]


if __name__ == "__main__":
    main()

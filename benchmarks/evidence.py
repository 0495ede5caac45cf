"""Evidence: what learning the precisions gains, on *training* rows only.

Of the training rows of standard splits 0 to 2 a tenth is held out; of those of gap splits 0 to
3 the middle third by the next feature. No test row of any of these splits is read:

    python benchmarks/evidence.py --data ../shared/data/uci
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from joblib import Parallel, delayed
from reporting import heading, machine, normal_scores

from sklearn_hfl import HFLRegressor
from sklearn_hfl.uncertainty import alternation, precisions

SETS = ("yacht", "energy", "concrete", "wine")
SPLITS = {"standard": range(3), "gap": range(4)}
INF = float("inf")
# Label, nats that a round may lose, strength of the features' hyperprior, share of the step to
# the noise at the MAP, estimator.
VARIANTS: list[tuple[str, float, float, float, dict[str, object]]] = [
    ("last round, weak hyperprior", INF, 0.005, 0.0, {}),
    ("best round, weak hyperprior", 0.1, 0.005, 0.0, {}),
    ("best round, hyperprior 1", 0.1, 1.0, 0.0, {}),
    ("default: half of the step", 0.1, 1.0, 0.5, {}),
    ("default, all of the step", 0.1, 1.0, 1.0, {}),
    ("default, hyperprior 5", 0.1, 5.0, 0.5, {}),
    ("default, tol 0.001", 0.1, 1.0, 0.5, {"tol": 1e-3}),
    ("default, 3 members", 0.1, 1.0, 0.5, {"n_estimators": 3}),
    ("default, 5 members", 0.1, 1.0, 0.5, {"n_estimators": 5}),
    ("default, silu", 0.1, 1.0, 0.5, {"activation": "silu"}),
    ("default, relu", 0.1, 1.0, 0.5, {"activation": "relu"}),
    ("default, 100 units", 0.1, 1.0, 0.5, {"hidden_layer_sizes": (100,)}),
    ("default, 20 and 20 units", 0.1, 1.0, 0.5, {"hidden_layer_sizes": (20, 20)}),
    ("default, prior precision 1", 0.1, 1.0, 0.5, {"prior_precision": 1.0}),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    arguments = parser.parse_args()
    print(machine())
    for family, splits in SPLITS.items():
        title = f"Rounds and hyperprior: {family}, {len(splits)} inner splits of training rows"
        heading(title)
        print(
            f"{'':9s}{'':31s}{'log-likelihood':>14s}{'worst':>7s}{'RMSE':>8s}{'cover 90 %':>11s}"
            f"{'γ':>5s}{'steps':>6s}{'fit s':>6s}"
        )
        for name in arguments.sets:
            for label, *settings in VARIANTS:
                found = Parallel(n_jobs=arguments.jobs)(
                    delayed(scores)(arguments.data, family, name, split, *settings)
                    for split in splits
                )
                ll, rmse, covered, gamma, steps, seconds = np.array(found).T
                print(
                    f"{name:9s}{label:31s}{ll.mean():14.3f}{ll.min():7.2f}{rmse.mean():8.3f}"
                    f"{covered.mean():11.3f}{gamma.mean():5.0f}{steps.mean():6.0f}"
                    f"{np.median(seconds):6.1f}",
                    flush=True,
                )


def scores(
    folder: Path,
    family: str,
    name: str,
    split: int,
    tol: float,
    strength: float,
    renewal: float,
    params: dict[str, object],
) -> tuple[float, ...]:
    """Scores on the held-out rows, in units of y."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    data = np.load(folder / f"{name}.npz")
    training = ~data[f"test_mask_{family}"][split]
    X, y = data["X"][training], data["y"].ravel()[training]
    if family == "standard":
        out = np.random.default_rng(split).permutation(len(y)) < len(y) // 10
    else:
        rank = np.argsort(np.argsort(X[:, (split + 1) % X.shape[1]], kind="stable"))
        out = (rank >= len(y) // 3) & (rank < 2 * len(y) // 3)
    began = time.perf_counter()
    with (
        patch.object(alternation, "EVIDENCE_TOL", tol),
        patch.object(alternation, "NOISE_STEP", renewal),
        patch.object(precisions, "FEATURE_STRENGTH", strength),
    ):
        model = HFLRegressor(**{"n_estimators": 1, "random_state": split, **params}).fit(
            X[~out], y[~out]
        )
    seconds = time.perf_counter() - began
    mean, std = model.predict(X[out], return_std=True)
    log_likelihood, coverage = normal_scores(y[out], mean, std)
    return (
        log_likelihood,
        float(np.sqrt(np.mean((y[out] - mean) ** 2))),
        coverage,
        model.n_effective_parameters_,
        model.n_iter_,
        seconds,
    )


if __name__ == "__main__":
    main()

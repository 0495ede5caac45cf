"""Functional: the error bar of a population mean, its cost and its error.

Prints the time of the mean of 1000 rows with its std against that of three queries of a
single row each (median of alternated repeats), and the relative error of that std, and
of the std under independence, against the dense joint covariance of all rows. Run as

    python benchmarks/functional.py --data ../shared/data/uci

where the folder holds kin8nm.npz and concrete.npz with X, y and test_mask_standard.
Without it data of the same shapes are drawn.
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sklearn
import torch

from sklearn_hfl import HFLRegressor, HFLWarning
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.uncertainty.exact import dense_ggn, dense_hessian, exact_covariance

N_ROWS = 1000
# Maximum training steps: the network route needs a strict minimum, the linearised one does not.
CASES = (
    ("kin8nm", "linearized", 200),
    ("concrete", "linearized", 200),
    ("concrete", "network", 3000),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci"))
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", HFLWarning)
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"scikit-learn {sklearn.__version__}\n"
    )
    if not arguments.data.is_dir():
        print(f"No data at {arguments.data}: drawn data of the same shapes are used.\n")
    title = f"Functional: mean of {N_ROWS} rows, medians of {arguments.repeats} repeats, 1×50 tanh"
    print(f"{title}\n{'-' * len(title)}")
    print("                       mean, ms   3 rows, ms   ratio   error   if independent")
    for name, route, steps in CASES:
        X, y = rows(arguments.data, name)
        prior = (
            {} if route == "linearized" else {"prior_precision": 1.0, "noise_std": 0.2 * y.std()}
        )
        model = HFLRegressor(
            variance=route, max_iter=steps, n_estimators=1, random_state=0, **prior
        ).fit(X, y)
        rng = np.random.default_rng(0)
        # Drawn like the training rows, but not the same.
        population = X[rng.integers(len(X), size=N_ROWS)]
        population = population + 0.1 * X.std(0) * rng.standard_normal(population.shape)
        singles = [population[i : i + 1] for i in range(3)]
        mean, three = alternated(
            arguments.repeats,
            lambda: model.predict_functional(population),  # noqa: B023
            lambda: [model.predict(row, return_std="epistemic") for row in singles],  # noqa: B023
        )
        std = model.predict_functional(population)[1]
        joint = joint_covariance(model, population)
        exact, naive = np.sqrt(joint.mean()), np.sqrt(np.trace(joint)) / N_ROWS
        print(
            f"{name + ', ' + route:22s} {1e3 * mean:8.1f} {1e3 * three:12.1f} "
            f"{mean / three:7.2f} {std / exact - 1:+8.1e} {naive / exact - 1:+14.0%}",
            flush=True,
        )


def rows(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    if folder.is_dir():
        data = np.load(folder / f"{name}.npz")
        train = ~data["test_mask_standard"][0]
        return data["X"][train], data["y"][train]
    rng = np.random.default_rng(0)
    X = rng.standard_normal(({"kin8nm": 7373, "concrete": 927}[name], 8))
    return X, np.sin(X[:, 0] * X[:, 1]) + X[:, 2] + 0.2 * rng.standard_normal(len(X))


def alternated(repeats: int, *tasks: Callable[[], object]) -> list[float]:
    """Median seconds of each task, in alternation, after one warm-up round."""
    seconds: list[list[float]] = [[] for _ in tasks]
    for repeat in range(repeats + 1):
        for task, times in zip(tasks, seconds, strict=True):
            began = time.perf_counter()
            task()
            if repeat:
                times.append(time.perf_counter() - began)
    return [float(np.median(times)) for times in seconds]


def joint_covariance(model: HFLRegressor, X: np.ndarray) -> np.ndarray:
    """Epistemic covariance (n, n) in squared units of y, by dense algebra."""
    estimate = model.members_[0].estimate
    log_posterior, weights = estimate.log_posterior, estimate.weights
    queries = torch.tensor((X - model._x_scaler.mean) / model._x_scaler.scale)
    gradient = Prediction(log_posterior.network, queries).gradient(weights)
    matrix = dense_ggn if model.variance == "linearized" else dense_hessian
    joint = exact_covariance(matrix(log_posterior, weights), gradient).numpy()
    return joint * float(model._y_scaler.scale[0]) ** 2


if __name__ == "__main__":
    main()

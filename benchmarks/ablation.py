"""Ablation: the experiments behind the defaults of training and evidence.

Prints, on inner validation rows taken from the *training* part of standard split 0
(no test row is read) and on diabetes:

1. evidence: the initial precisions;
2. training: Gauss-Newton alone against the switch to the Hessian near the MAP, and the output
   layer set to its optimum, from random weights and from those of an MLPRegressor;
3. fits: what each choice of the trainer costs and changes;
4. gap: coverage between two clusters by the steps of a round.

    python benchmarks/ablation.py --data ../shared/data/uci
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
from sklearn.datasets import load_diabetes, make_friedman1
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

from sklearn_hfl import HFLDataWarning, HFLRegressor
from sklearn_hfl.optim import dual, krylov, newton_cg, preconditioner
from sklearn_hfl.uncertainty import alternation, precisions


def never(log_posterior: object) -> bool:
    return False


# Constants of the trainer that are changed, one line of the third table each.
CHOICES: dict[str, tuple[tuple[object, str, object], ...]] = {
    "default": (),
    "no dual": ((dual, "MAX_RESIDUALS", 0),),
    "Krylov subspace instead of A": (
        (dual, "MAX_RESIDUALS", 0),
        (krylov, "MAX_MATRIX_WEIGHTS", 0),
    ),
    "A in double precision": ((preconditioner, "MAX_SINGLE_EIGENVALUE", 0.0),),
    "A of all rows at every step": ((preconditioner, "MAX_EXACT_WORK", np.inf),),
    "solves to a hundredth": ((newton_cg, "MAX_FORCING", 0.01),),
    "Hessian below 10": ((newton_cg, "NEWTON_REGION", 10.0),),
    "output layer by the steps": ((newton_cg, "can_project", never),),
    "output layer at its optimum": ((newton_cg, "PROJECTION_REGION", np.inf),),
    "A kept ten times as long": ((preconditioner, "PRODUCTS_PER_WORK", 1 / 1.2),),
    "5 steps a round": ((alternation, "STEPS_PER_ROUND", 5),),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci"))
    folder = parser.parse_args().data
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.simplefilter("ignore", HFLDataWarning)

    print("Evidence: first prior (multiple of the fan-in) and first noise (SDs of y)")
    print("(log evidence and validation figures: higher log score, lower RMSE are better)")
    for name in ("sine", "diabetes", "yacht"):
        for start in ((10.0, 1.0), (1.0, 1.0), (1.0, 0.3), (0.1, 0.3)):
            figures = []
            for seed in range(3):
                data = inner_split(folder, name, seed)
                with patch.object(precisions, "STARTS", (start,)):
                    figures.append(score(HFLRegressor(n_estimators=1, random_state=seed), *data))
            log_evidence, log_score, rmse, gamma = np.mean(figures, axis=0)
            print(
                f"{name:10s} prior {start[0]:4g}  noise {start[1]:3g}  log evidence "
                f"{log_evidence:8.1f}  log score {log_score:6.3f}  RMSE {rmse:.3f}  γ {gamma:.0f}",
                flush=True,
            )

    print("\nTraining: decrements below which the Hessian takes over and the output layer is set")
    print("to its optimum, 500 steps at most, tol 0")
    regions = [(0.0, 10.0), (1.0, 10.0), (10.0, 10.0), (1.0, 0.0), (1.0, np.inf)]
    for name in ("yacht", "concrete", "adam"):
        for hessian, projection in regions:
            with (
                patch.object(newton_cg, "NEWTON_REGION", hessian),
                patch.object(newton_cg, "PROJECTION_REGION", projection),
            ):
                model = adam_polished() if name == "adam" else trained(folder, name)
            decrement = model.diagnostics_["members"][0]["decrement"]
            print(
                f"{name:10s} Hessian {hessian:4g}  optimum {projection:4g}  loss "
                f"{model.loss_:9.3f}  decrement {decrement:.1e}  steps {model.n_iter_}",
                flush=True,
            )

    print("\nFits: CPU seconds, relative to the default's; mean of three seeds")
    data: dict[str, Callable[[int], tuple[np.ndarray, ...]]] = {
        "yacht": lambda seed: inner_split(folder, "yacht", seed),
        "concrete": lambda seed: inner_split(folder, "concrete", seed),
        "Friedman 1": friedman,
    }
    for name, split in data.items():
        base = 0.0
        for label, changes in CHOICES.items():
            with ExitStack() as stack:
                for module, constant, value in changes:
                    stack.enter_context(patch.object(module, constant, value))
                figures, steps, seconds = [], 0.0, 0.0
                for seed in range(3):
                    model = HFLRegressor(n_estimators=1, random_state=seed)
                    began = time.process_time()
                    figures.append(score(model, *split(seed)))
                    seconds += (time.process_time() - began) / 3
                    steps += len(model.members_[0].loss_curve) / 3
            base = base or seconds
            log_evidence, log_score, rmse, _ = np.mean(figures, axis=0)
            print(
                f"{name:10s} {label:35s} {seconds:6.1f} s  {seconds / base:5.2f}"
                f"  steps {steps:4.0f}  log evidence {log_evidence:8.1f}"
                f"  log score {log_score:6.3f}  RMSE {rmse:.3f}",
                flush=True,
            )
    print_gap()


def print_gap() -> None:
    """The data of examples/plot_in_between.py."""
    print("\nGap: 95 % bands of a cubic seen in two clusters, one member, 20 draws of 60 rows")
    x = np.linspace(-0.8, 0.8, 81)
    for steps in (5, 10, 20):
        covered, stds = [], []
        with patch.object(alternation, "STEPS_PER_ROUND", steps):
            for seed in range(20):
                rng = np.random.default_rng(seed)
                seen = rng.uniform(0.8, 2, 60) * np.where(np.arange(60) < 30, -1, 1)
                y = 0.3 * seen**3 - seen + 0.1 * rng.standard_normal(60)
                model = HFLRegressor(n_estimators=1, random_state=0).fit(seen[:, None], y)
                mean, std = model.predict(x[:, None], return_std="epistemic")
                covered.append(np.abs(mean - (0.3 * x**3 - x)) <= 1.96 * std)
                stds.append(std)
        print(
            f"{steps:2d} steps a round  {np.mean(covered):4.0%} of the gap covered, "
            f"mean std {np.mean(stds):.3f}",
            flush=True,
        )


def friedman(seed: int) -> tuple[np.ndarray, ...]:
    """1000 rows of 10 features, and 2000 others, in units of the training targets' SD."""
    X, y = make_friedman1(3000, 10, noise=1.0, random_state=seed)
    y = (y - y[:1000].mean()) / y[:1000].std()
    return X[:1000], y[:1000], X[1000:], y[1000:]


def trained(folder: Path, name: str) -> HFLRegressor:
    """Prior precision 1, noise 0.2 of y's SD."""
    X, y, *_ = inner_split(folder, name, 0)
    model = HFLRegressor(
        prior_precision=1.0,
        noise_std=0.2 * y.std(),
        max_iter=500,
        tol=0.0,
        n_estimators=1,
        random_state=0,
    )
    return model.fit(X, y)


def adam_polished() -> HFLRegressor:
    """An MLPRegressor that "adam" left far from its MAP, in the flat valley of a gap."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-2, -0.8, 40), rng.uniform(0.5, 1.6, 40)])
    X, y = x[:, None], np.sin(3 * x) + 0.15 * rng.standard_normal(80)
    mlp = MLPRegressor(
        hidden_layer_sizes=(30,),
        activation="tanh",
        alpha=0.1,
        learning_rate_init=0.01,
        max_iter=300,
        random_state=0,
    )
    return HFLRegressor.from_mlp(mlp.fit(X, y), X, y, polish=True, max_iter=500, tol=0.0)


def inner_split(folder: Path, name: str, seed: int) -> tuple[np.ndarray, ...]:
    """Training and validation rows, in standardised y, from training rows alone."""
    if name == "sine":
        X = np.linspace(-2, 2, 60)[:, None]
        y = np.sin(3 * X[:, 0]) + 0.1 * np.random.default_rng(seed).standard_normal(60)
    elif name == "diabetes":
        X, y = load_diabetes(return_X_y=True)
    else:
        data = np.load(folder / f"{name}.npz")
        training = ~data["test_mask_standard"][0]
        X, y = data["X"][training], data["y"][training]
    order = np.random.default_rng(seed).permutation(len(y))
    n = int(0.85 * len(y))
    train, held_out = order[:n], order[n:]
    y = (y - y[train].mean()) / y[train].std()
    return X[train], y[train], X[held_out], y[held_out]


def score(
    model: HFLRegressor, X: np.ndarray, y: np.ndarray, X_new: np.ndarray, y_new: np.ndarray
) -> tuple[float, float, float, float]:
    mean, std = model.fit(X, y).predict(X_new, return_std=True)
    z = (y_new - mean) / std
    log_score = float(np.mean(-0.5 * z**2 - np.log(std) - 0.5 * np.log(2 * np.pi)))
    rmse = float(np.sqrt(np.mean((y_new - mean) ** 2)))
    return model.log_marginal_likelihood_, log_score, rmse, model.n_effective_parameters_


if __name__ == "__main__":
    main()

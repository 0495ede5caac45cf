"""Leave-one-out and influence in closed form, against refits without each row.

At fixed precisions, for every training row: the prediction of the row by the others, and the change
of predictions of other samples. Then what leave-one-out is not: an unbiased score; and what it
finds: labels that were flipped.

    python benchmarks/leave_one_out.py --data ../shared/data/uci

where the folder holds yacht.npz, energy.npz and concrete.npz, each with X and y. Without it these
are left out, and the script says so.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from reporting import Z90, heading, machine, save
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from sklearn_hfl import HFLClassifier, HFLRegressor, HFLWarning
from sklearn_hfl.optim.left_out_optima import left_out_optima
from sklearn_hfl.posterior.link import log_probabilities

UCI = "yacht", "energy", "concrete"
LOADERS = {"diabetes": load_diabetes, "breast_cancer": load_breast_cancer, "iris": load_iris}
ROWS = 600
QUERIES = 50
# Changes below this share of the largest are rounding, or what a refit leaves.
SMALLEST = 1e-4
N_FLIPPED, N_LABELLED, N_FIRST = 10, 400, 20
Array = np.ndarray


@dataclass(frozen=True)
class Set:
    name: str
    X: Array
    y: Array
    X_test: Array
    y_test: Array

    @property
    def classes(self) -> bool:
        return self.y.dtype.kind == "i"

    def fit(self, **params: object) -> HFLRegressor | HFLClassifier:
        make = HFLClassifier if self.classes else HFLRegressor
        return make(random_state=0, **params).fit(self.X, self.y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", HFLWarning)
    print(machine())
    sets = [(each, each.fit()) for each in load(arguments.data)]
    heading("Every training row, predicted by the others: closed form against refits")
    print(
        "refits start from the closed form / from the MAP of all rows. 'change' is the correlation"
    )
    print(
        "of changes of the mean (classes: of the log probability of the label); differences in stds"
    )
    print("of the prediction (classes: in nats). Refits that did not converge are left out.")
    save("leave-one-out.csv", [rows_against_refits(*each) for each in sets])
    heading(f"{QUERIES} predictions, when each training row is left out: influence against refits")
    print("correlation of all changes, and of those of single predictions (median); times in s")
    for each in sets:
        influence_against_refits(*each)
    heading("What leave-one-out is not")
    for data, model in sets:
        if len(data.y_test) and not data.classes:
            optimism(data, model)
    heading(f"{N_FLIPPED} of {N_LABELLED} labels flipped: how many are among the first {N_FIRST}")
    planted_labels()


def load(folder: Path) -> Iterator[Set]:
    if not folder.is_dir():
        print(f"\nNo data at {folder}: {', '.join(UCI)} are left out.")
    for name in UCI if folder.is_dir() else ():
        with np.load(folder / f"{name}.npz") as data:
            X, y = data["X"], data["y"].ravel()
        order = np.random.default_rng(0).permutation(len(y))
        n = ROWS if name == "concrete" else len(y)
        train, test = order[:n], order[n:]
        yield Set(name, X[train], y[train], X[test], y[test])
    for name, loader in LOADERS.items():
        X, y = loader(return_X_y=True)
        yield Set(name, X, y, X[:0], y[:0])


def rows_against_refits(data: Set, model: HFLRegressor | HFLClassifier) -> dict[str, object]:
    closed, seconds = timed(model.loo_predict)
    refit, refit_seconds = timed(lambda: model.loo_predict("refit"))
    from_map = outputs_from_map(model)
    used = refit.converged
    if data.classes:
        fitted = np.log(model.predict_proba(data.X))[np.arange(len(data.y)), data.y]
        ours, theirs = closed.log_density - fitted, refit.log_density - fitted
        difference, residuals = np.abs(ours - theirs), "      "
        other = np.nan
    else:
        fitted = model.predict(data.X)
        ours, theirs = closed.mean - fitted, refit.mean - fitted
        difference = np.abs(ours - theirs) / refit.std
        other = correlation(closed.mean - fitted, from_map - fitted, used)
        residuals = f"{correlation(data.y - closed.mean, data.y - refit.mean, used):.4f}"
    own = correlation(ours, theirs, used)
    kept = "linear" if len(model.members_[0].network.layer_sizes) == 2 else "network"
    print(
        f"{data.name:13s} {kept:7s} {len(data.y)} rows, {used.sum()} converged: residuals "
        f"{residuals} change {own:.4f} / {other:.4f}, median difference {np.median(difference[used]):.4f}, "
        f"largest {difference[used].max():.3f}; {seconds:.2f} s against {refit_seconds:.1f} s",
        flush=True,
    )
    return {
        "set": data.name, "kept": kept, "rows": len(data.y), "converged": int(used.sum()),
        "correlation_of_changes": own, "from_map": other,
        "median_difference": float(np.median(difference[used])),
        "seconds": seconds, "refit_seconds": refit_seconds,
    }  # fmt: skip


def refit_weights(model: HFLRegressor | HFLClassifier) -> torch.Tensor:
    """Weights (N, P) of refits without each row, from the MAP of all rows."""
    estimate = model.members_[0].estimate
    rows = torch.arange(len(estimate.log_posterior.X))
    one = torch.ones(len(rows), dtype=estimate.weights.dtype)
    weights = []
    for chunk in rows.split(100):
        step = torch.zeros(len(estimate.weights), len(chunk), dtype=estimate.weights.dtype)
        weights.append(left_out_optima(estimate, chunk, one[chunk], step, 0.01).weights)
    return estimate.scale * torch.cat(weights)


def outputs_from_map(model: HFLRegressor | HFLClassifier) -> Array:
    """Means (N,) of the rows by refits that start from the MAP of all rows."""
    estimate = model.members_[0].estimate
    lp = estimate.log_posterior
    outputs = lp.network.forward(refit_weights(model), lp.X[:, None])[:, 0, :1]
    return model._in_units(outputs) if isinstance(model, HFLRegressor) else outputs.numpy()


def influence_against_refits(data: Set, model: HFLRegressor | HFLClassifier) -> None:
    X = data.X_test if len(data.X_test) else data.X
    X = X[np.random.default_rng(1).permutation(len(X))[:QUERIES]]
    change, seconds = timed(lambda: model.influence(X))
    predict = model.predict_proba if data.classes else model.predict
    _, std_seconds = timed(lambda: predict(np.vstack([data.X, X]), return_std=True))
    lp, weights = model.members_[0].estimate.log_posterior, model.members_[0].estimate.weights
    queries = model._queries(X)

    def values(theta: torch.Tensor) -> Array:
        outputs = lp.network.forward(theta, queries)
        return (log_probabilities(outputs).exp() if data.classes else outputs).numpy()

    scale = 1.0 if data.classes else model._y_scaler.scale
    expected = scale * (values(refit_weights(model)) - values(weights[None])).swapaxes(0, 1)
    change = change.reshape(expected.shape)
    large = np.abs(expected) > SMALLEST * np.abs(expected).max()
    single = [
        np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(change, expected, strict=True)
    ]
    print(
        f"{data.name:13s} {correlation(change, expected, large):.4f}, {np.median(single):.4f}; "
        f"influence {seconds:.2f}, predict with std of the same rows {std_seconds:.2f}",
        flush=True,
    )


def optimism(data: Set, model: HFLRegressor) -> None:
    left = model.loo_predict()
    mean, std = model.predict(data.X_test, return_std=True)
    held_out = normal_density(data.y_test, mean, std)
    scores = np.sort(np.abs(data.y - left.mean) / left.std)
    half = scores[int(np.ceil(0.9 * (len(scores) + 1))) - 1]
    print(
        f"{data.name}: log density {left.log_density.mean():.2f} left out, "
        f"{held_out.mean():.2f} of {len(held_out)} held-out samples; 90 % intervals from "
        f"leave-one-out residuals hold {np.mean(np.abs(data.y_test - mean) <= half * std):.3f} of "
        f"them, Gaussian ones {np.mean(np.abs(data.y_test - mean) <= Z90 * std):.3f}"
    )


def normal_density(y: Array, mean: Array, std: Array) -> Array:
    return -0.5 * ((y - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)


def planted_labels() -> None:
    X, y = load_breast_cancer(return_X_y=True)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(y))[:N_LABELLED]
        labels = y[rows].copy()
        flipped = rng.choice(N_LABELLED, N_FLIPPED, replace=False)
        labels[flipped] = 1 - labels[flipped]
        model = HFLClassifier(random_state=0).fit(X[rows], labels)
        first = model.loo_predict().log_density.argsort()[:N_FIRST]
        fitted = model.predict_log_proba(X[rows])[np.arange(N_LABELLED), labels]
        print(
            f"breast_cancer, draw {seed}: {np.isin(flipped, first).sum()} by leave-one-out log "
            f"density, {np.isin(flipped, fitted.argsort()[:N_FIRST]).sum()} by that of the fit",
            flush=True,
        )


def timed(call: Callable[[], object]) -> tuple[object, float]:
    began = time.perf_counter()
    result = call()
    return result, time.perf_counter() - began


def correlation(a: Array, b: Array, used: Array) -> float:
    return float(np.corrcoef(a[used].ravel(), b[used].ravel())[0, 1])


if __name__ == "__main__":
    main()

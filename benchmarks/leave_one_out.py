"""Leave-one-out and influence in closed form, against refits without each row.

At fixed precisions, for every training row: the prediction of the row by the others; and the change
of predictions of other samples, for some rows of the networks, whose refits have to converge. Then
what leave-one-out is not: an unbiased score; and what it finds: labels that were flipped.

    python benchmarks/leave_one_out.py --data ../shared/data/uci

where the folder holds yacht.npz, energy.npz and concrete.npz, each with X and y. Without it these
are left out, and the script says so.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from reporting import Z90, heading, machine, save
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from sklearn_hfl import HFLClassifier, HFLRegressor, HFLWarning
from sklearn_hfl.optim.newton_cg import NewtonCG
from sklearn_hfl.posterior.link import log_probabilities

UCI = "yacht", "energy", "concrete"
LOADERS = {"diabetes": load_diabetes, "breast_cancer": load_breast_cancer, "iris": load_iris}
ROWS = 600
# Rows that are refitted to convergence, in so many steps at most. Of the networks this is done for
# concrete alone, whose refits take a second each; those of yacht take ten.
LINEAR_REFITS, NETWORK_REFITS, MAX_STEPS = 100, 24, 300
CONVERGING = "concrete", *LOADERS
QUERIES = 50
# Rows whose effect is below this share of the largest: rounding, or what a refit leaves.
SMALLEST = 1e-6
N_SPLITS = 8
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
        return make(n_estimators=1, random_state=0, **params).fit(self.X, self.y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", HFLWarning)
    print(machine())
    sets = [(each, each.fit()) for each in load(arguments.data)]
    heading("Every training row, predicted by the others: closed form against refits")
    print(
        "refits start at the closed form, and end at their smallest gradient; those that converged."
    )
    print(
        "'change': correlation of the changes of the mean (classes: log probability of the label);"
    )
    print("difference in stds of the prediction (classes: in nats)")
    save("leave-one-out.csv", [rows_against_refits(*each) for each in sets])
    heading(f"Influence on {QUERIES} predictions, against refits without a row")
    print(
        "refits by the solver of the fit from its MAP, to convergence. Correlation of all changes;"
    )
    print(
        "median of those of single rows, and how many are above 0.99; 'own': of the changes of the"
    )
    print("prediction of the row itself, by loo_predict. Times in s, of all rows")
    for data, model in sets:
        if data.name in CONVERGING:
            influence_against_refits(data, model)
    heading(f"What leave-one-out is not: means of {N_SPLITS} splits, half of the rows held out")
    print("log density of left-out training rows, and of held-out samples; coverage of held-out")
    print("samples by 90 % intervals from leave-one-out residuals, and by Gaussian ones")
    for data, _ in sets:
        if not data.classes:
            optimism(data)
    heading(
        f"Flipped labels: how many of {N_FLIPPED} in {N_LABELLED} are among the first {N_FIRST}"
    )
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


def is_linear(model: HFLRegressor | HFLClassifier) -> bool:
    return len(model.members_[0].network.layer_sizes) == 2


def rows_against_refits(data: Set, model: HFLRegressor | HFLClassifier) -> dict[str, object]:
    closed, seconds = timed(model.loo_predict)
    refit, refit_seconds = timed(lambda: model.loo_predict("refit"))
    used = refit.converged
    if data.classes:
        fitted = np.log(model.predict_proba(data.X))[np.arange(len(data.y)), data.y]
        ours, theirs = closed.log_density - fitted, refit.log_density - fitted
        difference, residuals = np.abs(ours - theirs)[used], "       "
    else:
        fitted = model.predict(data.X)
        ours, theirs = closed.mean - fitted, refit.mean - fitted
        difference = (np.abs(ours - theirs) / refit.std)[used]
        residuals = f"{correlation(data.y - closed.mean, data.y - refit.mean, used):.5f}"
    facts = {
        "set": data.name, "kept": "linear" if is_linear(model) else "network",
        "rows": len(data.y), "converged": int(used.sum()),
        "correlation_of_residuals": residuals,
        "correlation_of_changes": correlation(ours, theirs, used),
        "median_difference": float(np.median(difference)),
        "max_difference": float(difference.max()),
        "seconds": seconds, "refit_seconds": refit_seconds,
    }  # fmt: skip
    print(
        "{set:13s} {kept:7s} {converged} of {rows} refits: residuals "
        "{correlation_of_residuals}, change {correlation_of_changes:.4f}; difference median "
        "{median_difference:.4f}, largest {max_difference:.3f}; {seconds:.2f} s against "
        "{refit_seconds:.1f} s".format(**facts),
        flush=True,
    )
    return facts


def refit_weights(model: HFLRegressor | HFLClassifier, rows: Array) -> torch.Tensor:
    """Weights (n, P) without each of the rows, by the solver of the fit, from its MAP."""
    estimate = model.members_[0].estimate
    lp = estimate.log_posterior
    trainer = NewtonCG(MAX_STEPS, tol=0.0, n_iter_no_change=10)
    generator = torch.Generator().manual_seed(0)
    weights = []
    for row in rows:
        weight = lp.sample_weight.clone()
        weight[row] = 0.0
        without = replace(lp, sample_weight=weight)
        found = trainer.train(
            without, estimate.weights, generator, preconditioner=estimate.subspace
        )
        weights.append(found.weights)
    return torch.stack(weights)


def influence_against_refits(data: Set, model: HFLRegressor | HFLClassifier) -> None:
    X = data.X_test if len(data.X_test) else data.X
    X = X[np.random.default_rng(1).permutation(len(X))[:QUERIES]]
    _, seconds = timed(lambda: model.influence(X))
    predict = model.predict_proba if data.classes else model.predict
    _, std_seconds = timed(lambda: predict(np.vstack([data.X, X]), return_std=True))
    linear = is_linear(model)
    routes = ["linearized"] if linear else ["linearized", "network"]
    n = LINEAR_REFITS if linear else NETWORK_REFITS
    rows = np.random.default_rng(2).permutation(len(data.y))[:n]
    model = model if linear else data.fit(variance="network")
    lp, weights = model.members_[0].estimate.log_posterior, model.members_[0].estimate.weights
    queries = model._queries(X)

    def values(theta: torch.Tensor) -> Array:
        outputs = lp.network.forward(theta, queries)
        return (log_probabilities(outputs).exp() if data.classes else outputs).numpy()

    scale = 1.0 if data.classes else model._y_scaler.scale
    refits = refit_weights(model, rows)
    expected = scale * (values(refits) - values(weights[None])).swapaxes(0, 1)
    moved = lp.network.forward(refits, lp.X[rows][:, None])[:, 0]
    before = lp.network.forward(weights[None], lp.X[rows])[0]
    closed = model._ensemble().left_out(
        torch.from_numpy(rows), False, lambda m, c, left: (left.moved,)
    )
    own = correlation((closed[0][0][0] - before).numpy(), (moved - before).numpy())
    found = []
    for route in routes:
        change = model.set_params(variance=route).influence(X, rows=rows).reshape(expected.shape)
        large = np.abs(expected).max((0, 2)) > SMALLEST * np.abs(expected).max()
        single = [correlation(change[:, n], expected[:, n]) for n in np.flatnonzero(large)]
        found.append(
            f"{route} {correlation(change, expected):.4f}, {np.median(single):.4f}, "
            f"{np.sum(np.array(single) > 0.99)} of {len(single)}"
        )
    print(
        f"{data.name:13s} {len(rows)} rows; {'; '.join(found)}; own {own:.4f}; influence "
        f"{seconds:.2f}, predict with std of rows and queries {std_seconds:.2f}",
        flush=True,
    )


def optimism(data: Set) -> None:
    X, y = np.vstack([data.X, data.X_test]), np.concatenate([data.y, data.y_test])
    numbers = []
    for seed in range(N_SPLITS):
        train, test = np.array_split(np.random.default_rng(seed).permutation(len(y)), 2)
        model = HFLRegressor(n_estimators=1, random_state=seed).fit(X[train], y[train])
        left = model.loo_predict()
        mean, std = model.predict(X[test], return_std=True)
        error = np.abs(y[test] - mean)
        scores = np.sort(np.abs(y[train] - left.mean) / left.std)
        half = scores[int(np.ceil(0.9 * (len(scores) + 1))) - 1]
        held_out = normal_density(y[test], mean, std).mean()
        gap = left.log_density.mean() - held_out
        covered = np.mean(error <= half * std), np.mean(error <= Z90 * std)
        numbers.append((left.log_density.mean(), held_out, gap, *covered))
    mean, spread = np.mean(numbers, 0), np.std(numbers, 0, ddof=1) / N_SPLITS**0.5
    print(
        f"{data.name:13s} {mean[0]:.2f} left out, {mean[1]:.2f} held out, difference "
        f"{mean[2]:.2f} ± {spread[2]:.2f}; coverage {mean[3]:.3f} ± {spread[3]:.3f}, Gaussian "
        f"{mean[4]:.3f} ± {spread[4]:.3f}",
        flush=True,
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
        model = HFLClassifier(n_estimators=1, random_state=0).fit(X[rows], labels)
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


def correlation(a: Array, b: Array, used: Array | slice = slice(None)) -> float:
    return float(np.corrcoef(a[used].ravel(), b[used].ravel())[0, 1])


if __name__ == "__main__":
    main()

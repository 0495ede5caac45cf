"""Equality: are the standard deviations those of the dense Laplace approximation?

Prints, for every comparison, the relative error of the epistemic std against a
dense matrix, and whether the reported bound holds. Run as

    python benchmarks/equality.py --data ../shared/data/uci

where the folder holds concrete.npz, energy.npz, yacht.npz and kin8nm.npz, each
with X, y and test_mask_standard (n_splits, n). Without it the real-data tables
are left out, and the script says so.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import platform
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import sklearn
import torch
from reporting import heading
from sklearn.linear_model import BayesianRidge

from sklearn_hfl import HFLRegressor, HFLWarning
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.uncertainty.exact import dense_ggn, dense_hessian, exact_covariance

ROWS: list[dict[str, object]] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", HFLWarning)
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"scikit-learn {sklearn.__version__}"
    )
    began = time.perf_counter()
    one_dimensional_tasks()
    linear_network()
    if arguments.data.is_dir():
        real_data(arguments.data)
        unconverged(arguments.data)
        network_on_real_data(arguments.data)
    else:
        print(f"\nNo data at {arguments.data}: the tables on real data are left out.")
    arguments.results.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(itertools.chain.from_iterable(ROWS)))
    with (arguments.results / "equality.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(ROWS)
    print(f"\n{time.perf_counter() - began:.0f} s in all")


def report(table: str, name: str, **numbers: object) -> None:
    ROWS.append({"table": table, "case": name, **numbers})
    shown = (
        f"{key} {value:.1e}"
        if isinstance(value, float) and 0 < abs(value) < 0.01
        else f"{key} {value:.3f}"
        if isinstance(value, float)
        else f"{key} {value}"
        for key, value in numbers.items()
    )
    print(f"{name:34s} " + "  ".join(shown), flush=True)


def oracle(model: HFLRegressor, X: np.ndarray) -> SimpleNamespace:
    """Dense stds in units of y, from the fitted member's own weights."""
    estimate = model.members_[0].estimate
    log_posterior, weights = estimate.log_posterior, estimate.weights
    queries = torch.tensor((X - model._x_scaler.mean) / model._x_scaler.scale)
    gradient = Prediction(log_posterior.network, queries).gradient(weights)
    scale = float(model._y_scaler.scale[0])

    def std(matrix: torch.Tensor) -> np.ndarray:
        return exact_covariance(matrix, gradient).diagonal().sqrt().numpy() * scale

    return SimpleNamespace(
        hessian=lambda: dense_hessian(log_posterior, weights),
        ggn=lambda: std(dense_ggn(log_posterior, weights)),
        std=std,
    )


def one_dimensional_tasks() -> None:
    heading("One-dimensional tasks, 10 seeds, 21 queries (relative error of the epistemic std)")
    for function, gap in itertools.product(("quadratic", "sin"), (False, True)):
        errors: dict[str, list[np.ndarray]] = {"1e-5": [], "default": [], "linearized": []}
        covered, converged, definite = [], [], 0
        for seed in range(10):
            X, y = task(function, gap, seed)
            queries = np.linspace(-2, 2, 21)[:, None]
            model = HFLRegressor(
                prior_precision=1.0, noise_std=0.1, normalize_X=False, normalize_y=False,
                variance="network", std_rtol=1e-5, n_estimators=1, random_state=seed,
            ).fit(X, y)  # fmt: skip
            dense = oracle(model, queries)
            hessian = dense.hessian()
            if torch.linalg.eigvalsh(hessian)[0] > 0:
                definite += 1
                exact = dense.std(hessian)
                for label, rtol in (("1e-5", 1e-5), ("default", 0.01)):
                    model.set_params(std_rtol=rtol)
                    result = model.predict_uncertainty(queries)
                    errors[label].append(np.abs(result.epistemic_std / exact - 1))
                    if rtol == 1e-5:
                        converged.append(result.converged)
            model.set_params(variance="linearized", std_rtol=0.01)
            result = model.predict_uncertainty(queries)
            error = np.abs(result.epistemic_std / dense.ggn() - 1)
            errors["linearized"].append(error)
            covered.append(error <= result.rel_error)
        tight, loose, linear = (np.concatenate(errors[k]) for k in errors)
        report(
            "one-dimensional", f"{function}, {'gap' if gap else 'uniform'}",
            positive_definite=definite,
            network_median=float(np.median(tight)), network_worst=float(tight.max()),
            network_converged=float(np.mean(converged)),
            network_default_worst=float(loose.max()),
            linearized_worst=float(linear.max()), bound_holds=float(np.mean(covered)),
        )  # fmt: skip


def task(function: str, gap: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """32 rows of the paper's synthetic functions on [-2, 2], with or without its middle half."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, 32)
    if gap:
        x = np.where(x < 0, x / 2 - 1, x / 2 + 1)
    f = 0.1 * x**2 - 0.5 * x if function == "quadratic" else -np.sin(3 * x - 0.3)
    return x[:, None], f + 0.1 * rng.standard_normal(32)


def linear_network() -> None:
    heading("Linear network against BayesianRidge at its own precisions")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 4))
    y = X @ rng.standard_normal(4) + 0.3 * rng.standard_normal(60)
    design = np.column_stack([X, np.ones(len(X))])
    ridge = BayesianRidge(fit_intercept=False).fit(design, y)
    model = HFLRegressor(
        hidden_layer_sizes=(), prior_precision=float(ridge.lambda_),
        noise_std=float(ridge.alpha_) ** -0.5, normalize_X=False, normalize_y=False,
        tol=0.0, std_rtol=1e-9,
    ).fit(X, y)  # fmt: skip
    queries = 3 * rng.standard_normal((40, 4))
    extended = np.column_stack([queries, np.ones(len(queries))])
    mean, std = model.predict(queries, return_std=True)
    ridge_mean, ridge_std = ridge.predict(extended, return_std=True)
    _, cov = model.predict(queries, return_cov=True)
    ridge_cov = extended @ ridge.sigma_ @ extended.T + np.eye(len(queries)) / ridge.alpha_
    report(
        "linear", "60 rows, 4 features",
        mean=float(np.abs(mean / ridge_mean - 1).max()),
        std=float(np.abs(std / ridge_std - 1).max()),
        covariance=float(np.abs(cov - ridge_cov).max() / np.abs(ridge_cov).max()),
    )  # fmt: skip


def real_data(folder: Path) -> None:
    heading("Standard split 0, defaults: linearized against the dense GGN")
    cases = [(name, (50,)) for name in ("yacht", "energy", "concrete", "kin8nm")]
    for name, hidden in [*cases, ("concrete", (50, 50))]:
        X, y, queries = split(folder, name)
        began = time.perf_counter()
        # The comparison holds at any weights: large fits are stopped early to save minutes.
        steps = 200 if name == "kin8nm" or len(hidden) > 1 else 2000
        model = HFLRegressor(
            hidden_layer_sizes=hidden, max_iter=steps, n_estimators=1, random_state=0
        ).fit(X, y)
        fit_time = time.perf_counter() - began
        exact = oracle(model, queries).ggn()
        dense_evidence = log_evidence(model)
        (facts,) = model.diagnostics_["members"]
        mode = model.log_marginal_likelihood_ - facts["log_multiplicity"]
        numbers: dict[str, object] = {"log_evidence_error": abs(mode / dense_evidence - 1)}
        for rtol in (1e-2, 1e-4):
            model.set_params(std_rtol=rtol)
            began = time.perf_counter()
            result = model.predict_uncertainty(queries)
            seconds = time.perf_counter() - began
            error = np.abs(result.epistemic_std / exact - 1)
            numbers[f"worst_{rtol:g}"] = float(error.max())
            numbers[f"bound_holds_{rtol:g}"] = float(np.mean(error <= result.rel_error))
            numbers[f"seconds_{rtol:g}"] = round(seconds, 2)
        report(
            "real data", f"{name} {hidden}", queries=len(queries),
            gamma=round(model.n_effective_parameters_), steps=model.n_iter_,
            fit_seconds=round(fit_time, 1), **numbers,
        )  # fmt: skip


def log_evidence(model: HFLRegressor) -> float:
    """Laplace's log evidence by the determinant of the dense Gauss-Newton matrix."""
    estimate = model.members_[0].estimate
    log_posterior, weights = estimate.log_posterior, estimate.weights
    log_det = torch.logdet(dense_ggn(log_posterior, weights))
    log_det = log_det - log_posterior.prior.precision.log().sum()
    return float(-log_posterior.value(weights[None])[0] - 0.5 * log_det)


def unconverged(folder: Path) -> None:
    heading("Training stopped after 5 steps: linearized against the dense GGN at those weights")
    for name in ("yacht", "concrete"):
        X, y, queries = split(folder, name)
        queries = queries[:12]  # refits that leave the basin use all their iterations
        model = HFLRegressor(max_iter=5, n_estimators=1, random_state=0).fit(X, y)
        exact = oracle(model, queries).ggn()
        result = model.predict_uncertainty(queries)
        error = np.abs(result.epistemic_std / exact - 1)
        model.set_params(variance="network")
        network = model.predict_uncertainty(queries)
        report(
            "unconverged", name, worst=float(error.max()),
            bound_holds=float(np.mean(error <= result.rel_error)),
            stationary=str(model.converged_), network_converged=float(network.converged.mean()),
            smallest_std=float(network.epistemic_std.min()),
        )  # fmt: skip


def network_on_real_data(folder: Path) -> None:
    heading("Network route on split 0, 1×50, prior precision 1, 24 queries")
    for name, noise in itertools.product(("concrete", "yacht"), (0.2, 0.1)):
        X, y, queries = split(folder, name)
        queries = queries[:24]
        began = time.perf_counter()
        model = HFLRegressor(
            prior_precision=1.0, noise_std=noise * y.std(), variance="network",
            max_iter=3000, n_estimators=1, random_state=0,
        ).fit(X, y)  # fmt: skip
        fit_time = time.perf_counter() - began
        began = time.perf_counter()
        result = model.predict_uncertainty(queries)
        seconds = time.perf_counter() - began
        dense = oracle(model, queries)
        hessian = dense.hessian()
        model.set_params(variance="linearized")
        linear = model.predict_uncertainty(queries).epistemic_std
        converged = result.converged
        ratio = np.abs(result.epistemic_std / linear - 1)[converged]
        exact = np.abs(result.epistemic_std / dense.std(hessian) - 1)[converged]
        report(
            "network on real data", f"{name}, noise {noise:g}",
            negative_eigenvalues=int((torch.linalg.eigvalsh(hessian) < 0).sum()),
            converged=float(converged.mean()), to_linearized_median=float(np.median(ratio)),
            to_hessian_median=float(np.median(exact)), to_hessian_worst=float(exact.max()),
            steps=model.n_iter_, fit_seconds=round(fit_time, 1), seconds=round(seconds, 1),
        )  # fmt: skip


def split(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data = np.load(folder / f"{name}.npz")
    test = data["test_mask_standard"][0]
    return data["X"][~test], data["y"][~test], data["X"][test]


if __name__ == "__main__":
    main()

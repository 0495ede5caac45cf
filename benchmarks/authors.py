"""The paper's synthetic tasks: coverage of the true function by the mean ± 1.96 epistemic std.

Quadratic and sine of the implicit delta method's public code, noise 0.1, a 1×50 tanh network
with defaults (precisions by evidence); the sine's rows leave a gap between −0.7 and 0.35.
All methods but the GP answer for the same weights:

    python benchmarks/authors.py --seeds 50
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import torch
from joblib import Parallel, delayed
from reporting import heading, machine
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from sklearn_hfl import HFLRegressor
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.uncertainty.exact import dense_ggn, dense_hessian, exact_covariance

QUERIES = np.arange(-2, 1.951, 0.05)
NOISE, Z = 0.1, 1.96
TRUTH = {
    "quadratic": lambda x: 0.1 * x**2 - 0.5 * x + 5,
    "sine": lambda x: -np.sin(3 * x - 0.3),
}
METHODS = ("network", "linearized", "dense Hessian", "dense GGN", "Matérn GP")
REGIONS = {
    "all": np.ones(len(QUERIES), dtype=bool),
    "gap": (QUERIES > -0.7) & (QUERIES < 0.35),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    print(machine())
    for name in TRUTH:
        began = time.perf_counter()
        answers = Parallel(n_jobs=arguments.jobs)(
            delayed(answer)(name, seed) for seed in range(arguments.seeds)
        )
        title = f"Synthetic tasks: {name}, {arguments.seeds} seeds, 80 queries, 95 % intervals"
        heading(title)
        regions = ["all"] if name == "quadratic" else list(REGIONS)
        heads = "".join(f"{'coverage, ' + region:>16s}{'width':>9s}" for region in regions)
        print(f"{'':14s}{heads}{'converged':>10s}")
        for method in METHODS:
            covered, width, converged = (
                np.array([a[method][i] for a in answers]) for i in range(3)
            )
            cells = "".join(
                f"{covered[:, REGIONS[r]].mean():16.1%}{width[:, REGIONS[r]].mean():9.3f}"
                for r in regions
            )
            print(f"{method:14s}{cells}{converged.mean():10.1%}", flush=True)
        indefinite = sum(a["indefinite"] for a in answers)
        print(f"Hessian damped until positive definite: {indefinite} of {arguments.seeds} seeds")
        print(f"{time.perf_counter() - began:.0f} s")


def rows(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    if name == "quadratic":
        x = rng.standard_normal(25)
    else:
        x = np.concatenate([np.arange(-1.5, -0.705, 0.01), np.arange(0.35, 1.145, 0.01)])
    return x[:, None], TRUTH[name](x) + NOISE * rng.standard_normal(len(x))


def answer(name: str, seed: int) -> dict[str, object]:
    """For each method: which queries are covered, the widths, the share that converged."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    X, y = rows(name, seed)
    queries, truth = QUERIES[:, None], TRUTH[name](QUERIES)
    model = HFLRegressor(variance="network", n_estimators=1, random_state=seed).fit(X, y)
    found: dict[str, object] = {}

    def report(method: str, mean: np.ndarray, std: np.ndarray, converged: float = 1.0) -> None:
        found[method] = np.abs(mean - truth) <= Z * std, 2 * Z * std, converged

    for route in ("network", "linearized"):
        result = model.set_params(variance=route).predict_uncertainty(queries)
        report(route, result.mean, result.epistemic_std, result.converged.mean())
    estimate = model.members_[0].estimate
    log_posterior, weights = estimate.log_posterior, estimate.weights
    gradient = Prediction(log_posterior.network, torch.tensor(model._queries(queries))).gradient(
        weights
    )
    hessian, found["indefinite"] = definite(dense_hessian(log_posterior, weights))
    for method, matrix in (
        ("dense Hessian", hessian),
        ("dense GGN", dense_ggn(log_posterior, weights)),
    ):
        variance = exact_covariance(matrix, gradient).diagonal()
        report(method, result.mean, variance.sqrt().numpy() * y.std())
    kernel = ConstantKernel() * Matern(nu=2.5) + WhiteKernel(0.1)
    gp = GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed).fit(X, y)
    mean, std = gp.predict(queries, return_std=True)
    noise = gp.kernel_.k2.noise_level * y.var()
    report("Matérn GP", mean, np.sqrt(np.maximum(std**2 - noise, 0)))
    return found


def definite(hessian: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """Add multiples of the identity, ten times larger each, until a Cholesky factor exists."""
    damping, matrix = 1e-6 * float(hessian.diagonal().abs().max()), hessian
    while int(torch.linalg.cholesky_ex(matrix).info):
        matrix = hessian + damping * torch.eye(len(hessian)).to(hessian)
        damping *= 10
    return matrix, matrix is not hessian


if __name__ == "__main__":
    main()

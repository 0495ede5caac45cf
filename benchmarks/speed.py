"""Speed: standard deviations after the MAP, by this package and by laplace-torch.

    python benchmarks/speed.py small --data ../shared/data/uci --peer .venv-laplace/bin/python
    python benchmarks/speed.py large

``small`` gives both sides the same network, prior precision and noise, on standard split 0:
kin8nm with one hidden layer, concrete with two. Each repetition runs every method in turn,
and ratios are taken within it. "build" is done once, between the MAP and the first query: the
subspace here, ``Laplace.fit`` there. ``large`` takes 42 201 weights, whose dense
curvature would need 14 GB, and reports time and peak memory, next to curvlinops' conjugate
gradients for each query; ``--rows`` shortens it.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from peers.asking import curvlinops_cg, laplace_torch
from reporting import heading, machine, peak, save

from sklearn_hfl import HFLRegressor
from sklearn_hfl.optim.krylov import krylov_subspace
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.uncertainty.exact import dense_ggn

CASES = (("kin8nm", (50,)), ("concrete", (50, 50)))
# Subset of weights and structure of the Hessian.
PEERS = {
    "laplace full": ("all", "full"),
    "laplace kron": ("all", "kron"),
    "laplace diag": ("all", "diag"),
    "laplace last layer": ("last_layer", "full"),
}
RTOL = 0.01
# Including the rounds of the evidence: enough for a γ of some hundreds.
LARGE_STEPS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("small", "large"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci"))
    parser.add_argument("--peer", type=Path, default=Path(".venv-laplace/bin/python"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="of training in small")
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--few", type=int, default=3, help="queries that curvlinops answers")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(machine())
    began = time.perf_counter()
    if arguments.part == "small":
        rows = [row for name, hidden in CASES for row in small(name, hidden, arguments)]
    else:
        rows = large(arguments)
    save(f"speed-{arguments.part}.csv", rows)
    print(f"\n{time.perf_counter() - began:.0f} s in all")


def split(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data = np.load(folder / f"{name}.npz")
    test = data["test_mask_standard"][0]
    return data["X"][~test], data["y"][~test].ravel(), data["X"][test]


def fitted(hidden: tuple[int, ...], steps: int, variance: str, X: np.ndarray, y: np.ndarray):
    model = HFLRegressor(
        hidden_layer_sizes=hidden, prior_precision=1.0, noise_std=0.2 * y.std(),
        max_iter=steps, variance=variance, std_rtol=RTOL, n_estimators=1, random_state=0,
    )  # fmt: skip
    return model.fit(X, y)


def timed(task: Callable[[], object]) -> tuple[object, float]:
    began = time.perf_counter()
    answer = task()
    return answer, time.perf_counter() - began


# ------------------------------------------------------------------ small


def small(
    name: str, hidden: tuple[int, ...], arguments: argparse.Namespace
) -> list[dict[str, object]]:
    X, y, Q = split(arguments.data, name)
    linearized, amortized = (
        fitted(hidden, arguments.steps, variance, X, y) for variance in ("linearized", "amortized")
    )
    estimate = linearized.members_[0].estimate
    pairs = amortized.members_[0].estimate.ritz
    p, m = pairs.vectors.shape
    heading(f"Speed: {name} {hidden}, {len(X)} rows, {p} weights, {len(Q)} queries")
    print(
        f"γ {linearized.n_effective_parameters_:.0f}, {estimate.subspace.rank} directions "
        f"linearized, {m} amortized; medians of {arguments.repeats}"
    )
    ours = {
        "linearized": (lambda: build(estimate), linearized),
        "amortized": (lambda: build(estimate, 2 * RTOL).without_data(RTOL), amortized),
    }
    exact = dense_std(linearized, estimate, Q)
    bounded: dict[str, np.ndarray] = {}
    seconds: dict[str, list[tuple[float, float]]] = {}
    stds: dict[str, np.ndarray] = {}
    for _ in range(arguments.repeats):
        for method, (make, model) in ours.items():
            _, building = timed(make)
            result, answering = timed(lambda: model.predict_uncertainty(Q))  # noqa: B023
            seconds.setdefault(method, []).append((building, answering))
            stds[method] = result.epistemic_std / linearized._y_scaler.scale[0]
            bounded[method] = np.abs(stds[method] / exact - 1) <= result.rel_error
        for method, kind in PEERS.items() if arguments.peer.exists() else ():
            answer = laplace_torch(
                arguments.peer, linearized, Q, y=linearized.members_[0].estimate.log_posterior.y,
                prior=linearized.prior_precision, subset=kind[0], structure=kind[1],
                noise_std=linearized.noise_std / linearized._y_scaler.scale[0],
            )  # fmt: skip
            seconds.setdefault(method, []).append((answer["fit"][0], answer["predict"][0]))
            stds[method] = answer["std"].ravel()
    if not arguments.peer.exists():
        print(f"No {arguments.peer}: laplace-torch is left out.")
    print(
        f"{'':20s} {'build':>9s} {'query':>9s}   all, times linearized   error: median   worst"
        "  within bound"
    )
    base = np.sum(seconds["linearized"], axis=1)
    rows: list[dict[str, object]] = []
    for method, pairs_of in seconds.items():
        building, answering = np.median(pairs_of, axis=0)
        ratio = np.median(np.sum(pairs_of, axis=1) / base)
        error = np.abs(stds[method] / exact - 1)
        held = f"{bounded[method].mean():13.0%}" if method in bounded else ""
        print(
            f"{method:20s} {building:7.2f} s {answering:7.3f} s {ratio:24.2f} "
            f"{np.median(error):15.1e} {error.max():7.1e} {held}",
            flush=True,
        )
        rows.append({
            "data": name, "weights": p, "queries": len(Q), "method": method, "build_s": building,
            "query_s": answering, "times_linearized": ratio, "median_error": np.median(error),
            "worst_error": error.max(),
        })  # fmt: skip
    # Three times as far from the mean as the test rows.
    centre = X.mean(0)
    far = centre + 3 * (Q - centre)
    result = amortized.predict_uncertainty(far)
    std = result.epistemic_std / amortized._y_scaler.scale[0]
    error = np.abs(std / dense_std(linearized, estimate, far) - 1)
    print(
        f"amortized, three times as far from the mean: error median {np.median(error):.1e}, "
        f"worst {error.max():.1e}; {np.mean(error <= result.rel_error):.0%} within bound"
    )
    rows.append({
        "data": name, "weights": p, "queries": len(far), "method": "amortized, far",
        "median_error": np.median(error), "worst_error": error.max(),
    })  # fmt: skip
    rates = many(amortized, Q, arguments, seconds)
    return [row | {"queries_a_second": rates.get(row["method"])} for row in rows]


def build(estimate: MapEstimate, beyond: float = np.inf) -> MapEstimate:
    """What fit does after the MAP is found."""
    generator = torch.Generator().manual_seed(0)
    return replace(
        estimate, subspace=krylov_subspace(estimate.curvature(), generator, beyond=beyond)
    )


def dense_std(model: HFLRegressor, estimate: MapEstimate, Q: np.ndarray) -> np.ndarray:
    functional = Prediction(estimate.log_posterior.network, model._queries(Q))
    gradient = functional.gradient(estimate.weights)
    matrix = dense_ggn(estimate.log_posterior, estimate.weights)
    return (gradient * torch.linalg.solve(matrix, gradient)).sum(0).sqrt().numpy()


def many(
    model: HFLRegressor,
    Q: np.ndarray,
    arguments: argparse.Namespace,
    seconds: dict[str, list[tuple[float, float]]],
) -> dict[str, float]:
    """Throughput of the amortized route, and the limit set by the processor's matrix products.

    Queries a second are returned, of each method.
    """
    n = arguments.many
    rows = Q[np.random.default_rng(0).integers(0, len(Q), n)]
    vectors = model.members_[0].estimate.ritz.vectors
    block = torch.randn(len(vectors), 1024, dtype=vectors.dtype)
    ours, floor = [], []
    for _ in range(arguments.repeats):
        result, spent = timed(lambda: model.predict_uncertainty(rows))
        ours.append(n / spent)
        (_, spent) = timed(lambda: [vectors.mT @ block for _ in range(20)])
        floor.append(20 * 1024 / spent)
    share = np.median(np.array(ours) / np.array(floor))
    print(
        f"{n} queries, amortized: {np.median(ours):,.0f} a second, {share:.0%} of what the one "
        f"product allows ({2 * vectors.numel() * np.median(floor) / 1e9:.0f} GFlop/s); "
        f"{result.converged.mean():.1%} converged"
    )
    rates = {}
    for method, pairs_of in seconds.items():
        rate = len(Q) / np.median([query for _, query in pairs_of])
        rates[method] = np.median(ours) if method == "amortized" else rate
        if method.startswith("laplace"):
            times = np.median(ours) / rate
            print(f"{method:20s} {rate:12,.0f} queries a second: {times:.2f} times slower")
    return rates


# ------------------------------------------------------------------ large


def large(arguments: argparse.Namespace) -> list[dict[str, object]]:
    X, y, Q = split(arguments.data, "kin8nm")
    X, y = X[: arguments.rows], y[: arguments.rows]
    heading(f"Speed: kin8nm (200, 200), {len(X)} rows, 42 201 weights")
    before = peak()
    # A fixed precision of 1 is far too weak a prior for layers this wide.
    model = HFLRegressor(
        hidden_layer_sizes=(200, 200),
        max_iter=LARGE_STEPS,
        std_rtol=RTOL,
        n_estimators=1,
        random_state=0,
    )
    _, fitting = timed(lambda: model.fit(X, y))
    estimate = model.members_[0].estimate
    print(
        f"{model.n_iter_} steps, γ {model.n_effective_parameters_:.0f}, "
        f"{estimate.subspace.rank} directions: fit {fitting:.0f} s, "
        f"peak memory {peak() - before:.2f} GB above {before:.2f} GB"
    )
    _, building = timed(lambda: build(estimate))
    result, answering = timed(lambda: model.predict_uncertainty(Q))
    print(
        f"after the MAP: build {building:.1f} s, {len(Q)} queries {answering:.2f} s, peak "
        f"{peak() - before:.2f} GB; {result.converged.mean():.1%} converged, largest bound "
        f"{result.rel_error.max():.1e}"
    )
    rows: list[dict[str, object]] = [{
        "data": "kin8nm", "weights": estimate.log_posterior.n_weights, "queries": len(Q),
        "method": "linearized", "build_s": building, "query_s": answering,
        "worst_bound": result.rel_error.max(), "peak_gb": peak() - before,
    }]  # fmt: skip
    if not arguments.peer.exists():
        print(f"No {arguments.peer}: curvlinops is left out.")
        return rows
    unit = model._y_scaler.scale[0]
    answer = curvlinops_cg(
        arguments.peer, model, Q[: arguments.few], y=estimate.log_posterior.y,
        prior=estimate.scale.numpy() ** -2, noise_std=model.noise_std_ / unit, rtol=RTOL,
    )  # fmt: skip
    error = np.abs(result.epistemic_std[: arguments.few] / unit / answer["std"] - 1).max()
    each = np.median(answer["seconds"])
    print(
        f"curvlinops, conjugate gradients to the same tolerance: {each:.1f} s a query (median of "
        f"{arguments.few}), {np.median(answer['iterations']):.0f} iterations, stds apart by up to "
        f"{error:.1e}; {len(Q)} queries would take {len(Q) * each:.0f} s, "
        f"{len(Q) * each / (building + answering):.0f} times longer"
    )
    rows.append({
        "data": "kin8nm", "weights": estimate.log_posterior.n_weights, "queries": arguments.few,
        "method": "curvlinops, conjugate gradients", "query_s": arguments.few * each,
    })  # fmt: skip
    return rows


if __name__ == "__main__":
    main()

"""Heteroscedastic: noise that depends on x against constant noise.

Inner splits of training rows into three parts: training, calibration of conformal
intervals, and evaluation. Real data are the training rows of standard split 0; test rows are not
read. Each line compares likelihood="heteroscedastic" with "gaussian", same seed and network.

    python benchmarks/heteroscedastic.py --data ../shared/data/uci

where the folder holds .npz files with X, y and test_mask_standard. Without it the synthetic
sets are left, and the script says so.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from reporting import machine

from sklearn_hfl import HFLRegressor, HFLWarning
from sklearn_hfl.calibration.conformal import conformal_quantile
from sklearn_hfl.metrics import coverage_score, negative_log_predictive_density

LEVEL = 0.9
LIKELIHOODS = ("gaussian", "heteroscedastic")
# Noise std as a function of x, for y = sin(3x) + noise and x uniform on (−2, 2).
NOISES = {
    "constant": lambda x: 0.2 + 0 * x,
    "kink": lambda x: 0.05 + 0.3 * np.abs(x),
    "ramp": lambda x: 0.05 + 0.45 * (x + 2) / 4,
    "bump": lambda x: 0.02 + 0.5 * np.exp(-8 * x**2),
}
# Real data, and the maximum number of rows of each.
REAL = {"concrete": 1000, "yacht": 1000, "energy": 1000, "power": 1000, "wine": 800}

Rows = tuple[np.ndarray, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci"))
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=None, help="names of data sets")
    arguments = parser.parse_args()
    print(machine())
    began = time.perf_counter()
    names = [*NOISES, *REAL]
    if not arguments.data.is_dir():
        print(f"\nNo data at {arguments.data}: {', '.join(REAL)} are left out.")
        names = list(NOISES)
    names = [name for name in names if arguments.only is None or name in arguments.only]
    title = f"Heteroscedastic: means of {arguments.splits} inner splits"
    print(f"\n{title}\n{'-' * len(title)}")
    print("nlpd in SDs of y, lower is better; coverage of Gaussian 90 % intervals, and in each")
    print("quarter of the rows by the heteroscedastic std; width of conformal intervals relative")
    print("to the Gaussian likelihood's, and to those of absolute residuals", flush=True)
    for name in names:
        report(name, arguments)
    print(f"\n{time.perf_counter() - began:.0f} s in all")


def report(name: str, arguments: argparse.Namespace) -> None:
    tasks = (delayed(measure)(name, arguments.data, seed) for seed in range(arguments.splits))
    results = Parallel(n_jobs=arguments.jobs)(tasks)
    mean = {key: np.mean([result[key] for result in results], axis=0) for key in results[0]}
    for likelihood in LIKELIHOODS:
        quarters = " ".join(f"{c:.2f}" for c in mean[f"{likelihood} quarters"])
        print(
            f"{name:9s} {likelihood:16s} nlpd {mean[f'{likelihood} nlpd']:7.3f}  "
            f"coverage {mean[f'{likelihood} coverage']:.3f} ({quarters})  "
            f"seconds {mean[f'{likelihood} seconds']:5.1f}",
            flush=True,
        )
    print(
        f"{'':9s} conformal width of gaussian {mean['to gaussian']:.2f}, of absolute "
        f"{mean['to absolute']:.2f}; learned noise, 90 % quantile / 10 % quantile "
        f"{mean['contrast']:.1f}",
        flush=True,
    )


def rows(name: str, folder: Path, seed: int) -> Rows:
    if name in NOISES:
        rng = np.random.default_rng(seed)
        x = rng.uniform(-2, 2, 1200)
        return x[:, None], np.sin(3 * x) + NOISES[name](x) * rng.standard_normal(len(x))
    with np.load(folder / f"{name}.npz") as data:
        training = ~data["test_mask_standard"][0]
        X, y = data["X"][training], data["y"][training]
    chosen = np.random.default_rng(0).permutation(len(y))[: REAL[name]]
    return X[chosen], y[chosen]


def measure(name: str, folder: Path, seed: int) -> dict[str, float | np.ndarray]:
    X, y = rows(name, folder, seed)
    order = np.random.default_rng(seed).permutation(len(y))
    n = 200 if name in NOISES else len(y) * 6 // 10
    train, calibration, held_out = np.split(order, [n, n + (len(y) - n) // 2])
    result: dict[str, float | np.ndarray] = {}
    stds, widths = {}, {}
    # The heteroscedastic fit comes first: its std defines the quarters.
    for likelihood in reversed(LIKELIHOODS):
        began = time.perf_counter()
        model = HFLRegressor(
            hidden_layer_sizes=(20,), likelihood=likelihood, n_estimators=1, random_state=seed
        ).fit(X[train], y[train])
        result[f"{likelihood} seconds"] = time.perf_counter() - began
        with warnings.catch_warnings():
            # Concrete and wine contain duplicate rows; both likelihoods get the same.
            warnings.simplefilter("ignore", HFLWarning)
            model.conformalize(X[calibration], y[calibration])
        mean, std = model.predict(X[held_out], return_std=True)
        stds[likelihood] = std
        nlpd = negative_log_predictive_density(y[held_out], mean, std)
        result[f"{likelihood} nlpd"] = nlpd - np.log(y[train].std())
        interval = model.predict_interval(X[held_out], LEVEL)[1]
        result[f"{likelihood} coverage"] = coverage_score(y[held_out], interval)
        ranks = np.argsort(np.argsort(stds["heteroscedastic"]))
        quarter = ranks * 4 // len(ranks)
        result[f"{likelihood} quarters"] = np.array(
            [coverage_score(y[held_out][quarter == q], interval[quarter == q]) for q in range(4)]
        )
        conformal = model.predict_interval(X[held_out], LEVEL, kind="conformal")[1]
        widths[likelihood] = np.diff(conformal, axis=1).mean()
        if likelihood == "heteroscedastic":
            residuals = np.sort(np.abs(y[calibration] - model.predict(X[calibration])))
            widths["absolute"] = 2 * float(conformal_quantile(residuals[:, None], LEVEL)[0])
            aleatoric = model.predict(X[held_out], return_std="aleatoric")[1]
            result["contrast"] = np.quantile(aleatoric, 0.9) / np.quantile(aleatoric, 0.1)
    result["to gaussian"] = widths["heteroscedastic"] / widths["gaussian"]
    result["to absolute"] = widths["heteroscedastic"] / widths["absolute"]
    return result


if __name__ == "__main__":
    main()

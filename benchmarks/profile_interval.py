"""Profile: coverage of the true function by profile intervals, and by Gaussian ones.

The in-between task on the paper's synthetic sine (public code of the Implicit Delta Method): 160
rows on [-1.5, -0.7) and [0.35, 1.15), noise 0.1, queries from -2 to 1.95. Prints for each
prior the share of queries at which f(x) = -sin(3x - 0.3) lies in the 95 % interval of the
mean function: Gaussian with the network's own std, and profile; over all queries, over the
range of the data and in the gap between, with mean widths, the share of ends that were found
(others stand at the linearised std), and seconds of the intervals. Run as

    python benchmarks/profile_interval.py --seeds 20
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings

import numpy as np
import sklearn
import torch

from sklearn_hfl import HFLRegressor, HFLWarning
from sklearn_hfl.uncertainty.predictive import profile_mixture

Z = 1.96
QUERIES = np.arange(-2, 2, 0.05)
TRUTH = -np.sin(3 * QUERIES - 0.3)
GAP = (QUERIES > -0.7) & (QUERIES < 0.35)
REGIONS = {
    "all": np.ones_like(GAP),
    "rows' range": (QUERIES >= -1.5) & (QUERIES < 1.15),
    "gap": GAP,
}
PRIORS = {"prior precision 1": {"prior_precision": 1.0}, "prior by evidence": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", HFLWarning)
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"scikit-learn {sklearn.__version__}"
    )
    for name, params in PRIORS.items():
        title = f"Profile: {name}, noise by evidence, 1×50 tanh, {arguments.seeds} seeds, 95 %"
        print(f"\n{title}\n{'-' * len(title)}")
        heads = "".join(f"{region:>12s}    width" for region in REGIONS)
        print(f"{'coverage':10s}{heads}   found   seconds")
        found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"Gaussian": [], "profile": []}
        shares: dict[str, list[float]] = {kind: [] for kind in found}
        seconds: dict[str, list[float]] = {kind: [] for kind in found}
        for seed in range(arguments.seeds):
            model = HFLRegressor(
                variance="network", n_estimators=1, random_state=seed, **params
            ).fit(*rows(seed))
            for kind, intervals in (("Gaussian", gaussian), ("profile", profile)):
                began = time.perf_counter()
                lower, upper, converged = intervals(model)
                seconds[kind].append(time.perf_counter() - began)
                found[kind].append(((lower <= TRUTH) & (upper >= TRUTH), upper - lower))
                shares[kind].append(converged)
        for kind, results in found.items():
            covered, width = (np.array(a) for a in zip(*results, strict=True))
            cells = "".join(
                f"{covered[:, part].mean():12.1%}{width[:, part].mean():9.3f}"
                for part in REGIONS.values()
            )
            print(
                f"{kind:10s}{cells}{np.mean(shares[kind]):8.1%}{np.mean(seconds[kind]):10.1f}",
                flush=True,
            )


def rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.concatenate([np.arange(-1.5, -0.705, 0.01), np.arange(0.35, 1.145, 0.01)])
    noise = 0.1 * np.random.default_rng(seed).standard_normal(len(x))
    return x[:, None], -np.sin(3 * x - 0.3) + noise


def gaussian(model: HFLRegressor) -> tuple[np.ndarray, np.ndarray, float]:
    result = model.predict_uncertainty(QUERIES[:, None])
    half = Z * result.epistemic_std
    return result.mean - half, result.mean + half, float(result.converged.mean())


def profile(model: HFLRegressor) -> tuple[np.ndarray, np.ndarray, float]:
    """Ends of the mean function's interval; predict_interval would add the noise."""
    ensemble, queries = model._mean_ensemble(), model._queries(QUERIES[:, None])
    means, found = ensemble.means(queries), ensemble.profiles(queries, Z)
    ends = profile_mixture(means, found, torch.zeros_like(means), Z).numpy()
    lower, upper = model._y_scaler.inverse(ends)[..., 0]
    return lower, upper, float(torch.stack([p.converged for p in found]).double().mean())


if __name__ == "__main__":
    main()

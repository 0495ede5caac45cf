"""
Active learning
===============

Query the label where the epistemic std is largest.

Two networks start from the same four labelled points of a sine. One then queries twelve times
the candidate with the largest epistemic std, the other a random candidate; most candidates lie
on the left, as in data collected without a design. Left and middle: the final fit of each and
the points it queried. Where the random one has none, on the right, the truth leaves its band: of so
few points the evidence has chosen too simple a curve. Right: the error over the whole range against
the number of points, for several starts.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np

from sklearn_hfl import HFLRegressor, HFLWarning

N_START, N_ADDED, N_SEEDS = 4, 12, 3
candidates = 6 * np.random.default_rng(0).beta(1, 3, 200) - 3
grid = np.linspace(-3, 3, 121)


def truth(x: np.ndarray) -> np.ndarray:
    return np.sin(2 * x) + 0.5 * x


def learn(by_std: bool, seed: int) -> tuple[list[float], HFLRegressor, np.ndarray, np.ndarray]:
    """Errors after each query; the last network, and its training data."""
    rng = np.random.default_rng(seed)
    y = truth(candidates) + 0.1 * rng.standard_normal(len(candidates))
    chosen = list(rng.choice(len(candidates), N_START, replace=False))
    model = HFLRegressor(
        hidden_layer_sizes=(20,), prior_precision=1.0, noise_std=0.1, max_iter=30,
        normalize_X=False, normalize_y=False, n_estimators=1, random_state=seed,
    )  # fmt: skip
    errors = []
    while True:
        model.fit(candidates[chosen, None], y[chosen])
        error = model.predict(grid[:, None]) - truth(grid)
        errors.append(float(np.sqrt((error**2).mean())))
        if len(chosen) == N_START + N_ADDED:
            return errors, model, candidates[chosen], y[chosen]
        left = np.setdiff1d(np.arange(len(candidates)), chosen)
        if by_std:
            std = model.predict(candidates[left, None], return_std="epistemic")[1]
            chosen.append(left[std.argmax()])
        else:
            chosen.append(rng.choice(left))


warnings.simplefilter("ignore", HFLWarning)  # intermediate networks need not be at their MAP
figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
for ax, by_std, name, color in (
    (axes[0], True, "largest epistemic std", "tab:blue"),
    (axes[1], False, "random", "tab:red"),
):
    runs = [learn(by_std, seed) for seed in range(N_SEEDS)]
    curves = np.array([run[0] for run in runs])
    print(
        f"{name:22s} median RMSE {np.median(curves[:, 0]):.2f} with {N_START} rows, "
        f"{np.median(curves[:, -1]):.2f} with {N_START + N_ADDED}"
    )
    _, model, x, y = runs[0]
    mean, std = model.predict(grid[:, None], return_std="epistemic")
    ax.fill_between(grid, mean - 1.96 * std, mean + 1.96 * std, color=color, alpha=0.2, lw=0)
    ax.plot(grid, mean, color=color, label="mean ± 1.96 epistemic std")
    ax.plot(grid, truth(grid), "k:", lw=1, label="truth")
    ax.plot(x[:N_START], y[:N_START], "k+", ms=9, label="initial points")
    ax.plot(x[N_START:], y[N_START:], "o", color=color, ms=4, label="queried points")
    ax.plot(candidates, np.full_like(candidates, -3.8), "|", color="0.6", ms=6, alpha=0.5)
    ax.set(title=f"queried: {name}", xlabel="x (ticks: candidates)", ylim=(-4, 4))
    ax.legend(loc="upper left", fontsize=8)
    counts = N_START + np.arange(curves.shape[1])
    axes[2].plot(counts, curves.T, color=color, lw=0.6, alpha=0.5)
    axes[2].plot(counts, np.median(curves, axis=0), color=color, lw=2, label=f"{name}, median")
axes[2].set(ylim=(0, 2), xlabel="labelled points", title=f"RMSE over the range, {N_SEEDS} starts")
axes[2].legend()
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
plt.show()

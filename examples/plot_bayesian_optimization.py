"""
Bayesian optimisation
=====================

Find a minimum with few evaluations.

Each round fits a network to the values so far, and evaluates the function next where the
*expected improvement* on the best value is largest: where the mean is low, or the epistemic std
large. The function has no noise, so the std of a new observation would be the wrong one. Left:
three stages of one search. Right: how far the best value is above the minimum, over several
random starts, next to random search and to scikit-learn's Gaussian process in the same loop. On
this smooth function of one input both models find the minimum within a handful of evaluations,
and random search mostly does not. The starts are too few to say which of the two is ahead; the
Gaussian process fits in a fraction of the time. The network is an alternative where a Gaussian
process is too slow or its kernel a poor model, which is not the case here.

With four values to learn from, prior precision and noise are given and not learned. The noise is
small, because the function has none. `ProcessOptimizer
<https://github.com/novonordisk-research/ProcessOptimizer>`_, a maintained fork of scikit-optimize,
takes such an `HFLRegressor` as `base_estimator` of its `Optimizer`, with
`acq_optimizer="sampling"`; it calls `predict(X, return_std=True)`, which includes the noise.
"""

import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from sklearn_hfl import HFLRegressor

N_START, N_ADDED, N_SEEDS = 4, 8, 6
grid = np.linspace(0, 1, 201)


def expensive(x: np.ndarray) -> np.ndarray:
    """A simulation of an hour, say; here the function of Forrester et al. (2008)."""
    return (6 * x - 2) ** 2 * np.sin(12 * x - 4)


def expected_improvement(best: float, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    z = (best - mean) / std
    return std * (z * norm.cdf(z) + norm.pdf(z))


def network(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    model = HFLRegressor(
        hidden_layer_sizes=(20,), prior_precision=0.3, noise_std=0.1, max_iter=30,
        n_estimators=1, random_state=0,
    )  # fmt: skip
    return model.fit(x[:, None], y).predict(grid[:, None], return_std="epistemic")


def gaussian_process(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kernel = ConstantKernel() * Matern(0.2, nu=2.5)
    model = GaussianProcessRegressor(
        kernel, alpha=1e-6, normalize_y=True, n_restarts_optimizer=2, random_state=0
    )
    return model.fit(x[:, None], y).predict(grid[:, None], return_std=True)


def search(model, seed: int) -> tuple[np.ndarray, list]:
    """Points in order of evaluation; mean, std and expected improvement before each."""
    rng = np.random.default_rng(seed)
    chosen = list(rng.choice(len(grid), N_START, replace=False))
    rounds = []
    for _ in range(N_ADDED):
        x = grid[chosen]
        y = expensive(x)
        if model is None:
            improvement = rng.random(len(grid))
        else:
            mean, std = model(x, y)
            improvement = expected_improvement(y.min(), mean, std)
            rounds.append((mean, std, improvement))
        chosen.append(np.where(np.isin(np.arange(len(grid)), chosen), -1, improvement).argmax())
    return grid[chosen], rounds


warnings.simplefilter("ignore", ConvergenceWarning)  # a model of an intermediate round
minimum = expensive(grid).min()
models = {"network (HFLRegressor)": network, "Gaussian process": gaussian_process, "random": None}
colors = dict(zip(models, ("tab:blue", "tab:orange", "0.55"), strict=True))
figure = plt.figure(figsize=(13, 4.6), layout="constrained")
axes = figure.subplot_mosaic(
    [["model 0", "model 1", "model 2", "regret"], ["gain 0", "gain 1", "gain 2", "regret"]],
    width_ratios=(1, 1, 1, 1.25), height_ratios=(2.6, 1),
)  # fmt: skip

for name, model in models.items():
    start = time.perf_counter()
    runs = [search(model, seed) for seed in range(N_SEEDS)]
    seconds = (time.perf_counter() - start) / (N_SEEDS * N_ADDED)
    regret = np.array([np.minimum.accumulate(expensive(x)) - minimum for x, _ in runs])
    regret = regret[:, N_START - 1 :]
    found = (regret < 0.01).sum(axis=0)
    print(
        f"{name:22s} regret below 0.01 in {found[N_ADDED // 2]} of {N_SEEDS} searches after "
        f"{N_START + N_ADDED // 2} evaluations, in {found[-1]} after {N_START + N_ADDED}; "
        f"{1000 * seconds:.0f} ms each round"
    )
    counts = N_START + np.arange(N_ADDED + 1)
    axes["regret"].plot(counts, regret.T, color=colors[name], lw=0.6, alpha=0.5)
    axes["regret"].plot(
        counts, np.median(regret, axis=0), color=colors[name], lw=2.2, label=f"{name}, median"
    )
    if model is network:
        points, rounds = runs[0]

for column, added in enumerate((0, 2, 4)):
    top, bottom = axes[f"model {column}"], axes[f"gain {column}"]
    known, following = points[: N_START + added], points[N_START + added]
    mean, std, improvement = rounds[added]
    blue = colors["network (HFLRegressor)"]
    top.fill_between(
        grid, mean - 1.96 * std, mean + 1.96 * std, color=blue, alpha=0.2, lw=0,
        label="± 1.96 epistemic std",
    )  # fmt: skip
    top.plot(grid, mean, color=blue, label="mean")
    top.plot(grid, expensive(grid), "k:", lw=1, label="truth")
    top.plot(known[:N_START], expensive(known[:N_START]), "ko", ms=4, label="initial points")
    top.plot(known[N_START:], expensive(known[N_START:]), "o", color="tab:red", ms=4)
    for order, x in enumerate(known[N_START:], start=1):
        top.annotate(
            str(order), (x, expensive(x)), (0, 9 if order % 2 else -9), color="tab:red",
            textcoords="offset points", ha="center", va="center",
        )  # fmt: skip
    top.set(ylim=(-14, 18), xticklabels=[], title=f"after {len(known)} evaluations")
    bottom.fill_between(grid, improvement, color="tab:red", alpha=0.3, lw=0)
    bottom.set(xlabel="x", ylim=(0, None))
    for ax in (top, bottom):
        ax.axvline(following, color="tab:red", lw=1, ls="--", label="next evaluation")
        ax.set(xlim=(-0.03, 1.03))
axes["model 0"].legend(fontsize=8, loc=(0.07, 0.6), frameon=False)
axes["gain 0"].set(ylabel="expected\nimprovement")
axes["regret"].set(
    xlabel="evaluations", ylabel="best value − minimum", ylim=(0, 60),
    title=f"regret, {N_SEEDS} starts",
)  # fmt: skip
axes["regret"].set_yscale("symlog", linthresh=0.01)  # zero, once the minimum is found
axes["regret"].legend(frameon=False, loc="upper right")
for ax in axes.values():
    ax.spines[["top", "right"]].set_visible(False)
plt.show()

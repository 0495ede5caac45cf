"""
Skewed positive target
======================

Fit the logarithm, and transform the quantiles back.

The noise of prices, durations and concentrations is often a *factor*: large where the values are
large, and skewed upwards. Left: a network fitted to such a y. Its normal distribution has nearly
the same width everywhere, so intervals are too wide where y is small, where they reach below zero,
and too narrow where y is large; it warns of heavy tails, and names the logarithm. Right: the same
network fitted to log y. Quantiles are equivariant under increasing functions, so the exponentials
of the quantiles of log y are the quantiles of y. Both bands are of level 0.9. Here the noise really
is lognormal: on your own data, compare the two on held-out rows.

Means and standard deviations are not equivariant: the exponential of the mean of log y is the
median of y, and the exponential of a std is no std of y. This is why scikit-learn's
`TransformedTargetRegressor`, which applies the inverse function to what `predict` returns, cannot
carry a std. It does carry quantiles, as the last lines show.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.compose import TransformedTargetRegressor

from sklearn_hfl import HFLRegressor
from sklearn_hfl.metrics import coverage_score, interval_score

LEVEL = 0.9


def sample(rng: np.random.Generator, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    x = rng.uniform(-2, 2, n_rows)
    return x[:, None], np.exp(1 + np.sin(1.5 * x) + 0.5 * rng.standard_normal(n_rows))


rng = np.random.default_rng(0)
X, y = sample(rng, 200)
X_test, y_test = sample(rng, 2000)
grid = np.linspace(-2, 2, 201)
quantiles = [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2]
edges = np.linspace(-2, 2, 9)  # of the bins of x in which coverage is counted
place = np.digitize(X_test[:, 0], edges)

figure, axes = plt.subplots(
    2, 2, figsize=(11, 5.5), height_ratios=(3, 1), sharex=True, sharey="row", layout="constrained"
)
for (top, bottom), name, color, to, back in (
    (axes[:, 0], "y", "tab:orange", np.asarray, np.asarray),
    (axes[:, 1], "log y", "tab:blue", np.log, np.exp),
):
    model = HFLRegressor(hidden_layer_sizes=(10,), random_state=0).fit(X, to(y))
    interval = back(model.predict(X_test, quantiles=quantiles))[:, [0, 2]]
    covered = coverage_score(y_test, interval)
    width = np.diff(interval).mean()
    score = interval_score(y_test, interval, confidence_level=LEVEL)
    print(
        f"fit of {name:5s}  covers {covered:.1%} of {len(y_test)} test rows; mean width "
        f"{width:.1f}, interval score {score:.1f}; "
        f"{(interval[:, 0] < 0).mean():.0%} of intervals reach below zero"
    )
    low, median, high = back(model.predict(grid[:, None], quantiles=quantiles)).T
    top.fill_between(grid, low, high, color=color, alpha=0.25, lw=0, label=f"{LEVEL:.0%} interval")
    top.plot(grid, median, color=color, label="median")
    top.plot(X[:, 0], y, "k.", ms=3, label="training rows")
    top.axhline(0, color="black", lw=0.8)
    top.set_title(f"fit of {name}: covers {covered:.0%}, mean width {width:.1f}")
    top.legend(loc="upper left", frameon=False)

    bins = [place == i for i in range(1, len(edges))]
    in_bins = np.array([coverage_score(y_test[rows], interval[rows]) for rows in bins])
    bottom.bar(
        edges[:-1], in_bins - LEVEL, np.diff(edges), LEVEL,
        align="edge", color=color, alpha=0.5, ec="white",
    )  # fmt: skip
    bottom.axhline(LEVEL, color="black", lw=0.8)
    bottom.set(xlabel="x", xlim=(-2, 2), ylim=(0.8, 1))
axes[0, 0].set_ylabel("y")
axes[1, 0].set_ylabel("coverage of\ntest rows")
for ax in axes.flat:
    ax.spines[["top", "right"]].set_visible(False)

wrapped = TransformedTargetRegressor(model, func=np.log, inverse_func=np.exp).fit(X, y)
same = np.allclose(wrapped.predict(X_test, quantiles=quantiles)[:, [0, 2]], interval)
print(f"TransformedTargetRegressor returns the same quantiles: {same}")
try:
    wrapped.predict(X_test, return_std=True)
except AttributeError as error:
    print(f"with return_std=True it raises: {error}")
plt.show()

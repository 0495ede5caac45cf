"""
Calibrated intervals
====================

Calibrate prediction intervals on held-out data.

scikit-learn's diabetes data: 442 patients, of whom 120 train the network and 120 calibrate it.
Left: intervals of level 0.9 for the test patients, sorted by prediction, Gaussian and
conformal; red points lie outside the conformal interval. Right: coverage of the test patients
for every level, over five random splits. It varies from split to split by chance. Here the
Gaussian intervals are about calibrated already; the conformal ones need no assumption about the
noise for that.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes

from sklearn_hfl import HFLRegressor
from sklearn_hfl.metrics import coverage_score

X, y = load_diabetes(return_X_y=True)
levels = np.linspace(0.05, 0.95, 19)
colors = {"gaussian": "tab:orange", "conformal": "tab:blue"}
coverage = {kind: [] for kind in colors}
width = {kind: [] for kind in colors}

for seed in reversed(range(5)):  # the left panel shows the last, seed 0
    order = np.random.default_rng(seed).permutation(len(y))
    train, calibration, test = np.split(order, [120, 240])
    model = HFLRegressor(hidden_layer_sizes=(10,), random_state=0)
    model.fit(X[train], y[train])
    model.conformalize(X[calibration], y[calibration])
    for kind in colors:
        mean, interval = model.predict_interval(X[test], levels, kind)
        coverage[kind].append(
            [coverage_score(y[test], each) for each in np.moveaxis(interval, 2, 0)]
        )
        width[kind].append(np.diff(interval[..., -2], axis=1).mean())  # of level 0.9

for kind in colors:
    print(
        f"{kind:9s} 90 % intervals cover {np.mean(coverage[kind], axis=0)[-2]:.1%} of "
        f"{len(test)} test patients; their mean width is {np.mean(width[kind]):.0f}"
    )

figure, (left, right) = plt.subplots(
    1, 2, figsize=(12, 4.5), width_ratios=(2, 1), layout="constrained"
)
mean = model.predict(X[test])
rows = test[np.argsort(mean)]
place = np.arange(len(rows))
bands = {kind: model.predict_interval(X[rows], 0.9, kind)[1] for kind in colors}
labels = {kind: f"{kind}, covers {coverage_score(y[rows], bands[kind]):.0%}" for kind in colors}
left.fill_between(
    place, *bands["conformal"].T, step="mid", color="tab:blue", alpha=0.25, lw=0,
    label=labels["conformal"],
)  # fmt: skip
for end, label in zip(bands["gaussian"].T, (labels["gaussian"], None), strict=True):
    left.step(place, end, where="mid", color="tab:orange", lw=0.9, label=label)
left.plot(place, np.sort(mean), color="black", lw=1, label="mean")
lower, upper = bands["conformal"].T
outside = (y[rows] < lower) | (y[rows] > upper)
left.scatter(place, y[rows], s=8, c=np.where(outside, "tab:red", "black"), zorder=3)
left.set(xlabel="test patients, sorted by prediction", ylabel="progression after a year")
left.set(title="intervals of level 0.9, one split", xlim=(0, len(rows) - 1))
left.legend(fontsize="small", frameon=False, loc="upper left")

right.plot([0, 1], [0, 1], color="gray", lw=1, label="calibrated")
for kind, color in colors.items():
    right.plot(levels, np.transpose(coverage[kind]), color=color, lw=0.8, alpha=0.4)
    right.plot(levels, np.mean(coverage[kind], axis=0), color=color, lw=2, label=kind)
right.set(xlabel="confidence level", ylabel="coverage of test patients")
right.set(title="five splits, and their mean", xlim=(0, 1), ylim=(0, 1), aspect="equal")
right.legend(fontsize="small", frameon=False)
plt.show()

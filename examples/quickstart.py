"""Quickstart: error bars on a real data set, in one minute.

Fits HFLRegressor to the diabetes data that scikit-learn ships, prints a few
predictions with their standard deviations, and saves a picture.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

from sklearn_hfl import HFLRegressor

data = load_diabetes()
X_train, X_test, y_train, y_test = train_test_split(
    data.data, data.target, test_size=0.25, random_state=0
)

model = HFLRegressor(random_state=0).fit(X_train, y_train)
mean, std = model.predict(X_test, return_std=True)
epistemic = model.predict(X_test, return_std="epistemic")[1]

print("disease progression one year on, with error bars")
print("  mean ± std     (epistemic)       observed")
for row in zip(mean[:6], std[:6], epistemic[:6], y_test[:6], strict=True):
    print("  {:4.0f} ± {:3.0f}   ({:3.0f})                {:4.0f}".format(*row))

half_width = 1.645 * std
coverage = np.mean(np.abs(y_test - mean) <= half_width)
rmse = np.sqrt(np.mean((y_test - mean) ** 2))
print(f"90 % intervals cover {coverage:.0%} of {len(y_test)} test rows; RMSE {rmse:.1f}")
print(
    f"{model.n_iter_} training steps; the data determine {model.n_effective_parameters_:.0f} "
    f"of {model.diagnostics_['n_weights']} weights; noise std {model.noise_std_:.1f}"
)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
order = np.argsort(mean)
position = np.arange(len(order))
inside = (np.abs(y_test - mean) <= half_width)[order]
left.fill_between(
    position, (mean - half_width)[order], (mean + half_width)[order],
    color="tab:blue", alpha=0.2, lw=0, label="90 % interval",
)  # fmt: skip
left.plot(position, mean[order], color="tab:blue", label="mean")
observed = y_test[order]
left.plot(position[inside], observed[inside], ".", color="black", ms=5, label="observed, inside")
left.plot(position[~inside], observed[~inside], "x", color="tab:red", ms=6, label="outside")
left.set(xlabel="test samples, by predicted mean", ylabel="disease progression",
         title=f"{coverage:.0%} of test rows inside")  # fmt: skip
left.legend(frameon=False, fontsize=8)

# One feature varied far beyond the data, the others at their means.
grid = np.linspace(-0.3, 0.4, 200)
bmi = data.feature_names.index("bmi")
rows = np.tile(X_train.mean(axis=0), (200, 1))
rows[:, bmi] = grid
line, total = model.predict(rows, return_std=True)
epistemic = model.predict(rows, return_std="epistemic")[1]
right.fill_between(grid, line - 1.645 * total, line + 1.645 * total,
                   color="tab:blue", alpha=0.15, lw=0, label="90 %, noise included")  # fmt: skip
right.fill_between(grid, line - 1.645 * epistemic, line + 1.645 * epistemic,
                   color="tab:blue", alpha=0.35, lw=0, label="90 %, epistemic only")  # fmt: skip
right.plot(grid, line, color="tab:blue")
right.plot(X_train[:, bmi], y_train, ".", color="0.4", ms=2, label="training rows")
right.set(xlabel="body mass index (standardised units of the data set)",
          title="larger std away from the data")  # fmt: skip
right.legend(frameon=False, fontsize=8, loc="upper left")

path = Path(__file__).with_suffix(".png")
figure.savefig(path, dpi=120)
print(f"picture: {path}")

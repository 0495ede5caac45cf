"""
In-between uncertainty
======================

Error bars grow between two clusters of data.

A cubic with noise, seen in two clusters with a gap between them. Left: the default
`HFLRegressor` and its 95 % bands. Nothing was given: noise, priors and the size of the network
were chosen by the evidence. The epistemic band, that of the function, is narrow at the data and
wide in the gap; with the noise it is the band of new observations.

A single data set may be a lucky one, so the fit is repeated on ten draws of the data, of which
the left shows the first. Right: the epistemic std of each draw, of the first as a thick line. It
rises in the gap every time; how far it rises differs, since 60 rows say little about the gap. The
lines printed below are the coverage of both bands over the ten draws.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_hfl import HFLRegressor

NOISE, DRAWS = 0.1, 10
grid = np.linspace(-1.9, 1.9, 201)
gap = np.abs(grid) < 0.8


def truth(x: np.ndarray) -> np.ndarray:
    return 0.3 * x**3 - x


figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 3.8), width_ratios=(5, 3), layout="constrained"
)
in_band, observed = [], []
for seed in range(DRAWS):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.8, 2, 60) * np.where(np.arange(60) < 30, -1, 1)
    y = truth(x) + NOISE * rng.standard_normal(60)
    model = HFLRegressor(random_state=0).fit(x[:, None], y)
    mean, std = model.predict(grid[:, None], return_std=True)
    epistemic = model.predict(grid[:, None], return_std="epistemic")[1]

    in_band.append(np.abs(mean - truth(grid)) <= 1.96 * epistemic)
    new = truth(grid) + NOISE * rng.standard_normal((100, len(grid)))
    observed.append((np.abs(mean - new) <= 1.96 * std).mean(axis=0))
    right.plot(grid, epistemic, color="tab:blue", lw=2 if seed == 0 else 0.7)
    if seed > 0:
        continue
    # Opaque, so that the swatches of the legend have the colours of the bands.
    for width, color, label in (
        (std, "#d2e4f0", "95 % band of new observations"),
        (epistemic, "#8ab7d8", "95 % band of the function"),
    ):
        left.fill_between(
            grid, mean - 1.96 * width, mean + 1.96 * width, color=color, lw=0, label=label
        )
    left.plot(grid, mean, color="tab:blue", label="mean")
    left.plot(grid, truth(grid), "--", color="tab:orange", lw=2, label="true function")
    left.plot(x, y, ".", color="black", ms=5, label="training rows")

in_band, observed = np.array(in_band), np.array(observed)
for name, share in (("new observations", observed), ("true function", in_band)):
    print(
        f"{name} in their 95 % band, mean of {DRAWS} draws: "
        f"{share.mean():.0%} of all x, {share[:, gap].mean():.0%} of the gap"
    )
left.set(xlabel="x", ylabel="y", xlim=(-1.9, 1.9))
left.legend(frameon=False, fontsize=8, loc="upper right")
right.set(xlabel="x", title=f"epistemic std, {DRAWS} draws of the data", xlim=(-1.9, 1.9))
right.set_ylim(bottom=0)
for axis in (left, right):
    axis.spines[["top", "right"]].set_visible(False)
plt.show()

"""
Population mean
===============

The std of a mean, when prediction errors are correlated.

A survey measured a few of many people, the younger ones more often. What is the std of the mean
over all of them, and of the difference between two regions? Left: the fitted curve of each
region, and the measured people. Right: the std of both numbers, as a functional of the network,
and as if the errors of any two people were independent, which they are not, since one network
predicts all of them. In this sample the difference is 2.3 stds from the truth; by the other std it
would be 22.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_hfl import HFLRegressor

rng = np.random.default_rng(0)


def truth(age: np.ndarray, south: np.ndarray) -> np.ndarray:
    return 2 + np.sin(age / 12) + south * (0.3 + 0.01 * age)


# Everyone: age and region. Measured: sixty, mostly young.
n = 2000
age, south = rng.uniform(18, 90, n), rng.integers(0, 2, n)
people = np.column_stack([age, south])
chance = np.exp(-age / 15)
measured = rng.choice(n, 60, replace=False, p=chance / chance.sum())
y = truth(age, south)[measured] + 0.3 * rng.standard_normal(60)
model = HFLRegressor(hidden_layer_sizes=(20,), random_state=0).fit(people[measured], y)

_, epistemic = model.predict(people, return_std="epistemic")
questions = {
    "mean of all": np.full(n, 1 / n),
    "south minus north": south / south.sum() - (1 - south) / (1 - south).sum(),
}
stds = {}
for name, weights in questions.items():
    value, std = model.predict_functional(people, weights=weights)
    naive = np.sqrt((weights**2) @ epistemic**2)
    stds[name] = (naive, std)
    print(
        f"{name:17s} {value:.2f} ± {std:.3f} (independent rows: ± {naive:.4f}), "
        f"truth {weights @ truth(age, south):.2f}"
    )

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
grid = np.linspace(18, 90, 100)
for region, color, name in ((0, "tab:blue", "north"), (1, "tab:orange", "south")):
    mean, std = model.predict(np.column_stack([grid, np.full(100, region)]), return_std="epistemic")
    left.fill_between(grid, mean - 1.96 * std, mean + 1.96 * std, color=color, alpha=0.2, lw=0)
    left.plot(grid, mean, color=color, label=name)
    left.plot(grid, truth(grid, region), color=color, ls=":", lw=1)
    own = south[measured] == region
    left.plot(age[measured][own], y[own], ".", color=color, ms=5)
left.set(xlabel="age", ylabel="y", title="60 of 2000 measured (dotted: truth)", ylim=(-1, 8))
left.legend(loc="upper left")
left.spines[["top", "right"]].set_visible(False)

places = np.arange(len(stds))
labels = ("assuming independent errors", "predict_functional")
for i, (label, color) in enumerate(zip(labels, ("0.7", "tab:green"), strict=True)):
    heights = [pair[i] for pair in stds.values()]
    bars = right.bar(places + 0.38 * (i - 0.5), heights, 0.36, color=color, label=label)
    right.bar_label(bars, fmt="%.3f", padding=2)
right.margins(y=0.1)
right.set(xticks=places, xticklabels=list(stds), ylabel="std", title="std of each functional")
right.legend()
right.spines[["top", "right"]].set_visible(False)
plt.show()

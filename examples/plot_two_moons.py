"""
Two moons
=========

Class probabilities and their std away from the data.

Left: the moderated probability of the second class. Middle: the standard deviation of the
probability, large along the decision boundary where there are no data. Right: the mutual
information between the label and the weights.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_moons

from sklearn_hfl import HFLClassifier

X, y = make_moons(120, noise=0.15, random_state=0)
model = HFLClassifier(random_state=0).fit(X, y)

side = np.linspace(-1, 1, 101)
grid = np.stack(np.meshgrid(0.5 + 4 * side, 0.25 + 3 * side), axis=-1)
result = model.predict_uncertainty(grid.reshape(-1, 2))
panels = (
    ("P(second class)", result.proba[:, 1], "RdBu", (0, 1)),
    ("std of the probability", result.proba_std[:, 1], "viridis", (0, 0.5)),
    ("mutual information (nats)", result.mutual_information, "viridis", (0, None)),
)
figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), sharey=True, layout="constrained")
for axis, (title, values, colors, (low, high)) in zip(axes, panels, strict=True):
    image = axis.pcolormesh(
        grid[..., 0], grid[..., 1], values.reshape(grid.shape[:2]),
        cmap=colors, vmin=low, vmax=high, shading="gouraud", rasterized=True,
    )  # fmt: skip
    figure.colorbar(image, ax=axis)
    axis.contour(
        grid[..., 0], grid[..., 1], result.proba[:, 1].reshape(grid.shape[:2]),
        levels=[0.5], colors="white", linewidths=1,
    )  # fmt: skip
    for label, color in ((0, "tab:red"), (1, "tab:blue")):
        axis.plot(*X[y == label].T, ".", color=color, mec="white", mew=0.4, ms=7)
    axis.set(title=title, xlabel="x₁")
axes[0].set_ylabel("x₂")

near = model.predict_uncertainty(X).mutual_information.mean()
corners = [[-3.5, -2.75], [4.5, -2.75], [-3.5, 3.25], [4.5, 3.25]]
far = model.predict_uncertainty(corners).mutual_information.mean()
print(f"training accuracy: {model.score(X, y):.3f}")
print(
    f"mean mutual information on the training data: {near:.3f} nats, in the corners: {far:.3f} nats"
)
plt.show()

"""
In-between uncertainty
======================

Error bars of the network and of its linearisation in a gap.

Two clusters of training data from a sine with known noise, and a gap between them. Left: the
network's linearisation (curvature: Gauss-Newton). Right: the perturbed optima of the network
itself (the paper's method, curvature: exact Hessian).
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_hfl import HFLRegressor

rng = np.random.default_rng(1)
x = rng.uniform(-2, 2, 32)
x = np.where(x < 0, x / 2 - 1, x / 2 + 1)


def truth(x: np.ndarray) -> np.ndarray:
    return -np.sin(3 * x - 0.3)


y = truth(x) + 0.1 * rng.standard_normal(32)
grid = np.linspace(-2.5, 2.5, 201)

figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
for axis, variance in zip(axes, ("linearized", "network"), strict=True):
    model = HFLRegressor(
        prior_precision=1.0, noise_std=0.1, normalize_X=False, normalize_y=False,
        variance=variance, random_state=0,
    ).fit(x[:, None], y)  # fmt: skip
    result = model.predict_uncertainty(grid[:, None])
    for std, alpha, label in (
        (result.std, 0.15, "± 1.96 std, noise included"),
        (result.epistemic_std, 0.35, "± 1.96 std, epistemic"),
    ):
        axis.fill_between(
            grid, result.mean - 1.96 * std, result.mean + 1.96 * std,
            color="tab:blue", alpha=alpha, lw=0, label=label,
        )  # fmt: skip
    axis.plot(grid, result.mean, color="tab:blue", label="mean")
    axis.plot(grid, truth(grid), "--", color="tab:orange", label="true function")
    axis.plot(x, y, ".", color="black", label="32 training points")
    inside = np.abs(grid) <= 1
    covered = np.abs(result.mean - truth(grid)) <= 1.96 * result.epistemic_std
    axis.set(title=f'variance="{variance}"', xlabel="x", ylim=(-4, 4))
    print(
        f"{variance:10s} true function covered: {covered[inside].mean():.0%} of the gap, "
        f"{covered.mean():.0%} of the range; {result.converged.mean():.0%} of rows converged"
    )
axes[0].set_ylabel("y")
axes[0].legend(frameon=False, fontsize=8, loc="upper left", ncols=2)
plt.show()

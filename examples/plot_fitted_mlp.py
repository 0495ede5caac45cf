"""
A fitted MLPRegressor with error bars
=====================================

Add error bars to a fitted network.

`HFLRegressor.from_mlp` takes the weights of a fitted MLPRegressor and its penalty `alpha`, which
is a Gaussian prior, and gives the same predictions with their standard deviations. Left: trained
to convergence. Right: "adam" stopped early; the warning says how far from the MAP it is, and
`polish=True` continues training from there.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

from sklearn_hfl import HFLRegressor, HFLWarning
from sklearn_hfl.plotting import PredictionIntervalDisplay

rng = np.random.default_rng(0)
x = np.concatenate([rng.uniform(-2, -0.8, 40), rng.uniform(0.5, 1.6, 40)])
X, y = x[:, None], np.sin(3 * x) + 0.15 * rng.standard_normal(80)
grid = np.linspace(-2.6, 2.4, 200)[:, None]

settings = {"hidden_layer_sizes": (30,), "activation": "tanh", "alpha": 0.1, "random_state": 0}
converged = MLPRegressor(**settings, solver="lbfgs", max_iter=20_000, max_fun=10**6, tol=1e-8)
stopped = MLPRegressor(**settings, solver="adam", learning_rate_init=0.01, max_iter=300)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ConvergenceWarning)
    converged.fit(X, y)
    stopped.fit(X, y)

model = HFLRegressor.from_mlp(converged, X, y)
difference = np.abs(model.predict(grid) - converged.predict(grid)).max()
print(f"lbfgs: predictions differ by {difference:.0e}, noise std {model.noise_std_:.3f}")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    HFLRegressor.from_mlp(stopped, X, y)
print("adam:", next(str(w.message) for w in caught if issubclass(w.category, HFLWarning)))
polished = HFLRegressor.from_mlp(stopped, X, y, polish=True)
print(f"adam, polished: ‖∇L‖ {polished.grad_norm_:.1e}, noise std {polished.noise_std_:.3f}")

figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", sharey=True)
for axis, (mlp, fitted, title) in zip(
    axes,
    [
        (converged, model, "MLPRegressor(solver='lbfgs')"),
        (stopped, polished, "MLPRegressor(solver='adam'), polished"),
    ],
    strict=True,
):
    PredictionIntervalDisplay.from_estimator(fitted, X, y, ax=axis)
    axis.plot(grid, mlp.predict(grid), "k:", label="MLPRegressor")
    axis.set(title=title, xlabel="x", ylim=(-3.5, 3.5))
    axis.legend(fontsize=8, loc="upper right")
plt.show()

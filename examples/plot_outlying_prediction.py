"""
Which rows made this prediction?
================================

Trace an outlying prediction to the rows behind it.

A sensor drifts with temperature, and one of the few readings between 0 and 12 °C is wrong, which
makes the fit warn of heavy tails. Left: the fit. Middle: the leave-one-out residual of each
training row against its leverage; a row's own prediction moves by the product of both, of 0.5, 1 or
2 stds on the dotted lines, and the row where it is largest is named. Right: the training rows that
move the prediction at 5 °C most, and by how much each would change it if it were left out. All of
this comes from one fit, without any refit.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_hfl import HFLRegressor
from sklearn_hfl.plotting import InfluenceDisplay, LeaveOneOutDisplay, PredictionIntervalDisplay

rng = np.random.default_rng(0)
temperature = np.concatenate(
    [rng.uniform(-10, 0, 40), np.linspace(1, 11, 7), rng.uniform(12, 25, 40)]
)
drift = np.sin(temperature / 6) + 0.1 * rng.standard_normal(87)
drift[43] -= 1.0  # the wrong reading
X = temperature[:, None]
names = np.array([f"row {i}, {t:.1f} °C" for i, t in enumerate(temperature)])

model = HFLRegressor(hidden_layer_sizes=(3,), random_state=0).fit(X, drift)
query = [[5.0]]
((mean,), (std,)) = model.predict(query, return_std=True)
((worst, *_),), ((change, *_),) = model.influence(query, top=3)
print(f"drift at 5 °C: {mean:.2f} ± {std:.2f}, in truth {np.sin(5 / 6):.2f}")
print(f"without {names[worst]}: {mean + change:.2f}")

figure, (fit, left, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
PredictionIntervalDisplay.from_estimator(model, X, drift, ax=fit)
fit.plot(query[0], mean, "kD", label="prediction at 5 °C")
fit.set(title="the fit", xlabel="temperature, °C", ylabel="drift", ylim=(-3.2, 1.5))
fit.legend(fontsize="small", loc="lower left")
LeaveOneOutDisplay.from_estimator(model, drift, names=names, n_named=1, ax=left)
left.set_title("rows that move the fit")
InfluenceDisplay.from_estimator(model, query, names=names, n_rows=6, ax=right)
right.set(title="rows behind the prediction at 5 °C", ylabel="")
plt.show()

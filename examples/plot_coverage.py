"""
Coverage
========

Empirical against nominal coverage, and parts of the std.

A sine with a gap in the inputs. Left: mean and intervals. Middle: coverage of intervals of
every level on test data from the same distribution: of the network, of the network without the
noise (these intervals are for the mean, not for new observations), and of a linear model.
Right: epistemic and aleatoric part of the std against the input, and the errors: the root mean
square of those in a bin is what the total std should be.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import BayesianRidge

from sklearn_hfl import HFLRegressor
from sklearn_hfl.metrics import coverage_scorer, crps_scorer, nlpd_scorer
from sklearn_hfl.plotting import (
    CoverageDisplay,
    PredictionIntervalDisplay,
    UncertaintyDecompositionDisplay,
)


def rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.4, 2, n) * rng.choice([-1, 1], n)
    return x[:, None], np.sin(3 * x) + 0.2 * rng.standard_normal(n)


X, y = rows(60, seed=0)
X_test, y_test = rows(400, seed=1)
models = [HFLRegressor(random_state=0).fit(X, y), BayesianRidge().fit(X, y)]

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
PredictionIntervalDisplay.from_estimator(models[0], X, y, ax=left)
left.set(title="HFLRegressor", ylim=(-4, 4))
for model, color in zip(models, ("tab:blue", "tab:red"), strict=True):
    CoverageDisplay.from_estimator(model, X_test, y_test, ax=middle, color=color)
    scores = (scorer(model, X_test, y_test) for scorer in (nlpd_scorer, crps_scorer))
    print(
        "{:13s} minus NLPD {:.2f}, minus CRPS {:.3f}, ".format(type(model).__name__, *scores)
        + f"90 % intervals off by {-coverage_scorer(model, X_test, y_test):.1%}"
    )
mean, epistemic_std = models[0].predict(X_test, return_std="epistemic")
CoverageDisplay.from_predictions(
    y_test, mean, epistemic_std, name="epistemic std only", ax=middle,
    color="tab:blue", ls=":",
)  # fmt: skip
middle.set(title="400 test points")
UncertaintyDecompositionDisplay.from_estimator(models[0], X_test, y_test, feature=0, ax=right)
right.set(title="decomposition of the std", xlabel="x")
plt.show()

"""
Grid search
===========

Select hyperparameters by log predictive density.

A pipeline of a transformer and the network, searched over prior precision and hidden units
with two scores. R² measures only the mean; the log density also measures the error bars. Here
both choose the same prior and size. Weak priors over-fit 150 rows, of which a fit would warn: the
search is there to find that out.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer

from sklearn_hfl import HFLDataWarning, HFLRegressor
from sklearn_hfl.metrics import coverage_scorer, nlpd_scorer

X, y = load_diabetes(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, train_size=150, random_state=0)

warnings.simplefilter("ignore", HFLDataWarning)
priors, sizes = [0.1, 1.0, 10.0, 100.0], [(3,), (10,), (30,)]
search = GridSearchCV(
    make_pipeline(PowerTransformer(), HFLRegressor(max_iter=200, n_estimators=1, random_state=0)),
    {"hflregressor__prior_precision": priors, "hflregressor__hidden_layer_sizes": sizes},
    scoring={"log density": nlpd_scorer, "R²": "r2"},
    refit="log density",
    cv=3,
).fit(X_train, y_train)
chosen = search.best_params_
print(
    f"chosen: prior_precision={chosen['hflregressor__prior_precision']}, "
    f"hidden_layer_sizes={chosen['hflregressor__hidden_layer_sizes']}"
)
best = search.best_estimator_
mean, std = best.predict(X_test[:3], return_std=True)
print(
    "three test patients:", ", ".join(f"{m:.0f} ± {s:.0f}" for m, s in zip(mean, std, strict=True))
)
print(
    f"test data: minus NLPD {nlpd_scorer(best, X_test, y_test):.2f}, R² "
    f"{best.score(X_test, y_test):.2f}, 90 % intervals off by "
    f"{-coverage_scorer(best, X_test, y_test):.1%}"
)

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for axis, name in zip(axes, ("log density", "R²"), strict=True):
    results = search.cv_results_[f"mean_test_{name}"]
    # The grid varies its last parameter, the prior, fastest.
    scores = results.reshape(len(sizes), len(priors))
    image = axis.imshow(scores, vmin=np.quantile(scores, 0.2), aspect="auto")
    row, column = np.unravel_index(scores.argmax(), scores.shape)
    axis.plot(column, row, "o", ms=26, mfc="none", mec="red", mew=2)
    for (i, j), score in np.ndenumerate(scores):
        color = "black" if image.norm(score) > 0.6 else "white"
        axis.text(j, i, f"{score:.2f}", ha="center", va="center", color=color)
    axis.set_xticks(range(len(priors)), priors)
    axis.set_yticks(range(len(sizes)), [size[0] for size in sizes])
    axis.set(xlabel="prior_precision", ylabel="hidden units", title=f"{name}, cross-validated")
    figure.colorbar(image, ax=axis)
plt.show()

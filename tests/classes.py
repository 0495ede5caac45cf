"""Classes: small problems, and the dense matrix that classifiers are compared with."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_breast_cancer, load_iris, load_wine, make_moons

from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.uncertainty.exact import dense_ggn, exact_covariance

SMALL = {"hidden_layer_sizes": (4,), "n_estimators": 1, "prior_precision": 1.0, "random_state": 0}
SETS = {"iris": load_iris, "wine": load_wine, "breast_cancer": load_breast_cancer}


def three_classes(n=60, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    X = rng.standard_normal((n, 2)) + np.array([[0, 0], [2, 0], [0, 2]])[y]
    return X, y


def two_classes(n=60):
    return make_moons(n, noise=0.2, random_state=0)


def halves(X, y):
    order = np.random.default_rng(0).permutation(len(X))
    half = len(X) // 2
    return X[order[:half]], y[order[:half]], X[order[half:]]


def dense_std(model, X, link, matrix=dense_ggn):
    """Std of the link's values from a dense matrix, (Q, C); NaN where it is negative."""
    estimate = model.members_[0].estimate
    lp, weights = estimate.log_posterior, estimate.weights
    gradient = Prediction(lp.network, model._queries(X), link).gradient(weights)
    variance = exact_covariance(matrix(lp, weights), gradient).diagonal().reshape(len(X), -1)
    return variance.sqrt().numpy()

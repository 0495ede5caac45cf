"""Regression: small problems, models that are fitted once, and exact stds of them."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy.special import erf, expit

from sklearn_hfl import HFLRegressor
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.uncertainty.exact import dense_ggn, exact_covariance

KNOWN = {
    "hidden_layer_sizes": (5,),
    "n_estimators": 1,
    "prior_precision": 1.0,
    "noise_std": 0.2,
    "tol": 0.0,  # to the very MAP
    "random_state": 0,
}
SMALL = {
    "hidden_layer_sizes": (4,),
    "n_estimators": 1,
    "prior_precision": 1.0,
    "noise_std": 0.3,
    "random_state": 0,
}
RAW = {**KNOWN, "normalize_X": False, "normalize_y": False}
LINEAR = {**RAW, "hidden_layer_sizes": ()}
QUERIES = np.random.default_rng(1).uniform(-2, 2, (7, 2))
ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "silu": lambda z: z * expit(z),
    "gelu": lambda z: 0.5 * z * (1 + erf(z / np.sqrt(2))),
    "logistic": expit,
}

# An optimum of relu units may lie at a kink, where no gradient vanishes.
at_a_kink = pytest.mark.filterwarnings("ignore:The MAP is not stationary")


def data(n=40, n_outputs=None):
    """Rows (n, 2) and smooth targets, (n,) or (n, n_outputs), with noise of std 0.1."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (n, 2))
    columns = [np.sin(3 * X[:, 0]) + X[:, 1], X[:, 0] * X[:, 1], X[:, 1] ** 2]
    y = np.column_stack(columns)[:, : n_outputs or 1] + 0.1 * rng.standard_normal((n, 1))
    return X, y if n_outputs else y[:, 0]


@functools.cache
def fitted(n_outputs=None, **params):
    """A model of so many outputs, fitted once; tests leave it as it is."""
    return HFLRegressor(**{**KNOWN, **params}).fit(*data(n_outputs=n_outputs))


def exact_stds(model, X, matrix=dense_ggn):
    """Epistemic std (n, K) of each member by dense algebra."""
    stds = []
    queries = torch.as_tensor(model._x_scaler.transform(X), dtype=torch.float64)
    for member in model.members_:
        estimate = member.estimate
        log_posterior, weights = estimate.log_posterior, estimate.weights
        gradient = Prediction(log_posterior.network, queries).gradient(weights)
        cov = exact_covariance(matrix(log_posterior, weights), gradient)
        std = cov.diagonal().sqrt().reshape(len(X), -1).numpy()
        stds.append(std * model._y_scaler.scale)
    return stds


def exact_std(model, X, matrix=dense_ggn):
    """The same of a single member with one output, (n,)."""
    (std,) = exact_stds(model, X, matrix)
    return std[:, 0]

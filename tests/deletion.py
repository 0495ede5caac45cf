"""Deletion: models whose training rows are left out, and the fits without them."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import torch

from sklearn_hfl import HFLClassifier, HFLRegressor
from sklearn_hfl.optim.newton_cg import NewtonCG
from tests.cases import generator
from tests.classes import SMALL, three_classes, two_classes
from tests.regression import KNOWN, LINEAR, data

COUNTS = np.random.default_rng(3).integers(0, 3, 40)

WEIGHT = np.where(COUNTS == 1, 0.6, COUNTS)

CASES = {
    "standardised": ({"normalize_X": True, "normalize_y": True}, None, None),
    "in raw units": ({}, None, None),
    "weighted": ({}, None, WEIGHT),
    "two outputs": ({"noise_std": [0.1, 0.3], "normalize_y": True}, 2, None),
}


class Ridge:
    """Bayesian linear regression in the units of a fit, with weights (n, D + 1) by hand."""

    def __init__(self, model, X, y, weight):
        self.model, self.weight = model, weight
        self.scale, self.y = model._y_scaler.scale, model._y_scaler.transform(y)
        self.X = self.features(X)
        self.beta = (np.broadcast_to(model.noise_std, self.scale.shape) / self.scale) ** -2.0

    def features(self, X):
        return np.column_stack([self.model._x_scaler.transform(X), np.ones(len(X))])

    def fit(self, weight):
        """Coefficients and their covariance, of each output."""
        for k, beta in enumerate(self.beta):
            A = beta * (self.X.T * weight) @ self.X + self.model.prior_precision * np.eye(3)
            yield np.linalg.solve(A, beta * self.X.T @ (weight * self.y[:, k])), np.linalg.inv(A)

    def without(self, row):
        weight = self.weight.copy()
        weight[row] -= min(weight[row], 1)
        return self.fit(weight)

    def mean(self, X, fits):
        columns = [self.features(X) @ coef for coef, _ in fits]
        return self.model._y_scaler.inverse(np.column_stack(columns))

    def std(self, X, fits):
        Z = self.features(X)
        parts = [((Z @ C) * Z).sum(1) + 1 / b for (_, C), b in zip(fits, self.beta, strict=True)]
        return np.sqrt(np.column_stack(parts)) * self.scale


@functools.cache
def linear(name):
    """A linear model, its rows of positive weight, and the ridge regression that it is."""
    params, n_outputs, weight = CASES[name]
    X, y = data(n_outputs=n_outputs)
    y = 3 + 2 * y
    model = HFLRegressor(**{**LINEAR, **params}).fit(X, y, sample_weight=weight)
    weight = np.ones(len(X)) if weight is None else weight
    used = np.flatnonzero(weight)
    y = y.reshape(len(y), -1)
    return model, X[used], y[used], used, Ridge(model, X[used], y[used], weight[used])


def columns(values):
    return values.reshape(len(values), -1)


NETWORKS = {
    "one output": (HFLRegressor, {**KNOWN, "std_rtol": 1e-7}, data),
    "two outputs": (HFLRegressor, {**KNOWN, "std_rtol": 1e-7}, lambda: data(n_outputs=2)),
    "varying noise": (
        HFLRegressor,
        {**KNOWN, "noise_std": "evidence", "likelihood": "heteroscedastic", "std_rtol": 1e-7},
        data,
    ),
    "two members": (HFLRegressor, {**KNOWN, "n_estimators": 2, "std_rtol": 1e-7}, data),
    "two classes": (HFLClassifier, {**SMALL, "std_rtol": 1e-7, "tol": 0.0}, two_classes),
    "three classes": (HFLClassifier, {**SMALL, "std_rtol": 1e-7, "tol": 0.0}, three_classes),
}


@functools.cache
def network(name):
    make, params, rows = NETWORKS[name]
    X, y = rows()
    weight = np.where(np.arange(len(X)) % 4 == 1, 2.0, 1.0)
    weight[5] = 0
    return make(**params).fit(X, y, sample_weight=weight), X


def softmax(logits):
    if logits.shape[-1] == 1:
        logits = torch.cat([0 * logits, logits], -1)
    return logits.softmax(-1)


def refitted(member, row):
    """Weights of the network trained on without a row, by another optimiser."""
    lp = member.estimate.log_posterior
    weight = lp.sample_weight.clone()
    weight[row] -= weight[row].clamp(max=1.0)
    trainer = NewtonCG(500, tol=0.0, n_iter_no_change=10, decrement_tol=1e-9)
    without = replace(lp, sample_weight=weight)
    return trainer.train(without, member.estimate.weights, generator(0)).weights


DETERMINED = {
    "one output": (HFLRegressor, lambda: data(120), 0.999),
    "two outputs": (HFLRegressor, lambda: data(120, n_outputs=2), 0.99),
    "two classes": (HFLClassifier, lambda: two_classes(120), 0.999),
    "three classes": (HFLClassifier, lambda: three_classes(120), 0.999),
}


@functools.cache
def determined(name):
    """A model whose weights the data determine, so that refits stay near."""
    make, rows, _ = DETERMINED[name]
    params = {**KNOWN, "noise_std": 0.1} if make is HFLRegressor else {**SMALL, "tol": 0.0}
    X, y = rows()
    return make(**{**params, "variance": "network"}).fit(X, y), X

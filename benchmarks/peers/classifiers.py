"""Peers in classification: each fits (X, y) and returns a predictor of probabilities."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from peers.regressors import MLP, N_MEMBERS
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

__all__ = ["PredictProba", "boosting", "ensemble"]

PredictProba = Callable[[np.ndarray], np.ndarray]


def ensemble(
    X: np.ndarray, y: np.ndarray, seed: int, n_members: int = N_MEMBERS, **params: object
) -> PredictProba:
    """MLPClassifiers on standardised data, whose probabilities are averaged."""
    scaler = StandardScaler().fit(X)
    members = [
        MLPClassifier(random_state=1000 * seed + member, **{**MLP, **params}).fit(
            scaler.transform(X), y
        )
        for member in range(n_members)
    ]
    return lambda X_new: np.mean(
        [member.predict_proba(scaler.transform(X_new)) for member in members], axis=0
    )


def boosting(X: np.ndarray, y: np.ndarray, seed: int) -> PredictProba:
    """Histogram boosting with the defaults."""
    return HistGradientBoostingClassifier(random_state=seed).fit(X, y).predict_proba

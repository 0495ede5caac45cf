"""Peers of tables.py: each fits (X, y) and returns a predictor of forecasts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from catboost import CatBoostRegressor
from forecasts import CENTILES, LEVEL, Forecast, normal
from mapie.regression import CrossConformalRegressor
from ngboost import NGBRegressor
from peers.regressors import (
    Predict,
    Prediction,
    bayesian_ridge,
    deep_ensemble,
    gaussian_process,
    laplace_torch,
    standardized,
)
from pytabkit import RealMLP_TD_Regressor
from quantile_forest import RandomForestQuantileRegressor
from sklearn.ensemble import HistGradientBoostingRegressor

from sklearn_hfl import HFLRegressor

__all__ = ["DEFAULT", "METHODS", "THROUGH_LOG", "Forecaster"]

Forecaster = Callable[[np.ndarray], Forecast]
Fit = Callable[[np.ndarray, np.ndarray, int], Forecaster]

DEFAULT = "HFLRegressor"
N_CALIBRATION_FOLDS = 5
# MAPIE compares each query with each training row: so many queries at a time.
MAX_QUERIES = 500


def hfl(**params: object) -> Fit:
    """HFLRegressor with the defaults and the given parameters."""

    def fit(X: np.ndarray, y: np.ndarray, seed: int) -> Forecaster:
        model = HFLRegressor(random_state=seed, **params).fit(X, y)

        def predict(Q: np.ndarray) -> Forecast:
            mean, interval = model.predict(Q, return_interval=LEVEL)
            distribution, members = model.predict_distribution(Q), model.members_
            heavy = any(member.diagnostics.heavy_tailed for member in members)
            return Forecast(mean, interval, distribution, heavy_tailed=heavy)

        return predict

    return fit


def gaussian(fit_moments: Callable[..., Predict]) -> Fit:
    """Normal distributions with the mean and the std that a method predicts."""

    def fit(X: np.ndarray, y: np.ndarray, seed: int) -> Forecaster:
        predict = fit_moments(X, y, seed)
        return lambda Q: normal(*predict(Q))

    return fit


def through_log(fit_log: Fit) -> Fit:
    """Fit log y; forecast y."""

    def fit(X: np.ndarray, y: np.ndarray, seed: int) -> Forecaster:
        predict = fit_log(X, np.log(y), seed)
        return lambda Q: predict(Q).exponential()

    return fit


def ngboost(X: np.ndarray, y: np.ndarray, seed: int) -> Predict:
    """NGBRegressor's defaults."""
    model = NGBRegressor(random_state=seed, verbose=False).fit(X, y)

    def predict(Q: np.ndarray) -> Prediction:
        found = model.pred_dist(Q).params
        return found["loc"], found["scale"]

    return predict


@standardized
def catboost(X: np.ndarray, y: np.ndarray, seed: int) -> Predict:
    """RMSEWithUncertainty with its defaults; knowledge and data variance of virtual ensembles."""
    model = CatBoostRegressor(
        loss_function="RMSEWithUncertainty", posterior_sampling=True, random_seed=seed,
        thread_count=1, verbose=False, allow_writing_files=False,
    ).fit(X, y)  # fmt: skip

    def predict(Q: np.ndarray) -> Prediction:
        mean, knowledge, data = model.virtual_ensembles_predict(
            Q, prediction_type="TotalUncertainty", thread_count=1
        ).T
        return mean, np.sqrt(knowledge + data)

    return predict


def conformal_boosting(X: np.ndarray, y: np.ndarray, seed: int) -> Forecaster:
    """Histogram boosting's defaults with MAPIE's CV+ intervals.

    CV+ sorts the residuals of all training rows for each query and level, too long for the
    many levels of the CRPS: its centiles are those of the residuals of the same folds, of one
    shape for all queries (``method="base"``).
    """
    # Two centiles, 1 % and 99 % to 49 % and 51 %, are the ends of an interval around the median.
    levels = (CENTILES[-1:49:-1] - CENTILES[:49]).round(2)

    def conformal(method: str, confidence_level: list[float]) -> CrossConformalRegressor:
        model = HistGradientBoostingRegressor(random_state=seed)
        regressor = CrossConformalRegressor(
            model, confidence_level=confidence_level, method=method,
            cv=N_CALIBRATION_FOLDS, random_state=seed,
        )  # fmt: skip
        return regressor.fit_conformalize(X, y)

    plus, base = conformal("plus", [LEVEL]), conformal("base", levels.tolist())

    def predict(Q: np.ndarray) -> Forecast:
        parts = np.array_split(Q, -(-len(Q) // MAX_QUERIES))
        interval = np.concatenate([plus.predict_interval(part)[1][..., 0] for part in parts])
        mean, ends = base.predict_interval(Q)
        low, high = ends[:, 0], ends[:, 1]
        median = (low[:, -1:] + high[:, -1:]) / 2
        quantiles = np.concatenate([low, median, high[:, ::-1]], axis=1)
        return Forecast(mean, interval, quantiles=quantiles)

    return predict


def quantile_forest(X: np.ndarray, y: np.ndarray, seed: int) -> Forecaster:
    """RandomForestQuantileRegressor's defaults."""
    model = RandomForestQuantileRegressor(random_state=seed).fit(X, y)

    def predict(Q: np.ndarray) -> Forecast:
        quantiles = model.predict(Q, quantiles=CENTILES.tolist())
        mean = model.predict(Q, quantiles="mean")
        return Forecast(mean, quantiles[:, [4, 94]], quantiles=quantiles)

    return predict


def real_mlp(X: np.ndarray, y: np.ndarray, seed: int) -> Forecaster:
    """RealMLP with its tuned defaults, which predicts no spread."""
    model = RealMLP_TD_Regressor(device="cpu", n_threads=1, random_state=seed, verbosity=0)
    model.fit(X, y)
    return lambda Q: Forecast(model.predict(Q).ravel())


METHODS: dict[str, Fit] = {
    DEFAULT: hfl(),
    "HFLRegressor, heteroscedastic": hfl(likelihood="heteroscedastic"),
    "5 MLPRegressors": gaussian(deep_ensemble),
    "boosting, MAPIE CV+": conformal_boosting,
    "NGBoost": gaussian(ngboost),
    "CatBoost, virtual ensembles": gaussian(catboost),
    "BayesianRidge": gaussian(bayesian_ridge),
    # One length scale for each of dozens of one-hot columns overfits: on a fold of mlb1 the log
    # density was −39 in the mean, with one for all −15.
    "GaussianProcessRegressor": gaussian(partial(gaussian_process, isotropic=True)),
    "quantile-forest": quantile_forest,
    "laplace-torch, full": gaussian(laplace_torch),
    "RealMLP": real_mlp,
}
# Besides, where the target is positive and skewed.
THROUGH_LOG: dict[str, Fit] = {
    f"{name}, log y": through_log(METHODS[name]) for name in (DEFAULT, "NGBoost")
}
METHODS |= THROUGH_LOG

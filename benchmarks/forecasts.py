"""Forecasts: what a method predicts of y in each row, and how well observed values agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from sklearn_hfl.metrics import coverage_score, crps_gaussian

__all__ = ["CENTILES", "FIGURES", "LEVEL", "Forecast", "normal", "scores"]

Array = np.ndarray

LEVEL = 0.9
CENTILES = np.arange(1, 100) / 100
FIGURES = ("log_density", "crps", "coverage", "width", "rmse")


@dataclass(frozen=True)
class Forecast:
    """Prediction for n rows; None is what a method does not predict.

    The mean (n,), the ends of 90 % intervals (n, 2), the distributions, whose ``logpdf`` and
    ``ppf`` are scipy's, and the 99 centiles (n, 99) where there are quantiles without a density,
    or a distribution that is no mixture of normal ones. Whether the fit reported heavy tails.
    """

    mean: Array
    interval: Array | None = None
    distribution: Any = None
    quantiles: Array | None = None
    heavy_tailed: bool | None = None

    def exponential(self) -> Forecast:
        """Forecast of y, from this one of log y: quantiles are equivariant, means are not."""
        of_y = None if self.distribution is None else OfLog(self.distribution)
        centiles = self.quantiles if of_y is None else self.distribution.ppf(CENTILES[:, None]).T
        mean = np.exp(centiles).mean(1) if of_y is None else of_y.mean()
        ends = np.exp(self.interval)
        return Forecast(mean, ends, of_y, np.exp(centiles), self.heavy_tailed)


@dataclass(frozen=True)
class OfLog:
    """Distributions of y where those of log y are normal, or equal mixtures of normal ones."""

    of_log: Any

    def logpdf(self, y: Array) -> Array:
        """Log density, with the Jacobian 1/y."""
        return self.of_log.logpdf(np.log(y)) - np.log(y)

    def mean(self) -> Array:
        """Mean of log-normal distributions, over the members of a mixture."""
        means = getattr(self.of_log, "means", self.of_log.mean()[:, None])
        stds = getattr(self.of_log, "stds", self.of_log.std()[:, None])
        return np.exp(means + stds**2 / 2).mean(-1)


def normal(mean: Array, std: Array) -> Forecast:
    distribution = norm(mean, std)
    return Forecast(mean, np.stack(distribution.interval(LEVEL), axis=1), distribution)


def scores(forecast: Forecast, y: Array) -> dict[str, float]:
    """Means over rows, in units of y; a score that the forecast does not admit is left out."""
    found = {"rmse": np.sqrt(np.mean((y - forecast.mean) ** 2))}
    if forecast.interval is not None:
        found["coverage"] = coverage_score(y, forecast.interval)
        found["width"] = np.mean(forecast.interval[:, 1] - forecast.interval[:, 0])
    if forecast.distribution is not None:
        found["log_density"] = np.mean(forecast.distribution.logpdf(y))
    if forecast.quantiles is not None:
        found["crps"] = crps_of_centiles(forecast.quantiles, y)
    elif forecast.distribution is not None:
        found["crps"] = crps_gaussian(y, forecast.distribution)
    return {name: float(value) for name, value in found.items()}


def crps_of_centiles(quantiles: Array, y: Array) -> float:
    """Twice the integral of the pinball loss over the levels, by the trapezoidal rule.

    The loss tends to 0 at the levels 0 and 1; for the normal distribution the sum is within
    0.02 % of the integral, and the mean of the 99 losses 1 % above it.
    """
    error = y[:, None] - quantiles
    pinball = np.maximum(CENTILES * error, (CENTILES - 1) * error)
    return float(2 * pinball.sum(1).mean() * (CENTILES[1] - CENTILES[0]))

"""Scores of predictive distributions and intervals against observed values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erf
from sklearn.utils import check_array

from sklearn_hfl._data.columns import numbers_expected
from sklearn_hfl._data.moments import Array, check_level, check_std, check_values
from sklearn_hfl._data.normal_mixture import NormalMixture

__all__ = [
    "column_means",
    "coverage_score",
    "crps_gaussian",
    "ends_of",
    "gaussians",
    "interval_score",
    "negative_log_predictive_density",
    "predicted",
]


def negative_log_predictive_density(
    y_true: ArrayLike,
    mean: Any,
    std: ArrayLike | None = None,
    *,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Mean of −log p(y), in nats; smaller is better.

    Parameters
    ----------
    y_true : array-like of shape (n,) or (n, n_outputs)
        Observed values.
    mean : array-like of the same shape, or distribution
        Mean of each Gaussian predictive distribution; or the distributions themselves,
        without ``std``: an object whose ``logpdf`` and ``mean`` have the shape of y_true,
        such as ``HFLRegressor.predict_distribution`` or a frozen one of ``scipy.stats``.
    std : array-like of the same shape, default=None
        Standard deviation of each Gaussian, noise included.
    sample_weight : array-like of shape (n,), default=None
        Weights of the rows.

    Returns
    -------
    float
        Mean over rows, and over outputs.

    Examples
    --------
    >>> from scipy.stats import lognorm
    >>> from sklearn_hfl.metrics import negative_log_predictive_density
    >>> round(negative_log_predictive_density([0.0, 1.0], [0.0, 0.0], [1.0, 1.0]), 4)
    1.1689
    >>> skewed = lognorm(s=[0.5, 0.5], scale=[1.0, 2.0])
    >>> round(negative_log_predictive_density([1.0, 2.0], skewed), 4)
    0.5724
    """
    y, distribution = predicted(y_true, mean, std)
    losses = -np.asarray(distribution.logpdf(y))
    undefined = np.isnan(losses)
    if undefined.any():
        raise ValueError(
            f"Expected a distribution with a density at each value of y_true, but its logpdf is "
            f"NaN at {undefined.sum()} of {undefined.size}. Check the distribution's parameters."
        )
    return float(column_means(losses, sample_weight).mean())


def crps_gaussian(
    y_true: ArrayLike,
    mean: Any,
    std: ArrayLike | None = None,
    *,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Continuous ranked probability score of Gaussians and their mixtures; smaller is better.

    For a predictive distribution function F the score is
    :math:`\int (F(t) - 1[y \le t])^2 dt`, in units of y; for a Gaussian it is
    :math:`\sigma (z (2\Phi(z) - 1) + 2\varphi(z) - 1/\sqrt\pi)` with
    :math:`z = (y - \mathrm{mean}) / \sigma` [1]_. For an equal mixture of M Gaussians it is

    .. math::
        \frac1M \sum_m A(y - \mu_m, \sigma_m^2)
        - \frac1{2 M^2} \sum_{m, l} A(\mu_m - \mu_l, \sigma_m^2 + \sigma_l^2)

    with :math:`A(\mu, \sigma^2) = \mu (2\Phi(\mu/\sigma) - 1) + 2\sigma\varphi(\mu/\sigma)`,
    the mean of ``|t|`` for t from :math:`N(\mu, \sigma^2)` [2]_. For a point forecast,
    :math:`\sigma \to 0`, it is the absolute error.

    Parameters
    ----------
    y_true : array-like of shape (n,) or (n, n_outputs)
        Observed values.
    mean : array-like of the same shape, or distribution
        Mean of each Gaussian predictive distribution; or the distributions themselves,
        without ``std``: what ``HFLRegressor.predict_distribution`` returns, or a frozen
        ``scipy.stats.norm``.
    std : array-like of the same shape, default=None
        Standard deviation of each Gaussian, noise included.
    sample_weight : array-like of shape (n,), default=None
        Weights of the rows.

    Returns
    -------
    float
        Mean over rows, and over outputs.

    References
    ----------
    .. [1] T. Gneiting, A. E. Raftery, "Strictly Proper Scoring Rules, Prediction, and
       Estimation", JASA 102 (2007), equation 21 (there with the opposite sign).
    .. [2] E. P. Grimit, T. Gneiting, V. J. Berrocal, N. A. Johnson, "The continuous ranked
       probability score for circular variables and its application to mesoscale forecast
       ensemble verification", Q. J. R. Meteorol. Soc. 132 (2006), 2925-2942.

    Examples
    --------
    >>> from scipy.stats import norm
    >>> from sklearn_hfl.metrics import crps_gaussian
    >>> round(crps_gaussian([0.0, 1.0], [0.0, 0.0], [1.0, 1.0]), 4)
    0.4181
    >>> round(crps_gaussian([0.0, 1.0], norm([0.0, 0.0], [1.0, 1.0])), 4)
    0.4181
    """
    y, distribution = predicted(y_true, mean, std)
    means, stds = _members(distribution)
    to_y = _mean_distance(y[..., None] - means, stds).mean(-1)
    # One member at a time against all: the memory is linear in their number.
    between = [
        _mean_distance(means - means[..., [m]], np.hypot(stds, stds[..., [m]])).mean(-1)
        for m in range(means.shape[-1])
    ]
    losses = to_y - np.mean(between, axis=0) / 2
    return float(column_means(losses, sample_weight).mean())


def interval_score(
    y_true: ArrayLike,
    interval: ArrayLike,
    *,
    confidence_level: float = 0.9,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Width of the intervals plus 2/α times the distance outside them; smaller is better.

    α = 1 − ``confidence_level``. Among all intervals, the central one of the true
    distribution has the smallest expected score [1]_.

    Parameters
    ----------
    y_true : array-like of shape (n,) or (n, n_outputs)
        Observed values.
    interval : array-like of shape (n, 2) or (n, n_outputs, 2)
        Lower and upper ends; infinite ends are allowed, and make the score infinite.
    confidence_level : float, default=0.9
        Level of the intervals, between 0 and 1.
    sample_weight : array-like of shape (n,), default=None
        Weights of the rows.

    Returns
    -------
    float
        Mean over rows, and over outputs; in units of y.

    References
    ----------
    .. [1] T. Gneiting, A. E. Raftery, "Strictly Proper Scoring Rules, Prediction, and
       Estimation", JASA 102 (2007), equation 43.

    Examples
    --------
    >>> from sklearn_hfl.metrics import interval_score
    >>> interval_score([0.0, 3.0], [[-1.0, 1.0], [-1.0, 1.0]], confidence_level=0.5)
    6.0
    """
    alpha = 1 - check_level("interval_score", confidence_level)
    y, lower, upper = ends_of(y_true, interval)
    outside = np.maximum(lower - y, 0) + np.maximum(y - upper, 0)
    return float(column_means(upper - lower + 2 / alpha * outside, sample_weight).mean())


def coverage_score(
    y_true: ArrayLike, interval: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> float:
    """Share of the observed values that lie in their intervals, ends included.

    Closer to the nominal level is better: coverage is not to be maximised.

    Parameters
    ----------
    y_true : array-like of shape (n,) or (n, n_outputs)
        Observed values.
    interval : array-like of shape (n, 2) or (n, n_outputs, 2)
        Lower and upper ends, which may be infinite.
    sample_weight : array-like of shape (n,), default=None
        Weights of the rows.

    Returns
    -------
    float
        Between 0 and 1; the mean over outputs.

    Examples
    --------
    >>> from sklearn_hfl.metrics import coverage_score
    >>> coverage_score([0.0, 3.0], [[-1.0, 1.0], [-1.0, 1.0]])
    0.5
    """
    y, lower, upper = ends_of(y_true, interval)
    return float(column_means((lower <= y) & (y <= upper), sample_weight).mean())


def gaussians(y: ArrayLike, mean: ArrayLike, std: ArrayLike) -> tuple[Array, Array, Array]:
    """Validate observed values, means and standard deviations.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_outputs)
        Observed values.
    mean, std : array-like of the same shape
        Mean and standard deviation of each predictive distribution.

    Returns
    -------
    y, mean, std : ndarray of shape (n, n_outputs)
        As columns.
    """
    values = check_values("y_true", y)
    return values, check_values("mean", mean, values.shape), check_std("std", std, values.shape)


def predicted(y: ArrayLike, mean: Any, std: ArrayLike | None) -> tuple[Array, Any]:
    """Validate observed values, and the distributions that were predicted for them.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_outputs)
        Observed values.
    mean : array-like of the same shape, or distribution
        Means of Gaussians; or distributions, with ``logpdf`` and ``mean``.
    std : array-like of the same shape, or None
        Standard deviations of the Gaussians.

    Returns
    -------
    y : ndarray
        In the shape of the distribution.
    distribution : object
        Of shape (n,) or (n, n_outputs).
    """
    if not hasattr(mean, "logpdf"):
        if std is None:
            raise ValueError(
                "Expected the mean and the std of each predictive distribution, or an object with "
                f"logpdf instead of both, but got {type(mean).__name__} without std. Give the std "
                "too, or pass what predict_distribution(X) returns."
            )
        values, means, stds = gaussians(y, mean, std)
        return values, NormalMixture(means[..., None], stds[..., None])
    if std is not None:
        raise ValueError(
            "Expected mean and std, or a distribution instead of both, but got a distribution and "
            "a std. Leave out the std: the distribution has its own."
        )
    values, shape = check_values("y_true", y), np.shape(mean.mean())
    if shape not in (values.shape, values.shape[: 2 - (values.shape[1] == 1)]):
        raise ValueError(
            f"Expected a distribution for each value of y_true, of shape {np.shape(y)}, but got "
            f"one of shape {shape}. Predict it for the rows of y_true."
        )
    return values.reshape(shape), mean


def ends_of(y: ArrayLike, interval: ArrayLike) -> tuple[Array, Array, Array]:
    """Validate observed values and intervals.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_outputs)
        Observed values.
    interval : array-like of shape (n, 2) or (n, n_outputs, 2)
        Lower and upper ends.

    Returns
    -------
    y, lower, upper : ndarray of shape (n, n_outputs)
        As columns.
    """
    values = check_values("y_true", y)
    ends = check_array(
        interval,
        dtype=np.float64,
        ensure_2d=False,
        allow_nd=True,
        ensure_all_finite=False,
        input_name="interval",
    )
    n, k = values.shape
    if ends.shape != (n, k, 2) and not (k == 1 and ends.shape == (n, 2)):
        expected = f"({n}, 2)" if k == 1 else f"({n}, {k}, 2)"
        raise ValueError(
            f"Expected interval of shape {expected}: the lower and the upper end of one level "
            f"for each value of y_true, but got shape {ends.shape}."
        )
    lower, upper = np.moveaxis(ends.reshape(n, k, 2), -1, 0)
    wrong = ~((lower <= upper) & (lower < np.inf) & (upper > -np.inf))
    if wrong.any():
        raise ValueError(
            f"Expected lower ≤ upper in each interval, and no NaN, but {wrong.sum()} of "
            f"{wrong.size} intervals violate this."
        )
    return values, lower, upper


def column_means(values: Any, sample_weight: ArrayLike | None) -> Array:
    """Average over samples.

    Parameters
    ----------
    values : ndarray of shape (n, n_outputs)
        Losses.
    sample_weight : array-like of shape (n,) or None
        Weights of the rows.

    Returns
    -------
    ndarray of shape (n_outputs,)
    """
    if sample_weight is None:
        return np.asarray(values.mean(axis=0))
    with numbers_expected(sample_weight=sample_weight):
        weight = check_array(
            sample_weight, dtype=np.float64, ensure_2d=False, input_name="sample_weight"
        )
    if weight.shape != (len(values),) or (weight < 0).any() or not weight.any():
        raise ValueError(
            f"Expected sample_weight of shape ({len(values)},), none negative and not all zero, "
            f"but got shape {weight.shape} with values from {weight.min():.3g} to "
            f"{weight.max():.3g}."
        )
    return np.average(values, axis=0, weights=weight)


def _members(distribution: Any) -> tuple[Array, Array]:
    """Means and stds (..., M) of the Gaussians that a distribution mixes."""
    if isinstance(distribution, NormalMixture):
        return distribution.means, distribution.stds
    name = getattr(getattr(distribution, "dist", None), "name", type(distribution).__name__)
    if name != "norm":
        raise TypeError(
            "Expected a frozen scipy.stats.norm or what predict_distribution(X) returns, whose "
            f"score has a closed form, but got a distribution called {name}."
        )
    mean, std = distribution.mean(), distribution.std()
    check_std("std", std, check_values("mean", mean).shape)
    return mean[..., None], std[..., None]


def _mean_distance(mean: Array, std: Array) -> Array:
    """Mean of ``|t|`` for t from N(mean, std²)."""
    z = mean / std
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return mean * erf(z / np.sqrt(2)) + 2 * std * density

"""Intervals that hold a new observation with a given probability."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import ndtri
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklearn_hfl._data.collections import by_chunks, is_collection
from sklearn_hfl._data.conformity import check_scores, scored_with, warn_of_trained_rows
from sklearn_hfl._data.modes import own_modes
from sklearn_hfl._data.moments import Levels, check_levels
from sklearn_hfl._data.params import one_of, validate_arguments
from sklearn_hfl._data.validation import Array, check_calibration_data, to_numpy
from sklearn_hfl._queries.units import UnitsOfY
from sklearn_hfl.calibration.conformal import conformal_quantile, normalized_residuals
from sklearn_hfl.exceptions import HFLConvergenceWarning, warn
from sklearn_hfl.uncertainty.predictive import profile_mixture
from sklearn_hfl.uncertainty.profile import ProfileInterval

__all__ = ["KINDS", "PredictionIntervals"]

KINDS = ("gaussian", "conformal", "profile")


class PredictionIntervals(UnitsOfY):
    """Prediction intervals of a regressor, in units of y."""

    conformity_scores_: Array

    def conformalize(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Calibrate conformal intervals on rows that were held out of fit.

        Parameters
        ----------
        X : {array-like, sparse array} of shape (n, n_features)
            Inputs of the calibration rows.
        y : array-like of shape (n,) or (n, n_outputs)
            Their observed values.

        Returns
        -------
        HFLRegressor
            Itself, with ``conformity_scores_``. A second call replaces the first, and
            ``fit`` discards it.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If an array is not as expected; nothing is then changed.

        Warns
        -----
        HFLDataWarning
            If rows were trained on: their residuals are too small, and so are intervals
            made from them. Not with variance="amortized", which keeps nothing that
            could recognise them.

        Notes
        -----
        Split conformal prediction (J. Lei et al., arXiv:1604.04173) with the score
        ``|y − mean|`` / std, where std is the total one, noise included. Coverage then holds for
        rows that are exchangeable with the calibration rows, whether or not the model is
        right, on average over draws of both. Other parameters of the estimator
        (``variance``, for example) need another calibration.

        Examples
        --------
        >>> from sklearn.datasets import load_diabetes
        >>> from sklearn_hfl import HFLRegressor
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = HFLRegressor(hidden_layer_sizes=(5,), random_state=0).fit(X[:200], y[:200])
        >>> model.conformalize(X[200:300], y[200:300]).conformity_scores_.shape
        (100,)
        """
        check_is_fitted(self)
        rows, targets = check_calibration_data(self, X, y, self.n_outputs_)
        with own_modes():
            queries = self._standardized(rows)
            warn_of_trained_rows(
                self._trained_rows, queries, self._tensor(self._y_scaler.transform(targets))
            )
            scores = np.sort(normalized_residuals(targets, *self._mean_and_std(queries)), axis=0)
        self.conformity_scores_, self._scored_with = self._shaped(scores), scored_with(self)
        return self

    def predict_interval(
        self,
        X: ArrayLike,
        confidence_level: Levels = 0.9,
        kind: Literal["gaussian", "conformal", "profile"] = "gaussian",
    ) -> tuple[Array, Array]:
        """Predict intervals that hold a new y, noise included, with a given probability.

        Parameters
        ----------
        X : {array-like, sparse array, dask array, dask frame} of shape (n, n_features)
            Queries.
        confidence_level : float or sequence of float, default=0.9
            Probability that an interval holds y, between 0 and 1; of each output by
            itself.
        kind : {"gaussian", "conformal", "profile"}, default="gaussian"
            "gaussian": mean ± z std, from the normal distribution's quantile z and the
            total std; as good as the model. With several members it has the moments of
            their mixture, whose own quantiles ``predict(X, quantiles=...)`` gives.
            "conformal": mean ± q std, with q from the
            rows of ``conformalize``; covers whether or not the model is right. "profile":
            profile likelihood, ends through which the refitted network has a log posterior
            z²/2 nats below the MAP's, noise added in quadrature; may be asymmetric. It refits
            for each query, end and level: for small data.

        Returns
        -------
        mean : ndarray of shape (n,) or (n, n_outputs)
            As ``predict`` gives it, in units of y.
        interval : ndarray of shape (n, 2) or (n, n_outputs, 2)
            Lower and upper end in units of y. A sequence of levels adds a last axis:
            (n, 2, n_levels) or (n, n_outputs, 2, n_levels).

        Raises
        ------
        ValueError
            If an argument is invalid; "profile" with variance="amortized"; "conformal" before
            ``conformalize``, after a change of ``variance`` or ``perturbation_scale`` since, or
            with fewer than level / (1 − level) calibration rows.

        Warns
        -----
        HFLConvergenceWarning
            With the number of standard deviations that missed ``std_rtol``, or of profile
            intervals with an end that was not found, which is then the linearized one.

        Examples
        --------
        >>> from sklearn.datasets import load_diabetes
        >>> from sklearn_hfl import HFLRegressor
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = HFLRegressor(hidden_layer_sizes=(5,), random_state=0).fit(X[:200], y[:200])
        >>> mean, interval = model.predict_interval(X[300:], [0.5, 0.9])
        >>> interval.shape
        (142, 2, 2)
        >>> model.conformalize(X[200:300], y[200:300])
        HFLRegressor(hidden_layer_sizes=(5,), random_state=0)
        >>> mean, interval = model.predict_interval(X[300:], kind="conformal")
        >>> interval.shape
        (142, 2)
        """
        if is_collection(X):
            return by_chunks(self.predict_interval, X, confidence_level, kind)
        check_is_fitted(self)
        validate_arguments("predict_interval", {"kind": kind}, {"kind": one_of(*KINDS)})
        levels = check_levels("predict_interval", confidence_level)
        of_kind = dict(zip(KINDS, (self._gaussian, self._conformal, self._profile), strict=True))
        with own_modes():
            mean, interval = of_kind[kind](self._queries(X), levels)
        if self._one_dimensional:
            mean, interval = mean[:, 0], interval[:, 0]
        return mean, interval if np.ndim(confidence_level) else interval[..., 0]

    # Each kind: queries (n, D) and levels (L,) to means (n, K) and intervals (n, K, 2, L).

    def _gaussian(self, X: Tensor, levels: Array) -> tuple[Array, Array]:
        return self._symmetric(X, ndtri((1 + levels) / 2))

    def _conformal(self, X: Tensor, levels: Array) -> tuple[Array, Array]:
        check_scores(self, "A conformal interval")
        scores = self.conformity_scores_.reshape(-1, self.n_outputs_)
        quantiles = [conformal_quantile(scores, level) for level in levels]
        return self._symmetric(X, np.stack(quantiles, axis=-1))

    def _profile(self, X: Tensor, levels: Array) -> tuple[Array, Array]:
        ensemble = self._mean_ensemble()
        if not ensemble.route.needs_data:
            raise ValueError(
                "A profile interval refits the network to the training data, of which "
                "variance='amortized' keeps none. Fit with variance='linearized' or 'network'."
            )
        means, noise = ensemble.means(X), ensemble.noise(X)
        ends = []
        for z in ndtri((1 + levels) / 2).tolist():
            profiles = ensemble.profiles(X, z)
            self._warn_of_missed_ends(profiles)
            ends.append(profile_mixture(means, profiles, noise, z))
        interval = self._y_scaler.inverse(to_numpy(torch.stack(ends))).transpose(2, 3, 1, 0)
        return self._y_scaler.inverse(to_numpy(means.mean(0))), interval

    def _warn_of_missed_ends(self, profiles: list[ProfileInterval]) -> None:
        missed = ~torch.stack([p.converged for p in profiles]).all(0).all(1)
        if missed.any():
            warn(
                f"{int(missed.sum())} of {len(missed)} profile intervals have an end that was not "
                "found, and stands at the linearized standard deviation instead: the refit of the "
                "network did not converge. Try a larger prior_precision, or Gaussian intervals"
                f"{'.' if self.converged_ else '; the MAP itself is not stationary, see fit.'}",
                HFLConvergenceWarning,
            )

    def _symmetric(self, X: Tensor, factor: Array) -> tuple[Array, Array]:
        """Mean ± factor std, for factors (L,) or (K, L)."""
        mean, std = self._mean_and_std(X)
        half = factor * std[..., None]
        centre = mean[..., None]
        return mean, np.stack([centre - half, centre + half], axis=2)

    def _mean_and_std(self, X: Tensor) -> tuple[Array, Array]:
        """Moments (n, K) of a new y in its units."""
        moments = self._moments(self._mean_ensemble(), X)
        return self._y_scaler.inverse(to_numpy(moments.mean)), self._stds(moments)["total"]

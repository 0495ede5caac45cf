"""Predictive distributions of new rows: frozen normals, and mixtures of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import norm
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklearn_hfl._data.modes import own_modes
from sklearn_hfl._data.normal_mixture import NormalMixture
from sklearn_hfl._data.validation import Array, to_numpy
from sklearn_hfl._queries.units import UnitsOfY

__all__ = ["PredictiveDistributions"]


class PredictiveDistributions(UnitsOfY):
    """Predictive distributions of a regressor, in units of y."""

    def predict_distribution(self, X: ArrayLike) -> Any:
        """Predict the distribution of a new y in each row, noise included.

        Parameters
        ----------
        X : {array-like, sparse array} of shape (n, n_features)
            Queries.

        Returns
        -------
        distribution : frozen ``scipy.stats.norm``, or a mixture with its methods
            For one member, ``scipy.stats.norm(mean, std)`` with the arrays of
            ``predict(X, return_std=True)``. For several, the equal mixture of the members'
            normal distributions, each with its own mean, epistemic variance and noise, with
            the methods ``mean``, ``std``, ``var``, ``median``, ``support``, ``pdf``, ``logpdf``,
            ``cdf``, ``logcdf``, ``sf``, ``logsf``, ``ppf``, ``isf``, ``interval`` and ``rvs``;
            its mean and std are also those of ``predict``. Arguments are broadcast against (n,)
            or (n, n_outputs).

        Warns
        -----
        HFLConvergenceWarning
            With the number of standard deviations that missed ``std_rtol``.

        See Also
        --------
        sample_y : Joint draws; ``rvs`` draws each row and output independently.

        Notes
        -----
        A mixture may be skewed or have several modes. Its quantiles are not then
        mean ± z std, which ``predict_interval(X, kind="gaussian")`` gives.

        Examples
        --------
        >>> from sklearn.datasets import load_diabetes
        >>> from sklearn_hfl import HFLRegressor
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = HFLRegressor(hidden_layer_sizes=(5,), random_state=0).fit(X[:100], y[:100])
        >>> distribution = model.predict_distribution(X[100:103])
        >>> distribution.sf(150).shape  # probability of a y above 150, in each row
        (3,)
        >>> distribution.logpdf(y[100:103]).shape
        (3,)
        """
        check_is_fitted(self)
        with own_modes():
            return self._distribution(self._queries(X))

    def _distribution(self, X: Tensor) -> Any:
        """Distribution of new y, of shape (n,) or (n, n_outputs)."""
        ensemble = self._mean_ensemble()
        means, variances = ensemble.means(X), ensemble.variances(X)
        self._warn_of_misses(variances)
        epistemic = torch.stack([v.value for v in variances]).reshape(means.shape)
        stds = (epistemic + ensemble.noise(X)).sqrt()
        mean, std = self._in_units(means), self._shaped(to_numpy(stds) * self._y_scaler.scale)
        if len(mean) == 1:
            return norm(mean[0], std[0])
        return NormalMixture(np.moveaxis(mean, 0, -1), np.moveaxis(std, 0, -1))

    def _quantiles(self, X: Tensor, levels: Array) -> Array:
        """Quantiles (n, L) or (n, n_outputs, L) of new y at levels (L,)."""
        distribution = self._distribution(X)
        return np.stack([distribution.ppf(level) for level in levels], axis=-1)

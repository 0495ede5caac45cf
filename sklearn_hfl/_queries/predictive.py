"""Posterior predictive: means and standard deviations of new rows."""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklearn_hfl._data.collections import by_chunks, is_collection
from sklearn_hfl._data.modes import own_modes
from sklearn_hfl._data.moments import Levels, check_levels
from sklearn_hfl._data.params import boolean, integer, one_of, validate_arguments
from sklearn_hfl._data.validation import Array, to_numpy
from sklearn_hfl._queries.distributions import PredictiveDistributions
from sklearn_hfl._queries.intervals import KINDS, PredictionIntervals

__all__ = ["PosteriorPredictive"]

PARTS = ("total", "epistemic", "aleatoric")


class PosteriorPredictive(PredictionIntervals, PredictiveDistributions):
    """Predictions of a regressor, in units of y and with the dimensions of y."""

    @overload
    def predict(
        self, X: ArrayLike, return_std: Literal[False] = ..., return_cov: Literal[False] = ...
    ) -> Array: ...
    @overload
    def predict(
        self,
        X: ArrayLike,
        return_std: Literal[True, "total", "epistemic", "aleatoric"],
        return_cov: Literal[False] = ...,
    ) -> tuple[Array, Array]: ...
    @overload
    def predict(
        self, X: ArrayLike, return_std: Literal[False] = ..., *, return_cov: Literal[True]
    ) -> tuple[Array, Array]: ...
    @overload
    def predict(
        self,
        X: ArrayLike,
        *,
        return_interval: Levels,
        interval_kind: Literal["gaussian", "conformal", "profile"] = ...,
    ) -> tuple[Array, Array]: ...
    @overload
    def predict(self, X: ArrayLike, *, quantiles: Levels) -> Array: ...
    @overload  # for flags that are variables
    def predict(self, X: ArrayLike, return_std: bool) -> Array | tuple[Array, Array]: ...
    @overload
    def predict(self, X: ArrayLike, *, return_cov: bool) -> Array | tuple[Array, Array]: ...

    def predict(
        self,
        X: ArrayLike,
        return_std: bool | str = False,
        return_cov: bool = False,
        return_interval: Levels | None = None,
        interval_kind: Literal["gaussian", "conformal", "profile"] = "gaussian",
        quantiles: Levels | None = None,
    ) -> Array | tuple[Array, Array]:
        """Predict the mean, and with it a std, a covariance or intervals; or quantiles.

        At most one of them in a call. All are keywords here, since pipelines pass the keywords
        of ``predict`` on, and have no other methods.

        Parameters
        ----------
        X : {array-like, sparse array, dask array, dask frame} of shape (n, n_features)
            Queries; not of dask with ``return_cov``.
        return_std : bool or {"total", "epistemic", "aleatoric"}, default=False
            True or "total": std of the predictive distribution of a new y, noise
            *included*. "epistemic": std of the mean function alone.
            "aleatoric": that of the noise alone.
        return_cov : bool, default=False
            Return the joint covariance of new y at all queries: epistemic, with
            noise on the diagonal.
        return_interval : float or sequence of float, default=None
            Return intervals of this confidence level, or of several, as ``predict_interval``.
        interval_kind : {"gaussian", "conformal", "profile"}, default="gaussian"
            Kind of these intervals, as in ``predict_interval``.
        quantiles : float or sequence of float, default=None
            Return the quantiles of the predictive distribution of a new y at these
            probabilities, between 0 and 1, instead of the mean.

        Returns
        -------
        mean : ndarray of shape (n,) or (n, n_outputs)
            Posterior mean in units of y.
        std : ndarray of shape (n,) or (n, n_outputs)
            Only with ``return_std``.
        cov : ndarray of shape (n, n) or (n, n, n_outputs)
            Only with ``return_cov``, in squared units of y; one matrix for each output.
        interval : ndarray of shape (n, 2) or (n, n_outputs, 2)
            Only with ``return_interval``. A sequence of levels adds a last axis.
        quantiles : ndarray of shape (n, n_quantiles) or (n, n_outputs, n_quantiles)
            Only with ``quantiles``, and alone. Those of ``predict_distribution``: with
            several members, of their mixture itself, whereas ``return_interval`` gives
            mean ± z std. A single probability has no last axis.

        Raises
        ------
        ValueError
            If more than one is requested, or an argument is invalid.

        Warns
        -----
        HFLConvergenceWarning
            With the number of standard deviations that missed ``std_rtol``.

        Examples
        --------
        >>> from sklearn.datasets import load_diabetes
        >>> from sklearn_hfl import HFLRegressor
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = HFLRegressor(hidden_layer_sizes=(5,), random_state=0).fit(X[:100], y[:100])
        >>> mean, std = model.predict(X[100:103], return_std=True)
        >>> mean.shape, std.shape
        ((3,), (3,))
        >>> mean, interval = model.predict(X[100:103], return_interval=0.9)
        >>> interval.shape
        (3, 2)
        >>> model.predict(X[100:103], quantiles=[0.05, 0.5, 0.95]).shape
        (3, 3)
        """
        if is_collection(X) and not return_cov:
            return by_chunks(
                self.predict, X, return_std, False, return_interval, interval_kind, quantiles
            )
        check_is_fitted(self)
        part = _which_part(return_std)
        _check_requests(bool(part), return_cov, return_interval, interval_kind, quantiles)
        if return_interval is not None:
            return self.predict_interval(X, return_interval, interval_kind)
        with own_modes():
            queries = self._queries(X)
            if quantiles is not None:
                values = self._quantiles(queries, np.atleast_1d(quantiles))
                return values if np.ndim(quantiles) else values[..., 0]
            if part in ("total", "epistemic"):
                moments = self._moments(self._mean_ensemble(), queries)
                return self._in_units(moments.mean), self._shaped(self._stds(moments)[part])
            ensemble = self._mean_ensemble()
            mean = self._in_units(ensemble.means(queries).mean(0))
            if part == "aleatoric":
                noise = ensemble.noise(queries).mean(0)
                return mean, self._shaped(to_numpy(noise.sqrt()) * self._y_scaler.scale)
            if return_cov:
                return mean, self._shaped(self._covariance(queries))
            return mean

    def predict_uncertainty(self, X: ArrayLike) -> Bunch:
        """Predict all parts of the uncertainty, with a convergence flag and error bound per row.

        Parameters
        ----------
        X : {array-like, sparse array, dask array, dask frame} of shape (n, n_features)
            Queries.

        Returns
        -------
        Bunch
            ``mean``, ``std``, ``epistemic_std``, ``aleatoric_std`` of shape (n,)
            or (n, n_outputs) in units of y, with std² = epistemic_std² + aleatoric_std²;
            ``converged`` (n,): whether all of the row's epistemic stds met
            ``std_rtol`` (variance="network": met 5 % at least, by the agreement of two
            perturbation scales or, for a given scale, by the refit's residual; other
            rows hold the linearized value); ``rel_error`` (n,): the largest bound on
            their relative errors (an estimate where variance="network").

        Warns
        -----
        HFLConvergenceWarning
            With the number of standard deviations that missed ``std_rtol``.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_hfl import HFLRegressor
        >>> X = np.linspace(0, 1, 30)[:, None]
        >>> model = HFLRegressor(hidden_layer_sizes=(5,), random_state=0).fit(X, X[:, 0] ** 2)
        >>> result = model.predict_uncertainty(X[:2])
        >>> result.converged
        array([ True,  True])
        """
        if is_collection(X):
            return by_chunks(self.predict_uncertainty, X)
        check_is_fitted(self)
        with own_modes():
            moments = self._moments(self._mean_ensemble(), self._queries(X))
            stds = self._stds(moments)
            return Bunch(
                mean=self._in_units(moments.mean),
                std=self._shaped(stds["total"]),
                epistemic_std=self._shaped(stds["epistemic"]),
                aleatoric_std=self._shaped(stds["aleatoric"]),
                converged=moments.converged.all(1).cpu().numpy(),
                rel_error=to_numpy(moments.rel_error.amax(1)),
            )

    def sample_y(
        self,
        X: ArrayLike,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = 0,
        noise: bool = True,
    ) -> Array:
        """Draw joint samples from the predictive distribution.

        A draw is one function: its rows and outputs are correlated as in ``return_cov`` and
        ``predict_functional``. The cost is linear in the number of rows, but cubic with
        variance="network".

        Parameters
        ----------
        X : {array-like, sparse array} of shape (n, n_features)
            Queries.
        n_samples : int, default=1
            Draws.
        random_state : int, RandomState instance or None, default=0
            Source of randomness.
        noise : bool, default=True
            Whether the draws are of new y, or of the mean function.

        Returns
        -------
        ndarray of shape (n, n_samples) or (n, n_outputs, n_samples)
            Draws in units of y; each comes from one member of the mixture.

        Warns
        -----
        HFLConvergenceWarning
            With the number of standard deviations that missed ``std_rtol``.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_hfl import HFLRegressor
        >>> X = np.linspace(0, 1, 30)[:, None]
        >>> model = HFLRegressor(hidden_layer_sizes=(5,), random_state=0).fit(X, X[:, 0] ** 2)
        >>> model.sample_y(X, n_samples=4).shape
        (30, 4)
        """
        check_is_fitted(self)
        arguments = {"n_samples": n_samples, "noise": noise}
        validate_arguments("sample_y", arguments, {"n_samples": integer(1), "noise": boolean()})
        rng = check_random_state(random_state)
        with own_modes():
            queries = self._queries(X)
            ensemble = self._mean_ensemble()
            drawn, variances = ensemble.draws(queries, n_samples, rng)
            self._warn_of_misses(variances)
            if noise:
                stds = ensemble.noise(queries).sqrt()[..., None]
                drawn = [
                    values + std * self._tensor(rng.standard_normal(values.shape))
                    for values, std in zip(drawn, stds, strict=True)
                ]
            samples = torch.cat(drawn, dim=2)[..., rng.permutation(n_samples)]
            in_units = self._shaped(self._y_scaler.inverse(to_numpy(samples.mT)))
            return in_units if self._one_dimensional else in_units.swapaxes(1, 2)

    def _covariance(self, X: Tensor) -> Array:
        """Joint covariance (n, n, K) of new y in squared units of y."""
        ensemble = self._mean_ensemble()
        total, variances = ensemble.covariance(X)
        self._warn_of_misses(variances)
        noise = ensemble.noise(X).mean(0)
        total += torch.eye(len(X)).to(X)[..., None] * noise
        return to_numpy(total) * self._y_scaler.scale**2


def _which_part(return_std: Any) -> str:
    """Part of the std that ``return_std`` selects, "" for none."""
    if isinstance(return_std, str) and return_std in PARTS:
        return return_std
    if isinstance(return_std, (bool, np.bool_)):
        return "total" if return_std else ""
    raise ValueError(
        f"return_std must be False, True or one of {', '.join(map(repr, PARTS))}, "
        f"but got {return_std!r}."
    )


def _check_requests(
    std: bool, return_cov: Any, return_interval: Any, interval_kind: Any, quantiles: Any
) -> None:
    """Raise an error unless the arguments of ``predict`` are valid, and request one thing."""
    validate_arguments(
        "predict",
        {"return_cov": return_cov, "interval_kind": interval_kind},
        {"return_cov": boolean(), "interval_kind": one_of(*KINDS)},
    )
    levels = {"return_interval": return_interval, "quantiles": quantiles}
    requested = {"return_std": std, "return_cov": bool(return_cov)}
    for name, given in levels.items():
        requested[name] = given is not None
        if given is not None:
            check_levels("predict", given, name)
    names = [name for name, is_requested in requested.items() if is_requested]
    if len(names) > 1:
        raise ValueError(
            "predict returns one of a std, a covariance, intervals and quantiles, but "
            f"{' and '.join(names)} are set. Request one of them; the std is also "
            "np.sqrt(np.diagonal(cov)).T, and predict_distribution(X) has all but the covariance."
        )
    if return_interval is None and interval_kind != KINDS[0]:
        raise ValueError(
            f"predict: interval_kind={interval_kind!r} is the kind of the intervals that "
            "return_interval requests, but that is None. Give their level too, for example "
            "return_interval=0.9."
        )

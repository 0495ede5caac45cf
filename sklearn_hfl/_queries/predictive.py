"""Posterior predictive: means and standard deviations of new rows."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklearn_hfl._base import HFLBase
from sklearn_hfl._data.params import boolean, integer, validate_arguments
from sklearn_hfl._data.standardizer import Standardizer
from sklearn_hfl._data.validation import Array, to_numpy
from sklearn_hfl._ensemble.ensemble import Ensemble
from sklearn_hfl.posterior.likelihood import GaussianLikelihood
from sklearn_hfl.uncertainty.predictive import Predictive

__all__ = ["PosteriorPredictive"]

PARTS = ("total", "epistemic", "aleatoric")


class PosteriorPredictive(HFLBase):
    """Predictions of a regressor, in units of y and with the dimensions of y."""

    n_outputs_: int
    _y_scaler: Standardizer
    _one_dimensional: bool

    def predict(
        self, X: ArrayLike, return_std: bool | str = False, return_cov: bool = False
    ) -> Any:
        """Predict the mean, and with it a standard deviation or a covariance.

        Parameters
        ----------
        X : {array-like, sparse array} of shape (n, n_features)
            Queries.
        return_std : bool or {"total", "epistemic", "aleatoric"}, default=False
            True or "total": std of the predictive distribution of a new y, noise
            *included*. "epistemic": std of the mean function alone.
            "aleatoric": that of the noise alone.
        return_cov : bool, default=False
            Return the joint covariance of new y at all queries: epistemic, with
            noise on the diagonal.

        Returns
        -------
        mean : ndarray of shape (n,) or (n, n_outputs)
            Posterior mean in units of y.
        std : ndarray of shape (n,) or (n, n_outputs)
            Only with ``return_std``.
        cov : ndarray of shape (n, n) or (n, n, n_outputs)
            Only with ``return_cov``; one matrix for each output.

        Raises
        ------
        ValueError
            If both are requested, or ``return_std`` is none of its values.

        Warns
        -----
        HFLWarning
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
        """
        check_is_fitted(self)
        part = _which_part(return_std)
        validate_arguments("predict", {"return_cov": return_cov}, {"return_cov": boolean()})
        if part and return_cov:
            raise ValueError(
                "predict returns a std or a covariance, but both return_std and return_cov are "
                "set. Take the std from the covariance: np.sqrt(np.diagonal(cov)).T."
            )
        with torch.inference_mode(False):
            queries = self._queries(X)
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
        X : {array-like, sparse array} of shape (n, n_features)
            Queries.

        Returns
        -------
        Bunch
            ``mean``, ``std``, ``epistemic_std``, ``aleatoric_std`` of shape (n,)
            or (n, n_outputs) in units of y, with std² = epistemic_std² + aleatoric_std²;
            ``converged`` (n,): whether all of the row's epistemic stds met
            ``std_rtol`` (variance="network": or two perturbation scales agreed to
            5 %; other rows hold the linearized value); ``rel_error`` (n,): the
            largest bound on their relative errors (an estimate where
            variance="network").

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
        check_is_fitted(self)
        with torch.inference_mode(False):
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
        HFLWarning
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
        with torch.inference_mode(False):
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

    def _stds(self, moments: Predictive) -> dict[str, Array]:
        variances = {
            "total": moments.epistemic + moments.aleatoric,
            "epistemic": moments.epistemic,
            "aleatoric": moments.aleatoric,
        }
        scale = self._y_scaler.scale
        return {name: to_numpy(value.sqrt()) * scale for name, value in variances.items()}

    def _covariance(self, X: Tensor) -> Array:
        """Joint covariance (n, n, K) of new y in squared units of y."""
        ensemble = self._mean_ensemble()
        total, variances = ensemble.covariance(X)
        self._warn_of_misses(variances)
        noise = ensemble.noise(X).mean(0)
        total += torch.eye(len(X)).to(X)[..., None] * noise
        return to_numpy(total) * self._y_scaler.scale**2

    def _in_units(self, mean: Tensor) -> Array:
        """Means (n, K) in units of y, shaped as y was."""
        return self._shaped(self._y_scaler.inverse(to_numpy(mean)))

    def _shaped(self, values: Array) -> Array:
        """Drop the last axis where y had one dimension."""
        return values[..., 0] if self._one_dimensional else values

    def _mean_ensemble(self) -> Ensemble:
        """Members of this fit, with the link to the mean of y."""
        likelihood = self.members_[0].estimate.log_posterior.likelihood
        return self._ensemble(cast(GaussianLikelihood, likelihood).mean_link)


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

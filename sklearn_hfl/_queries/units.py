"""Units: what a regressor answers, in units of y and with the dimensions of y."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from sklearn_hfl._base import HFLBase
from sklearn_hfl._data.standardizer import Standardizer
from sklearn_hfl._data.validation import Array, to_numpy
from sklearn_hfl._ensemble.ensemble import Ensemble
from sklearn_hfl.posterior.likelihood import GaussianLikelihood
from sklearn_hfl.uncertainty.predictive import Predictive

__all__ = ["UnitsOfY"]


class UnitsOfY(HFLBase):
    """Means and standard deviations as the user's y has them."""

    n_outputs_: int
    _y_scaler: Standardizer
    _one_dimensional: bool

    def _stds(self, moments: Predictive) -> dict[str, Array]:
        variances = {
            "total": moments.epistemic + moments.aleatoric,
            "epistemic": moments.epistemic,
            "aleatoric": moments.aleatoric,
        }
        scale = self._y_scaler.scale
        return {name: to_numpy(value.sqrt()) * scale for name, value in variances.items()}

    def _in_units(self, mean: Tensor) -> Array:
        """Means (..., K) in units of y, shaped as y was."""
        return self._shaped(self._y_scaler.inverse(to_numpy(mean)))

    def _shaped(self, values: Array) -> Array:
        """Drop the last axis where y had one dimension."""
        return values[..., 0] if self._one_dimensional else values

    def _mean_ensemble(self) -> Ensemble:
        """Members of this fit, with the link to the mean of y."""
        likelihood = self.members_[0].estimate.log_posterior.likelihood
        return self._ensemble(cast(GaussianLikelihood, likelihood).mean_link)

"""MAP estimate: the most probable weights, and the curvature around them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_hfl.optim.ritz import RitzPairs
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["MapEstimate"]


@dataclass(frozen=True)
class MapEstimate:
    """The MAP θ̂ and the curvature around it.

    Attributes
    ----------
    log_posterior : LogPosterior
        L.
    weights : Tensor of shape (P,)
        θ̂, not whitened.
    subspace : Subspace
        Directions that the data determine.
    ritz : RitzPairs or None
        Replaces the data and the subspace where queries are answered without them.
    """

    log_posterior: LogPosterior
    weights: Tensor
    subspace: Subspace
    ritz: RitzPairs | None = None

    @property
    def scale(self) -> Tensor:  # numpydoc ignore=RT01
        """α^-½ (P,), which turns whitened weights into weights."""
        return self.log_posterior.prior.scale

    def curvature(self) -> GaussNewton:
        """Linearise the network at θ̂: one pass over the data.

        Returns
        -------
        GaussNewton
            A.
        """
        return GaussNewton(self.log_posterior, self.weights)

    def without_data(self, rtol: float) -> MapEstimate:
        """Drop the data, and convert the subspace to Ritz pairs.

        Parameters
        ----------
        rtol : float
            Tolerated relative error of each standard deviation.

        Returns
        -------
        MapEstimate
            For ``amortized_response`` alone.
        """
        ritz = RitzPairs.from_subspace(self.subspace, rtol)
        nothing = Subspace.empty(torch.zeros_like(self.weights))
        return MapEstimate(self.log_posterior.without_data(), self.weights, nothing, ritz)

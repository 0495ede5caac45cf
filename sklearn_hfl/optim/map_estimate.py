"""MAP estimate: the most probable weights, with the curvature known around them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["MapEstimate"]


@dataclass(frozen=True)
class MapEstimate:
    """The MAP θ̂ and what is known of the curvature around it.

    Attributes
    ----------
    log_posterior : LogPosterior
        L.
    weights : Tensor of shape (P,)
        θ̂, not whitened.
    subspace : Subspace
        Directions that the data determine.
    """

    log_posterior: LogPosterior
    weights: Tensor
    subspace: Subspace

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

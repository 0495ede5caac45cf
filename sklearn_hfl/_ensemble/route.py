"""Route: which perturbed optima a standard deviation comes from."""

from __future__ import annotations

from dataclasses import dataclass

from sklearn_hfl._ensemble.threads import few_threads
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.perturbed_optima import PerturbedOptima, perturbed_optima
from sklearn_hfl.posterior.functional import Functional

__all__ = ["Route"]


@dataclass(frozen=True)
class Route:
    """How standard deviations are found: see ``perturbed_optima``.

    Attributes
    ----------
    mode : {"linearized", "network", "amortized"}
        Whose optima, and whether they are refined with the training data.
    rtol : float
        Relative error to which each standard deviation is refined.
    perturbation_scale : float or "auto"
        ε of the network's refit.
    """

    mode: str
    rtol: float
    perturbation_scale: float | str

    @property
    def needs_data(self) -> bool:
        """Whether queries may need the training data."""
        return self.mode != "amortized"

    def optima(self, estimate: MapEstimate, functional: Functional) -> PerturbedOptima:
        """Perturbed optima of functionals, found this way."""
        lp = estimate.log_posterior
        with few_threads(lp.n_residuals, lp.n_weights):
            return perturbed_optima(
                estimate,
                functional,
                self.mode,
                rtol=self.rtol,
                perturbation_scale=self.perturbation_scale,
            )

    def check(self, estimate: MapEstimate) -> None:
        """Raise a ValueError where the fit has not kept what this route needs."""
        amortized = estimate.ritz is not None
        if amortized != self.needs_data:
            return
        fitted, kept = (
            ("'amortized'", "keeps no training data")
            if amortized
            else ("another value", "has built no subspace for queries without data")
        )
        raise ValueError(
            f"variance is {self.mode!r}, but the estimator was fitted with {fitted}, and {kept}. "
            "Call fit again after set_params(variance=...)."
        )

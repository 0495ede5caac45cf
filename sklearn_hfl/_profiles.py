"""Profile intervals: ends of predictions that need not lie at equal distances."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sklearn_hfl._members import member_means, member_noise, member_profiles
from sklearn_hfl._posterior_predictive import PosteriorPredictive
from sklearn_hfl._validation import Array, to_numpy
from sklearn_hfl.exceptions import HFLConvergenceWarning, warn

__all__ = ["ProfileIntervals"]


class ProfileIntervals(PosteriorPredictive):
    """Profile intervals of a regressor's members, mixed and in units of y."""

    def _profile_interval(
        self, X: Tensor, z: float, *, noise: bool = True
    ) -> tuple[Array, Array, Array]:
        """Ends (n, K) at ``z`` standard deviations, in units of y, and verdicts (n, K, 2).

        The profile is that of the mean function. Noise is added in squares, side by side:
        half² = profile half² + (z · noise std)², exact for a linear network. Members are
        mixed as Gaussian ones are: mean of the half-widths' squares on each side, plus
        z² times the variance of the means. That is an approximation where members lean
        to different sides.
        """
        route, link = self._query_route(), self._mean_link
        if not route.needs_data:
            raise ValueError(
                "kind='profile' refits the network to the training data, of which "
                "variance='amortized' keeps none. Fit with variance='linearized' or 'network'."
            )
        means = torch.stack(member_means(self.members_, X, link))
        profiles = member_profiles(
            self.members_, X, z, route, self.n_jobs, bool(self.verbose), link
        )
        extra = means.var(0, correction=0)
        if noise:
            extra = extra + torch.stack(member_noise(self.members_, X)).mean(0)
        halves = []
        for ends in ([p.lower for p in profiles], [p.upper for p in profiles]):
            squares = (torch.stack(ends).reshape(means.shape) - means).square().mean(0)
            halves.append(to_numpy((squares + z**2 * extra).sqrt()) * self._y_scaler.scale)
        converged = torch.stack([p.converged for p in profiles]).all(0)
        missed = ~converged.all(1)
        if missed.any():
            warn(
                f"{int(missed.sum())} of {len(missed)} profile intervals have an end that was not "
                "found, and stands at the linearized standard deviation instead: the refit of the "
                "network did not converge. Try a larger prior_precision, or kind='gaussian'"
                f"{'.' if self.converged_ else '; the MAP itself is not stationary, see fit.'}",
                HFLConvergenceWarning,
            )
        center = self._y_scaler.inverse(to_numpy(means.mean(0)))
        verdict: Array = np.asarray(converged.cpu()).reshape(*center.shape, 2)
        return center - halves[0], center + halves[1], verdict

"""Normal mixture: equal mixtures of normal distributions, one for each prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, ndtr, ndtri
from scipy.stats import norm

__all__ = ["NormalMixture"]

Array = NDArray[np.float64]

# Bits of a float64's fraction: a bracket halved so often is as narrow as the rounding of its ends.
HALVINGS = 53


@dataclass(frozen=True, eq=False)
class NormalMixture:
    r"""Equal mixtures :math:`\frac1M \sum_m N(\mu_m, \sigma_m^2)`, one for each element.

    The methods are those of a frozen ``scipy.stats.norm(mean, std)`` with arrays for mean and
    std: an argument is broadcast against ``shape``, and each element is a distribution of its
    own.

    Attributes
    ----------
    means, stds : ndarray of shape (*shape, M)
        Mean and standard deviation of each of the M members, the last axis.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_hfl._data.normal_mixture import NormalMixture
    >>> two = NormalMixture(np.array([[-1.0, 1.0]]), np.array([[1.0, 1.0]]))
    >>> two.mean(), two.var(), two.cdf(0.0)
    (array([0.]), array([2.]), array([0.5]))
    """

    means: Array
    stds: Array

    def mean(self) -> Array:
        """Mean of the mixture.

        Returns
        -------
        ndarray of shape ``shape``
        """
        return self.means.mean(-1)

    def var(self) -> Array:
        """Variance, by the law of total variance.

        Returns
        -------
        ndarray of shape ``shape``
        """
        return np.square(self.stds).mean(-1) + self.means.var(-1)

    def std(self) -> Array:
        """Standard deviation.

        Returns
        -------
        ndarray of shape ``shape``
        """
        return np.sqrt(self.var())

    def median(self) -> Array:
        """Median.

        Returns
        -------
        ndarray of shape ``shape``
        """
        return self.ppf(0.5)

    def pdf(self, x: ArrayLike) -> Array:
        """Density.

        Parameters
        ----------
        x : array-like
            Values.

        Returns
        -------
        ndarray
            In inverse units of x.
        """
        return norm.pdf(_with_members(x), self.means, self.stds).mean(-1)

    def logpdf(self, x: ArrayLike) -> Array:
        """Log density, which does not underflow in the tails.

        Parameters
        ----------
        x : array-like
            Values.

        Returns
        -------
        ndarray
        """
        logs = norm.logpdf(_with_members(x), self.means, self.stds)
        return logsumexp(logs, axis=-1) - np.log(logs.shape[-1])

    def cdf(self, x: ArrayLike) -> Array:
        """Probability of a value of at most x.

        Parameters
        ----------
        x : array-like
            Values.

        Returns
        -------
        ndarray
        """
        return ndtr((_with_members(x) - self.means) / self.stds).mean(-1)

    def sf(self, x: ArrayLike) -> Array:
        """Probability of a value above x, 1 − cdf without its cancellation.

        Parameters
        ----------
        x : array-like
            Values.

        Returns
        -------
        ndarray
        """
        return ndtr((self.means - _with_members(x)) / self.stds).mean(-1)

    def ppf(self, q: ArrayLike) -> Array:
        """Quantile, by bisection between the smallest and the largest of the members'.

        Parameters
        ----------
        q : array-like
            Probabilities; NaN results from those outside [0, 1], as in scipy.

        Returns
        -------
        ndarray
            In units of x.
        """
        q = np.asarray(q, dtype=np.float64)
        # Upper quantiles are lower ones of the mirrored mixture: no probability close to 1.
        side, tail = np.where(q > 0.5, -1.0, 1.0), np.minimum(q, 1 - q)
        means, n_members = side[..., None] * self.means, self.means.shape[-1]
        of_members = means + self.stds * ndtri(tail)[..., None]
        low, high = of_members.min(-1), of_members.max(-1)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            z = (middle[..., None] - means) / self.stds
            # A probability above 1/2 is 1 less a rest, and the ones are counted separately: between
            # two modes the cdf rounds to 1/2 everywhere, and only the rests locate the median.
            rest = np.where(z > 0, -1, 1) * ndtr(-np.abs(z))
            below = rest.sum(-1) + ((z > 0).sum(-1) - n_members * tail) < 0
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return side * (low + high) / 2

    def interval(self, confidence: ArrayLike) -> tuple[Array, Array]:
        """Central interval, with equal probabilities below and above.

        Parameters
        ----------
        confidence : array-like
            Probability that the interval holds a value, from 0 to 1.

        Returns
        -------
        low, high : ndarray
            Its ends, in units of x.

        Raises
        ------
        ValueError
            If it is not from 0 to 1.
        """
        level = np.asarray(confidence, dtype=np.float64)
        if not ((level >= 0) & (level <= 1)).all():
            raise ValueError(f"confidence must be from 0 to 1, but got {confidence!r}.")
        return self.ppf((1 - level) / 2), self.ppf((1 + level) / 2)

    def rvs(self, size: int | tuple[int, ...] | None = None, random_state: Any = None) -> Array:
        """Draw values, each element independently of the others.

        Parameters
        ----------
        size : int or tuple of int, default=None
            Shape of the draws, to which ``shape`` must broadcast; None is ``shape`` itself.
        random_state : int, Generator, RandomState or None, default=None
            Source of randomness, as in scipy.

        Returns
        -------
        ndarray of shape ``size``

        Raises
        ------
        ValueError
            If ``shape`` does not broadcast to ``size``.
        """
        *shape, n_members = self.means.shape
        size = tuple(shape) if size is None else tuple(np.atleast_1d(size))
        try:
            means, stds = (np.broadcast_to(a, (*size, n_members)) for a in (self.means, self.stds))
        except ValueError as error:
            raise ValueError(
                f"size must end in the shape {tuple(shape)} of the distribution, one draw for "
                f"each element, but got {size}."
            ) from error
        # scipy makes the generator of whatever random_state is; one call, or an int would seed
        # both numbers alike.
        of_member, z = norm.rvs(size=(2, *size), random_state=random_state)
        member = np.minimum(ndtr(of_member) * n_members, n_members - 1).astype(int)[..., None]
        mean, std = (np.take_along_axis(a, member, axis=-1)[..., 0] for a in (means, stds))
        return mean + std * z


def _with_members(x: ArrayLike) -> Array:
    """Values with a last axis to be broadcast against the members'."""
    return np.asarray(x, dtype=np.float64)[..., None]

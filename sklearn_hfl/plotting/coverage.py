"""Coverage: share of observed values inside the intervals of each level."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erf
from scipy.stats import binom

from sklearn_hfl._data.moments import Array, check_std, check_values, predict_moments
from sklearn_hfl.plotting.canvas import axes_for, name_of, single_output, style

__all__ = ["CoverageDisplay"]

LEVELS = np.linspace(0, 1, 101)


class CoverageDisplay:
    """Empirical against nominal coverage of central Gaussian intervals.

    Above the diagonal intervals are too wide (an under-confident model), below it too narrow
    (over-confident). The grey band is the
    pointwise 95 % range of the coverage of a calibrated model on this many independent
    samples; it does not include the variation of the model with its training data. Create one
    with ``from_estimator`` or ``from_predictions``; pass ``ax=display.ax_`` to compare
    several models.

    Parameters
    ----------
    nominal : ndarray of shape (n_levels,)
        Levels, from 0 to 1.
    empirical : ndarray of shape (n_levels,)
        Share of the samples inside the interval of each level.
    n_samples : int
        Number of samples.
    name : str, default=None
        Label of the line.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes drawn on.
    figure_ : matplotlib Figure
        Their figure.
    line_ : matplotlib Line2D
        The coverage.
    band_ : matplotlib PolyCollection or None
        The sampling band; None if the axes already had one for this number of samples.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import BayesianRidge
    >>> from sklearn_hfl.plotting import CoverageDisplay
    >>> X, y = load_diabetes(return_X_y=True)
    >>> display = CoverageDisplay.from_estimator(BayesianRidge().fit(X, y), X, y)
    >>> display.n_samples
    442
    """

    def __init__(
        self, nominal: Array, empirical: Array, *, n_samples: int, name: str | None = None
    ) -> None:
        self.nominal = nominal
        self.empirical = empirical
        self.n_samples = n_samples
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> CoverageDisplay:
        """Draw the coverage of an estimator on held-out rows.

        Parameters
        ----------
        estimator : estimator
            Fitted; its ``predict(X, return_std=True)`` returns (mean, std), noise included.
        X : array-like of shape (n, n_features)
            Inputs.
        y : array-like of shape (n,)
            Observed values.
        name : str, default=None
            Label of the line; None is the name of the class.
        ax : matplotlib Axes, default=None
            Axes to draw on; None is a new figure.
        **kwargs : dict
            Passed to the line.

        Returns
        -------
        CoverageDisplay

        Examples
        --------
        >>> from sklearn.linear_model import BayesianRidge
        >>> from sklearn_hfl.plotting import CoverageDisplay
        >>> X, y = [[0.0], [1.0], [2.0], [3.0]], [0.1, 0.9, 2.2, 2.9]
        >>> CoverageDisplay.from_estimator(BayesianRidge().fit(X, y), X, y).name
        'BayesianRidge'
        """
        mean, std = predict_moments(estimator, X)
        name = name_of(estimator) if name is None else name
        return cls.from_predictions(y, mean, std, name=name, ax=ax, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        mean: ArrayLike,
        std: ArrayLike,
        *,
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> CoverageDisplay:
        """Draw the coverage of means and standard deviations.

        Parameters
        ----------
        y_true : array-like of shape (n,)
            Observed values.
        mean, std : array-like of shape (n,)
            Moments of each predictive distribution, noise included.
        name : str, default=None
            Label of the line.
        ax : matplotlib Axes, default=None
            Axes to draw on; None is a new figure.
        **kwargs : dict
            Passed to the line.

        Returns
        -------
        CoverageDisplay

        Examples
        --------
        >>> from sklearn_hfl.plotting import CoverageDisplay
        >>> display = CoverageDisplay.from_predictions([0.0, 2.0], [0.0, 0.0], [1.0, 1.0])
        >>> display.empirical[[50, 99]]
        array([0.5, 1. ])
        """
        columns = check_values("y_true", y_true)
        means = check_values("mean", mean, columns.shape)
        stds = check_std("std", std, columns.shape)
        y = single_output(cls.__name__, "y_true", columns)
        # The smallest level whose interval contains each value; their distribution is the coverage.
        smallest = np.sort(erf(np.abs(y - means[:, 0]) / stds[:, 0] / np.sqrt(2)))
        empirical = np.searchsorted(smallest, LEVELS, side="right") / len(y)
        display = cls(LEVELS.copy(), empirical, n_samples=len(y), name=name)
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> CoverageDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None is a new figure.
        **kwargs : dict
            Passed to the line.

        Returns
        -------
        CoverageDisplay
            Itself.
        """
        ax = axes_for(type(self).__name__, ax)
        from matplotlib.lines import Line2D

        present = ax.get_legend_handles_labels()[1]
        if "calibrated" not in present:
            ax.plot([0, 1], [0, 1], color="black", lw=0.8, ls="--", label="calibrated")
            words = {"color": "0.4", "fontsize": "small", "transform": ax.transAxes}
            for x, y, ha, va, side in (
                (0.03, 0.6, "left", "center", "under-confident:\nintervals too wide"),
                (0.97, 0.03, "right", "bottom", "over-confident:\nintervals too narrow"),
            ):
                ax.text(x, y, side, ha=ha, va=va, **words)
        self.band_ = None
        label = f"95 % sampling band, n = {self.n_samples}"
        if label not in present:
            low, high = (binom.ppf(q, self.n_samples, self.nominal) for q in (0.025, 0.975))
            # binom.ppf gives −1 for a share of 0.
            self.band_ = ax.fill_between(
                self.nominal,
                np.maximum(low, 0) / self.n_samples,
                np.maximum(high, 0) / self.n_samples,
                color="0.85",
                lw=0,
                zorder=0,
                label=label,
            )
        label = "coverage" if self.name is None else self.name
        (self.line_,) = ax.plot(
            self.nominal, self.empirical, **style({"label": label}, kwargs, Line2D)
        )
        ax.set(
            xlabel="nominal coverage",
            ylabel="empirical coverage",
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
        )
        ax.legend(loc="upper left", fontsize="small", frameon=False)
        self.ax_, self.figure_ = ax, ax.figure
        return self

"""Prediction intervals over one input: mean, epistemic band, total band."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from sklearn_hfl._data.moments import (
    Array,
    check_level,
    check_std,
    check_values,
    predict_epistemic_std,
    predict_moments,
)
from sklearn_hfl._data.params import integer
from sklearn_hfl.plotting.canvas import axes_for, single_output, style

__all__ = ["PredictionIntervalDisplay"]

# Margin drawn on either side of the data, as a share of their range.
MARGIN = 0.2


class PredictionIntervalDisplay:
    """Mean and central Gaussian intervals of a model with one input and one output.

    Create one with ``from_estimator`` or ``from_predictions``.

    Parameters
    ----------
    x, mean, std : ndarray of shape (n,)
        Positions, ascending, and moments of the prediction there, noise included.
    epistemic_std : ndarray of shape (n,), default=None
        Part of std that more data would reduce; None draws only the total.
    x_points, y_points : ndarray of shape (n_points,), default=None
        Data to draw as well.
    confidence_level : float, default=0.9
        Level of both bands.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes drawn on.
    figure_ : matplotlib Figure
        Their figure.
    line_ : matplotlib Line2D
        The mean.
    total_band_, epistemic_band_ : matplotlib PolyCollection
        The bands; the second is None without ``epistemic_std``.
    points_ : matplotlib Line2D
        The data, or None.

    Examples
    --------
    >>> from sklearn.linear_model import BayesianRidge
    >>> from sklearn_hfl.plotting import PredictionIntervalDisplay
    >>> X, y = [[0.0], [1.0], [2.0], [3.0]], [0.1, 0.9, 2.2, 2.9]
    >>> display = PredictionIntervalDisplay.from_estimator(BayesianRidge().fit(X, y), X, y)
    >>> display.x[[0, -1]]
    array([-0.6,  3.6])
    """

    def __init__(
        self,
        x: Array,
        mean: Array,
        std: Array,
        *,
        epistemic_std: Array | None = None,
        x_points: Array | None = None,
        y_points: Array | None = None,
        confidence_level: float = 0.9,
    ) -> None:
        self.x = x
        self.mean = mean
        self.std = std
        self.epistemic_std = epistemic_std
        self.x_points = x_points
        self.y_points = y_points
        self.confidence_level = confidence_level

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike | None = None,
        *,
        confidence_level: float = 0.9,
        grid_resolution: int = 200,
        ax: Any = None,
        **kwargs: Any,
    ) -> PredictionIntervalDisplay:
        """Draw an estimator's predictions over the range of X and a little beyond.

        Parameters
        ----------
        estimator : estimator
            Fitted to one feature; its ``predict(X, return_std=True)`` returns (mean, std), noise
            included. If it supports ``return_std="epistemic"``, that part is drawn as well.
        X : array-like or dataframe of shape (n, 1)
            Inputs.
        y : array-like of shape (n,), default=None
            Observed values, drawn as points.
        confidence_level : float, default=0.9
            Level of both bands.
        grid_resolution : int, default=200
            Number of inputs at which predictions are drawn.
        ax : matplotlib Axes, default=None
            Axes to draw on; None is a new figure.
        **kwargs : dict
            Passed to the line of the mean; its colour is that of the bands.

        Returns
        -------
        PredictionIntervalDisplay
        """
        columns = check_values("X", X)
        if np.ndim(X) != 2 or columns.shape[1] != 1:
            raise ValueError(
                f"{cls.__name__} expects X of shape (n, 1), one feature, but got shape "
                f"{np.shape(X)}. UncertaintyDecompositionDisplay shows data with several features."
            )
        if not integer(2).accepts(grid_resolution):
            raise ValueError(
                f"grid_resolution must be an integer ≥ 2, but got {grid_resolution!r}."
            )
        x = columns[:, 0]
        margin = MARGIN * np.ptp(x)
        grid = np.linspace(x.min() - margin, x.max() + margin, grid_resolution)
        names = getattr(X, "columns", None)
        queries = grid[:, None] if names is None else type(X)({names[0]: grid})
        mean, std = predict_moments(estimator, queries)
        display = cls.from_predictions(
            grid,
            mean,
            std,
            epistemic_std=predict_epistemic_std(estimator, queries, std),
            x_points=None if y is None else x,
            y_points=y,
            confidence_level=confidence_level,
            ax=ax,
            **kwargs,
        )
        if names is not None:
            display.ax_.set_xlabel(str(names[0]))
        return display

    @classmethod
    def from_predictions(
        cls,
        x: ArrayLike,
        mean: ArrayLike,
        std: ArrayLike,
        *,
        epistemic_std: ArrayLike | None = None,
        x_points: ArrayLike | None = None,
        y_points: ArrayLike | None = None,
        confidence_level: float = 0.9,
        ax: Any = None,
        **kwargs: Any,
    ) -> PredictionIntervalDisplay:
        """Draw means and standard deviations.

        Parameters
        ----------
        x, mean, std : array-like of shape (n,)
            Positions, in any order, and moments of the prediction there, noise included.
        epistemic_std : array-like of shape (n,), default=None
            Part of std that more data would reduce.
        x_points, y_points : array-like of shape (n_points,), default=None
            Data to draw as well.
        confidence_level : float, default=0.9
            Level of both bands.
        ax : matplotlib Axes, default=None
            Axes to draw on; None is a new figure.
        **kwargs : dict
            Passed to the line of the mean; its colour is that of the bands.

        Returns
        -------
        PredictionIntervalDisplay

        Examples
        --------
        >>> from sklearn_hfl.plotting import PredictionIntervalDisplay
        >>> display = PredictionIntervalDisplay.from_predictions([1.0, 0.0], [2.0, 3.0], [1.0, 1.0])
        >>> display.mean
        array([3., 2.])
        """
        level = check_level(cls.__name__, confidence_level)
        means = check_values("mean", mean)
        single_output(cls.__name__, "mean", means)
        shape = means.shape
        where = check_values("x", x, shape)[:, 0]
        order = np.argsort(where, kind="stable")
        part = None
        if epistemic_std is not None:
            part = check_std("epistemic_std", epistemic_std, shape, or_zero=True)[order, 0]
        points = {}
        if (x_points is None) != (y_points is None):
            raise ValueError(
                "Expected both x_points and y_points or neither, but got only one of them."
            )
        if x_points is not None and y_points is not None:
            inputs = check_values("x_points", x_points)
            targets = check_values("y_points", y_points)
            single_output(cls.__name__, "y_points", targets)
            check_values("y_points", y_points, inputs.shape)
            points = {"x_points": inputs[:, 0], "y_points": targets[:, 0]}
        display = cls(
            where[order],
            means[order, 0],
            check_std("std", std, shape, or_zero=True)[order, 0],
            epistemic_std=part,
            confidence_level=level,
            **points,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> PredictionIntervalDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None is a new figure.
        **kwargs : dict
            Passed to the line of the mean; its colour is that of the bands.

        Returns
        -------
        PredictionIntervalDisplay
            Itself.
        """
        ax = axes_for(type(self).__name__, ax)
        from matplotlib.container import Container
        from matplotlib.lines import Line2D

        (self.line_,) = ax.plot(self.x, self.mean, **style({"label": "mean"}, kwargs, Line2D))
        self.points_ = None
        if self.x_points is not None:
            (self.points_,) = ax.plot(
                self.x_points, self.y_points, ".", color="black", ms=4, label="data"
            )
        percent = f"{100 * self.confidence_level:g} %"
        self.total_band_ = self._band(ax, self.std, 0.18)
        ax.add_container(Container((self.total_band_,), label=f"{percent}, noise included"))
        self.epistemic_band_ = None
        if self.epistemic_std is not None:
            self.epistemic_band_ = self._band(ax, self.epistemic_std, 0.35)
            # What is seen is one band over the other: so is the swatch in the legend.
            both = (self.total_band_, self.epistemic_band_)
            ax.add_container(Container(both, label=f"{percent}, epistemic only"))
        ax.set(xlabel="x", ylabel="y")
        ax.legend(fontsize="small", frameon=False)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _band(self, ax: Any, std: Array, alpha: float) -> Any:
        half = ndtri((1 + self.confidence_level) / 2) * std
        return ax.fill_between(
            self.x,
            self.mean - half,
            self.mean + half,
            color=self.line_.get_color(),
            alpha=alpha,
            lw=0,
        )

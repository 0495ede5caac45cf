"""Leave-one-out residuals of the training rows against their leverages."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklearn_hfl._data.moments import Array, check_std, check_values
from sklearn_hfl._data.params import integer, validate_arguments
from sklearn_hfl.plotting.canvas import axes_for, names_of, single_output, style, training_queries

__all__ = ["LeaveOneOutDisplay"]

# Lines of rows that move their own prediction by as much, in stds of it.
LEVELS = (0.5, 1.0, 2.0)


class LeaveOneOutDisplay:
    """Standardised leave-one-out residuals of the training rows against their leverages.

    A row of residual r and leverage h moves its own prediction by h r: the dotted lines join
    rows that do so by as many standard deviations, and the rows that do so most are named.
    Rows far up or down contradict the others; about rows far to the right the others say little.
    Create one with ``from_estimator`` or ``from_predictions``.

    Parameters
    ----------
    leverage : ndarray of shape (n,)
        Share of the row's own y in its prediction.
    residual : ndarray of shape (n,)
        y less the mean that the other rows predict, in standard deviations of this prediction.
    names : sequence of str, default=None
        Of the rows; None is their numbers.
    n_named : int, default=5
        Rows to name.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes drawn on.
    figure_ : matplotlib Figure
        Their figure.
    points_ : matplotlib Line2D
        The rows.
    named_ : ndarray of int of shape (n_named,)
        Positions of the rows that are named, the one that moves its prediction most first.
    texts_ : list of matplotlib Annotation
        Their names.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn_hfl import HFLRegressor
    >>> from sklearn_hfl.plotting import LeaveOneOutDisplay
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = HFLRegressor(hidden_layer_sizes=(), random_state=0).fit(X, y)
    >>> display = LeaveOneOutDisplay.from_estimator(model, y)
    >>> display.named_
    array([123, 141, 382,  32, 169])
    """

    def __init__(
        self, leverage: Array, residual: Array, *, names: Any = None, n_named: int = 5
    ) -> None:
        self.leverage = leverage
        self.residual = residual
        self.names = names
        self.n_named = n_named

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        y: ArrayLike,
        *,
        names: Any = None,
        n_named: int = 5,
        ax: Any = None,
        **kwargs: Any,
    ) -> LeaveOneOutDisplay:
        """Draw the training rows of a regressor.

        Parameters
        ----------
        estimator : estimator
            A fitted HFLRegressor, or a pipeline that ends in one.
        y : array-like of shape (n,)
            Targets of ``fit``.
        names : array-like of shape (n,), default=None
            Names of these rows, such as the index of a data frame; None is their numbers.
        n_named : int, default=5
            Rows to name.
        ax : matplotlib Axes, default=None
            Axes to draw on; None is a new figure.
        **kwargs : dict
            Passed to the points.

        Returns
        -------
        LeaveOneOutDisplay

        Examples
        --------
        >>> from sklearn_hfl import HFLRegressor
        >>> from sklearn_hfl.plotting import LeaveOneOutDisplay
        >>> X, y = [[0.0], [1.0], [2.0], [3.0], [4.0]], [0.1, 0.9, 2.2, 3.1, 9.0]
        >>> model = HFLRegressor(hidden_layer_sizes=(), noise_std=1.0, prior_precision=0.1)
        >>> names = ["a", "b", "c", "d", "e"]
        >>> display = LeaveOneOutDisplay.from_estimator(model.fit(X, y), y, names=names, n_named=1)
        >>> display.texts_[0].get_text()
        'e'
        """
        model, _ = training_queries(cls.__name__, estimator, "loo_predict", None)
        left = model.loo_predict()
        if "mean" not in left:
            raise TypeError(
                f"{cls.__name__} shows residuals of a regressor, but {type(model).__name__} is a "
                "classifier. Sort its rows by loo_predict().log_density instead."
            )
        observed = check_values("y", y)
        if len(observed) != model._n_rows:
            raise ValueError(
                f"y must hold the targets of fit, which had {model._n_rows} rows, but got "
                f"{len(observed)}."
            )
        labels = names_of(names, len(observed))[left.rows]
        return cls.from_predictions(
            observed[left.rows],
            left.mean,
            left.std,
            left.leverage,
            names=labels,
            n_named=n_named,
            ax=ax,
            **kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        mean: ArrayLike,
        std: ArrayLike,
        leverage: ArrayLike,
        *,
        names: Any = None,
        n_named: int = 5,
        ax: Any = None,
        **kwargs: Any,
    ) -> LeaveOneOutDisplay:
        """Draw leave-one-out predictions.

        Parameters
        ----------
        y_true : array-like of shape (n,)
            Observed values of the training rows.
        mean, std : array-like of shape (n,)
            Moments of each one's predictive distribution by the others, noise included.
        leverage : array-like of shape (n,)
            Of each row.
        names : array-like of shape (n,), default=None
            Of the rows; None is their numbers.
        n_named : int, default=5
            Rows to name.
        ax : matplotlib Axes, default=None
            Axes to draw on; None is a new figure.
        **kwargs : dict
            Passed to the points.

        Returns
        -------
        LeaveOneOutDisplay

        Examples
        --------
        >>> from sklearn_hfl.plotting import LeaveOneOutDisplay
        >>> display = LeaveOneOutDisplay.from_predictions(
        ...     [0.0, 3.0], [1.0, 1.0], [1.0, 1.0], [0.1, 0.5]
        ... )
        >>> display.residual
        array([-1.,  2.])
        """
        columns = check_values("y_true", y_true)
        means = check_values("mean", mean, columns.shape)
        stds = check_std("std", std, columns.shape)
        leverages = check_values("leverage", leverage, columns.shape)
        y = single_output(cls.__name__, "y_true", columns)
        residual = (y - means[:, 0]) / stds[:, 0]
        labels = names_of(names, len(y))
        display = cls(leverages[:, 0], residual, names=labels, n_named=n_named)
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> LeaveOneOutDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None is a new figure.
        **kwargs : dict
            Passed to the points.

        Returns
        -------
        LeaveOneOutDisplay
            Itself.
        """
        owner = type(self).__name__
        validate_arguments(owner, {"n_named": self.n_named}, {"n_named": integer(0)})
        ax = axes_for(owner, ax)
        from matplotlib.lines import Line2D

        defaults = {"ls": "none", "marker": "o", "markersize": 4, "alpha": 0.6}
        (self.points_,) = ax.plot(self.leverage, self.residual, **style(defaults, kwargs, Line2D))
        ax.axhline(0.0, color="black", lw=0.8)
        moves = self.leverage * self.residual
        self.named_: NDArray[np.intp] = np.argsort(-np.abs(moves), kind="stable")[: self.n_named]
        right = 1.08 * float(self.leverage.max(initial=0.0)) or 1.0
        top = 1.15 * float(np.abs(self.residual).max(initial=0.0)) or 1.0
        h = np.linspace(right / 200, right, 200)
        for level in LEVELS:
            for sign in (-1, 1):
                inside = level / h <= top
                ax.plot(h[inside], sign * level / h[inside], color="0.6", lw=0.8, ls=":")
            if level / right <= top:
                words = {"color": "0.4", "fontsize": "small", "va": "center"}
                ax.annotate(f" {level:g}", (right, level / right), **words)
        names = names_of(self.names, len(self.leverage))
        self.texts_ = [
            ax.annotate(
                str(names[i]),
                (self.leverage[i], self.residual[i]),
                xytext=(-4 if self.leverage[i] > right / 2 else 4, 4),
                ha="right" if self.leverage[i] > right / 2 else "left",
                textcoords="offset points",
                fontsize="small",
            )
            for i in self.named_
        ]
        ax.set(
            xlabel="leverage",
            ylabel="leave-one-out residual / std",
            xlim=(0, right),
            ylim=(-top, top),
        )
        self.ax_, self.figure_ = ax, ax.figure
        return self

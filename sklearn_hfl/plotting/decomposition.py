"""Decomposition of the std into an epistemic and an aleatoric part."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sklearn_hfl._data.moments import (
    Array,
    check_std,
    check_values,
    predict_epistemic_std,
    predict_moments,
)
from sklearn_hfl.plotting.canvas import axes_for, name_of, single_output

__all__ = ["UncertaintyDecompositionDisplay"]

RANK = "quantile of the total std"
# The root mean square of 10 normal errors has a standard error of 22 %.
MAX_BINS, MIN_SAMPLES = 10, 10


class UncertaintyDecompositionDisplay:
    """Epistemic, aleatoric and total standard deviation of samples, and their errors.

    Samples are sorted by their total std, which shows for what share of them more data
    would help; or they are drawn over a feature, which shows where. Single errors scatter, so
    their root mean square is drawn too, in up to ten bins of equally many samples: for
    calibrated stds it follows the total. Create one with
    ``from_estimator`` or ``from_predictions``.

    Parameters
    ----------
    x : ndarray of shape (n,)
        Position of each sample.
    epistemic_std, aleatoric_std : ndarray of shape (n,)
        The parts; total² = epistemic² + aleatoric².
    error : ndarray of shape (n,), default=None
        ``|y − mean|`` of each sample, drawn as points and as root mean squares.
    xlabel : str, default="quantile of the total std"
        Label of the positions.
    connected : bool, default=True
        Draw lines, not points.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes drawn on.
    figure_ : matplotlib Figure
        Their figure.
    total_, epistemic_, aleatoric_ : matplotlib Line2D
        The standard deviations.
    error_ : matplotlib Line2D
        The errors, or None.
    binned_error_ : matplotlib Line2D
        Root mean square error of each bin at the mean of its positions, or None.

    Examples
    --------
    >>> from sklearn_hfl.plotting import UncertaintyDecompositionDisplay
    >>> display = UncertaintyDecompositionDisplay.from_predictions([3.0, 0.0], [4.0, 4.0])
    >>> display.total_.get_ydata()
    array([4., 5.])
    """

    def __init__(
        self,
        x: Array,
        epistemic_std: Array,
        aleatoric_std: Array,
        *,
        error: Array | None = None,
        xlabel: str = RANK,
        connected: bool = True,
    ) -> None:
        self.x = x
        self.epistemic_std = epistemic_std
        self.aleatoric_std = aleatoric_std
        self.error = error
        self.xlabel = xlabel
        self.connected = connected

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike | None = None,
        *,
        feature: int | str | None = None,
        ax: Any = None,
    ) -> UncertaintyDecompositionDisplay:
        """Draw the parts of an estimator's standard deviations.

        Parameters
        ----------
        estimator : estimator
            Fitted; its ``predict`` supports ``return_std="epistemic"``.
        X : array-like or dataframe of shape (n, n_features)
            Inputs.
        y : array-like of shape (n,), default=None
            Observed values; ``|y − mean|`` is drawn, each and in bins.
        feature : int or str, default=None
            Column of X to draw over; None is the rank of the total std.
        ax : matplotlib Axes, default=None
            Axes to draw on; None is a new figure.

        Returns
        -------
        UncertaintyDecompositionDisplay

        Raises
        ------
        ValueError
            If the estimator has no epistemic std.
        """
        mean, std = predict_moments(estimator, X)
        part = predict_epistemic_std(estimator, X, std)
        if part is None:
            raise ValueError(
                f"{cls.__name__} expects an estimator whose predict(X, return_std='epistemic') "
                f"gives a part of the std, such as HFLRegressor, but {name_of(estimator)} gives "
                "only the total. Use PredictionIntervalDisplay or CoverageDisplay."
            )
        total = check_std("std", std, np.shape(std) if np.ndim(std) == 2 else (len(std), 1))
        epistemic = check_std("epistemic std", part, total.shape, or_zero=True)
        aleatoric = np.sqrt(np.maximum(total**2 - epistemic**2, 0))
        by, label = (None, None) if feature is None else _column(cls.__name__, X, feature)
        return cls.from_predictions(
            epistemic, aleatoric, y_true=y, mean=None if y is None else mean, by=by, xlabel=label,
            ax=ax,
        )  # fmt: skip

    @classmethod
    def from_predictions(
        cls,
        epistemic_std: ArrayLike,
        aleatoric_std: ArrayLike,
        *,
        y_true: ArrayLike | None = None,
        mean: ArrayLike | None = None,
        by: ArrayLike | None = None,
        xlabel: str | None = None,
        ax: Any = None,
    ) -> UncertaintyDecompositionDisplay:
        """Draw the parts of given standard deviations.

        Parameters
        ----------
        epistemic_std, aleatoric_std : array-like of shape (n,)
            The parts.
        y_true, mean : array-like of shape (n,), default=None
            Observed and predicted values; ``|y_true − mean|`` is drawn, each and in bins.
        by : array-like of shape (n,), default=None
            Values to draw over, say of a feature; None is the rank of the total std.
        xlabel : str, default=None
            What they are.
        ax : matplotlib Axes, default=None
            Axes to draw on; None is a new figure.

        Returns
        -------
        UncertaintyDecompositionDisplay
        """
        shape = check_values("epistemic_std", epistemic_std).shape
        epistemic = check_std("epistemic_std", epistemic_std, shape, or_zero=True)
        aleatoric = check_std("aleatoric_std", aleatoric_std, shape, or_zero=True)[:, 0]
        epistemic = single_output(cls.__name__, "the std", epistemic)
        if (y_true is None) != (mean is None):
            raise ValueError("Expected both y_true and mean or neither, but got only one of them.")
        error = None
        if y_true is not None and mean is not None:
            values = check_values("y_true", y_true, shape) - check_values("mean", mean, shape)
            error = np.abs(values[:, 0])
        n = len(epistemic)
        if by is None:
            order = np.argsort(np.hypot(epistemic, aleatoric), kind="stable")
            x, label = (np.arange(n) + 0.5) / n, RANK
        else:
            x = check_values("by", by, shape)[:, 0]
            order = np.argsort(x, kind="stable")
            x, label = x[order], "value" if xlabel is None else xlabel
        display = cls(
            x,
            epistemic[order],
            aleatoric[order],
            error=None if error is None else error[order],
            xlabel=label,
            connected=by is None,
        )
        return display.plot(ax=ax)

    def plot(self, ax: Any = None) -> UncertaintyDecompositionDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None is a new figure.

        Returns
        -------
        UncertaintyDecompositionDisplay
            Itself.
        """
        ax = axes_for(type(self).__name__, ax)
        look = {"ls": "-"} if self.connected else {"ls": "", "marker": ".", "ms": 5}
        self.error_ = self.binned_error_ = None
        if self.error is not None:
            (self.error_,) = ax.plot(self.x, self.error, ".", color="0.7", ms=4, label="|y − mean|")
            x, error = self._bins(self.error)
            (self.binned_error_,) = ax.plot(
                x, error, "D", color="tab:red", ms=5, zorder=3, label="root mean square error"
            )
        total = np.hypot(self.epistemic_std, self.aleatoric_std)
        self.total_, self.aleatoric_, self.epistemic_ = (
            ax.plot(self.x, values, color=color, label=label, **look)[0]
            for values, color, label in (
                (total, "black", "total std"),
                (self.aleatoric_std, "tab:orange", "aleatoric (noise)"),
                (self.epistemic_std, "tab:blue", "epistemic"),
            )
        )
        ax.set(xlabel=self.xlabel, ylabel="standard deviation, in units of y")
        ax.set_ylim(bottom=0)
        ax.legend(fontsize="small", frameon=False)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _bins(self, error: Array) -> tuple[Array, Array]:
        """Mean position and root mean square error of neighbouring samples."""
        n_bins = min(MAX_BINS, max(len(self.x) // MIN_SAMPLES, 1))
        bins = np.array_split(np.argsort(self.x, kind="stable"), n_bins)
        mean_square = [np.mean(error[rows] ** 2) for rows in bins]
        return np.array([np.mean(self.x[rows]) for rows in bins]), np.sqrt(mean_square)


def _column(owner: str, X: Any, feature: int | str) -> tuple[Any, str]:
    """Values and name of a feature."""
    names = [str(name) for name in getattr(X, "columns", [])]
    if isinstance(feature, str):
        if feature not in names:
            found = ", ".join(names) or "an array without names"
            raise ValueError(f"{owner}: X has no column {feature!r}; expected one of: {found}.")
        return X[feature], feature
    n = np.shape(X)[1]
    if isinstance(feature, bool) or not 0 <= feature < n:
        raise ValueError(
            f"{owner}: feature must be a name or an integer from 0 to {n - 1}, but got {feature!r}."
        )
    return np.asarray(X)[:, feature], names[feature] if names else f"feature {feature}"

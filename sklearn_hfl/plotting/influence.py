"""Influence of training rows on one prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import is_classifier
from sklearn.utils.validation import check_is_fitted

from sklearn_hfl._data.moments import Array, check_values
from sklearn_hfl._data.params import integer
from sklearn_hfl.plotting.canvas import axes_for, names_of, single_output, style, training_queries

__all__ = ["InfluenceDisplay"]

DEFAULT_ROWS = 10


class InfluenceDisplay:
    """The training rows that made one prediction: how it would change without each.

    Bars to the right are rows without which the prediction would be larger, so that they hold
    it down; bars to the left hold it up. Create one with ``from_estimator`` or
    ``from_predictions``.

    Parameters
    ----------
    change : ndarray of shape (n_rows,)
        Prediction without the row less that with it, the largest absolute value first.
    names : sequence of str
        Of these rows.
    xlabel : str, default="change of the prediction without the row"
        Label of the axis.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes drawn on.
    figure_ : matplotlib Figure
        Their figure.
    bars_ : matplotlib BarContainer
        The changes.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn_hfl import HFLRegressor
    >>> from sklearn_hfl.plotting import InfluenceDisplay
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = HFLRegressor(hidden_layer_sizes=(), random_state=0).fit(X, y)
    >>> display = InfluenceDisplay.from_estimator(model, X[:1])
    >>> len(display.bars_)
    10
    """

    def __init__(
        self,
        change: Array,
        names: Any,
        *,
        xlabel: str = "change of the prediction without the row",
    ) -> None:
        self.change = change
        self.names = names
        self.xlabel = xlabel

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        names: Any = None,
        n_rows: int | None = None,
        output: int | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> InfluenceDisplay:
        """Draw the rows of the largest influence on the prediction for one sample.

        Parameters
        ----------
        estimator : estimator
            A fitted HFLRegressor or HFLClassifier, or a pipeline that ends in one.
        X : array-like of shape (1, n_features)
            The sample.
        names : array-like of shape (n,), default=None
            Names of the rows in the X of ``fit``; None is their numbers.
        n_rows : int, default=None
            Rows to draw; None is 10, or all of a fit that has fewer.
        output : int, default=None
            Position of the output among several, or of the class in ``classes_``; None is the
            predicted class.
        ax : matplotlib Axes, default=None
            Axes to draw on; None is a new figure.
        **kwargs : dict
            Passed to the bars.

        Returns
        -------
        InfluenceDisplay

        Raises
        ------
        ValueError
            If X is not one sample, ``output`` is missing, or an argument is not as expected.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_hfl import HFLClassifier
        >>> from sklearn_hfl.plotting import InfluenceDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> model = HFLClassifier(hidden_layer_sizes=(), random_state=0).fit(X, y)
        >>> InfluenceDisplay.from_estimator(model, X[50:51], n_rows=3).xlabel
        'change of P(y = 1) without the row'
        """
        model, queries = training_queries(cls.__name__, estimator, "influence", X)
        check_is_fitted(model)
        n_used = len(model._left_out_rows("influence", None)[1])
        top = min(DEFAULT_ROWS, n_used) if n_rows is None else n_rows
        if not integer(1).accepts(top) or top > n_used:
            raise ValueError(
                f"{cls.__name__}: n_rows must be an integer from 1 to the number of training rows, "
                f"{n_used}, or None, but got {n_rows!r}."
            )
        labels = names_of(names, model._n_rows)
        numbers, change = model.influence(queries, top=top)
        if len(change) != 1:
            raise ValueError(
                f"{cls.__name__} shows the prediction for one sample, but X has {len(change)}. "
                "Pass one row, X[i:i + 1]."
            )
        numbers, change = numbers[0], change[0]
        options = {}
        n_outputs = change.shape[1] if change.ndim == 2 else 1
        if output is not None and not (integer(0).accepts(output) and output < n_outputs):
            which = " in classes_" if is_classifier(model) else ""
            raise ValueError(
                f"{cls.__name__}: output must be a position{which}, an integer from 0 to "
                f"{n_outputs - 1}, but got {output!r}."
            )
        if is_classifier(model):
            if output is None:
                output = int(model.predict_proba(queries)[0].argmax())
            options["xlabel"] = f"change of P(y = {model.classes_[output]}) without the row"
        if change.ndim == 2:
            if output is None:
                raise ValueError(
                    f"The prediction has {change.shape[1]} outputs: pass the number of one as "
                    "output."
                )
            numbers, change = numbers[:, output], change[:, output]
        return cls.from_predictions(change, labels[numbers], ax=ax, **options, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        change: ArrayLike,
        names: Any = None,
        *,
        xlabel: str = "change of the prediction without the row",
        ax: Any = None,
        **kwargs: Any,
    ) -> InfluenceDisplay:
        """Draw changes of one prediction.

        Parameters
        ----------
        change : array-like of shape (n_rows,)
            Prediction without each row less that with it.
        names : array-like of shape (n_rows,), default=None
            Of the rows; None is their numbers.
        xlabel : str, default="change of the prediction without the row"
            Label of the axis.
        ax : matplotlib Axes, default=None
            Axes to draw on; None is a new figure.
        **kwargs : dict
            Passed to the bars.

        Returns
        -------
        InfluenceDisplay

        Examples
        --------
        >>> from sklearn_hfl.plotting import InfluenceDisplay
        >>> display = InfluenceDisplay.from_predictions([0.1, -0.4], ["Ann", "Bob"])
        >>> display.names
        array(['Bob', 'Ann'], dtype='<U3')
        """
        columns = check_values("change", change)
        values = single_output(cls.__name__, "change", columns)
        order: NDArray[np.intp] = np.argsort(-np.abs(values), kind="stable")
        display = cls(values[order], names_of(names, len(values))[order], xlabel=xlabel)
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> InfluenceDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None is a new figure.
        **kwargs : dict
            Passed to the bars.

        Returns
        -------
        InfluenceDisplay
            Itself.
        """
        ax = axes_for(type(self).__name__, ax)
        from matplotlib.patches import Rectangle

        places = np.arange(len(self.change))
        colors = np.where(self.change > 0, "C1", "C0")
        self.bars_ = ax.barh(
            places, self.change, **style({"color": colors, "height": 0.7}, kwargs, Rectangle)
        )
        ax.axvline(0.0, color="black", lw=0.8)
        ax.set_yticks(places, labels=[str(name) for name in self.names])
        ax.invert_yaxis()
        ax.set(xlabel=self.xlabel, ylabel="training row")
        self.ax_, self.figure_ = ax, ax.figure
        return self

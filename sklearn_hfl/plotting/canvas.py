"""Canvas: axes, styles and labels shared by the displays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_hfl._data.moments import Array

__all__ = ["axes_for", "name_of", "names_of", "single_output", "style", "training_queries"]


def axes_for(owner: str, ax: Any) -> Any:
    """Return the axes to draw on.

    Parameters
    ----------
    owner : str
        Name of the display, for the error message.
    ax : matplotlib Axes or None
        None is a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{owner}.plot needs matplotlib, which cannot be imported: {error}. Install it with "
            'pip install "sklearn_hfl[plot]".'
        ) from error
    return plt.subplots()[1] if ax is None else ax


def style(defaults: dict[str, Any], given: dict[str, Any] | None, artist: Any) -> dict[str, Any]:
    """Merge keywords for matplotlib, whose aliases (c, lw, ...) replace the full names.

    Parameters
    ----------
    defaults : dict
        By full name.
    given : dict or None
        The user's.
    artist : type
        Class of matplotlib that knows the aliases.

    Returns
    -------
    dict
    """
    from matplotlib.cbook import normalize_kwargs

    return {**defaults, **normalize_kwargs(given or {}, artist)}


def single_output(owner: str, name: str, columns: Array) -> Array:
    """Return the only column.

    Parameters
    ----------
    owner : str
        Name of the display, for the error message.
    name : str
        Name of the values.
    columns : ndarray of shape (n, n_outputs)
        The values.

    Returns
    -------
    ndarray of shape (n,)

    Raises
    ------
    ValueError
        If there are several.
    """
    if columns.shape[1] != 1:
        raise ValueError(
            f"{owner} shows one output, but {name} has {columns.shape[1]} columns. Call "
            "from_predictions with one column of each array."
        )
    return columns[:, 0]


def name_of(estimator: Any) -> str:
    """Return the class name of an estimator, for a pipeline that of its last step.

    Parameters
    ----------
    estimator : estimator
        Any.

    Returns
    -------
    str
    """
    steps = getattr(estimator, "steps", None)
    return type(steps[-1][1] if steps else estimator).__name__


def names_of(names: Any, n: int) -> NDArray[Any]:
    """Return names of n rows, by default their numbers.

    Parameters
    ----------
    names : array-like of shape (n,) or None
        Of any type.
    n : int
        Rows.

    Returns
    -------
    ndarray of shape (n,)

    Raises
    ------
    ValueError
        If there are not n.
    """
    array = np.arange(n) if names is None else np.asarray(names)
    if array.shape != (n,):
        raise ValueError(f"names must have shape ({n},), one a row, but got {array.shape}.")
    return array


def training_queries(owner: str, estimator: Any, method: str, X: Any) -> tuple[Any, Any]:
    """Return the estimator that knows its training rows, and X as it takes them.

    Parameters
    ----------
    owner : str
        Name of the display, for the error message.
    estimator : estimator
        Fitted, perhaps a pipeline.
    method : str
        What the estimator must have.
    X : array-like of shape (n, n_features) or None
        As the pipeline takes it.

    Returns
    -------
    model : estimator
        The last step of a pipeline.
    X : array-like
        After the steps before.

    Raises
    ------
    TypeError
        If it lacks the method.
    """
    steps = getattr(estimator, "steps", None)
    model = steps[-1][1] if steps else estimator
    if not hasattr(model, method):
        raise TypeError(
            f"{owner} needs an estimator that has {method}, such as HFLRegressor or a pipeline "
            f"that ends in one, but got {type(model).__name__}. Of a fitted search, pass "
            "best_estimator_."
        )
    before = steps and X is not None and len(steps) > 1
    return model, estimator[:-1].transform(X) if before else X

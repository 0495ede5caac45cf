"""Held-out data: calibration of an estimator, or of the last step of a pipeline, on them."""

from __future__ import annotations

from typing import Any, TypeVar

from numpy.typing import ArrayLike

__all__ = ["conformalize"]

Estimator = TypeVar("Estimator")


def conformalize(estimator: Estimator, X: Any, y: ArrayLike) -> Estimator:
    """Calibrate conformal intervals or sets on rows that were held out of fit.

    For an estimator this is its own method; in a pipeline X goes through the steps before
    the last one first.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Fitted; it, or its last step, has a method ``conformalize(X, y)``.
    X : {array-like, dataframe} of shape (n, n_features)
        Inputs of the calibration rows, as ``estimator.fit`` takes them.
    y : array-like of shape (n,) or (n, n_outputs)
        Their observed values.

    Returns
    -------
    estimator
        Itself.

    Raises
    ------
    TypeError
        If the estimator, or the last step, has no such method.
    ValueError
        If an array is not as expected.

    Warns
    -----
    HFLDataWarning
        If rows were trained on.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_hfl import HFLRegressor
    >>> from sklearn_hfl.calibration import conformalize
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = HFLRegressor(hidden_layer_sizes=(5,), random_state=0)
    >>> pipe = make_pipeline(StandardScaler(), model).fit(X[:200], y[:200])
    >>> pipe = conformalize(pipe, X[200:300], y[200:300])
    >>> _, interval = pipe.predict(X[300:], return_interval=0.9, interval_kind="conformal")
    >>> interval.shape
    (142, 2)
    """
    pipeline: Any = estimator
    steps = getattr(pipeline, "steps", None)
    model = steps[-1][1] if steps else pipeline
    if not hasattr(model, "conformalize"):
        raise TypeError(
            "conformalize expects HFLRegressor or HFLClassifier, or a pipeline that ends in one, "
            f"but got {type(model).__name__}. Of a fitted search, pass best_estimator_."
        )
    model.conformalize(pipeline[:-1].transform(X) if steps and len(steps) > 1 else X, y)
    return estimator

"""Data as they come: hypothesis draws their shapes, scales, columns, faults and containers."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import polars as pl
import scipy.sparse as sp
from hypothesis import strategies as st

seeds = st.integers(0, 2**31 - 1)
# From 1e-12 to 1e12, as units of measurement go.
scales = st.integers(-12, 12).map(lambda exponent: 10.0**exponent)


def _copied(rng, X):
    return X[:, rng.integers(X.shape[1])]


COLUMNS = {
    "normal": lambda rng, X: rng.standard_normal(len(X)),
    "constant": lambda rng, X: np.full(len(X), rng.standard_normal()),
    "duplicated": _copied,
    "collinear": lambda rng, X: X @ rng.standard_normal(X.shape[1]),
    "nearly collinear": lambda rng, X: _copied(rng, X) + 1e-9 * rng.standard_normal(len(X)),
    "count": lambda rng, X: rng.integers(-3, 4, len(X)),
    "truth": lambda rng, X: rng.integers(0, 2, len(X)),
    "outlier": lambda rng, X: _with_outlier(rng, rng.standard_normal(len(X))),
    "heavy tails": lambda rng, X: rng.standard_cauchy(len(X)) ** 3,
    "one value differs": lambda rng, X: np.arange(len(X)) == 0,
    "far from zero": lambda rng, X: 1e6 + rng.standard_normal(len(X)),
}
TARGETS = {
    "smooth": lambda rng, X: np.tanh(X[:, 0]) + 0.1 * rng.standard_normal(len(X)),
    "exact": lambda rng, X: np.clip(X[:, 0], -3, 3),
    "noise": lambda rng, X: rng.standard_normal(len(X)),
    "constant": lambda rng, X: np.full(len(X), 3.0),
    "count": lambda rng, X: rng.integers(0, 5, len(X)),
    "outlier": lambda rng, X: _with_outlier(rng, rng.standard_normal(len(X))),
    "one value differs": lambda rng, X: np.arange(len(X)) == len(X) - 1,
    "far from zero": lambda rng, X: 1e6 + rng.standard_normal(len(X)),
}


def _with_outlier(rng, values):
    values[rng.integers(len(values))] *= 1e6
    return values


@st.composite
def inputs(draw, least=2, most=40):
    """X (N, D): each column of a kind and in a unit of its own, rows perhaps repeated."""
    rng = np.random.default_rng(draw(seeds))
    n = draw(st.integers(least, least + 2) | st.integers(least, most))
    kinds = draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=6))
    X = rng.standard_normal((n, 1))
    for kind in kinds:
        X = np.column_stack([X, np.asarray(COLUMNS[kind](rng, X), dtype=float)])
    X = X[:, 1:] * draw(st.lists(scales, min_size=len(kinds), max_size=len(kinds)))
    if draw(st.booleans()) and n > 3:
        X[n // 2 :] = X[: n - n // 2]
    return X


@st.composite
def targets(draw, X):
    """Y (N,) or (N, K), each column of a kind and in a unit of its own."""
    rng = np.random.default_rng(draw(seeds))
    kinds = draw(st.lists(st.sampled_from(sorted(TARGETS)), min_size=1, max_size=3))
    spread = np.where(np.ptp(X, axis=0) > 0, np.ptp(X, axis=0), 1)
    standard = (X - X.mean(0)) / spread
    columns = [np.asarray(TARGETS[kind](rng, standard), dtype=float) for kind in kinds]
    Y = np.column_stack(columns) * draw(st.lists(scales, min_size=len(kinds), max_size=len(kinds)))
    return Y[:, 0] if len(kinds) == 1 else Y


@st.composite
def queries(draw, X):
    """Rows of X, rows between them, and rows that lie up to a million spreads away."""
    rng = np.random.default_rng(draw(seeds))
    far = draw(st.sampled_from([0.0, 1.0, 1e3, 1e6]))
    Q = X[rng.integers(len(X), size=2)]
    return np.vstack([X[:1], Q + far * np.ptp(X, axis=0) * rng.standard_normal(Q.shape)])


@st.composite
def parameters(draw):
    """Parameters of either estimator, all of them allowed."""
    params = {
        "hidden_layer_sizes": draw(st.sampled_from([(), (3,), (2, 2), (12,)])),
        "activation": draw(
            st.sampled_from(["tanh", "relu", "silu", "gelu", "logistic", "identity"])
        ),
        # Refits take a hundred times as long as the rest.
        "variance": draw(st.sampled_from([*2 * ["linearized", "amortized"], "network"])),
        "solver": draw(st.sampled_from(["newton-cg", "newton-cg", "lbfgs", "adam"])),
        "prior_precision": draw(st.just("evidence") | st.floats(1e-3, 1e3)),
        "std_rtol": draw(st.sampled_from([0.5, 0.01, 1e-4])),
        "normalize_X": draw(st.sampled_from([True, True, True, False])),
        "n_estimators": draw(st.sampled_from([1, 1, 2])),
        "dtype": draw(st.sampled_from(["float64", "float64", "float32"])),
        "max_iter": draw(st.integers(1, 30)),
        "random_state": draw(st.integers(0, 100)),
    }
    params["early_stopping"] = params["solver"] == "adam" and draw(st.booleans())
    return params


# ------------------------------------------------------------- containers


def _read_only(values):
    values = values.copy()
    values.flags.writeable = False
    return values


def _odd_index(values):
    index = [f"row {7 * i % len(values)}" for i in range(len(values))]
    frame = pd.DataFrame if values.ndim == 2 else pd.Series
    return frame(values, index=index)


def _shuffled_index(values):
    frame = pd.DataFrame if values.ndim == 2 else pd.Series
    return frame(values, index=np.arange(len(values))[::-1] - 5)


def _polars(values):
    if values.ndim == 1:
        return pl.Series("y", values)
    return pl.DataFrame({f"x{i}": column for i, column in enumerate(values.T)})


CONTAINERS = {
    "array": np.asarray,
    "list": lambda values: values.tolist(),
    "Fortran order": np.asfortranarray,
    "backwards": lambda values: values[::-1].copy()[::-1],
    "strided": lambda values: np.repeat(values, 3, axis=0)[::3],
    "read-only": _read_only,
    "objects": lambda values: values.astype(object),
    "pandas, odd index": _odd_index,
    "pandas, backward index": _shuffled_index,
    "polars": _polars,
}
SPARSE = {  # of X alone
    f"sparse {form}": getattr(sp, form)
    for form in ("csr_array", "csr_matrix", "csc_array", "coo_matrix", "lil_array", "dok_matrix")
}


# ----------------------------------------------------------------- faults


def _entry(value):
    def change(rng, values):
        values = values.astype(object if isinstance(value, str | date) else complex)
        values = values if isinstance(value, str | date | complex) else values.real.astype(float)
        values[tuple(rng.integers(size) for size in values.shape)] = value
        return values

    return change


def _with_date(rng, values):
    """Columns by name, one of them of dates."""
    columns = {f"x{i}": column for i, column in enumerate(np.atleast_2d(values.T))}
    dates = np.datetime64("2024-01-01") + rng.integers(0, 99, len(values))
    return {**columns, f"x{rng.integers(len(columns))}": dates}


def _masked(rng, values):
    mask = np.zeros(values.shape, dtype=bool)
    mask.flat[rng.integers(values.size)] = True
    return np.ma.array(values, mask=mask)


FAULTS = {
    "NaN": _entry(np.nan),
    "inf": _entry(np.inf),
    "-inf": _entry(-np.inf),
    "text": _entry("red"),
    "complex": _entry(1j),
    "None": lambda rng, values: None,
    "a number": lambda rng, values: 3.0,
    "empty": lambda rng, values: values[:0],
    "one more axis": lambda rng, values: values[..., None, None],
    "one row fewer": lambda rng, values: values[:-1],
    "ragged": lambda rng, values: [*values.tolist()[:-1], [1.0, [2.0]]],
    "dates": lambda rng, values: np.full(values.shape, np.datetime64("2024-01-01")),
    "a date in pandas": lambda rng, values: pd.DataFrame(_with_date(rng, values)),
    "a date in polars": lambda rng, values: pl.DataFrame(_with_date(rng, values)),
    "a date among objects": _entry(date(2024, 1, 1)),
    "a mask": _masked,
    "a dict": lambda rng, values: {"a": 1},
    "a generator": lambda rng, values: (row for row in values),
    "all NaN": lambda rng, values: np.full(values.shape, np.nan),
}

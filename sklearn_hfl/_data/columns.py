"""Columns: what arrays from outside hold, before anything is made a number."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["check_labels", "numbers_expected"]

NUMBERS, TIMES = "biufc", "mM"
NA = "NAType"  # the type of pd.NA; pandas need not be installed
SHOWN = 5  # columns that a message names
# What to do; only columns of X can be encoded or imputed.
ENCODE = {
    "X": " Encode text columns first, for example with sklearn.preprocessing.OneHotEncoder or "
    "TargetEncoder, which take NaN as a category of its own.",
    "y": " A regressor's y must be numbers; HFLClassifier takes labels.",
}
IMPUTE = {
    "X": " Impute them, for example with sklearn.impute.SimpleImputer, or leave these rows out."
}
UNMASK = {
    "X": " sklearn.impute.SimpleImputer takes X.astype(float).filled(numpy.nan); or leave these "
    "rows out."
}
WITHOUT_NA = {
    "X": " They take pandas.DataFrame(X).astype(object).fillna(numpy.nan), but not pd.NA."
}
LEAVE_OUT = " Leave these rows out."


@contextmanager
def numbers_expected(**arrays: Any) -> Iterator[None]:
    """Name the columns that hold no numbers in errors, and say what to do about them.

    Parameters
    ----------
    **arrays : array-like
        What is validated inside, by name. Left to NumPy, dates would become nanoseconds,
        days or years since 1970, and what a mask hides would be data.

    Raises
    ------
    TypeError
        If one holds dates or durations.
    ValueError
        If one is masked, or validation stumbles over text or missing values.
    """
    for name, values in arrays.items():
        _refuse_masked(name, values)
        times = [label for label, column in _columns(values) if _holds_times(column)]
        if times:
            raise TypeError(
                f"Expected numbers, but found dates or durations in {_where(name, times)}. Turn "
                "them to numbers that mean something here, such as days since the first or the "
                "day of the year."
            )
    try:
        yield
    except (TypeError, ValueError) as error:
        for name, values in arrays.items():
            _explain(name, values, error)
        raise


def check_labels(name: str, labels: Any) -> None:
    """Refuse labels that are masked, missing, or dates.

    Parameters
    ----------
    name : str
        For messages.
    labels : array-like of shape (n,)
        Labels of any type.

    Raises
    ------
    ValueError
        With their number where some are masked or missing.
    TypeError
        If they are dates or durations, which are not a type of target in scikit-learn.
    """
    _refuse_masked(name, labels)
    if isinstance(labels, list | tuple):
        # NumPy would turn what is missing among text into the text 'nan'.
        labels = np.fromiter(labels, dtype=object, count=len(labels))
    columns = [pair for pair in _columns(labels) if pair[1].dtype.kind in TIMES + "O"]
    _refuse_missing(name, columns)
    if any(_holds_times(column) for _, column in columns):
        raise TypeError(
            f"Expected labels that are text or integers, but found dates or durations in {name}. "
            f"Turn them to text, for example by numpy.asarray({name}).astype(str)."
        )


# ---------------------------------------------------------------------- columns


def _columns(values: Any) -> Iterator[tuple[Any, NDArray[Any]]]:
    """Label and values of each column whose type alone does not say that it holds numbers."""
    for label, column in _parts(values):
        if getattr(getattr(column, "dtype", None), "kind", "O") in NUMBERS:
            continue
        array = _array(column)
        if array is not None and array.dtype.kind not in NUMBERS and array.ndim:
            yield label, array


def _parts(values: Any) -> Iterator[tuple[Any, Any]]:
    frame = hasattr(values, "__array__") and not isinstance(values, np.ndarray)
    if frame and hasattr(values, "columns") and hasattr(values, "items"):
        yield from values.items()  # pandas and its kin, where two columns may share a name
        return
    names = frame and getattr(values, "column_names", getattr(values, "columns", None))
    if isinstance(names, list | tuple):  # polars, pyarrow
        yield from ((name, values[name]) for name in names)
        return
    if getattr(getattr(values, "dtype", None), "kind", "O") in NUMBERS:
        return
    array = _array(values)
    if array is None:
        return
    if array.dtype.names:
        yield from ((name, array[name]) for name in array.dtype.names)
    elif array.ndim > 1 and array.dtype.kind not in NUMBERS:
        yield from ((j, array[:, j]) for j in range(array.shape[1]))
    else:
        yield None, array


def _array(values: Any) -> NDArray[Any] | None:
    """Make it an array; None is for scikit-learn's validation to refuse."""
    try:
        return np.asarray(values)
    except TypeError:  # dates and numbers have no common type
        return np.asarray(values, dtype=object) if isinstance(values, list | tuple) else None
    except Exception:
        return None


def _where(name: str, labels: Collection[Any]) -> str:
    if None in labels:
        return name
    shown = ", ".join(repr(x) if isinstance(x, str) else str(x) for x in list(labels)[:SHOWN])
    more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    return f"column{'s' if len(labels) > 1 else ''} {shown}{more} of {name}"


# --------------------------------------------------------------------- findings

Columns = list[tuple[Any, NDArray[Any]]]


def _holds_times(column: NDArray[Any]) -> bool:
    # Dates of every library have strftime: datetime's, and the timestamps and periods of pandas.
    return column.dtype.kind in TIMES or any(
        hasattr(kind, "strftime") or issubclass(kind, timedelta | np.datetime64 | np.timedelta64)
        for kind in set(map(type, column.flat))
    )


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_text(value: Any) -> bool:
    return isinstance(value, str | bytes) and not _is_number(value)


def _is_missing(value: Any) -> bool:
    if isinstance(value, float | np.floating | np.datetime64 | np.timedelta64):
        return bool(value != value)
    return value is None or value is np.ma.masked or type(value).__name__ == NA


def _found(columns: Columns, wanted: Callable[[Any], bool]) -> dict[Any, list[Any]]:
    """Values that are wanted, of each column that has one."""
    picked = {label: [v for v in column.flat if wanted(v)] for label, column in columns}
    return {label: values for label, values in picked.items() if values}


def _refuse_masked(name: str, values: Any) -> None:
    rows = values if isinstance(values, list | tuple) else [values]
    masked = [row for row in rows if isinstance(row, np.ma.MaskedArray)]
    fields = [row[field] for row in masked for field in row.dtype.names or [...]]
    count = sum(int(np.ma.getmaskarray(field).sum()) for field in fields)
    if count:
        raise ValueError(
            f"Masked values ({count}) in {name}: a masked value is not an observation."
            f"{UNMASK.get(name, LEAVE_OUT)}"
        )


def _refuse_missing(name: str, columns: Columns) -> None:
    missing = _found(columns, _is_missing)
    if missing:
        raise ValueError(
            f"Input {name} contains NaN: {_counted(missing)} in {_where(name, missing)}."
            f"{IMPUTE.get(name, LEAVE_OUT)}{_without_na(name, missing)}"
        )


def _counted(missing: dict[Any, list[Any]]) -> str:
    return f"missing values ({sum(map(len, missing.values()))})"


def _without_na(name: str, missing: dict[Any, list[Any]]) -> str:
    """What to do about pd.NA, over which scikit-learn's encoders and imputers stumble."""
    kinds = {type(value).__name__ for values in missing.values() for value in values}
    return WITHOUT_NA.get(name, "") if NA in kinds else ""


def _explain(name: str, values: Any, error: Exception) -> None:
    """Raise what is wrong with a column, where one is the cause."""
    columns = list(_columns(values))
    text = _found(columns, _is_text)
    if text:
        missing = _found([(k, column) for k, column in columns if k in text], _is_missing)
        raise ValueError(
            f"Expected numbers, but found text such as {str(next(iter(text.values()))[0])!r}"
            f"{f' and {_counted(missing)}' if missing else ''} in {_where(name, text)}."
            f"{ENCODE.get(name, '')}{_without_na(name, missing)}"
        ) from error
    _refuse_missing(name, columns)
    other = _found(columns, lambda value: not _is_number(value))
    if other:
        kind = type(next(iter(other.values()))[0]).__name__
        # scikit-learn raises either, by what it is.
        raise (TypeError if isinstance(error, TypeError) else ValueError)(
            f"Expected numbers, but found values of type {kind} in {_where(name, other)}: {error}"
        ) from error
    if isinstance(values, np.ndarray) and values.dtype.names:
        raise ValueError(
            f"Expected {name} to be an array of numbers, but it is a structured array. "
            f"numpy.lib.recfunctions.structured_to_unstructured({name}) puts its fields side by "
            "side."
        ) from error

"""Columns that hold no numbers: one message for every container, which names the column."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.lib.recfunctions import structured_to_unstructured
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from sklearn_hfl import HFLClassifier, HFLRegressor
from sklearn_hfl.metrics import negative_log_predictive_density

SMALL = {
    "hidden_layer_sizes": (2,),
    "n_estimators": 1,
    "prior_precision": 1.0,
    "noise_std": 0.5,
    "random_state": 0,
}
N = 12
X = np.random.default_rng(0).uniform(-1, 1, (N, 2))
Y = X[:, 0] - X[:, 1]
LABELS = np.where(X[:, 0] > 0, "up", "down").astype(object)
DAYS = [dt.date(2024, 1, 1) + dt.timedelta(i) for i in range(N)]
STAMPS = pd.date_range("2024-01-01", periods=N)
REMEDY = "Turn them to numbers that mean something here, such as days since the first"


def with_value(values, value):
    return [value, *list(values)[1:]]


class Frame:
    """A dataframe of a library that nobody has heard of."""

    def __init__(self, **columns):
        self.named, self.columns, self.shape = columns, list(columns), (N, len(columns))

    def __getitem__(self, name):
        return self.named[name]

    def __len__(self):
        return N

    def __array__(self, dtype=None, copy=None):
        return np.array([list(c) for c in self.named.values()], object).T.astype(dtype or object)


TIMES = {
    "date": DAYS,
    "datetime": [dt.datetime(2024, 1, 1, i) for i in range(N)],
    "duration": [dt.timedelta(i) for i in range(N)],
    "time": [dt.time(i) for i in range(N)],
    "datetime64": list(np.array(DAYS, dtype="M8[D]")),
    "timedelta64": list(np.arange(N).astype("m8[s]")),
    "Timestamp": list(STAMPS),
    "time zone": list(STAMPS.tz_localize("Europe/Zurich")),
    "Period": list(STAMPS.to_period("D")),
    "missing and date": [None, *DAYS[1:]],
}
# Beside a column of numbers; the name of the column of dates.
BESIDE = {
    "pandas": (lambda t: pd.DataFrame({"a": Y, "when": pd.Series(t)}), "'when'"),
    "pandas objects": (
        lambda t: pd.DataFrame({"a": Y, "when": pd.Series(t, dtype=object)}),
        "'when'",
    ),
    "pandas categories": (lambda t: pd.DataFrame({"a": Y, "when": pd.Categorical(t)}), "'when'"),
    "pandas, no names": (lambda t: pd.DataFrame({0: Y, 1: pd.Series(t)}), "1"),
    "another frame": (lambda t: Frame(a=Y, when=t), "'when'"),
    "rows": (lambda t: [list(row) for row in zip(Y, t, strict=True)], "1"),
    "tuples": (lambda t: tuple(zip(Y, t, strict=True)), "1"),
    "objects": (lambda t: np.array([[a, b] for a, b in zip(Y, t, strict=True)], object), "1"),
}
CASES = [(frame, kind) for frame in BESIDE for kind in TIMES] + [
    ("pandas", dtype) for dtype in ("datetime64[ns]", "timedelta64[ns]", "datetime64[ns, UTC]")
]


def beside(frame, kind):
    make, where = BESIDE[frame]
    if kind in TIMES:
        return make(TIMES[kind]), where
    return make(pd.Series(np.arange(N)).astype(kind.replace(", UTC", ""))), where


def check_dates_are_refused(rows, where):
    for estimator, y in ((HFLRegressor, Y), (HFLClassifier, LABELS)):
        model = estimator(**{k: v for k, v in SMALL.items() if k in estimator().get_params()})
        with pytest.raises(TypeError, match=f"found dates or durations in {where} of X. {REMEDY}"):
            model.fit(rows, y)
        assert not hasattr(model, "n_features_in_")


@pytest.mark.parametrize(("frame", "kind"), CASES)
def test_a_column_of_dates_is_refused_by_name(frame, kind):
    rows, where = beside(frame, kind)
    check_dates_are_refused(rows, f"column {where}")


@pytest.mark.parametrize(
    "dtype", [pl.Date, pl.Datetime("us"), pl.Datetime("ns", "UTC"), pl.Duration("ms"), pl.Time]
)
def test_polars_takes_no_dates_for_numbers(dtype):
    when = pl.Series(np.arange(N)).cast(pl.Int64).cast(dtype)
    check_dates_are_refused(pl.DataFrame({"a": Y, "when": when}), "column 'when'")


@pytest.mark.parametrize("kind", ["M8[D]", "M8[ns]", "m8[s]"])
def test_numpy_takes_no_dates_for_numbers(kind):
    when = np.arange(N).astype(kind)
    record = np.rec.fromarrays([Y, when], names="a,when")
    check_dates_are_refused(record, "column 'when'")
    check_dates_are_refused(np.asarray(record), "column 'when'")
    check_dates_are_refused(np.column_stack([when, when]), "columns 0, 1")
    many = np.column_stack([when] * 8)
    check_dates_are_refused(many, "columns 0, 1, 2, 3, 4 and 3 more")


SERIES = {"list": list, "pandas": pd.Series, "objects": lambda t: np.array(t, dtype=object)}


@pytest.mark.parametrize("series", SERIES.values(), ids=list(SERIES))
@pytest.mark.parametrize("kind", TIMES)
def test_dates_are_refused_wherever_numbers_are_expected(series, kind):
    times, model = series(TIMES[kind]), HFLRegressor(**SMALL)
    fitted = HFLRegressor(**SMALL).fit(X, Y)
    calls = {
        "y": [lambda: model.fit(X, times), lambda: fitted.conformalize(X, times)],
        "sample_weight": [
            lambda: model.fit(X, Y, sample_weight=times),
            lambda: negative_log_predictive_density(Y, Y, np.ones(N), sample_weight=times),
        ],
        "weights": [lambda: fitted.predict_functional(X, times)],
        "y_true": [lambda: negative_log_predictive_density(times, Y, np.ones(N))],
        "std": [lambda: negative_log_predictive_density(Y, Y, times)],
    }
    for name, asked in calls.items():
        for call in asked:
            with pytest.raises(TypeError, match=f"dates or durations in {name}. {REMEDY}"):
                call()
    with pytest.raises(NotFittedError):
        model.predict(X)


@pytest.mark.parametrize("frame", BESIDE)
def test_dates_in_queries_and_calibration_rows_are_refused(frame):
    rows, where = beside(frame, "date")
    model = HFLRegressor(**SMALL).fit(X, Y)
    for call in (
        model.predict, model.predict_uncertainty, model.sample_y, model.predict_interval,
        model.predict_functional, lambda rows: model.conformalize(rows, Y),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=f"dates or durations in column {where} of X"):
            call(rows)


def test_a_column_of_several_targets_is_named():
    targets = pl.DataFrame({"a": Y, "when": DAYS})
    with pytest.raises(TypeError, match="dates or durations in column 'when' of y"):
        HFLRegressor(**SMALL).fit(X, targets)


# ------------------------------------------------------------------ text and gaps

TEXT = ["red", "blue", "green"] * 4
FRAMES = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "pandas strings": lambda c: pd.DataFrame(c).convert_dtypes(),
    "another": lambda c: Frame(**c),
}
ENCODE = "Encode text columns first, for example with .*OneHotEncoder or TargetEncoder"


@pytest.mark.parametrize("make", FRAMES.values(), ids=list(FRAMES))
def test_text_is_refused_by_the_name_of_its_column(make):
    model = HFLRegressor(**SMALL)
    with pytest.raises(ValueError, match=f"text such as 'red' in column 'c' of X. {ENCODE}"):
        model.fit(make({"a": list(Y), "c": TEXT}), Y)
    with pytest.raises(
        ValueError,
        match=rf"'blue' and missing values \(1\) in column 'c' of X. {ENCODE}.* take NaN as a cat",
    ):
        model.fit(make({"a": list(Y), "c": with_value(TEXT, None)}), Y)


@pytest.mark.parametrize("make", FRAMES.values(), ids=list(FRAMES))
def test_text_that_is_a_number_is_one(make):
    rows = make({"a": list(Y), "c": [str(v) for v in Y]})
    numbers = np.column_stack([Y, Y])
    np.testing.assert_array_equal(
        HFLRegressor(**SMALL).fit(rows, Y).predict(rows),
        HFLRegressor(**SMALL).fit(numbers, Y).predict(numbers),
    )


GAPS = {
    "Int64": pd.DataFrame({"a": Y, "b": pd.array([None, *range(1, N)], dtype="Int64")}),
    "boolean": pd.DataFrame({"a": Y, "b": pd.array([None] + [True] * 11, dtype="boolean")}),
    "objects and pd.NA": pd.DataFrame({"a": Y, "b": pd.Series(with_value(Y, pd.NA), dtype=object)}),
    "objects and None": pd.DataFrame({"a": Y, "b": pd.Series(with_value(Y, None), dtype=object)}),
    "array of objects": np.array([[1.0, pd.NA]] * N, dtype=object),
    "rows": [[1.0, None]] * N,
    "rows and pd.NA": [[1.0, pd.NA]] * N,
    "polars": pl.DataFrame({"a": Y, "b": [None, *range(1, N)]}),
    "truth values of polars": pl.DataFrame({"a": Y, "b": [None] + [True] * 11}),
}


@pytest.mark.parametrize("rows", GAPS.values(), ids=list(GAPS))
def test_gaps_are_refused_with_the_advice_to_impute(rows):
    for estimator, y in ((HFLRegressor, Y), (HFLClassifier, LABELS)):
        with pytest.raises(ValueError, match=r"(?s)Input X contains NaN.*[Ii]mpute"):
            estimator().fit(rows, y)


def test_the_advice_about_pandas_na_works():
    frame = GAPS["objects and pd.NA"].assign(c=pd.array(with_value(TEXT, None), dtype="string"))
    model = HFLRegressor(**SMALL)
    for columns in (["a", "b"], ["a", "c"]):
        with pytest.raises(ValueError, match=r"pandas.DataFrame\(X\).astype\(object\).fillna"):
            model.fit(frame[columns], Y)
    filled = frame.astype(object).fillna(np.nan)
    model.fit(SimpleImputer().fit_transform(filled[["a", "b"]]), Y)
    model.fit(OneHotEncoder().fit_transform(filled[["c"]]), Y)


MISSING_Y = {
    "objects and pd.NA": pd.Series(with_value(Y, pd.NA), dtype=object),
    "Float64": pd.Series(with_value(Y, None), dtype="Float64"),
    "polars": pl.Series(with_value(Y, None)),
    "list": with_value(Y, None),
}


@pytest.mark.parametrize("values", MISSING_Y.values(), ids=list(MISSING_Y))
def test_missing_targets_and_weights_are_refused_by_name(values):
    with pytest.raises(ValueError, match="Input y contains NaN"):
        HFLRegressor(**SMALL).fit(X, values)
    with pytest.raises(ValueError, match="Input sample_weight contains NaN"):
        HFLRegressor(**SMALL).fit(X, Y, sample_weight=values)


MISSING_LABELS = {
    "None": np.array(with_value(LABELS, None), dtype=object),
    "NaN": np.array(with_value(LABELS, np.nan), dtype=object),
    "pd.NA": pd.Series(with_value(LABELS, pd.NA), dtype="string"),
    "category": pd.Series(pd.Categorical(with_value(LABELS, None))),
    "polars": pl.Series(with_value(LABELS, None)),
    "Int64": pd.Series([None, *[0, 1] * 5, 0], dtype="Int64"),
    "NaT": np.array([np.datetime64("NaT"), *[np.datetime64("2024"), np.datetime64("2025")] * 5,
                     np.datetime64("2024")]),
}  # fmt: skip


@pytest.mark.parametrize("labels", MISSING_LABELS.values(), ids=list(MISSING_LABELS))
def test_missing_labels_are_refused(labels):
    with pytest.raises(ValueError, match="Input y contains NaN"):
        HFLClassifier().fit(X, labels)
    with pytest.raises(ValueError, match="Input y contains NaN"):
        HFLClassifier(hidden_layer_sizes=()).fit(X, LABELS).conformalize(X, labels)


@pytest.mark.parametrize("kind", ["date", "time zone", "Period", "datetime64"])
def test_dates_as_labels_are_named_as_such(kind):
    with pytest.raises(TypeError, match=r"Expected labels .* dates .* in y. Turn them to text"):
        HFLClassifier().fit(X, pd.Series(TIMES[kind][:2] * 6))


def test_a_structured_array_is_refused_with_the_way_to_columns():
    record = np.rec.fromarrays([Y, Y], names="a,b")
    with pytest.raises(ValueError, match=r"structured_to_unstructured\(X\)"):
        HFLRegressor(**SMALL).fit(record, Y)
    rows = structured_to_unstructured(record)
    assert HFLRegressor(**SMALL).fit(rows, Y).n_features_in_ == 2


def test_other_values_are_refused_by_their_type():
    frame = pl.DataFrame({"a": Y, "b": [[1.0, 2.0]] * N})
    with pytest.raises(ValueError, match="of type ndarray in column 'b' of X"):
        HFLRegressor(**SMALL).fit(frame, Y)
    frame = pd.DataFrame({"a": Y, "b": pd.interval_range(0, N)})
    with pytest.raises(TypeError, match="of type Interval in column 'b' of X"):
        HFLRegressor(**SMALL).fit(frame, Y)


# -------------------------------------------------------------------------- masks


def masked(values, count):
    mask = np.zeros(values.shape, dtype=bool)
    mask.flat[:count] = True
    return np.ma.array(values, mask=mask)


@pytest.mark.parametrize("count", [1, 5])
def test_masked_values_are_refused_and_counted(count):
    model, known = HFLRegressor(**SMALL), HFLRegressor(**SMALL).fit(X, Y)
    words = rf"Masked values \({count}\) in"
    for call in (lambda rows: model.fit(rows, Y), known.predict, known.sample_y):
        for rows in (masked(X, count), list(masked(X, count))):
            with pytest.raises(ValueError, match=f"{words} X.*SimpleImputer.*leave these rows out"):
                call(rows)
    for y in (masked(Y, count), list(masked(Y, count))):
        with pytest.raises(ValueError, match=f"{words} y.*Leave these rows out"):
            model.fit(X, y)
    with pytest.raises(ValueError, match=f"{words} sample_weight"):
        model.fit(X, Y, sample_weight=masked(np.ones(N), count))
    with pytest.raises(ValueError, match=f"{words} weights"):
        known.predict_functional(X, masked(np.ones(N), count))
    with pytest.raises(ValueError, match=f"{words} y"):
        HFLClassifier().fit(X, masked((Y > 0).astype(int), count))
    imputed = SimpleImputer().fit_transform(masked(X, count).astype(float).filled(np.nan))
    assert np.isfinite(model.fit(imputed, Y).predict(X)).all()


def test_an_array_whose_mask_hides_nothing_is_data():
    expected = HFLRegressor(**SMALL).fit(X, Y).predict(X)
    model = HFLRegressor(**SMALL).fit(masked(X, 0), masked(Y, 0), sample_weight=np.ma.ones(N))
    np.testing.assert_array_equal(model.predict(masked(X, 0)), expected)


def test_an_array_of_numbers_is_not_looked_through(monkeypatch):
    """A check of the type, however large it is: nothing is made an array anew."""
    from sklearn_hfl._data import columns

    monkeypatch.setattr(columns, "_array", None)  # not callable
    with columns.numbers_expected(X=X, y=Y, w=np.ones(N, bool), f=np.float32(X)):
        pass

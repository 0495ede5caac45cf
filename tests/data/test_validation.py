"""Arrays from outside: every form that they may have gives the answers of plain arrays."""

from __future__ import annotations

import array

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.preprocessing import StandardScaler

from sklearn_hfl import HFLRegressor

SMALL = {
    "hidden_layer_sizes": (3,),
    "n_estimators": 1,
    "prior_precision": 1.0,
    "noise_std": 1.0,
    "tol": 0.0,  # to the very MAP
    "random_state": 0,
}
# Small integers, which every form below holds exactly.
RNG = np.random.default_rng(0)
X = RNG.integers(-3, 4, (25, 2)).astype(float)
Y = np.round(2 * np.sin(X[:, 0]) + X[:, 1])
WEIGHT = RNG.integers(1, 3, 25).astype(float)


def answers(X, y, weight, queries):
    model = HFLRegressor(**SMALL).fit(X, y, sample_weight=weight)
    return model.predict(queries, return_std=True)


def memory_mapped(values, folder):
    path = folder / f"{id(values)}.npy"
    np.save(path, values)
    return np.load(path, mmap_mode="r")


def read_only(values, _):
    values = values.copy()
    values.flags.writeable = False
    return values


FORMS = {
    "list": lambda a, _: a.tolist(),
    "tuple": lambda a, _: tuple(map(tuple, a)) if a.ndim == 2 else tuple(a),
    "int8": lambda a, _: a.astype(np.int8),
    "int64": lambda a, _: a.astype(np.int64),
    "float16": lambda a, _: a.astype(np.float16),
    "float32": lambda a, _: a.astype(np.float32),
    "longdouble": lambda a, _: a.astype(np.longdouble),
    "big endian": lambda a, _: a.astype(">f8"),
    "objects": lambda a, _: a.astype(object),
    "Fortran order": lambda a, _: np.asfortranarray(a),
    "a view with strides": lambda a, _: np.repeat(a, 2, axis=0)[::2],
    "backwards strides": lambda a, _: a[::-1].copy()[::-1],
    "read-only": read_only,
    "memory-mapped": memory_mapped,
    "pandas": lambda a, _: (pd.DataFrame if a.ndim == 2 else pd.Series)(a),
    "nullable pandas": lambda a, _: (pd.DataFrame if a.ndim == 2 else pd.Series)(a).astype("Int64"),
    "torch": lambda a, _: torch.tensor(a),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_arrays_of_any_form_give_the_same_bits(form, tmp_path):
    expected = answers(X, Y, WEIGHT, X[:5])
    converted = [form(a, tmp_path) for a in (X, Y, WEIGHT, X[:5])]
    for ours, theirs in zip(answers(*converted), expected, strict=True):
        assert_array_equal(ours, theirs)


def test_truth_values_are_numbers():
    model = HFLRegressor(**SMALL)
    expected = model.fit((X > 0).astype(float), (Y > 0).astype(float)).predict(X[:5])
    assert_array_equal(model.fit(X > 0, Y > 0).predict(X[:5]), expected)


def test_an_array_of_the_standard_library_is_a_target():
    expected = HFLRegressor(**SMALL).fit(X, Y).predict(X)
    assert_array_equal(HFLRegressor(**SMALL).fit(X, array.array("d", Y)).predict(X), expected)


def test_a_column_of_y_is_one_output():
    one, column = (HFLRegressor(**SMALL).fit(X, y) for y in (Y, Y[:, None]))
    assert_array_equal(one.predict(X), column.predict(X)[:, 0])
    assert_array_equal(one.predict_uncertainty(X).std, column.predict_uncertainty(X).std[:, 0])


def test_answers_are_arrays_of_float64():
    model = HFLRegressor(**SMALL).fit(X.astype(np.float32), Y.astype(np.float32))
    result = [*model.predict(X, return_std=True), *model.predict(X, return_cov=True)]
    for values in (*result, model.sample_y(X), *model.coefs_, *model.intercepts_):
        assert type(values) is np.ndarray
        assert values.dtype == np.float64


def test_no_weights_are_weights_of_one():
    expected = answers(X, Y, None, X)
    for ours, theirs in zip(answers(X, Y, np.ones(25), X), expected, strict=True):
        assert_array_equal(ours, theirs)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
def test_inputs_and_targets_are_standardised_as_by_the_standard_scaler(weight):
    X_scaler, y_scaler = (
        StandardScaler().fit(a, sample_weight=weight) for a in (X, Y[:, None])
    )  # fmt: skip
    inside = HFLRegressor(**SMALL).fit(X, Y, sample_weight=weight)
    outside = HFLRegressor(**SMALL, normalize_X=False, normalize_y=False)
    outside.set_params(noise_std=SMALL["noise_std"] / y_scaler.scale_[0])
    targets = y_scaler.transform(Y[:, None])[:, 0]
    outside.fit(X_scaler.transform(X), targets, sample_weight=weight)
    mean, std = outside.predict(X_scaler.transform(X), return_std=True)
    expected = mean * y_scaler.scale_ + y_scaler.mean_, std * y_scaler.scale_
    for ours, theirs in zip(inside.predict(X, return_std=True), expected, strict=True):
        assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("normalize_X", [True, False])
@pytest.mark.parametrize("normalize_y", [True, False])
def test_each_standardisation_is_optional(normalize_X, normalize_y):
    model = HFLRegressor(**SMALL, normalize_X=normalize_X, normalize_y=normalize_y).fit(X, Y)
    assert model.noise_std_ == pytest.approx(1.0)
    assert model.score(X, Y) > 0.5


def test_two_rows_are_enough():
    model = HFLRegressor(**SMALL).fit(X[:2], [0.0, 1.0])
    mean, std = model.predict(X, return_std=True)
    assert np.isfinite(mean).all()
    assert (std > 0).all()


def test_rows_may_be_fewer_than_features_and_repeat():
    wide = np.random.default_rng(1).standard_normal((6, 30))
    model = HFLRegressor(**SMALL).fit(np.vstack([wide, wide]), np.tile(Y[:6], 2))
    assert np.isfinite(model.predict(wide, return_std=True)).all()


def test_columns_may_repeat():
    model = HFLRegressor(**SMALL).fit(np.column_stack([X, X, X]), Y)
    mean, std = model.predict(np.column_stack([X, X, X]), return_std=True)
    assert np.isfinite(mean).all()
    assert (std > 0).all()


@pytest.mark.parametrize("size", [1e-150, 1e150])
def test_numbers_of_any_size_that_can_be_squared_work(size):
    model = HFLRegressor(**{**SMALL, "noise_std": size})
    mean, std = model.fit(size * X, size * Y).predict(size * X, return_std=True)
    assert np.isfinite(mean).all()
    assert (std >= size).all()

"""HFLClassifier: labels of any type, and how rows and classes are weighted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.utils.class_weight import compute_sample_weight

from sklearn_hfl import HFLClassifier, HFLDataWarning
from sklearn_hfl._data.labels import check_labelled_data
from tests.classes import SMALL, three_classes, two_classes

# Sorted, so that each label has the index of the integers 0, 1, 2.
LABELS = {
    "integers": [-2, 3, 7],
    "small integers": np.array([0, 1, 200], dtype=np.uint8),
    "large integers": [5, 2**60, 2**60 + 1],
    "floats": [1.0, 2.0, 4.0],
    "words": ["setosa", "versicolor", "virginica"],
    "objects": np.array(["a", "b", "c"], dtype=object),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=list(LABELS))
def test_labels_of_any_type(labels):
    X, index = three_classes()
    y, expected = np.asarray(labels)[index], HFLClassifier(**SMALL).fit(X, index)
    model = HFLClassifier(**SMALL).fit(X, y)
    assert_array_equal(model.classes_, labels)
    assert model.classes_.dtype == model.predict(X).dtype == y.dtype
    assert_array_equal(model.predict(X), y[:3][expected.predict(X)])
    assert_array_equal(model.predict_proba(X), expected.predict_proba(X))


PANDAS = {
    "object": lambda words: pd.Series(words, dtype=object),
    "string": lambda words: pd.Series(words, dtype="string"),
    "category": lambda words: pd.Series(words, dtype="category"),
    "categories unsorted, one unused": lambda words: pd.Categorical(words, list("czab")),
}


@pytest.mark.parametrize("kind", PANDAS.values(), ids=list(PANDAS))
def test_labels_of_pandas(kind):
    X, index = three_classes()
    model = HFLClassifier(**SMALL).fit(X, kind(np.array(list("abc"))[index]))
    assert model.classes_.tolist() == ["a", "b", "c"]
    expected = HFLClassifier(**SMALL).fit(X, index)
    assert_array_equal(model.predict_proba(X), expected.predict_proba(X))
    assert set(model.predict(X)) == {"a", "b", "c"}


def test_booleans_and_pandas():
    X, y = two_classes()
    frame = pd.DataFrame(X, columns=["a", "b"], index=np.arange(len(X)) + 100)
    model = HFLClassifier(**SMALL).fit(frame, pd.Series(y == 1, index=frame.index))
    assert_array_equal(model.classes_, [False, True])
    assert model.predict(frame).dtype == bool
    assert_array_equal(model.feature_names_in_, ["a", "b"])
    expected = HFLClassifier(**SMALL).fit(X, y).predict_proba(X)
    assert_allclose(model.predict_proba(frame), expected, rtol=1e-12)


# ------------------------------------------------------------------ weights


def fitted(X, y, sample_weight=None, **params):
    return HFLClassifier(**{**SMALL, "tol": 0.0, **params}).fit(X, y, sample_weight)


def assert_same(first, second, X):
    assert_allclose(first.predict_proba(X), second.predict_proba(X), rtol=1e-5, atol=1e-8)
    stds = (model.predict_proba(X, return_std=True)[1] for model in (first, second))
    assert_allclose(*stds, rtol=0.02)


def test_class_weight_equals_sample_weight():
    X, y = three_classes()
    weight = {0: 3.0, 2: 0.5}
    by_class = fitted(X, y, class_weight=weight)
    assert_same(by_class, fitted(X, y, np.array([3.0, 1.0, 0.5])[y]), X)
    X, y = X[: -len(X) // 3], np.minimum(y[: -len(y) // 3], 1)
    balanced = fitted(X, y, class_weight="balanced")
    assert_same(balanced, fitted(X, y, compute_sample_weight("balanced", y)), X)


def test_sample_weight_counts_rows():
    X, y = three_classes(36)
    weight = np.arange(36) // 3 % 3  # of each class 4 rows count 0, 1 and 2 times
    assert_same(fitted(X, y, weight), fitted(np.repeat(X, weight, 0), np.repeat(y, weight)), X)


def test_rows_of_weight_zero_are_left_out():
    X, y = three_classes(36)
    kept = y != 1
    model = HFLClassifier(**SMALL).fit(X, y, 1.0 * kept)
    assert_array_equal(model.classes_, [0, 2])
    expected = HFLClassifier(**SMALL).fit(X[kept], y[kept])
    assert_array_equal(
        model.predict_proba(X, return_std=True), expected.predict_proba(X, return_std=True)
    )


def test_balanced_classes_are_those_of_the_weighted_rows():
    X, y = three_classes()
    weight = np.where(y == 2, 0.25, 1.0)
    factor = np.array([0.75, 0.75, 3.0])[y]  # 45 / (3 · 20), 45 / (3 · 5)
    model = fitted(X, y, weight, class_weight="balanced")
    assert_same(model, fitted(X, y, weight * factor), X)


def test_class_weight_and_sample_weight_multiply_for_labels_of_any_type():
    X, y = three_classes()
    words, weight = np.array(["a", "b", "c"])[y], np.linspace(0.5, 2, len(y))
    model = fitted(X, words, weight, class_weight={"b": 2.0})
    assert_same(model, fitted(X, y, weight * np.array([1.0, 2.0, 1.0])[y]), X)


@pytest.mark.parametrize("dtype", [int, float])
def test_numbers_with_a_class_for_every_few_rows_are_hardly_labels(dtype):
    X, y = np.arange(200.0).reshape(100, 2), (np.arange(100) // 3).astype(dtype)
    with pytest.warns(HFLDataWarning, match=r"34 different numbers in 100 rows.*HFLRegressor"):
        check_labelled_data(HFLClassifier(), X, y, None)


@pytest.mark.parametrize(
    "y",
    [
        np.arange(100) // 5,  # twenty classes
        np.arange(200) // 5,  # five rows each
        np.char.add("name", (np.arange(100) // 3).astype(str)),
    ],
    ids=["few", "rows enough", "text"],
)
def test_labels_of_many_classes_are_no_reason_to_warn(y):
    X = np.arange(2.0 * len(y)).reshape(len(y), 2)
    assert len(check_labelled_data(HFLClassifier(), X, y, None)[1]) == len(np.unique(y))

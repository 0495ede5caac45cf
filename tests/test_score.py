"""score: that of scikit-learn, for data that fit would take."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, r2_score

from sklearn_hfl import HFLClassifier, HFLRegressor

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 2))
Y = X[:, 0] + 0.1 * RNG.standard_normal(40)
WEIGHT = RNG.uniform(0.5, 1.5, 40)
LINEAR = {"hidden_layer_sizes": (), "n_estimators": 1, "random_state": 0}
MASK = np.arange(40) < 5
TIMES = {
    "dates": pd.Series(pd.date_range("2020", periods=40)),
    "durations": np.arange(40).astype("m8[D]"),
}


@pytest.fixture(scope="module")
def regressor():
    return HFLRegressor(**LINEAR).fit(X, Y)


@pytest.fixture(scope="module")
def classifier():
    return HFLClassifier(**LINEAR).fit(X, Y > 0)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_it_is_that_of_scikit_learn(regressor, classifier, weight):
    noisy, labels = Y + RNG.standard_normal(40), RNG.permutation(Y > 0)
    expected = r2_score(noisy, regressor.predict(X), sample_weight=weight)
    assert regressor.score(X, noisy, weight) == expected
    expected = accuracy_score(labels, classifier.predict(X), sample_weight=weight)
    assert classifier.score(X, labels, weight) == expected


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_dates_are_refused(regressor, classifier, times):
    with pytest.raises(TypeError, match="found dates or durations in y"):
        regressor.score(X, times)
    for model, y in ((regressor, Y), (classifier, Y > 0)):
        with pytest.raises(TypeError, match="found dates or durations in sample_weight"):
            model.score(X, y, times)


def test_masked_values_are_refused(regressor, classifier):
    for model, y in ((regressor, Y), (classifier, Y > 0)):
        with pytest.raises(ValueError, match=r"Masked values \(5\) in y"):
            model.score(X, np.ma.array(y, mask=MASK))
        with pytest.raises(ValueError, match=r"Masked values \(5\) in sample_weight"):
            model.score(X, y, np.ma.array(WEIGHT, mask=MASK))


@pytest.mark.parametrize("missing", [np.nan, None, pd.NA, np.ma.masked])
@pytest.mark.parametrize("container", [list, tuple, lambda y: np.array(y, dtype=object)])
def test_missing_labels_are_refused_and_never_the_text_nan(classifier, missing, container):
    labels = ["a", "b", "a", missing] * 10
    for call in (HFLClassifier(**LINEAR).fit, classifier.score, classifier.conformalize):
        with pytest.raises(ValueError, match=r"(missing|Masked) values \(10\) in y"):
            call(X, container(labels))

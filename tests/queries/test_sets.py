"""Sets of the classifier: against scores by hand, MAPIE, and their nominal coverage."""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings
from functools import cache

import numpy as np
import pytest
import torch
from mapie.classification import SplitConformalClassifier
from numpy.testing import assert_array_equal
from scipy.stats import betabinom
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from sklearn_hfl import HFLClassifier, HFLWarning

SMALL = {"hidden_layer_sizes": (4,), "n_estimators": 1, "prior_precision": 1.0, "random_state": 0}
N = 99


def data(n, n_classes=3, seed=0):
    """Classes that overlap: about one label of four cannot be known."""
    rng = np.random.default_rng(seed)
    y = rng.integers(n_classes, size=n)
    return rng.standard_normal((n, 2)) + np.array([[0, 0], [2, 0], [0, 2]])[y], y


M = 60
CALIBRATION, NEW = data(N, seed=1), data(M, seed=2)


@cache
def fitted(n_classes):
    return HFLClassifier(**SMALL).fit(*data(60, n_classes))


@pytest.fixture(scope="module", params=[2, 3])
def calibrated(request):
    model = copy.copy(fitted(request.param))
    return model.conformalize(*data(N, request.param, seed=1))


@pytest.fixture
def model():
    return copy.copy(fitted(3))


def most_probable(model, X):
    return np.eye(len(model.classes_), dtype=bool)[model.predict_proba(X).argmax(1)]


# ------------------------------------------------------------------ oracles


@pytest.mark.parametrize("level", [0.3, 0.8, 0.9, 0.98])
def test_sets_are_ranks_of_the_probabilities_of_the_true_class(calibrated, level):
    X, y = data(N, len(calibrated.classes_), seed=1)
    proba = np.sort(calibrated.predict_proba(X)[np.arange(N), y])
    least = proba[N - round(100 * level)]
    expected = calibrated.predict_proba(NEW[0]) >= least - 1e-12
    expected |= most_probable(calibrated, NEW[0])
    assert_array_equal(calibrated.predict_set(NEW[0], level), expected)


@pytest.mark.parametrize("n", [N, 80])
def test_sets_are_mapies_and_the_most_probable_class(model, n):
    levels = [0.3, 0.8, 0.95]
    rows = CALIBRATION[0][:n], CALIBRATION[1][:n]
    mapie = SplitConformalClassifier(
        model, confidence_level=levels, conformity_score="lac", prefit=True
    )
    labels, theirs = mapie.conformalize(*rows).predict_set(NEW[0])
    model.conformalize(*rows)
    assert_array_equal(labels, model.predict(NEW[0]))
    top = most_probable(model, NEW[0])
    for i, level in enumerate(levels):
        assert_array_equal(model.predict_set(NEW[0], level), theirs[..., i] | top)
    assert not theirs[..., 0].any(axis=1).all()  # empty sets of MAPIE: the case that differs


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_sets_cover_where_the_model_is_wrong(level):
    n, m = 199, 2000
    X, y = data(60)
    # Trained on labels of which every third is wrong: its probabilities are not those of y.
    wrong = np.where(np.arange(60) % 3 == 0, (y + 1) % 3, y)
    model = HFLClassifier(**SMALL, link_approx="none").fit(X, wrong).conformalize(*data(n, seed=3))
    X, y = data(m, seed=4)
    covered = model.predict_set(X, level)[np.arange(m), y].sum()
    rank = round(200 * level)
    low, high = betabinom(m, rank, n + 1 - rank).interval(1 - 1e-6)
    assert low <= covered
    accuracy = model.score(X, y)
    assert covered <= max(high, m * accuracy)


# ------------------------------------------------------------------- shapes


def test_sets_are_boolean_never_empty_and_grow_with_the_level(calibrated):
    sets = [calibrated.predict_set(NEW[0], level) for level in (0.01, 0.5, 0.9, 0.99)]
    for smaller, larger in itertools.pairwise(sets):
        assert (larger >= smaller).all()
    for each in sets:
        assert each.dtype == bool
        assert each.shape == (M, len(calibrated.classes_))
        assert (each >= most_probable(calibrated, NEW[0])).all()
    assert sets[0].sum() == M < sets[-1].sum()


def test_scores_ascend_from_0_to_1(calibrated):
    scores = calibrated.conformity_scores_
    assert scores.shape == (N,)
    assert (np.diff(scores) >= 0).all()
    assert 0 <= scores[0] < scores[-1] <= 1


@pytest.mark.parametrize("names", [["ant", "bee", "cow"], [10, 5, 7], [2.0, -1.0, 0.0]])
def test_labels_of_any_type(names):
    names = np.array(names)
    order = np.argsort(names)
    model = HFLClassifier(**SMALL).fit(data(60)[0], names[order][data(60)[1]])
    model.conformalize(CALIBRATION[0], names[order][CALIBRATION[1]].tolist())
    plain = copy.copy(fitted(3)).conformalize(*CALIBRATION)
    assert_array_equal(model.conformity_scores_, plain.conformity_scores_)
    assert_array_equal(model.predict_set(NEW[0]), plain.predict_set(NEW[0]))


def test_a_class_may_be_missing_from_the_calibration_rows(model):
    X, y = CALIBRATION
    model.conformalize(X[y != 1], y[y != 1])
    assert model.predict_set(NEW[0]).shape == (M, 3)


# ---------------------------------------------------------------- lifecycle


def test_conformalize_returns_the_estimator_and_changes_nothing_else(model):
    before = dict(vars(model))
    assert model.conformalize(*CALIBRATION) is model
    assert set(vars(model)) - set(before) == {"conformity_scores_", "_scored_with"}
    assert all(vars(model)[name] is value for name, value in before.items())


def test_a_second_call_replaces_the_first(model):
    other = data(30, seed=5)
    twice = model.conformalize(*CALIBRATION).conformalize(*other).conformity_scores_
    assert_array_equal(twice, copy.copy(fitted(3)).conformalize(*other).conformity_scores_)


@pytest.mark.parametrize("warm_start", [False, True])
def test_fit_discards_the_calibration(model, warm_start):
    model.set_params(warm_start=warm_start).conformalize(*CALIBRATION).fit(*data(60))
    with pytest.raises(ValueError, match=r"Call conformalize\(X, y\) first"):
        model.predict_set(NEW[0])


def test_copies(calibrated):
    copied = pickle.loads(pickle.dumps(calibrated))
    assert_array_equal(copied.predict_set(NEW[0]), calibrated.predict_set(NEW[0]))
    assert not hasattr(clone(calibrated), "conformity_scores_")


def test_inference_mode_makes_no_difference(calibrated):
    expected = calibrated.predict_set(NEW[0])
    rows = data(N, len(calibrated.classes_), seed=1)
    with torch.inference_mode():
        assert_array_equal(calibrated.conformalize(*rows).predict_set(NEW[0]), expected)


# ------------------------------------------------------- rows trained on


@pytest.mark.parametrize("n_classes", [2, 3])
def test_rows_that_were_trained_on_are_counted(n_classes):
    X, y = data(60, n_classes)
    model = copy.copy(fitted(n_classes))
    model.conformalize(X, (y + 1) % n_classes)  # same inputs, other labels
    rows, labels = np.vstack([X[5:8], CALIBRATION[0]]), np.append(y[5:8], CALIBRATION[1] % 2)
    with pytest.warns(HFLWarning, match=rf"^3 of {N + 3} calibration rows were trained on"):
        model.conformalize(rows, labels)


def test_a_warning_that_is_an_error_leaves_the_old_calibration(model):
    scores = model.conformalize(*CALIBRATION).conformity_scores_
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(HFLWarning):
            model.conformalize(*data(60))
    assert model.conformity_scores_ is scores


# ----------------------------------------------------------------- bad input


def test_before_fit():
    for ask in (lambda m: m.conformalize(*CALIBRATION), lambda m: m.predict_set(NEW[0])):
        with pytest.raises(NotFittedError):
            ask(HFLClassifier(**SMALL))


def test_sets_need_a_calibration(model):
    with pytest.raises(ValueError, match=r"Call conformalize\(X, y\) first"):
        model.predict_set(NEW[0])


@pytest.mark.parametrize(("level", "needed"), [(0.9, 9), (0.95, 19)])
def test_too_few_rows_for_a_level(model, level, needed):
    X, y = data(needed, seed=1)
    with pytest.raises(ValueError, match=f"needs {needed} calibration rows or more"):
        model.conformalize(X[1:], y[1:]).predict_set(NEW[0], level)
    model.conformalize(X, y).predict_set(NEW[0], level)


@pytest.mark.parametrize("level", [0, 1, 1.5, np.nan, None, True, "0.9", [0.5, 0.9]], ids=repr)
def test_the_level_lies_between_0_and_1(calibrated, level):
    with pytest.raises(ValueError, match="predict_set: confidence_level must be a finite number"):
        calibrated.predict_set(NEW[0], level)


@pytest.mark.parametrize(
    ("X", "y", "expected"),
    [
        (CALIBRATION[0], np.where(CALIBRATION[1] == 2, 7, 0), r"labels \[.*7.*\], but fit saw"),
        (CALIBRATION[0], CALIBRATION[1].astype(str), r"labels \['.*'\], but fit saw \[0, 1, 2\]"),
        (CALIBRATION[0][:, :1], CALIBRATION[1], "1 features"),
        (CALIBRATION[0], CALIBRATION[1][1:], "inconsistent numbers"),
        (CALIBRATION[0], CALIBRATION[1] + 0.5, r"labels \[.*\.5"),
        (CALIBRATION[0][:0], CALIBRATION[1][:0], "0 sample"),
    ],
)
def test_bad_rows_leave_the_old_calibration(model, X, y, expected):
    scores = model.conformalize(*CALIBRATION).conformity_scores_
    with pytest.raises(ValueError, match=expected):
        model.conformalize(X, y)
    assert model.conformity_scores_ is scores

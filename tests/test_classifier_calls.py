"""HFLClassifier: bad input, and the tools of scikit-learn around it."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer, log_loss
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_validate
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_hfl import HFLClassifier
from tests.classes import SMALL, three_classes

BAD = {
    "one class only": ({}, lambda X, y: (X, 0 * y), "two classes or more"),
    "one class of positive weight": (
        {},
        lambda X, y: (X, y, y == 1),
        r"20 rows of positive weight are all of class 1\.",
    ),
    "continuous y": ({}, lambda X, y: (X, y + 0.5 * X[:, 0]), "Unknown label type"),
    "y too short": ({}, lambda X, y: (X, y[:-1]), "inconsistent numbers of samples"),
    "two columns": ({}, lambda X, y: (X, np.stack([y, y], 1)), "1d array"),
    "NaN in y": ({}, lambda X, y: (X, np.where(y, np.nan, 1.0)), "Input y contains NaN"),
    "several classes a row": ({}, lambda X, y: (X, np.eye(3)[y]), "should be a 1d array"),
    "no y": ({}, lambda X, y: (X, None), "requires y to be passed"),
    "another width": ({}, lambda X, y: (np.hstack([X, X]), 0 * y), "two classes or more"),
    "NaN": ({}, lambda X, y: (np.where(X > 1, np.nan, X), y), "NaN"),
    "text": ({}, lambda X, y: (X.astype(str).astype(object) + "x", y), "OneHotEncoder"),
    "unknown class": ({"class_weight": {9: 2.0}}, None, r"names \[9\], but y has the classes"),
    "unknown word": (
        {"class_weight": {"0": 2.0}},
        None,
        r"names \['0'\].*check the type of the labels",
    ),
    "zero factor": ({"class_weight": {0: 0.0}}, None, "dict of finite numbers > 0, but got"),
    "infinite factor": ({"class_weight": {0: np.inf}}, None, "dict of finite numbers > 0"),
    "factor in words": ({"class_weight": {0: "2"}}, None, "dict of finite numbers > 0"),
    "factors in a list": ({"class_weight": [1, 2, 3]}, None, "dict of finite numbers > 0"),
    "negative factor": ({"class_weight": {0: -1.0}}, None, "dict of finite numbers > 0"),
    "wrong word": ({"class_weight": "even"}, None, "'balanced'"),
    "unknown link": ({"link_approx": "logit"}, None, "one of 'mc', 'probit', 'none'"),
    "unknown variance": ({"variance": "exact"}, None, "'linearized', 'network', 'amortized'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_explained_and_changes_nothing(name):
    params, change, message = BAD[name]
    X, y = three_classes()
    model = HFLClassifier(**SMALL).fit(X, y)
    before, width = model.predict_proba(X), model.n_features_in_
    model.set_params(**params)
    with pytest.raises(ValueError, match=message):
        model.fit(*(change(X, y) if change else (X, y)))
    model.set_params(**HFLClassifier(**SMALL).get_params())
    assert model.n_features_in_ == width
    assert_array_equal(model.predict_proba(X), before)


QUESTIONS = (
    "predict", "predict_proba", "predict_log_proba", "decision_function",
    "latent_mean_and_variance", "predict_uncertainty",
)  # fmt: skip


@pytest.mark.parametrize("ask", QUESTIONS)
def test_questions_before_fit_are_refused(ask):
    with pytest.raises(NotFittedError, match=r"not fitted yet. Call 'fit'"):
        getattr(HFLClassifier(), ask)([[0.0, 1.0]])


@pytest.mark.parametrize("ask", ["predict", "predict_proba"])
@pytest.mark.parametrize("return_std", ["total", "", 1, 0, None, [True]])
def test_an_unknown_return_std_is_refused(ask, return_std):
    with pytest.raises(
        ValueError, match="return_std must be False, True or 'delta', but got"
    ) as caught:
        getattr(HFLClassifier(), ask)([[0.0]], return_std=return_std)
    assert "set_params" not in str(caught.value)  # it is no parameter of the estimator


def test_bad_calls_are_explained():
    X, y = three_classes()
    model = HFLClassifier(**SMALL, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="warm_start=True keeps the classes"):
        model.fit(X, y + 1)
    with pytest.raises(ValueError, match="expecting 2 features"):
        model.predict_proba(X[:, :1])


# ----------------------------------------------------------------- ecosystem


def test_a_pipeline_passes_return_std_on():
    X, y = three_classes(45)
    pipeline = make_pipeline(StandardScaler(), HFLClassifier(**SMALL)).fit(X, y)
    inputs = StandardScaler().fit_transform(X)
    expected = HFLClassifier(**SMALL).fit(inputs, y).predict_proba(inputs, return_std=True)
    assert_array_equal(pipeline.predict_proba(X, return_std=True), expected)


def test_grid_search_by_log_loss():
    X, y = three_classes(45)
    pipeline = make_pipeline(StandardScaler(), HFLClassifier(**SMALL))
    grid = {"hflclassifier__prior_precision": [1e-1, 1e3]}
    search = GridSearchCV(pipeline, grid, scoring="neg_log_loss", cv=2).fit(X, y)
    assert search.best_params_["hflclassifier__prior_precision"] == 1e-1
    ours = get_scorer("neg_log_loss")(search.best_estimator_, X, y)
    assert ours == pytest.approx(-log_loss(y, search.predict_proba(X)))
    # So strong a prior leaves hardly more than the guess that all classes are alike.
    assert search.cv_results_["mean_test_score"][1] == pytest.approx(-np.log(3), abs=0.05)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
def test_cross_val_predict_gives_each_row_from_a_model_without_it(method):
    X, y = three_classes(45)
    predicted = cross_val_predict(HFLClassifier(**SMALL), X, y, cv=KFold(3), method=method)
    for train, test in KFold(3).split(X):
        model = HFLClassifier(**SMALL).fit(X[train], y[train])
        assert_array_equal(predicted[test], getattr(model, method)(X[test]))


def test_soft_voting_takes_the_mean_of_the_probabilities():
    X, y = three_classes(45)
    models = [HFLClassifier(**SMALL), LogisticRegression()]
    voting = VotingClassifier([("a", models[0]), ("b", models[1])], voting="soft").fit(X, y)
    expected = np.mean([model.fit(X, y).predict_proba(X) for model in models], axis=0)
    assert_allclose(voting.predict_proba(X), expected, rtol=1e-12)


def test_one_against_the_rest_takes_its_probabilities():
    X, y = three_classes(45)
    wrapper = OneVsRestClassifier(HFLClassifier(**SMALL)).fit(X, y)
    each = [HFLClassifier(**SMALL).fit(X, y == k).predict_proba(X)[:, 1] for k in range(3)]
    expected = np.stack(each, 1)
    assert_allclose(wrapper.predict_proba(X), expected / expected.sum(1, keepdims=True), rtol=1e-12)


@pytest.mark.parametrize(
    "wrapper",
    [lambda model: CalibratedClassifierCV(model, cv=2), OneVsOneClassifier],
    ids=["calibrated", "one against one"],
)
def test_wrappers_take_it(wrapper):
    X, y = three_classes(45)
    # Better than the two of three that a classifier blind to one feature can get.
    assert wrapper(HFLClassifier(**SMALL)).fit(X, y).score(X, y) > 0.7


def test_sample_weight_is_routed_through_pipeline_and_cross_validation():
    X, y = three_classes(45)
    weight = np.linspace(0.1, 2, 45)
    with sklearn.config_context(enable_metadata_routing=True):
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        model = HFLClassifier(**SMALL).set_fit_request(sample_weight=True)
        result = cross_validate(
            make_pipeline(scaler, model), X, y, cv=KFold(3),
            scoring=get_scorer("neg_log_loss").set_score_request(sample_weight=True),
            params={"sample_weight": weight}, return_estimator=True,
        )  # fmt: skip
    for pipeline, score, (train, test) in zip(
        result["estimator"], result["test_score"], KFold(3).split(X), strict=True
    ):
        inputs = StandardScaler().fit_transform(X[train])
        expected = HFLClassifier(**SMALL).fit(inputs, y[train], sample_weight=weight[train])
        assert_array_equal(pipeline[-1].predict_proba(inputs), expected.predict_proba(inputs))
        loss = log_loss(y[test], pipeline.predict_proba(X[test]), sample_weight=weight[test])
        assert score == pytest.approx(-loss)


def test_requests_name_the_arguments_of_fit_and_predict():
    requests = HFLClassifier().get_metadata_routing()
    assert requests.fit.requests == {"sample_weight": None}
    assert requests.predict.requests == {"return_std": None}
    assert requests.predict_proba.requests == {"return_std": None}
    assert requests.score.requests == {"sample_weight": None}


def test_tags_say_what_it_is():
    tags = HFLClassifier().__sklearn_tags__()
    assert is_classifier(HFLClassifier())
    assert tags.classifier_tags.multi_class
    assert not tags.classifier_tags.multi_label
    assert tags.target_tags.required
    assert not tags.target_tags.multi_output
    assert tags.input_tags.sparse
    assert not tags.input_tags.allow_nan

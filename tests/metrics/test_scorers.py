"""Scorers in searches, pipelines and pickles."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose
from scipy.stats import norm
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.linear_model import BayesianRidge
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_hfl import HFLClassifier, HFLRegressor, metrics
from sklearn_hfl.metrics import (
    CoverageScorer,
    IntervalScorer,
    coverage_score,
    coverage_scorer,
    crps_gaussian,
    crps_scorer,
    interval_score,
    interval_scorer,
    negative_log_predictive_density,
    nlpd_scorer,
)

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (60, 2))
Y = np.sin(3 * X[:, 0]) + X[:, 1] + 0.3 * RNG.standard_normal(60)
SCORERS = [nlpd_scorer, crps_scorer, interval_scorer, coverage_scorer]


def small(**params):
    defaults = {
        "hidden_layer_sizes": (4,),
        "n_estimators": 1,
        "prior_precision": 1.0,
        "noise_std": 0.3,
    }
    return HFLRegressor(**{**defaults, "random_state": 0, **params})


@pytest.fixture(scope="module")
def ridge():
    return BayesianRidge().fit(X, Y)


def test_scorers_are_the_metrics_of_the_predictions(ridge):
    mean, std = ridge.predict(X, return_std=True)
    ends = np.stack(norm.interval(0.9, mean, std), axis=1)
    assert_allclose(nlpd_scorer(ridge, X, Y), -negative_log_predictive_density(Y, mean, std))
    assert_allclose(crps_scorer(ridge, X, Y), -crps_gaussian(Y, mean, std))
    assert_allclose(interval_scorer(ridge, X, Y), -interval_score(Y, ends))
    assert_allclose(coverage_scorer(ridge, X, Y), -abs(coverage_score(Y, ends) - 0.9))
    ends = np.stack(norm.interval(0.5, mean, std), axis=1)
    expected = -interval_score(Y, ends, confidence_level=0.5)
    assert_allclose(IntervalScorer(confidence_level=0.5)(ridge, X, Y), expected)
    expected = -abs(coverage_score(Y, ends) - 0.5)
    assert_allclose(CoverageScorer(confidence_level=0.5)(ridge, X, Y), expected)


@pytest.mark.parametrize("scorer", SCORERS)
def test_scorers_pass_weights_on(scorer, ridge):
    weight = np.arange(60) % 3
    expected = scorer(ridge, np.repeat(X, weight, axis=0), np.repeat(Y, weight))
    assert_allclose(scorer(ridge, X, Y, sample_weight=weight), expected)


def test_outputs_covered_too_often_and_too_rarely_do_not_make_up_for_each_other():
    class Fixed:
        def predict(self, X, return_std=False):
            return np.zeros((len(X), 2)), np.ones((len(X), 2))

    inside_and_outside = np.tile([0.0, 9.0], (10, 1))
    assert_allclose(coverage_scorer(Fixed(), np.zeros((10, 1)), inside_and_outside), -0.5)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("k", [1, 2])
def test_several_outputs_of_estimators(scorer, k):
    targets = np.column_stack([Y, X[:, 0]])[:, :k]
    gpr = GaussianProcessRegressor(RBF() + WhiteKernel(0.1), optimizer=None)
    assert np.isfinite(scorer(gpr.fit(X, targets), X, targets))


@pytest.mark.parametrize("scorer", SCORERS, ids=repr)
def test_a_search_through_a_pipeline_with_a_gaussian_process(scorer):
    gpr = GaussianProcessRegressor(RBF() + WhiteKernel(0.1), optimizer=None)
    grid = {"gaussianprocessregressor__kernel__k2__noise_level": [1e-4, 0.1]}
    search = GridSearchCV(make_pipeline(StandardScaler(), gpr), grid, scoring=scorer, cv=3)
    search.fit(X, Y)
    assert list(search.best_params_.values()) == [0.1]


def test_a_search_through_a_pipeline_with_our_regressor():
    pipeline = make_pipeline(StandardScaler(), small())
    grid = {"hflregressor__noise_std": [0.01, 0.3]}
    search = GridSearchCV(pipeline, grid, scoring=nlpd_scorer, cv=3).fit(X, Y)
    assert search.best_params_ == {"hflregressor__noise_std": 0.3}
    model = clone(pipeline).set_params(hflregressor__noise_std=0.3)
    expected = cross_val_score(model, X, Y, scoring=nlpd_scorer, cv=3).mean()
    assert_allclose(search.best_score_, expected)


def test_several_scorers_at_once():
    scoring = {"nlpd": nlpd_scorer, "coverage": coverage_scorer, "r2": "r2"}
    result = cross_validate(BayesianRidge(), X, Y, scoring=scoring, cv=3)
    assert {"test_nlpd", "test_coverage", "test_r2"} <= set(result)


@pytest.mark.parametrize("scorer", [*SCORERS, IntervalScorer(0.5)], ids=repr)
def test_scorers_are_small_frozen_values(scorer, ridge):
    again = pickle.loads(pickle.dumps(scorer))
    assert again == scorer
    assert hash(again) == hash(scorer)
    assert eval(repr(scorer), vars(metrics)) == scorer
    assert again(ridge, X, Y) == scorer(ridge, X, Y)
    with pytest.raises(AttributeError):
        scorer.confidence_level = 0.1


def test_workers_get_the_scorer():
    scores = cross_val_score(BayesianRidge(), X, Y, scoring=crps_scorer, cv=2, n_jobs=2)
    assert_allclose(scores, cross_val_score(BayesianRidge(), X, Y, scoring=crps_scorer, cv=2))


class Mean(BayesianRidge):
    """Swallows return_std."""

    def predict(self, X, **params):
        return super().predict(X)


@pytest.mark.parametrize("estimator", [RandomForestRegressor(2), Mean()], ids=repr)
def test_estimators_without_a_std_are_refused(estimator):
    with pytest.raises(TypeError, match=r"predict\(X, return_std=True\) returns \(mean, std\)"):
        nlpd_scorer(make_pipeline(estimator).fit(X, Y), X, Y)


def test_estimators_that_stumble_over_the_pair_are_refused():
    model = TransformedTargetRegressor(BayesianRidge()).fit(X, Y)
    with pytest.raises(TypeError, match="TransformedTargetRegressor failed"):
        nlpd_scorer(model, X, Y)


def test_a_fitted_search_is_told_what_to_pass():
    search = GridSearchCV(BayesianRidge(), {}, cv=2).fit(X, Y)
    with pytest.raises(TypeError, match="pass best_estimator_"):
        nlpd_scorer(search, X, Y)


def test_a_std_of_zero_is_refused():
    exact = GaussianProcessRegressor(optimizer=None, alpha=1e-10)
    exact.predict = lambda X, return_std: (np.zeros(len(X)), np.zeros(len(X)))
    with pytest.raises(ValueError, match="Expected std > 0"):
        crps_scorer(exact, X, Y)


# --------------------------------------------------------------- metadata routing


def test_weights_are_routed_on_request():
    weight = np.linspace(0.1, 2, 60)
    with sklearn.config_context(enable_metadata_routing=True):
        ridge = BayesianRidge().set_fit_request(sample_weight=False)
        ask = {"X": X, "y": Y, "cv": KFold(3), "params": {"sample_weight": weight}}
        scorer = nlpd_scorer.set_score_request(sample_weight=True)
        scores = cross_val_score(ridge, scoring=scorer, **ask)
        with pytest.raises(ValueError, match="sample_weight"):
            cross_val_score(ridge, scoring=nlpd_scorer, **ask)
    for score, (train, test) in zip(scores, KFold(3).split(X), strict=True):
        fitted = BayesianRidge().fit(X[train], Y[train])
        assert_allclose(score, nlpd_scorer(fitted, X[test], Y[test], weight[test]))


def test_a_request_leaves_the_scorer_itself_alone():
    scorer = IntervalScorer(0.5).set_score_request(sample_weight="weight")
    assert scorer.confidence_level == 0.5
    assert scorer.get_metadata_routing().score.requests == {"sample_weight": "weight"}
    assert interval_scorer.get_metadata_routing().score.requests == {"sample_weight": None}
    with pytest.raises(ValueError, match="alias"):
        nlpd_scorer.set_score_request(sample_weight=3)


def test_a_pipeline_has_to_request_return_std():
    regressor = BayesianRidge()
    with sklearn.config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(StandardScaler(), regressor).fit(X, Y)
        with pytest.raises(ValueError, match="set_predict_request"):
            nlpd_scorer(pipeline, X, Y)
        regressor.set_predict_request(return_std=True)
        score = nlpd_scorer(pipeline, X, Y)
    assert score == nlpd_scorer(pipeline, X, Y)


@pytest.mark.parametrize("wrapped", [lambda m: m, make_pipeline])
def test_a_classifier_is_refused_whose_labels_are_no_means(wrapped):
    X = np.random.default_rng(0).standard_normal((30, 2))
    model = wrapped(HFLClassifier(hidden_layer_sizes=(), random_state=0)).fit(X, X[:, 0] > 0)
    with pytest.raises(TypeError, match=r"is a classifier.*neg_log_loss"):
        nlpd_scorer(model, X, X[:, 0] > 0)

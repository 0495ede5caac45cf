"""HFLClassifier: the standard deviation of a probability."""

from __future__ import annotations

import warnings
from copy import deepcopy

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, softmax

from sklearn_hfl import HFLClassifier
from sklearn_hfl.posterior.link import SOFTMAX
from tests.classes import SMALL, dense_std, three_classes, two_classes
from tests.ensemble.test_logits import posteriors

LINKS = ["mc", "probit", "none"]
BOTH = pytest.mark.parametrize("data", [two_classes, three_classes])
# Mean error of the std against the exact posterior; the first-order one's is 0.068, 0.037,
# 0.015 and 0.002.
LOGISTIC = {6: 0.007, 12: 0.007, 30: 0.007, 100: 0.002}


def exact_std(x, y, queries):
    """Std of σ(w q + b) under the exact posterior of logistic regression, on a grid."""
    grid = np.linspace(-12, 12, 241)
    w, b = np.meshgrid(grid, grid, indexing="ij")
    z = w[..., None] * x + b[..., None]
    log = -np.logaddexp(0, np.where(y == 1, -z, z)).sum(-1) - 0.5 * (w**2 + b**2)
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    p = expit(w * queries[:, None, None] + b)
    mean = (weight * p).sum((1, 2))
    return np.sqrt((weight * p * p).sum((1, 2)) - mean**2)


# Six rows of a given prior can be fitted better than they predict each other.
@pytest.mark.filterwarnings("ignore:Over-fitted")
@pytest.mark.parametrize(("n", "most"), LOGISTIC.items())
def test_it_is_near_that_of_the_exact_posterior(n, most):
    errors, queries = [], np.linspace(-4, 4, 21)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=n)
        y = (rng.uniform(size=n) < expit(2 * x)).astype(int)
        if len(set(y)) < 2:
            continue
        model = HFLClassifier(
            hidden_layer_sizes=(), prior_precision=1.0, normalize_X=False, random_state=0
        ).fit(x[:, None], y)
        std = model.predict_proba(queries[:, None], return_std=True)[1][:, 1]
        errors.append(np.abs(std - exact_std(x, y, queries)))
    assert np.mean(errors) <= most


@BOTH
def test_it_is_that_of_draws_from_the_posterior_of_the_logits(data):
    X, y = data(30)
    X_new = 3 * X[:8]
    model = HFLClassifier(**SMALL).fit(X, y)
    mean, covariance, *_ = posteriors(model, X_new)
    proba, std = model.predict_proba(X_new, return_std=True)
    rng = np.random.default_rng(0)
    for i in range(len(X_new)):
        logits = rng.multivariate_normal(mean[i], covariance[i], 200_000)
        logits = np.hstack([np.zeros_like(logits), logits]) if data is two_classes else logits
        p = softmax(logits, axis=1)
        assert_allclose(proba[i], p.mean(0), atol=3e-3)
        assert_allclose(std[i], p.std(0), atol=4e-3)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("params", [{}, {"n_estimators": 2}, {"variance": "amortized"}])
@BOTH
def test_it_is_never_above_what_a_probability_can_vary(data, params, link):
    X, y = data(40)
    model = HFLClassifier(**{**SMALL, **params}, link_approx=link).fit(X, y)
    for far in (1.0, 10.0, 1e6):
        proba, std = model.predict_proba(far * X, return_std=True)
        assert (std <= np.sqrt(proba * (1 - proba)) + 1e-12).all()
        assert std.max() <= 0.5
        assert (model.predict(far * X, return_std=True)[1] <= 0.5).all()
        assert_array_equal(model.predict_uncertainty(far * X).proba_std, std)


@BOTH
def test_links_share_the_std_where_that_is_possible(data):
    X, y = data(40)
    model = HFLClassifier(**SMALL).fit(X, y)
    std = model.predict_proba(X, return_std=True)[1]
    for link in ("probit", "none"):
        proba, own = model.set_params(link_approx=link).predict_proba(X, return_std=True)
        assert_allclose(own, np.minimum(std, np.sqrt(proba * (1 - proba))), rtol=1e-9, atol=1e-12)


@BOTH
def test_delta_is_the_dense_std_of_first_order(data):
    X, y = data()
    model = HFLClassifier(**SMALL).fit(X, y)
    proba, std = model.predict_proba(X, return_std="delta")
    assert_allclose(std, dense_std(model, X, SOFTMAX), rtol=model.std_rtol)
    assert_allclose(proba, model.predict_proba(X), rtol=1e-12)
    labels, of_label = model.predict(X, return_std="delta")
    assert_array_equal(labels, model.predict(X))
    assert_array_equal(of_label, np.take_along_axis(std, proba.argmax(1)[:, None], 1)[:, 0])


def test_both_are_one_where_the_logits_are_known():
    X, y = three_classes()
    model = HFLClassifier(**{**SMALL, "prior_precision": 1e4}).fit(X, y)
    std, first_order = (model.predict_proba(X, return_std=way)[1] for way in (True, "delta"))
    assert_allclose(std, first_order, rtol=0.02)


@pytest.mark.parametrize("return_std", [True, "delta"])
@BOTH
def test_members_are_mixed_by_the_law_of_total_variance(data, return_std):
    X, y = data(40)
    # So weak a prior leaves several local optima: the members differ.
    model = HFLClassifier(**{**SMALL, "prior_precision": 0.01, "n_estimators": 3}).fit(X, y)
    means, stds, at_map = [], [], []
    for member in model.members_:
        single = deepcopy(model)
        single.members_ = (member,)
        proba, std = single.predict_proba(X, return_std=return_std)
        means.append(proba)
        stds.append(std)
        at_map.append(single.set_params(link_approx="none").predict_proba(X))
    assert np.ptp(means, axis=0).max() > 1e-3
    proba, std = model.predict_proba(X, return_std=return_std)
    assert_allclose(proba, np.mean(means, axis=0), rtol=1e-10)
    between = np.var(means if return_std is True else at_map, axis=0)
    assert_allclose(std, np.sqrt(np.mean(np.square(stds), axis=0) + between), rtol=1e-9, atol=1e-18)


QUESTIONS = {
    "proba": lambda model, X: model.predict_proba(X),
    "std": lambda model, X: model.predict_proba(X, return_std=True),
    "labels": lambda model, X: model.predict(X),
    "uncertainty": lambda model, X: model.predict_uncertainty(X),
}


@pytest.mark.filterwarnings("ignore:The MAP is not stationary")
@pytest.mark.parametrize("std_rtol", [0.01, 1e-17])
def test_all_methods_warn_of_the_same_rows(std_rtol):
    X, y = three_classes()
    model = HFLClassifier(**SMALL).fit(X, y).set_params(std_rtol=std_rtol)
    found = set()
    for ask in QUESTIONS.values():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ask(model, X)
        found.add(tuple(str(each.message) for each in caught))
    assert len(found) == 1
    assert bool(found.pop()) == (std_rtol < 0.01)

"""HFLClassifier: its numbers against dense and closed forms, its labels, its weights."""

from __future__ import annotations

import pickle
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, softmax
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine, make_moons
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from torch import nn

from sklearn_hfl import HFLClassifier
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.posterior.link import IDENTITY, SOFTMAX
from sklearn_hfl.uncertainty.exact import dense_ggn, dense_hessian, exact_covariance

SMALL = {"hidden_layer_sizes": (4,), "prior_precision": 1.0, "random_state": 0}
SETS = {"iris": load_iris, "wine": load_wine, "breast_cancer": load_breast_cancer}


def three_classes(n=60, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    X = rng.standard_normal((n, 2)) + np.array([[0, 0], [2, 0], [0, 2]])[y]
    return X, y


def two_classes(n=60):
    return make_moons(n, noise=0.2, random_state=0)


def halves(X, y):
    order = np.random.default_rng(0).permutation(len(X))
    half = len(X) // 2
    return X[order[:half]], y[order[:half]], X[order[half:]]


def dense_std(model, X, link, matrix=dense_ggn):
    """Std of the link's values from a dense matrix, (Q, C); NaN where it is negative."""
    estimate = model.estimators_[0].estimate
    lp, weights = estimate.log_posterior, estimate.weights
    gradient = Prediction(lp.network, model._queries(X), link).gradient(weights)
    variance = exact_covariance(matrix(lp, weights), gradient).diagonal().reshape(len(X), -1)
    return variance.sqrt().numpy()


# ------------------------------------------------------------------ oracles


@pytest.mark.parametrize("name", [*SETS, "digits"])
def test_stds_equal_the_dense_laplace_approximation(name):
    if name == "digits":
        X, y = load_digits(return_X_y=True)
        X_train, y_train, X_test = halves(X[:400], y[:400])
        model = HFLClassifier(**{**SMALL, "hidden_layer_sizes": (8,)})
    else:
        X_train, y_train, X_test = halves(*SETS[name](return_X_y=True))
        model = HFLClassifier(hidden_layer_sizes=(10,), random_state=0)
    model.fit(X_train, y_train)
    _, variance = model.latent_mean_and_variance(X_test)
    exact = dense_std(model, X_test, IDENTITY)
    assert_allclose(np.sqrt(variance).reshape(exact.shape), exact, rtol=model.std_rtol)
    result = model.predict_uncertainty(X_test)
    exact = dense_std(model, X_test, SOFTMAX)
    visible = exact > 1e-12
    error = np.abs(result.proba_std / np.where(visible, exact, 1.0) - 1) * visible
    assert error.max() <= model.std_rtol
    # The dense solve itself is good to about 1e-7.
    assert (error.max(1) <= result.rel_error + 1e-7).all()
    assert result.converged.all()


@pytest.mark.parametrize("data", [two_classes, three_classes])
def test_network_route_equals_the_dense_hessian(data):
    X, y = data(40)
    model = HFLClassifier(**SMALL, variance="network", std_rtol=1e-4).fit(X, y)
    lp = model.estimators_[0].estimate.log_posterior
    hessian = dense_hessian(lp, model.estimators_[0].estimate.weights)
    assert torch.linalg.eigvalsh(hessian)[0] > 0
    _, std = model.predict_proba(X[:10], return_std=True)
    exact = dense_std(model, X[:10], SOFTMAX, dense_hessian)
    assert np.median(np.abs(std / exact - 1)) <= 1e-3
    _, variance = model.latent_mean_and_variance(X[:10])
    exact = dense_std(model, X[:10], IDENTITY, dense_hessian)
    assert np.median(np.abs(np.sqrt(variance).reshape(exact.shape) / exact - 1)) <= 1e-3


@pytest.mark.parametrize("data", [two_classes, three_classes])
def test_without_hidden_layer_it_is_laplace_for_logistic_regression(data):
    X, y = data()
    alpha, n = 0.7, len(X)
    features = np.hstack([X, np.ones((n, 1))])
    k = 1 if y.max() == 1 else 3
    one_hot = np.eye(k if k > 1 else 2)[y][:, -k:]
    weights = np.zeros((k, 3))
    for _ in range(50):  # Newton
        logits = features @ weights.T
        p = softmax(logits, axis=1) if k > 1 else expit(logits)
        gradient = ((p - one_hot).T @ features + alpha * weights).ravel()
        blocks = p[:, :, None] * np.eye(k) - p[:, :, None] * p[:, None, :]
        hessian = np.einsum("nkl,nd,ne->kdle", blocks, features, features).reshape(3 * k, 3 * k)
        hessian += alpha * np.eye(3 * k)
        weights = weights - np.linalg.solve(hessian, gradient).reshape(k, 3)
    queries = np.hstack([X[:7] * 2, np.ones((7, 1))])
    jacobian = np.einsum("kl,qd->qkld", np.eye(k), queries).reshape(7, k, 3 * k)
    covariance = np.einsum("qkp,pr,qlr->qkl", jacobian, np.linalg.inv(hessian), jacobian)
    model = HFLClassifier(
        hidden_layer_sizes=(), prior_precision=alpha, normalize_X=False, tol=0.0, std_rtol=1e-8
    ).fit(X, y)
    mean, variance = model.latent_mean_and_variance(X[:7] * 2)
    assert_allclose(mean.reshape(7, k), queries @ weights.T, rtol=1e-6, atol=1e-8)
    diagonal = np.diagonal(covariance, axis1=1, axis2=2)
    assert_allclose(variance.reshape(7, k), diagonal, rtol=1e-6)


# ----------------------------------------------------------- probabilities


@pytest.mark.parametrize("link", ["probit", "mc", "none"])
@pytest.mark.parametrize("data", [two_classes, three_classes])
def test_probabilities_are_consistent(data, link):
    X, y = data()
    model = HFLClassifier(**SMALL, link=link).fit(X, y)
    proba, std = model.predict_proba(X, return_std=True)
    assert_allclose(proba.sum(1), 1.0, rtol=0, atol=1e-12)
    assert_allclose(model.predict_proba(X), proba, rtol=1e-13)
    assert_allclose(np.exp(model.predict_log_proba(X)), proba, rtol=1e-13)
    labels, label_std = model.predict(X, return_std=True)
    assert_array_equal(labels, model.classes_[proba.argmax(1)])
    assert_array_equal(labels, model.predict(X))
    assert_allclose(label_std, std[np.arange(len(X)), proba.argmax(1)])
    logits = model.decision_function(X)
    if proba.shape[1] == 2:
        assert logits.shape == (len(X),)
        assert_allclose(expit(logits), proba[:, 1], rtol=1e-10)
        assert_allclose(std[:, 0], std[:, 1], rtol=1e-12)
    else:
        assert_allclose(softmax(logits, axis=1), proba, rtol=1e-10)


def test_link_none_is_the_softmax_of_the_module():
    X, y = three_classes()
    model = HFLClassifier(**SMALL, link="none", normalize_X=False).fit(X, y)
    outputs = model.module_(torch.as_tensor(X)).detach().numpy()
    assert_allclose(model.predict_proba(X), softmax(outputs, axis=1), rtol=1e-10)


def test_uncertainty_grows_away_from_the_data():
    X, y = two_classes()
    model = HFLClassifier(random_state=0).fit(X, y)
    near, far = model.predict_uncertainty(X), model.predict_uncertainty(10 * X)
    assert far.mutual_information.mean() > 3 * near.mutual_information.mean()
    for result in (near, far):
        expected = -(result.proba * np.log(result.proba)).sum(1)
        assert_allclose(result.entropy, expected, rtol=1e-9)
        assert (result.mutual_information >= 0).all()
        assert (result.mutual_information <= np.log(2)).all()
        assert result.converged.shape == result.rel_error.shape == (len(X),)


@pytest.mark.parametrize("data", [two_classes, three_classes])
def test_saturated_probabilities_are_finite(data):
    X, y = data()
    model = HFLClassifier(**{**SMALL, "hidden_layer_sizes": ()}, normalize_X=False).fit(X, y)
    for link in ("probit", "mc", "none"):
        result = model.set_params(link=link).predict_uncertainty(1e4 * X)
        for value in result.values():
            assert np.isfinite(value).all()
        assert (result.proba_std >= 0).all()
        assert np.isfinite(model.predict_log_proba(1e4 * X)).all()
        assert np.isfinite(model.decision_function(1e4 * X)).all()
    assert model.predict_proba(1e4 * X).min() < 1e-100


# ------------------------------------------------------------------- labels


LABELS = {
    "integers": [7, -2, 3],
    "floats": [1.0, 2.0, 0.5],
    "words": ["setosa", "versicolor", "virginica"],
    "objects": np.array(["b", "c", "a"], dtype=object),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_any_type(name):
    X, index = three_classes()
    y = np.asarray(LABELS[name])[index]
    if name == "floats":
        y = np.array([1.0, 2.0, 4.0])[index]
    model = HFLClassifier(**SMALL).fit(X, y)
    assert_array_equal(model.classes_, np.unique(y))
    assert model.predict(X).dtype == y.dtype
    assert model.score(X, y) > 0.6


def test_booleans_and_pandas():
    X, y = two_classes()
    frame = pd.DataFrame(X, columns=["a", "b"], index=np.arange(len(X)) + 100)
    model = HFLClassifier(**SMALL).fit(frame, pd.Series(y == 1, index=frame.index))
    assert_array_equal(model.classes_, [False, True])
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
    weight = np.arange(36) % 3
    assert_same(fitted(X, y, weight), fitted(np.repeat(X, weight, 0), np.repeat(y, weight)), X)


# ---------------------------------------------------------------- invariance


def test_answers_do_not_depend_on_the_other_rows():
    X, y = three_classes()
    model = HFLClassifier(**SMALL).fit(X, y)
    proba, std = model.predict_proba(X, return_std=True)
    order = np.random.default_rng(0).permutation(len(X))[:20]
    part, part_std = model.predict_proba(X[order], return_std=True)
    assert_allclose(part, proba[order], rtol=1e-2)
    assert_allclose(part_std, std[order], rtol=2 * model.std_rtol)


@pytest.mark.parametrize("copy", [deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_answer_alike(copy):
    X, y = three_classes()
    model = HFLClassifier(**SMALL, link="mc").fit(X, y)
    twin = copy(model)
    assert_array_equal(twin.predict_proba(X), model.predict_proba(X))
    result, expected = twin.predict_uncertainty(X), model.predict_uncertainty(X)
    for name, value in expected.items():
        assert_array_equal(result[name], value)


def test_equal_seeds_give_equal_bits_and_members_mix():
    X, y = three_classes()
    params = {**SMALL, "prior_precision": "evidence", "n_estimators": 2}
    first, second = (HFLClassifier(**params, n_jobs=n).fit(X, y) for n in (None, 2))
    assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    each = []
    for member in first.estimators_:
        single = clone(first).set_params(n_estimators=1).fit(X, y)
        single.estimators_ = (member,)
        each.append(single.predict_proba(X))
    assert_allclose(first.predict_proba(X), np.mean(each, axis=0), rtol=1e-10)


def test_module_factory():
    X, y = three_classes()

    def factory(n_features, n_outputs):
        return nn.Sequential(nn.Linear(n_features, 4), nn.Tanh(), nn.Linear(4, n_outputs))

    model = HFLClassifier(module=factory, prior_precision=1.0, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.6
    _, variance = model.latent_mean_and_variance(X)
    assert_allclose(np.sqrt(variance), dense_std(model, X, IDENTITY), rtol=model.std_rtol)
    assert not hasattr(model, "coefs_")


def test_warm_start_goes_on():
    X, y = three_classes()
    model = HFLClassifier(**SMALL, warm_start=True).fit(X, y)
    assert model.fit(X, y).n_iter_ < 20


# ----------------------------------------------------------------- bad input


BAD = {
    "one class only": ({}, lambda X, y: (X, 0 * y), "two classes or more"),
    "continuous y": ({}, lambda X, y: (X, y + 0.5 * X[:, 0]), "Unknown label type"),
    "y too short": ({}, lambda X, y: (X, y[:-1]), "inconsistent numbers of samples"),
    "two columns": ({}, lambda X, y: (X, np.stack([y, y], 1)), "1d array"),
    "NaN": ({}, lambda X, y: (np.where(X > 1, np.nan, X), y), "NaN"),
    "text": ({}, lambda X, y: (X.astype(str).astype(object) + "x", y), "OneHotEncoder"),
    "unknown class": ({"class_weight": {9: 2.0}}, None, r"names \[9\], but y has the classes"),
    "negative factor": ({"class_weight": {0: -1.0}}, None, "dict of finite numbers > 0"),
    "wrong word": ({"class_weight": "even"}, None, "'balanced'"),
    "unknown link": ({"link": "logit"}, None, "one of 'mc', 'probit', 'none'"),
    "unknown variance": ({"variance": "exact"}, None, "'linearized', 'network'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_explained_and_changes_nothing(name):
    params, change, message = BAD[name]
    X, y = three_classes()
    model = HFLClassifier(**SMALL).fit(X, y)
    before = model.predict_proba(X)
    model.set_params(**params)
    with pytest.raises(ValueError, match=message):
        model.fit(*(change(X, y) if change else (X, y)))
    model.set_params(**HFLClassifier(**SMALL).get_params())
    assert_array_equal(model.predict_proba(X), before)


def test_bad_calls_are_explained():
    X, y = three_classes()
    model = HFLClassifier(**SMALL, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="warm_start=True keeps the classes"):
        model.fit(X, y + 1)
    with pytest.raises(ValueError, match="return_std must be True or False"):
        model.predict(X, return_std="total")
    with pytest.raises(ValueError, match="expecting 2 features"):
        model.predict_proba(X[:, :1])


# ----------------------------------------------------------------- ecosystem


def test_works_with_the_ecosystem():
    X, y = three_classes(45)
    pipeline = make_pipeline(StandardScaler(), HFLClassifier(**SMALL))
    proba, std = pipeline.fit(X, y).predict_proba(X, return_std=True)
    assert proba.shape == std.shape == (45, 3)
    grid = {"hflclassifier__prior_precision": [1e-1, 1e3]}
    search = GridSearchCV(pipeline, grid, scoring="neg_log_loss", cv=2).fit(X, y)
    assert search.best_params_["hflclassifier__prior_precision"] == 1e-1
    assert cross_val_predict(pipeline, X, y, cv=2, method="predict_proba").shape == (45, 3)


@pytest.mark.parametrize(
    "wrapper",
    [
        lambda model: CalibratedClassifierCV(model, cv=2),
        lambda model: VotingClassifier([("a", model), ("b", LogisticRegression())], voting="soft"),
        OneVsRestClassifier,
        OneVsOneClassifier,
    ],
)
def test_wrappers_take_it(wrapper):
    X, y = three_classes(45)
    assert wrapper(HFLClassifier(**SMALL)).fit(X, y).score(X, y) > 0.6

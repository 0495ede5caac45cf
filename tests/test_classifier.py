"""HFLClassifier: its numbers against dense and closed forms, its labels, its weights."""

from __future__ import annotations

import pickle
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, softmax
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine, make_moons
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer, log_loss
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_validate
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from torch import nn
from torch.autograd.functional import hessian

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


@pytest.mark.parametrize("data", [two_classes, three_classes])
def test_without_hidden_layer_probabilities_average_over_the_posterior(data):
    X, y = data(30)
    alpha, k = 0.7, 1 if data is two_classes else 3
    params = {**SMALL, "hidden_layer_sizes": (), "prior_precision": alpha, "std_rtol": 1e-8}
    model = HFLClassifier(**params, normalize_X=False, tol=0.0).fit(X, y)
    theta = np.vstack([*model.coefs_, *model.intercepts_])  # (D + 1, K)
    features = torch.as_tensor(np.hstack([X, np.ones((len(X), 1))]))
    queries = np.hstack([2 * X[:7], np.ones((7, 1))])

    def loss(w):
        logits = features @ w.reshape(-1, k)
        logits = torch.hstack([torch.zeros(len(X), 1), logits]) if k == 1 else logits
        nll = -logits.log_softmax(1)[torch.arange(len(X)), torch.as_tensor(y)].sum()
        return nll + alpha / 2 * w.square().sum()

    mode = torch.as_tensor(theta).ravel().requires_grad_()
    matrix = hessian(loss, mode, create_graph=True)
    inverse = torch.linalg.inv(matrix.detach())
    (slope,) = torch.autograd.grad(0.5 * (inverse * matrix).sum(), mode)
    # The posterior mean: the next order of Laplace's expansion, θ̂ − A⁻¹ ∇ ½ tr(A⁻¹ A(θ)).
    mean = (mode.detach() - inverse @ slope).numpy()
    draws = np.random.default_rng(0).multivariate_normal(mean, inverse.numpy(), 100_000)
    logits = np.einsum("qd,sdk->sqk", queries, draws.reshape(len(draws), -1, k))
    logits = np.concatenate([np.zeros_like(logits), logits], 2) if k == 1 else logits
    p = softmax(logits, axis=2)
    expected, entropies = p.mean(0), -(p * np.log(p)).sum(2).mean(0)
    result = model.predict_uncertainty(2 * X[:7])
    # Draws of both kinds are good to about 0.002.
    assert_allclose(result.proba, expected, atol=5e-3)
    information = -(expected * np.log(expected)).sum(1) - entropies
    assert_allclose(result.mutual_information, information, atol=5e-3)
    if k == 1:  # MacKay's closed form
        jacobian = queries @ inverse.numpy()
        variance = (jacobian * queries).sum(1)
        by_probit = expit(queries @ mean / np.sqrt(1 + np.pi / 8 * variance))
        model.set_params(link="probit")
        assert_allclose(model.predict_proba(2 * X[:7])[:, 1], by_probit, rtol=1e-6)


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
        assert_array_equal(logits.argsort(1), proba.argsort(1))
        assert_allclose(logits.sum(1), 0.0, atol=1e-10)


def test_link_none_is_the_softmax_of_the_module():
    X, y = three_classes()
    model = HFLClassifier(**SMALL, link="none", normalize_X=False).fit(X, y)
    outputs = model.module_(torch.as_tensor(X)).detach().numpy()
    assert_allclose(model.predict_proba(X), softmax(outputs, axis=1), rtol=1e-10)


def test_draws_depend_on_random_state_alone():
    X, y = three_classes()
    # The MAP of a linear network is the same for every seed: only the draws differ.
    params = {**SMALL, "hidden_layer_sizes": (), "tol": 0.0, "std_rtol": 1e-8}
    first = HFLClassifier(**params).fit(X, y)
    proba = first.predict_proba(X)
    assert_array_equal(first.predict_proba(X), proba)
    assert_array_equal(clone(first).fit(X, y).predict_proba(X), proba)
    other = clone(first).set_params(random_state=1).fit(X, y)
    assert_allclose(other.latent_mean_and_variance(X), first.latent_mean_and_variance(X), 1e-5)
    difference = np.abs(other.predict_proba(X) - proba).max()
    assert 1e-6 < difference < 5e-3


@pytest.mark.parametrize("link", ["mc", "probit", "none"])
@pytest.mark.parametrize("variance", ["linearized", "network", "pretrained"])
def test_predict_uncertainty_agrees_with_predict_proba(variance, link):
    X, y = three_classes(30)
    model = HFLClassifier(**SMALL, variance=variance, link=link).fit(X, y)
    result = model.predict_uncertainty(X[:6])
    assert set(result) == {
        "proba", "proba_std", "entropy", "mutual_information", "converged", "rel_error"
    }  # fmt: skip
    proba, std = model.predict_proba(X[:6], return_std=True)
    assert_array_equal(result.proba, proba)
    assert_array_equal(result.proba_std, std)
    assert_allclose(result.entropy, -(proba * np.log(proba)).sum(1), rtol=1e-9)
    assert result.converged.dtype == bool
    assert_array_equal(result.converged, result.rel_error <= model.std_rtol)
    if link == "mc":  # both are of the same draws
        assert (result.mutual_information < result.entropy).all()


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
    assert np.abs(model.latent_mean_and_variance(1e4 * X)[0]).max() > 1e4
    assert model.predict_proba(1e4 * X).min() < 1e-100


class Steep(nn.Module):
    """A linear map times 10⁴: logits of thousands, known almost exactly."""

    def __init__(self, n_features, n_outputs):
        super().__init__()
        self.linear = nn.Linear(n_features, n_outputs)

    def forward(self, x):
        return 1e4 * self.linear(x)


@pytest.mark.parametrize("link", ["mc", "probit", "none"])
@pytest.mark.parametrize("data", [two_classes, three_classes])
def test_a_steep_module_gives_finite_numbers(data, link):
    X, y = data()
    model = HFLClassifier(module=Steep, prior_precision=1.0, link=link, random_state=0)
    far = 1e3 * X
    model.fit(X, y)
    assert np.abs(model.latent_mean_and_variance(far)[0]).max() > 1e3
    result = model.predict_uncertainty(far)
    for value in result.values():
        assert np.isfinite(value).all()
    assert (result.proba_std >= 0).all()
    assert_allclose(result.proba.sum(1), 1.0, rtol=0, atol=1e-12)
    assert np.isfinite(model.predict_log_proba(far)).all()


# ------------------------------------------------------------------- labels


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


# ---------------------------------------------------------------- invariance


@pytest.mark.parametrize("link", ["mc", "probit"])
@pytest.mark.parametrize(
    "params",
    [{}, {"std_rtol": 1e-6}, {"variance": "network"}, {"n_estimators": 2}],
    ids=["coarse", "fine", "network", "two"],
)
def test_answers_do_not_depend_on_the_other_rows(params, link):
    X, y = three_classes(40)
    model = HFLClassifier(**{**SMALL, "tol": 0.0, **params}, link=link).fit(X, y)
    queries = X[:8]
    proba, std = model.predict_proba(queries, return_std=True)
    order = np.random.default_rng(0).permutation(8)[:5]
    rows = [model.predict_proba(queries[i : i + 1], return_std=True) for i in order]
    one_by_one = [np.concatenate(part) for part in zip(*rows, strict=True)]
    for ours, theirs in (model.predict_proba(queries[order], return_std=True), one_by_one):
        assert_allclose(ours, proba[order], rtol=model.std_rtol)
        assert_allclose(theirs, std[order], rtol=2 * model.std_rtol)


def test_the_global_generators_do_not_matter():
    X, y = three_classes()
    answers = []
    for seed in (0, 1):
        np_state, torch_state = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        try:
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            model = HFLClassifier(**SMALL).fit(X, y)
            before = torch.get_rng_state()
            answers.append(model.predict_proba(X, return_std=True))
            assert_array_equal(torch.get_rng_state(), before)
        finally:
            np.random.set_state(np_state)  # noqa: NPY002
            torch.set_rng_state(torch_state)
    assert_array_equal(*answers)


@pytest.mark.parametrize("inside", [torch.no_grad, torch.inference_mode])
def test_fit_and_predict_work_inside(inside):
    X, y = three_classes()
    expected = HFLClassifier(**SMALL).fit(X, y).predict_uncertainty(X)
    with inside():
        result = HFLClassifier(**SMALL).fit(X, y).predict_uncertainty(X)
    for name, value in expected.items():
        assert_array_equal(result[name], value)


COPIES = {
    "deepcopy": deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "clone, fitted again": lambda model: clone(model).fit(*three_classes()),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=list(COPIES))
def test_copies_answer_alike(copy):
    X, y = three_classes()
    model = HFLClassifier(**SMALL, link="mc").fit(X, y)
    twin = copy(model)
    assert_array_equal(twin.predict_proba(X), model.predict_proba(X))
    result, expected = twin.predict_uncertainty(X), model.predict_uncertainty(X)
    for name, value in expected.items():
        assert_array_equal(result[name], value)


def test_members_are_mixed_with_equal_weights():
    X, y = two_classes(40)
    # So weak a prior leaves several local optima: the members differ.
    params = {**SMALL, "prior_precision": 0.01}
    model = HFLClassifier(**params, n_estimators=3).fit(X, y)
    singles = []
    for member in model.estimators_:
        single = deepcopy(model)
        single.estimators_ = (member,)
        singles.append(single)
    probas, stds = zip(*(m.predict_proba(X, return_std=True) for m in singles), strict=True)
    assert np.ptp(probas, axis=0).max() > 1e-3
    proba, std = model.predict_proba(X, return_std=True)
    assert_allclose(proba, np.mean(probas, axis=0), rtol=1e-10)
    # The law of total variance.
    total = np.mean(np.square(stds), axis=0) + np.var(probas, axis=0)
    assert_allclose(std, np.sqrt(total), rtol=1e-10)
    means, variances = zip(*(m.latent_mean_and_variance(X) for m in singles), strict=True)
    mean, variance = model.latent_mean_and_variance(X)
    assert_allclose(mean, np.mean(means, axis=0), rtol=1e-10)
    assert_allclose(variance, np.mean(variances, axis=0) + np.var(means, axis=0), rtol=1e-10)


def test_two_workers_give_the_bits_of_one():
    X, y = three_classes(40)
    alone, together = (
        HFLClassifier(**SMALL, n_estimators=2, n_jobs=n).fit(X, y) for n in (None, 2)
    )
    expected = alone.predict_uncertainty(X)
    for name, value in together.predict_uncertainty(X).items():
        assert_allclose(value, expected[name], rtol=1e-10)


def test_module_factory():
    X, y = three_classes()

    def factory(n_features, n_outputs):
        return nn.Sequential(nn.Linear(n_features, 4), nn.Tanh(), nn.Linear(4, n_outputs))

    model = HFLClassifier(module=factory, prior_precision=1.0, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.6
    _, variance = model.latent_mean_and_variance(X)
    assert_allclose(np.sqrt(variance), dense_std(model, X, IDENTITY), rtol=model.std_rtol)
    assert not hasattr(model, "coefs_")


@pytest.mark.parametrize(("n_classes", "n_outputs"), [(2, 1), (3, 3), (4, 4)])
def test_module_factory_is_asked_for_one_logit_a_class_but_one_for_two(n_classes, n_outputs):
    X = np.random.default_rng(0).standard_normal((40, 2))
    asked = []

    def factory(*sizes):
        asked.append(sizes)
        return nn.Linear(*sizes)

    model = HFLClassifier(module=factory, prior_precision=1.0).fit(X, np.arange(40) % n_classes)
    assert asked == [(2, n_outputs)]
    assert model.predict_proba(X).shape == (40, n_classes)


def test_warm_start_goes_on_from_the_last_weights():
    X, y = three_classes()
    cold = HFLClassifier(**SMALL, tol=0.0).fit(X, y)
    warm = clone(cold).set_params(warm_start=True).fit(X, y).fit(X, y)
    assert warm.loss_curve_[0] == pytest.approx(cold.loss_, rel=1e-10)
    assert warm.n_iter_ < cold.n_iter_
    assert_allclose(warm.predict_proba(X), cold.predict_proba(X), rtol=1e-5)


# ----------------------------------------------------------------- bad input


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
    "unknown link": ({"link": "logit"}, None, "one of 'mc', 'probit', 'none'"),
    "unknown variance": ({"variance": "exact"}, None, "'linearized', 'network', 'pretrained'"),
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
    with pytest.raises(ValueError, match="return_std must be True or False, but got") as caught:
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

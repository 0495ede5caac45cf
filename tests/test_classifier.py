"""HFLClassifier: its numbers against dense and closed forms, and its probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, softmax
from sklearn.base import clone
from sklearn.datasets import load_digits
from torch import nn
from torch.autograd.functional import hessian

from sklearn_hfl import HFLClassifier
from sklearn_hfl.posterior.link import IDENTITY, SOFTMAX
from sklearn_hfl.uncertainty.exact import dense_hessian
from tests.classes import SETS, SMALL, dense_std, halves, three_classes, two_classes


@pytest.mark.parametrize("name", [*SETS, "digits"])
def test_stds_equal_the_dense_laplace_approximation(name):
    if name == "digits":
        X, y = load_digits(return_X_y=True)
        X_train, y_train, X_test = halves(X[:400], y[:400])
        model = HFLClassifier(**{**SMALL, "hidden_layer_sizes": (8,)})
    else:
        X_train, y_train, X_test = halves(*SETS[name](return_X_y=True))
        learned = {"prior_precision": "evidence"} if name == "iris" else {}
        model = HFLClassifier(**{**SMALL, "hidden_layer_sizes": (10,), **learned})
    model.fit(X_train, y_train)
    _, variance = model.latent_mean_and_variance(X_test)
    exact = dense_std(model, X_test, IDENTITY)
    assert_allclose(np.sqrt(variance).reshape(exact.shape), exact, rtol=model.std_rtol)
    _, std = model.predict_proba(X_test, return_std="delta")
    exact = dense_std(model, X_test, SOFTMAX)
    visible = exact > 1e-12
    assert_allclose(std[visible], exact[visible], rtol=model.std_rtol)
    result = model.predict_uncertainty(X_test)
    assert result.converged.all()


@pytest.mark.parametrize("data", [two_classes, three_classes])
def test_network_route_equals_the_dense_hessian(data):
    X, y = data(40)
    model = HFLClassifier(**SMALL, variance="network", std_rtol=1e-4).fit(X, y)
    lp = model.members_[0].estimate.log_posterior
    hessian = dense_hessian(lp, model.members_[0].estimate.weights)
    assert torch.linalg.eigvalsh(hessian)[0] > 0
    _, std = model.predict_proba(X[:10], return_std="delta")
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
    assert_allclose(result.proba_std, p.std(0), atol=5e-3)
    information = -(expected * np.log(expected)).sum(1) - entropies
    assert_allclose(result.mutual_information, information, atol=5e-3)
    if k == 1:  # MacKay's closed form
        jacobian = queries @ inverse.numpy()
        variance = (jacobian * queries).sum(1)
        by_probit = expit(queries @ mean / np.sqrt(1 + np.pi / 8 * variance))
        model.set_params(link_approx="probit")
        assert_allclose(model.predict_proba(2 * X[:7])[:, 1], by_probit, rtol=1e-6)


# ----------------------------------------------------------- probabilities


@pytest.mark.parametrize("link", ["probit", "mc", "none"])
@pytest.mark.parametrize("data", [two_classes, three_classes])
def test_probabilities_are_consistent(data, link):
    X, y = data()
    model = HFLClassifier(**SMALL, link_approx=link).fit(X, y)
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
    model = HFLClassifier(**SMALL, link_approx="none", normalize_X=False).fit(X, y)
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
@pytest.mark.parametrize("variance", ["linearized", "network", "amortized"])
def test_predict_uncertainty_agrees_with_predict_proba(variance, link):
    X, y = three_classes(30)
    model = HFLClassifier(**SMALL, variance=variance, link_approx=link).fit(X, y)
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
        result = model.set_params(link_approx=link).predict_uncertainty(1e4 * X)
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
    model = HFLClassifier(module=Steep, prior_precision=1.0, link_approx=link, random_state=0)
    far = 1e3 * X
    model.fit(X, y)
    assert np.abs(model.latent_mean_and_variance(far)[0]).max() > 1e3
    result = model.predict_uncertainty(far)
    for value in result.values():
        assert np.isfinite(value).all()
    assert (result.proba_std >= 0).all()
    assert_allclose(result.proba.sum(1), 1.0, rtol=0, atol=1e-12)
    assert np.isfinite(model.predict_log_proba(far)).all()

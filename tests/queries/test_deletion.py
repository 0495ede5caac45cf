"""loo_predict and influence: against ridge regression, dense algebra and fits without the row."""

from __future__ import annotations

import functools
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.preprocessing import StandardScaler

from sklearn_hfl import HFLClassifier, HFLRegressor
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.uncertainty.exact import dense_ggn, dense_hessian
from tests.classes import SETS
from tests.deletion import (
    CASES,
    DETERMINED,
    NETWORKS,
    columns,
    determined,
    linear,
    network,
    refitted,
    softmax,
)
from tests.regression import QUERIES


@pytest.fixture(params=CASES)
def case(request):
    return linear(request.param)


@pytest.mark.parametrize("method", ["linearized", "refit"])
def test_linear_regression_predicts_a_row_as_ridge_without_it(case, method):
    model, X, y, used, ridge = case
    found = model.loo_predict(method)
    assert_array_equal(found.rows, used)
    assert found.converged.all()
    means, stds = [], []
    for row in range(len(X)):
        fits = list(ridge.without(row))
        means.append(ridge.mean(X[row : row + 1], fits)[0])
        stds.append(ridge.std(X[row : row + 1], fits)[0])
    rtol = 1e-8 if method == "linearized" else 1e-4
    assert_allclose(columns(found.mean), means, rtol=rtol)
    assert_allclose(columns(found.std), stds, rtol=rtol)
    density = norm(means, stds).logpdf(y).sum(1)
    assert_allclose(found.log_density, density, rtol=rtol, atol=rtol)


def test_leverage_is_the_diagonal_of_the_hat_matrix(case):
    model, X, y, _, ridge = case
    one = np.minimum(ridge.weight, 1)
    hat = np.stack(
        [
            b * one * ((ridge.X @ C) * ridge.X).sum(1)
            for b, (_, C) in zip(ridge.beta, ridge.fit(ridge.weight), strict=True)
        ],
        axis=1,
    )
    found = model.loo_predict()
    assert_allclose(columns(found.leverage), hat, rtol=1e-8)
    residual = y - columns(model.predict(X))
    assert_allclose(y - columns(found.mean), residual / (1 - hat), rtol=1e-7, atol=1e-9)


def test_influence_is_what_ridge_without_the_row_predicts_less_what_it_does_with_it(case):
    model, X, _, _, ridge = case
    before = ridge.mean(QUERIES, list(ridge.fit(ridge.weight)))
    expected = np.stack(
        [ridge.mean(QUERIES, list(ridge.without(row))) - before for row in range(len(X))], axis=1
    )
    found = model.influence(QUERIES)
    assert_allclose(found.reshape(expected.shape), expected, rtol=1e-8, atol=1e-12)


def test_functionals_move_by_the_sum_of_what_predictions_do(case):
    model, X, _, _, _ = case
    W = np.random.default_rng(0).standard_normal((2, len(QUERIES)))
    each = model.influence(QUERIES)
    assert_allclose(model.influence(QUERIES, weights=W), np.tensordot(W, each, 1), rtol=1e-8)
    assert_allclose(model.influence(QUERIES, weights=W[0]), np.tensordot(W[0], each, 1), rtol=1e-8)
    target = model.predict(QUERIES) + 0.3
    found = model.influence(QUERIES, func=lambda f: (f - torch.as_tensor(target)).square().mean())
    slope = 2 * -0.3 / target.size
    assert found.shape == (len(X),)
    assert_allclose(found, slope * each.sum(axis=(0, *range(2, each.ndim))), rtol=1e-8, atol=1e-12)


def newton_steps(member, queries):
    """Row by row: outputs (N, K) at each row and changes (Q, N, K) at queries, by dense algebra."""
    estimate = member.estimate
    lp, theta = estimate.log_posterior, estimate.weights
    A = dense_ggn(lp, theta)
    J = Prediction(lp.network, queries).gradient(theta)
    at_rows, changes = [], []
    for row in range(len(lp.X)):
        own = lp.select(torch.tensor([row]))
        own = replace(own, sample_weight=own.sample_weight.clamp(max=1.0))
        outputs, jacobian = lp.network.jacobian(theta, own.X)
        curvature = dense_ggn(own, theta) - torch.diag(lp.prior.precision)
        score = lp.likelihood.score(outputs, own.targets(slice(None)), own.sample_weight)
        step = torch.linalg.solve(A - curvature, jacobian[0].T @ score[0])
        at_rows.append(outputs[0] + jacobian[0] @ step)
        changes.append((J.T @ step).view(len(queries), -1))
    return torch.stack(at_rows), torch.stack(changes, dim=1)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_move_by_one_newton_step_of_the_linearised_network(name):
    model, X = network(name)
    queries = model._queries(X[:3] + 0.1)
    found, left = model.influence(X[:3] + 0.1), model.loo_predict()
    assert_array_equal(left.rows, np.delete(np.arange(len(X)), 5))
    moved, changes = zip(*(newton_steps(m, queries) for m in model.members_), strict=True)
    if isinstance(model, HFLClassifier):
        logits = model.members_[0].network.forward(
            model.members_[0].estimate.weights[None], queries
        )
        p = [softmax(logits[0][:, None] + each) for each in (changes[0], 0 * changes[0])]
        assert_allclose(found, (p[0] - p[1]).numpy(), rtol=1e-5, atol=1e-9)
        assert_allclose(found.sum(2), 0, atol=1e-14)
        with_draws = left.proba
        at_map = model.set_params(link_approx="none").loo_predict()
        model.set_params(link_approx="mc")
        assert_allclose(at_map.proba, softmax(moved[0]).numpy(), rtol=1e-5)
        assert not np.allclose(with_draws, at_map.proba, atol=1e-3)
        return
    k = model.n_outputs_
    scale = model._y_scaler.scale
    change = torch.stack(changes).mean(0)[..., :k].numpy() * scale
    assert_allclose(found.reshape(change.shape), change, rtol=1e-5, atol=1e-9)
    mean = model._y_scaler.inverse(torch.stack(moved).mean(0)[:, :k].numpy())
    assert_allclose(columns(left.mean), mean, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_a_row_does_to_itself_is_what_loo_predict_says(name):
    model, X = network(name)
    if isinstance(model, HFLClassifier):
        model.set_params(link_approx="none")
    left = model.loo_predict()
    changes = model.influence(X[left.rows])
    own = changes[np.arange(len(left.rows)), np.arange(len(left.rows))]
    if isinstance(model, HFLClassifier):
        expected = left.proba - model.predict_proba(X[left.rows])
        model.set_params(link_approx="mc")
    else:
        expected = left.mean - model.predict(X[left.rows])
    assert_allclose(own, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", DETERMINED)
def test_a_refit_is_the_fit_without_the_row(name):
    model, _ = determined(name)
    rows = [0, 4, 20]
    left = model.loo_predict("refit", rows=rows)
    assert_array_equal(left.rows, rows)
    assert left.converged.all()
    (member,) = model.members_
    lp = member.estimate.log_posterior
    for i, row in enumerate(rows):
        theta = refitted(member, row)
        outputs = lp.network.forward(theta[None], lp.X[row][None])[0]
        if isinstance(model, HFLRegressor):
            expected = model._y_scaler.inverse(outputs.numpy())[0]
            assert_allclose(columns(left.mean)[i], expected, rtol=1e-4, atol=1e-4)
            weight = lp.sample_weight.clone()
            weight[row] -= 1
            A = dense_ggn(replace(lp, sample_weight=weight), theta)
            G = Prediction(lp.network, lp.X[row][None]).gradient(theta)
            variance = (G * torch.linalg.solve(A, G)).sum(0) + 1 / lp.likelihood.noise_precision
            std = variance.sqrt().numpy() * model._y_scaler.scale
            assert_allclose(columns(left.std)[i], std, rtol=1e-3)
    if isinstance(model, HFLClassifier):
        model.set_params(link_approx="none")
        proba = model.loo_predict("refit", rows=rows).proba
        model.set_params(link_approx="mc")
        for p, row in zip(proba, rows, strict=True):
            theta = refitted(member, row)
            outputs = lp.network.forward(theta[None], lp.X[row][None])[0]
            assert_allclose(p, softmax(outputs)[0].numpy(), atol=1e-4)


def test_a_refit_ends_near_the_optimum_where_it_is_flat():
    # Along the flattest direction the Hessian is 0.02 times the prior precision here.
    model, _ = network("one output")
    (member,) = model.members_
    lp = member.estimate.log_posterior
    left = model.loo_predict("refit")
    assert left.converged.all()
    theta = torch.stack([refitted(member, row) for row in range(1, len(lp.X), 4)])
    outputs = lp.network.forward(theta, lp.X[1::4, None, :])[:, 0]
    expected = model._y_scaler.inverse(outputs.numpy())[:, 0]
    assert (np.abs(left.mean[1::4] - expected) < 0.05 * left.std[1::4]).all()


@pytest.mark.parametrize("name", DETERMINED)
def test_changes_correlate_with_those_of_refits(name):
    make, _, least = DETERMINED[name]
    model, X = determined(name)
    (member,) = model.members_
    lp, weights = member.estimate.log_posterior, member.estimate.weights
    queries = model._queries(X[::5])
    before = lp.network.forward(weights[None], queries)[0]
    numbers = np.arange(0, 120, 6)
    found = model.influence(X[::5], rows=numbers)
    expected = []
    for row in numbers:
        after = lp.network.forward(refitted(member, int(row))[None], queries)[0]
        if make is HFLClassifier:
            expected.append((softmax(after) - softmax(before)).numpy())
        else:
            expected.append((after - before).numpy() * model._y_scaler.scale)
    expected = np.stack(expected, axis=1)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] >= least


@pytest.mark.parametrize("name", ["one output", "two outputs"])
def test_the_network_route_has_the_curvature_of_the_exact_hessian(name):
    model, X = determined(name)
    (member,) = model.members_
    lp, theta = member.estimate.log_posterior, member.estimate.weights
    H, A = dense_hessian(lp, theta), dense_ggn(lp, theta)
    G = Prediction(lp.network, model._queries(X[:3] + 0.1)).gradient(theta)
    rows = [0, 50, 119]
    expected = []
    for row in rows:
        outputs, jacobian = lp.network.jacobian(theta, lp.X[row][None])
        J = jacobian[0]
        curved = torch.diag(lp.likelihood.noise_precision)
        score = curved @ (outputs - lp.y[row][None])[0]
        eye = torch.eye(len(curved), dtype=J.dtype)
        pull = torch.linalg.solve(eye - curved @ J @ torch.linalg.solve(A, J.T), score)
        expected.append((G.T @ torch.linalg.solve(H, J.T @ pull)).view(3, -1))
    expected = torch.stack(expected, dim=1).numpy() * model._y_scaler.scale
    found = model.influence(X[:3] + 0.1, rows=rows).reshape(expected.shape)
    assert_allclose(found, expected, rtol=0.02, atol=1e-3 * np.abs(expected).max())


def test_optima_of_the_network_that_failed_give_way_to_the_linearised_ones(monkeypatch):
    model, X = determined("one output")
    linearized = pickle.loads(pickle.dumps(model)).set_params(variance="linearized")
    expected = linearized.influence(X[:3])
    assert not np.allclose(model.influence(X[:3]), expected, rtol=1e-3)
    monkeypatch.setattr(
        "sklearn_hfl.uncertainty.influence.accepted",
        lambda optima, rtol: torch.zeros_like(optima.linear.variance, dtype=torch.bool),
    )
    assert_allclose(model.influence(X[:3]), expected, rtol=1e-10)


SEPARABLE = {"breast_cancer": np.arange(80), "wine": None, "iris": None}


@functools.cache
def separable(name, prior_precision):
    """A linear classifier, and each row's probabilities by the fit without it."""
    X, y = SETS[name](return_X_y=True)
    rows = SEPARABLE[name]
    rows = np.random.default_rng(0).permutation(len(X))[:60] if rows is None else rows
    X, y = StandardScaler().fit_transform(X[rows]), y[rows]
    params = {"hidden_layer_sizes": (), "n_estimators": 1, "normalize_X": False, "random_state": 0}
    params["prior_precision"] = prior_precision
    expected = []
    for row in range(len(X)):
        others = np.arange(len(X)) != row
        without = HFLClassifier(**params).fit(X[others], y[others])
        expected.append(
            [
                without.set_params(link_approx=approx).predict_proba(X[row : row + 1])[0]
                for approx in ("mc", "probit")
            ]
        )
    return HFLClassifier(**params).fit(X, y), y, np.stack(expected, axis=1)


@pytest.mark.parametrize("name", SEPARABLE)
@pytest.mark.parametrize("prior_precision", [1.0, 0.1])
def test_a_refit_averages_as_the_fit_without_the_row(name, prior_precision):
    model, _, expected = separable(name, prior_precision)
    for approx, proba in zip(("mc", "probit"), expected, strict=True):
        found = model.set_params(link_approx=approx).loo_predict("refit")
        assert found.converged.all()
        assert_allclose(found.proba, proba, atol=0.01)


# Tolerances of the label's probability, and of the mean log density in nats. With the posterior
# mean of the fit with the row they are 0.47 and 0.074 for breast_cancer at 0.1.
@pytest.mark.parametrize(
    ("name", "prior_precision", "atol", "mean_atol"),
    [
        ("breast_cancer", 1.0, 0.02, 0.002),
        ("wine", 1.0, 0.05, 0.005),
        ("iris", 1.0, 0.02, 0.003),
        ("breast_cancer", 0.1, 0.17, 0.02),
        ("wine", 0.1, 0.26, 0.01),
        ("iris", 0.1, 0.05, 0.002),
    ],
)
def test_classes_are_averaged_nearly_as_by_the_fit_without_the_row(
    name, prior_precision, atol, mean_atol
):
    model, y, (expected, _) = separable(name, prior_precision)
    found = model.set_params(link_approx="mc").loo_predict()
    assert found.converged.all()
    label = np.arange(len(y)), y
    assert_allclose(found.proba[label], expected[label], atol=atol)
    assert abs(found.log_density.mean() - np.log(expected[label]).mean()) <= mean_atol


def test_the_density_of_a_mixture_is_that_of_its_members():
    model, _ = network("two members")
    found = model.loo_predict()
    y = model._y_scaler.inverse(model.members_[0].estimate.log_posterior.y.numpy())[:, 0]
    parts = []
    for member in model.members_:
        single = pickle.loads(pickle.dumps(model))
        single.members_ = (member,)
        parts.append(single.loo_predict())
    densities = [norm(p.mean, p.std).logpdf(y) for p in parts]
    assert_allclose(found.log_density, logsumexp(densities, axis=0) - np.log(2), rtol=1e-10)
    means, variances = (np.stack([p[k] for p in parts]) for k in ("mean", "std"))
    expected = np.sqrt((variances**2).mean(0) + means.var(0))
    assert_allclose(found.std, expected, rtol=1e-10)

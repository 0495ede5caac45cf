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

from sklearn_hfl import HFLClassifier, HFLRegressor
from sklearn_hfl.exceptions import HFLConvergenceWarning
from sklearn_hfl.optim.newton_cg import NewtonCG
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.posterior.link import CENTRED
from sklearn_hfl.uncertainty.exact import dense_ggn, dense_hessian
from tests.cases import generator
from tests.classes import SMALL, three_classes, two_classes
from tests.regression import KNOWN, LINEAR, QUERIES, data, fitted

COUNTS = np.random.default_rng(3).integers(0, 3, 40)
WEIGHT = np.where(COUNTS == 1, 0.6, COUNTS)
CASES = {
    "standardised": ({"normalize_X": True, "normalize_y": True}, None, None),
    "in raw units": ({}, None, None),
    "weighted": ({}, None, WEIGHT),
    "two outputs": ({"noise_std": [0.1, 0.3], "normalize_y": True}, 2, None),
}


class Ridge:
    """Bayesian linear regression in the units of a fit, with weights (n, D + 1) by hand."""

    def __init__(self, model, X, y, weight):
        self.model, self.weight = model, weight
        self.scale, self.y = model._y_scaler.scale, model._y_scaler.transform(y)
        self.X = self.features(X)
        self.beta = (np.broadcast_to(model.noise_std, self.scale.shape) / self.scale) ** -2.0

    def features(self, X):
        return np.column_stack([self.model._x_scaler.transform(X), np.ones(len(X))])

    def fit(self, weight):
        """Coefficients and their covariance, of each output."""
        for k, beta in enumerate(self.beta):
            A = beta * (self.X.T * weight) @ self.X + self.model.prior_precision * np.eye(3)
            yield np.linalg.solve(A, beta * self.X.T @ (weight * self.y[:, k])), np.linalg.inv(A)

    def without(self, row):
        weight = self.weight.copy()
        weight[row] -= min(weight[row], 1)
        return self.fit(weight)

    def mean(self, X, fits):
        columns = [self.features(X) @ coef for coef, _ in fits]
        return self.model._y_scaler.inverse(np.column_stack(columns))

    def std(self, X, fits):
        Z = self.features(X)
        parts = [((Z @ C) * Z).sum(1) + 1 / b for (_, C), b in zip(fits, self.beta, strict=True)]
        return np.sqrt(np.column_stack(parts)) * self.scale


@functools.cache
def linear(name):
    """A linear model, its rows of positive weight, and the ridge regression that it is."""
    params, n_outputs, weight = CASES[name]
    X, y = data(n_outputs=n_outputs)
    y = 3 + 2 * y
    model = HFLRegressor(**{**LINEAR, **params}).fit(X, y, sample_weight=weight)
    weight = np.ones(len(X)) if weight is None else weight
    used = np.flatnonzero(weight)
    y = y.reshape(len(y), -1)
    return model, X[used], y[used], used, Ridge(model, X[used], y[used], weight[used])


@pytest.fixture(params=CASES)
def case(request):
    return linear(request.param)


def columns(values):
    return values.reshape(len(values), -1)


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


# ------------------------------------------------------------------- networks

NETWORKS = {
    "one output": (HFLRegressor, {**KNOWN, "std_rtol": 1e-7}, data),
    "two outputs": (HFLRegressor, {**KNOWN, "std_rtol": 1e-7}, lambda: data(n_outputs=2)),
    "varying noise": (
        HFLRegressor,
        {**KNOWN, "noise_std": "evidence", "likelihood": "heteroscedastic", "std_rtol": 1e-7},
        data,
    ),
    "two members": (HFLRegressor, {**KNOWN, "n_estimators": 2, "std_rtol": 1e-7}, data),
    "two classes": (HFLClassifier, {**SMALL, "std_rtol": 1e-7, "tol": 0.0}, two_classes),
    "three classes": (HFLClassifier, {**SMALL, "std_rtol": 1e-7, "tol": 0.0}, three_classes),
}


@functools.cache
def network(name):
    make, params, rows = NETWORKS[name]
    X, y = rows()
    weight = np.where(np.arange(len(X)) % 4 == 1, 2.0, 1.0)
    weight[5] = 0
    return make(**params).fit(X, y, sample_weight=weight), X


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
        p = [_softmax(logits[0][:, None] + each) for each in (changes[0], 0 * changes[0])]
        assert_allclose(found, (p[0] - p[1]).numpy(), rtol=1e-5, atol=1e-9)
        assert_allclose(found.sum(2), 0, atol=1e-14)
        with_draws = left.proba
        at_map = model.set_params(link_approx="none").loo_predict()
        model.set_params(link_approx="mc")
        assert_allclose(at_map.proba, _softmax(moved[0]).numpy(), rtol=1e-5)
        assert not np.allclose(with_draws, at_map.proba, atol=1e-3)
        return
    k = model.n_outputs_
    scale = model._y_scaler.scale
    change = torch.stack(changes).mean(0)[..., :k].numpy() * scale
    assert_allclose(found.reshape(change.shape), change, rtol=1e-5, atol=1e-9)
    mean = model._y_scaler.inverse(torch.stack(moved).mean(0)[:, :k].numpy())
    assert_allclose(columns(left.mean), mean, rtol=1e-5, atol=1e-8)


def _softmax(logits):
    if logits.shape[-1] == 1:
        logits = torch.cat([0 * logits, logits], -1)
    return logits.softmax(-1)


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


def refitted(member, row):
    """Weights of the network trained on without a row, by another optimiser."""
    lp = member.estimate.log_posterior
    weight = lp.sample_weight.clone()
    weight[row] -= weight[row].clamp(max=1.0)
    trainer = NewtonCG(500, tol=0.0, n_iter_no_change=10, decrement_tol=1e-9)
    without = replace(lp, sample_weight=weight)
    return trainer.train(without, member.estimate.weights, generator(0)).weights


DETERMINED = {
    "one output": (HFLRegressor, lambda: data(120), 0.999),
    "two outputs": (HFLRegressor, lambda: data(120, n_outputs=2), 0.99),
    "two classes": (HFLClassifier, lambda: two_classes(120), 0.999),
    "three classes": (HFLClassifier, lambda: three_classes(120), 0.999),
}


@functools.cache
def determined(name):
    """A model whose weights the data determine, so that refits stay near."""
    make, rows, _ = DETERMINED[name]
    params = {**KNOWN, "noise_std": 0.1} if make is HFLRegressor else {**SMALL, "tol": 0.0}
    X, y = rows()
    return make(**{**params, "variance": "network"}).fit(X, y), X


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
            assert_allclose(p, _softmax(outputs)[0].numpy(), atol=1e-4)


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
            expected.append((_softmax(after) - _softmax(before)).numpy())
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


# ------------------------------------------------------- rows, blocks and errors


@pytest.mark.parametrize("name", NETWORKS)
def test_the_largest_changes_are_those_of_the_whole_matrix(name):
    model, X = network(name)
    queries = X[:4] + 0.1
    whole = columns(model.influence(queries).reshape(4, -1)).reshape(4, len(X) - 1, -1)
    numbers, change = model.influence(queries, top=3)
    numbers, change = numbers.reshape(4, 3, -1), change.reshape(4, 3, -1)
    order = np.argsort(-np.abs(whole), axis=1, kind="stable")[:, :3]
    assert_array_equal(numbers, model.loo_predict().rows[order])
    assert_allclose(change, np.take_along_axis(whole, order, 1), rtol=1e-9)


@pytest.mark.parametrize("name", ["two outputs", "three classes"])
def test_answers_do_not_depend_on_the_blocks(name):
    model, X = network(name)
    small = pickle.loads(pickle.dumps(model)).set_params(memory_limit=3e5)
    assert_allclose(small.influence(X[:9]), model.influence(X[:9]), rtol=1e-6, atol=1e-10)
    for ours, theirs in zip(
        small.influence(X[:9], top=4), model.influence(X[:9], top=4), strict=True
    ):
        assert_allclose(ours, theirs, rtol=1e-6, atol=1e-10)
    ours, theirs = small.loo_predict(), model.loo_predict()
    for key in theirs:
        assert_allclose(ours[key], theirs[key], rtol=1e-6)


@pytest.mark.parametrize("name", ["two outputs", "three classes"])
def test_some_rows_are_those_of_all(name):
    model, X = network(name)
    rows = [30, 0, 7]
    place = np.searchsorted(model.loo_predict().rows, rows)
    some, whole = model.loo_predict(rows=rows), model.loo_predict()
    for key in whole:
        assert_allclose(some[key], whole[key][place], rtol=1e-8)
    expected = model.influence(X[:2])[:, place]
    assert_allclose(model.influence(X[:2], rows=rows), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["one output", "two outputs", "two classes", "three classes"])
def test_a_row_of_weight_two_is_a_pair(name):
    model, X = network(name)
    make, params, rows = NETWORKS[name]
    _, y = rows()
    weight = np.where(np.arange(len(X)) % 4 == 1, 2, 1)
    weight[5] = 0
    index = np.repeat(np.arange(len(X)), weight)
    pairs = make(**params).fit(X[index], y[index])
    first = np.unique(index, return_index=True)[1]
    ours, theirs = model.loo_predict(), pairs.loo_predict()
    for key in set(ours) - {"rows", "converged"}:
        assert_allclose(ours[key], theirs[key][first], rtol=1e-4, atol=1e-5)


def test_leverages_add_up_to_the_effective_parameters():
    model, _ = network("three classes")
    left = model.loo_predict()
    weight = np.where(left.rows % 4 == 1, 2.0, 1.0)
    assert weight @ left.leverage == pytest.approx(model.n_effective_parameters_, rel=1e-3)


@pytest.mark.parametrize("make", [HFLRegressor, HFLClassifier])
def test_a_fit_without_its_data_says_what_it_lacks(make):
    X, y = two_classes()
    model = make(hidden_layer_sizes=(), prior_precision=1.0, variance="amortized").fit(X, y)
    for call in (model.loo_predict, lambda: model.influence(X)):
        with pytest.raises(ValueError, match=r"variance='amortized' keeps none.*Call fit again"):
            call()


def test_rows_that_are_none_are_refused():
    model, X = network("one output")
    with pytest.raises(ValueError, match="5 is none of them"):
        model.loo_predict(rows=[0, 5])
    with pytest.raises(ValueError, match="40 is none of them"):
        model.influence(X[:1], rows=[40])
    with pytest.raises(ValueError, match="-1 is none of them"):
        model.influence(X[:1], rows=[-1])
    with pytest.raises(ValueError, match=r"numpy.flatnonzero"):
        model.loo_predict(rows=np.ones(40, dtype=bool))
    with pytest.raises(ValueError, match="at most the number of training rows"):
        model.influence(X[:1], rows=[0, 1], top=3)
    with pytest.raises(ValueError, match="method"):
        model.loo_predict("exact")
    with pytest.raises(ValueError, match="weights or func"):
        model.influence(X[:1], weights=[1.0], func=torch.sum)


def test_a_refit_on_other_weights_forgets_the_rows_of_the_last():
    X, y = data()
    model = HFLRegressor(**LINEAR).fit(X, y, sample_weight=COUNTS)
    assert len(model.loo_predict().rows) < 40
    assert_array_equal(model.fit(X, y).loo_predict().rows, np.arange(40))


def test_a_pickle_answers_alike():
    model, X = network("two outputs")
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.loo_predict().rows, model.loo_predict().rows)
    assert_allclose(again.influence(X[:2]), model.influence(X[:2]), rtol=1e-12)


def test_a_refit_that_does_not_converge_is_counted(monkeypatch):
    model = fitted()
    monkeypatch.setattr("sklearn_hfl._ensemble.deletion.stationary_radius", lambda n: 0.0)
    monkeypatch.setattr("sklearn_hfl.optim.left_out_optima.MAX_ITER", 0)
    with pytest.warns(HFLConvergenceWarning, match="2 of 2 left-out rows keep the linearized"):
        found = model.loo_predict("refit", rows=[3, 8])
    assert not found.converged.any()
    assert_allclose(found.mean, model.loo_predict(rows=[3, 8]).mean, rtol=1e-10)


def test_rows_whose_error_bound_is_larger_than_std_rtol_are_counted():
    model = pickle.loads(pickle.dumps(linear("in raw units")[0])).set_params(std_rtol=1e-15)
    with pytest.warns(HFLConvergenceWarning, match="40 of 40 left-out rows missed std_rtol"):
        found = model.loo_predict()
    assert not found.converged.any()


def test_leverage_of_classes_is_that_of_their_centred_logits():
    # The covariance of logits is that of the centred ones: softmax depends on these alone.
    model, _ = network("three classes")
    member = model.members_[0]
    lp, theta = member.estimate.log_posterior, member.estimate.weights
    G = Prediction(lp.network, lp.X, CENTRED).gradient(theta)
    A = dense_ggn(lp, theta)
    S = torch.stack([g.T @ torch.linalg.solve(A, g) for g in G.T.view(len(lp.X), 3, -1).mT])
    outputs = lp.network.forward(theta[None], lp.X)[0]
    eye = torch.eye(3, dtype=S.dtype).expand_as(S)
    hat = S @ lp.likelihood.curvature(outputs, lp.sample_weight.clamp(max=1), eye)
    expected = hat.diagonal(dim1=1, dim2=2).sum(1).numpy()
    assert_allclose(model.loo_predict().leverage, expected, rtol=1e-6)

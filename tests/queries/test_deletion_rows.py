"""loo_predict and influence: which rows, in which blocks, and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_hfl import HFLClassifier, HFLRegressor
from sklearn_hfl.exceptions import HFLConvergenceWarning
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.posterior.link import CENTRED
from sklearn_hfl.uncertainty.exact import dense_ggn
from tests.classes import two_classes
from tests.deletion import (
    COUNTS,
    NETWORKS,
    columns,
    linear,
    network,
)
from tests.regression import LINEAR, data, fitted


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

"""Fit: members share precisions, and are MAPs under them."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.datasets import make_moons

from sklearn_hfl import HFLClassifier, HFLRegressor
from sklearn_hfl._ensemble import fit
from sklearn_hfl.uncertainty.alternation import Fit
from sklearn_hfl.uncertainty.search import maximize_evidence

RNG = np.random.default_rng(0)
X = RNG.uniform(-2, 2, (40, 2))
Y = np.sin(2 * X[:, 0]) + X[:, 1] + 0.1 * RNG.standard_normal(40)
QUERIES = RNG.uniform(-3, 3, (7, 2))
SMALL = {"hidden_layer_sizes": (5,), "random_state": 0}
GIVEN = {"prior_precision": 1.0, "noise_std": 0.1}
MOONS, MOON = make_moons(80, noise=0.2, random_state=0)
CASES = {
    "regression": (HFLRegressor(**SMALL), X, Y),
    "two outputs": (HFLRegressor(**SMALL), X, np.column_stack([Y, X[:, 0] ** 2])),
    "given noise": (HFLRegressor(**SMALL, noise_std=0.1), X, Y),
    "given prior": (HFLRegressor(**SMALL, prior_precision=1.0), X, Y),
    "amortized": (HFLRegressor(**SMALL, variance="amortized"), X, Y),
    "heteroscedastic": (HFLRegressor(**SMALL, likelihood="heteroscedastic"), X, Y),
    "classes": (HFLClassifier(**SMALL), MOONS, MOON),
}


@pytest.fixture(scope="module")
def models():
    return {name: model.fit(*data) for name, (model, *data) in CASES.items()}


def precisions(member):
    lp = member.estimate.log_posterior
    noise = getattr(lp.likelihood, "noise_precision", lp.prior.group_precision)
    return lp.prior.group_precision.tolist(), noise.tolist()


@pytest.mark.parametrize("name", CASES)
def test_members_are_different_maps_of_the_same_precisions(models, name):
    first, *others = models[name].members_
    assert models[name].converged_
    assert len(others) == 2
    for member in others:
        assert precisions(member) == precisions(first)
        assert not np.allclose(member.estimate.weights, first.estimate.weights, rtol=0.1)


@pytest.mark.parametrize("name", ["regression", "given prior", "classes"])
def test_the_first_member_is_that_of_a_fit_of_one(models, name):
    model, *data = CASES[name]
    (alone,) = type(model)(**{**model.get_params(), "n_estimators": 1}).fit(*data).members_
    assert_array_equal(alone.estimate.weights, models[name].members_[0].estimate.weights)


@pytest.mark.parametrize("name", ["regression"])
def test_workers_find_the_same_members(models, name):
    model, *data = CASES[name]
    parallel = type(model)(**{**model.get_params(), "n_jobs": 2}).fit(*data)
    for member, expected in zip(parallel.members_, models[name].members_, strict=True):
        assert_array_equal(member.estimate.weights, expected.estimate.weights)


@pytest.mark.parametrize(
    "params",
    [{}, {"hidden_layer_sizes": ()}, {"hidden_layer_sizes": (), **GIVEN}],
    ids=["chosen", "asked for", "nothing learned"],
)
def test_a_linear_model_is_fitted_once(params):
    y = X @ [1.0, -2.0] + 0.1 * RNG.standard_normal(40)
    model = HFLRegressor(**{**SMALL, **params}).fit(X, y)
    assert len(model.members_) == 1
    alone = HFLRegressor(**{**SMALL, **params}, n_estimators=1).fit(X, y)
    for part in ("total", "epistemic"):
        expected = alone.predict(QUERIES, return_std=part)
        assert_array_equal(model.predict(QUERIES, return_std=part), expected)


def test_members_are_about_as_good_as_the_first(models):
    # From a strong prior the others stay linear here: 0.2 nats a row worse.
    first, *others = (m.diagnostics.log_density_left_out for m in models["classes"].members_)
    assert min(others) > first - 0.1


def test_no_bad_mode_is_averaged():
    def bad(known, weights, start, alternation):
        return Fit(known, 0 * weights)

    with patch.object(fit, "annealed_map", bad):
        model = HFLRegressor(**SMALL).fit(X, Y)
    assert len(model.members_) == 1


def test_nor_is_the_first_where_it_is_the_bad_one(models):
    def bad(*arguments):
        found, curve, finished = maximize_evidence(*arguments)
        return replace(found, weights=0 * found.weights, subspace=None), curve, finished

    with patch.object(fit, "maximize_evidence", bad):
        model = HFLRegressor(**SMALL).fit(X, Y)
    _, *expected = models["regression"].members_
    assert len(model.members_) == 2
    for member, same in zip(model.members_, expected, strict=True):
        assert_array_equal(member.estimate.weights, same.estimate.weights)


@pytest.mark.parametrize("density", [np.nan, -np.inf])
def test_one_member_stays_where_no_density_is_finite(density):
    with patch.object(fit, "_left_out", lambda member: density):
        model = HFLRegressor(**SMALL).fit(X, Y)
    assert len(model.members_) == 1


def test_members_start_warm_with_their_precisions(models):
    model = HFLRegressor(**SMALL, warm_start=True).fit(X, Y)
    before = [precisions(member) for member in model.members_]
    model.fit(X, Y)
    assert [precisions(member) for member in model.members_] == before
    assert all(len(member.loss_curve) <= 12 for member in model.members_)


def test_members_of_an_unfinished_fit_share_what_the_next_one_learns():
    """One that had reached its MAP does not keep the precisions that the first has left."""
    model = HFLRegressor(**SMALL, warm_start=True).fit(X, Y)
    first, *others = model.members_
    facts = replace(first.diagnostics, decrement=1e3)
    assert not facts.stationary
    model.members_ = (replace(first, diagnostics=facts), *others)
    expected, *rest = map(precisions, model.fit(X, Y[::-1]).members_)
    assert all(shared == expected for shared in rest)

"""Fit: members share precisions, and are MAPs under them."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import pdist
from sklearn.base import clone
from sklearn.datasets import make_moons
from sklearn.neural_network import MLPRegressor
from torch import nn

from sklearn_hfl import HFLClassifier, HFLRegressor
from sklearn_hfl._ensemble import fit
from sklearn_hfl.exceptions import HFLConvergenceWarning
from sklearn_hfl.optim.solution import Status
from sklearn_hfl.posterior.likelihood import HeteroscedasticLikelihood
from sklearn_hfl.posterior.network import is_linear
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
    "classes": (HFLClassifier(**{**SMALL, "random_state": 3}), MOONS, MOON),
}


@pytest.fixture(scope="module")
def models():
    return {name: model.fit(*data) for name, (model, *data) in CASES.items()}


def precisions(member):
    lp = member.estimate.log_posterior
    noise = getattr(lp.likelihood, "noise_precision", lp.prior.group_precision)
    return lp.prior.group_precision.tolist(), noise.tolist()


def unfinished(member):
    """What a fit leaves whose steps did not suffice."""
    facts = replace(member.diagnostics, decrement=1e3)
    assert not facts.stationary
    return replace(member, diagnostics=facts, status=Status.MAX_ITER)


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


@pytest.mark.parametrize(
    "params",
    [{}, {"hidden_layer_sizes": ()}, {"hidden_layer_sizes": (), **GIVEN}],
    ids=["chosen", "asked for", "nothing learned"],
)
def test_a_linear_model_is_fitted_once(params):
    y = X @ [1.0, -2.0] + 0.1 * RNG.standard_normal(40)
    model = HFLRegressor(**{**SMALL, **params}).fit(X, y)
    assert len(model.members_) == 1
    assert model.diagnostics_["members"][0]["hidden_layer_sizes"] == []
    assert "hidden_layer_sizes=()" in repr(model.members_)
    alone = HFLRegressor(**{**SMALL, **params}, n_estimators=1).fit(X, y)
    for part in ("total", "epistemic"):
        expected = alone.predict(QUERIES, return_std=part)
        assert_array_equal(model.predict(QUERIES, return_std=part), expected)


def test_members_are_about_as_good_as_the_first(models):
    # From a strong prior the others stay linear here: 0.2 nats a row worse.
    first, *others = (m.diagnostics.log_density_left_out for m in models["classes"].members_)
    assert min(others) > first - 0.1


def test_each_member_says_which_model_it_is(models):
    for model in models.values():
        for member in model.diagnostics_["members"]:
            assert member["hidden_layer_sizes"] == list(model.hidden_layer_sizes)

    def module(n_features, n_outputs):
        return nn.Sequential(nn.Linear(n_features, 3), nn.Tanh(), nn.Linear(3, n_outputs))

    params = {"prior_precision": 1.0, "noise_std": 0.3, "n_estimators": 1}
    adopted = HFLRegressor(module=module, **params).fit(X, Y)
    assert adopted.diagnostics_["members"][0]["hidden_layer_sizes"] is None
    assert "hidden_layer_sizes" not in repr(adopted.members_)


def test_members_print_facts_and_no_data(models):
    for model in models.values():
        text = repr(model.members_)
        assert "tensor" not in text
        assert text.count("log_evidence=") == len(model.members_)
        assert len(text) < 250 * len(model.members_)


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
    model.members_ = (unfinished(first), *others)
    expected, *rest = map(precisions, model.fit(X, Y[::-1]).members_)
    assert all(shared == expected for shared in rest)


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_a_member_that_was_left_out_starts_again_from_its_own_seed(left_out):
    """Not from that of a member that is kept, which would then count twice."""
    model = HFLRegressor(**SMALL, warm_start=True).fit(X, Y)
    shared = precisions(model.members_[0])
    kept = [member for member in model.members_ if member.place != left_out]
    model.members_ = tuple(kept)
    model.fit(X, Y)
    assert sorted(member.place for member in model.members_) == [0, 1, 2]
    assert [member.place for member in model.members_[:2]] == [member.place for member in kept]
    weights = np.array([member.estimate.weights.tolist() for member in model.members_])
    assert pdist(weights).min() > 0.1
    assert all(precisions(member) == shared for member in model.members_)


@pytest.mark.parametrize("likelihood", ["gaussian", "heteroscedastic"])
def test_a_fit_without_enough_steps_goes_on_where_it_stopped(likelihood):
    params = {**SMALL, "likelihood": likelihood, "n_estimators": 1}
    model = HFLRegressor(**params, warm_start=True).fit(X, Y)
    (member,) = model.members_
    model.members_ = (unfinished(member),)
    with patch.object(fit, "maximize_evidence") as search:
        model.fit(X, Y)
    search.assert_not_called()
    assert model.converged_
    # The rounds keep the best: no evidence is lost beyond the scatter of its stochastic trace.
    assert model.log_marginal_likelihood_ > member.diagnostics.log_evidence - 0.5


def test_relu_starts_warm_with_its_precisions():
    """A minimum at a kink is not stationary, and more steps would not make it so."""
    rng = np.random.RandomState(7)
    inputs = rng.uniform(-2, 2, (40, 3))
    y = np.sin(2 * inputs[:, 0]) + inputs[:, 1] * inputs[:, 2] + 0.1 * rng.normal(size=40)
    model = HFLRegressor(activation="relu", n_estimators=1, random_state=0, warm_start=True)
    with pytest.warns(HFLConvergenceWarning, match="kink"):
        model.fit(inputs, y)
    loss, (member,) = model.loss_, model.members_
    with pytest.warns(HFLConvergenceWarning, match="kink"):
        model.fit(inputs, y)
    assert precisions(model.members_[0]) == precisions(member)
    assert model.loss_ <= loss + 1e-9
    assert model.n_iter_ <= 20


def searches(model, *data):
    with patch.object(fit, "maximize_evidence", wraps=fit.maximize_evidence) as search:
        model.fit(*data)
    return search.call_count


# What a warm start must not carry over: what was given, the linear model of other data, other
# units and other networks.
CHANGES = {
    "prior that was given": ({"prior_precision": 5.0}, {"prior_precision": "evidence"}),
    "noise that was given": ({"noise_std": 2.0}, {"noise_std": "evidence"}),
    "another noise": ({"noise_std": 2.0}, {"noise_std": 0.1}),
    "no hidden layer": ({"hidden_layer_sizes": ()}, {"hidden_layer_sizes": (8,)}),
    "units of X": ({"normalize_X": True, "prior_precision": 1.0}, {"normalize_X": False}),
    "units of y": ({"normalize_y": True, "prior_precision": 1.0}, {"normalize_y": False}),
    "another activation": ({"activation": "tanh"}, {"activation": "silu"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_not_learned_for_it_is_searched_for(name):
    before, after = CHANGES[name]
    params = {**SMALL, "n_estimators": 1, "warm_start": True}
    model = HFLRegressor(**{**params, **before}).fit(10 * X, 10 * Y)
    assert searches(model.set_params(**after), 10 * X, 10 * Y) == 1
    cold = HFLRegressor(**{**params, **before, **after}).fit(10 * X, 10 * Y)
    assert model.members_[0].network == cold.members_[0].network
    assert_allclose(model.noise_std_, cold.noise_std_, rtol=0.3)
    assert model.score(10 * X, 10 * Y) > cold.score(10 * X, 10 * Y) - 0.02


class Bent(nn.Module):
    """A network whose activation torch does not print."""

    def __init__(self, n_in, n_out, bend):
        super().__init__()
        self.inner, self.outer, self.bend = nn.Linear(n_in, 6), nn.Linear(6, n_out), bend

    def forward(self, inputs):
        return self.outer(self.bend(self.inner(inputs)))


def test_another_module_of_the_same_shapes_is_searched_for_anew():
    def tanh(n_in, n_out):
        return Bent(n_in, n_out, torch.tanh)

    def softplus(n_in, n_out):
        return Bent(n_in, n_out, nn.functional.softplus)

    model = HFLRegressor(module=tanh, n_estimators=1, random_state=0, warm_start=True).fit(X, Y)
    assert searches(model, X, Y) == 0
    assert searches(model.set_params(module=softplus), X, Y) == 1


def test_members_that_workers_trained_go_on_too():
    """What comes back from another process holds copies of the module's factory."""

    def tanh(n_in, n_out):
        return Bent(n_in, n_out, torch.tanh)

    params = {"prior_precision": 1.0, "noise_std": 0.2, "random_state": 0, "n_estimators": 2}
    model = HFLRegressor(module=tanh, **params, warm_start=True, n_jobs=2).fit(X, Y)
    before = [member.loss_curve[-1] for member in model.members_]
    model.fit(X, Y)
    assert_allclose([member.loss_curve[0] for member in model.members_], before, rtol=1e-12)


def test_another_likelihood_of_a_module_is_searched_for_anew():
    """Two means, or a mean and a log noise, are networks of the same shapes."""

    def tanh(n_in, n_out):
        return Bent(n_in, n_out, torch.tanh)

    model = HFLRegressor(module=tanh, n_estimators=1, random_state=0, warm_start=True)
    model.fit(X, np.column_stack([Y, 3 * X[:, 0]]))
    model.set_params(likelihood="heteroscedastic").fit(X, Y)
    likelihood = model.members_[0].estimate.log_posterior.likelihood
    assert isinstance(likelihood, HeteroscedasticLikelihood)


def test_precisions_of_few_rows_are_not_those_of_many():
    """Eight rows prefer the linear model; the network is tried again with more of them."""
    rng = np.random.RandomState(0)
    inputs = rng.uniform(-2, 2, (120, 1))
    y = np.sin(2 * inputs[:, 0]) + 0.05 * rng.normal(size=120)
    model = HFLRegressor(n_estimators=1, random_state=0, warm_start=True)
    model.fit(inputs[:8], rng.normal(size=8))
    assert is_linear(model.members_[0].network)
    assert model.fit(inputs, y).score(inputs, y) > 0.9


def test_many_small_steps_to_more_rows_are_a_large_one():
    rng = np.random.RandomState(0)
    inputs = rng.uniform(-2, 2, (80, 1))
    y = np.sin(2 * inputs[:, 0]) + 0.2 * rng.normal(size=80)
    model = HFLRegressor(**SMALL, n_estimators=1, warm_start=True)
    found = [searches(model, inputs[:n], y[:n]) for n in (40, 48, 56, 64, 80)]
    assert found == [1, 0, 0, 1, 0]


def test_members_left_out_are_never_averaged_twice():
    """Places have gaps where bad modes were left out; fewer, then more members are asked for."""
    model = HFLRegressor(**SMALL, warm_start=True).fit(X, Y)
    model.members_ = tuple(member for member in model.members_ if member.place != 1)
    model.set_params(n_estimators=2).fit(X, Y)
    assert {member.place for member in model.members_} == {0, 2}
    model.set_params(n_estimators=4).fit(X, Y)
    places = [member.place for member in model.members_]
    assert len(set(places)) == len(places) >= 3
    weights = np.array([member.estimate.weights.tolist() for member in model.members_])
    assert pdist(weights).min() > 0.1


def test_another_precision_of_numbers_starts_warm():
    params = {**SMALL, "n_estimators": 1, "warm_start": True, "likelihood": "heteroscedastic"}
    model = HFLRegressor(**params).fit(X, Y)
    before = model.predict(QUERIES)
    model.set_params(dtype="float32").fit(X.astype(np.float32), Y.astype(np.float32))
    assert_allclose(model.predict(QUERIES.astype(np.float32)), before, atol=0.1)


def test_an_adopted_network_goes_on_warm():
    mlp = MLPRegressor(
        hidden_layer_sizes=(10,), activation="tanh", solver="lbfgs", alpha=0.1, max_iter=5000
    ).fit(X, Y)
    adopted = HFLRegressor.from_mlp(mlp, X, Y, polish=True, warm_start=True, random_state=0)
    cold = clone(adopted).set_params(warm_start=False).fit(X, Y)
    adopted.fit(X, Y)  # with its biases under the same prior as all weights
    assert adopted.loss_curve_[0] < 0.5 * cold.loss_curve_[0]


def test_fewer_members_go_on_from_those_there_are():
    model = HFLRegressor(**SMALL, warm_start=True).fit(X, Y)
    model.members_ = model.members_[1:]
    with patch.object(fit, "maximize_evidence") as search:
        model.set_params(n_estimators=1).fit(X, Y)
    search.assert_not_called()
    assert len(model.members_) == 1

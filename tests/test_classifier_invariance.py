"""HFLClassifier: what its answers must not depend on, and how members and modules are used."""

from __future__ import annotations

import pickle
from copy import deepcopy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from torch import nn

from sklearn_hfl import HFLClassifier
from sklearn_hfl.posterior.link import IDENTITY
from tests.classes import SMALL, dense_std, three_classes, two_classes


@pytest.mark.parametrize("link", ["mc", "probit"])
@pytest.mark.parametrize(
    "params",
    [{}, {"std_rtol": 1e-6}, {"variance": "network"}, {"n_estimators": 2}],
    ids=["coarse", "fine", "network", "two"],
)
def test_answers_do_not_depend_on_the_other_rows(params, link):
    X, y = three_classes(40)
    model = HFLClassifier(**{**SMALL, "tol": 0.0, **params}, link_approx=link).fit(X, y)
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
    model = HFLClassifier(**SMALL, link_approx="mc").fit(X, y)
    twin = copy(model)
    assert_array_equal(twin.predict_proba(X), model.predict_proba(X))
    result, expected = twin.predict_uncertainty(X), model.predict_uncertainty(X)
    for name, value in expected.items():
        assert_array_equal(result[name], value)


def test_members_are_mixed_with_equal_weights():
    X, y = two_classes(40)
    # So weak a prior leaves several local optima: the members differ.
    params = {**SMALL, "prior_precision": 0.01}
    model = HFLClassifier(**{**params, "n_estimators": 3}).fit(X, y)
    singles = []
    for member in model.members_:
        single = deepcopy(model)
        single.members_ = (member,)
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
        HFLClassifier(**{**SMALL, "n_estimators": 2}, n_jobs=n).fit(X, y) for n in (None, 2)
    )
    expected = alone.predict_uncertainty(X)
    for name, value in together.predict_uncertainty(X).items():
        assert_allclose(value, expected[name], rtol=1e-10)


def test_module_factory():
    X, y = three_classes()

    def factory(n_features, n_outputs):
        return nn.Sequential(nn.Linear(n_features, 4), nn.Tanh(), nn.Linear(4, n_outputs))

    model = HFLClassifier(module=factory, prior_precision=1.0, n_estimators=1, random_state=0)
    model.fit(X, y)
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

    model = HFLClassifier(module=factory, prior_precision=1.0, n_estimators=1)
    model.fit(X, np.arange(40) % n_classes)
    assert asked == [(2, n_outputs)]
    assert model.predict_proba(X).shape == (40, n_classes)


def test_warm_start_goes_on_from_the_last_weights():
    X, y = three_classes()
    cold = HFLClassifier(**SMALL, tol=0.0).fit(X, y)
    warm = clone(cold).set_params(warm_start=True).fit(X, y).fit(X, y)
    assert warm.loss_curve_[0] == pytest.approx(cold.loss_, rel=1e-10)
    assert warm.n_iter_ < cold.n_iter_
    assert_allclose(warm.predict_proba(X), cold.predict_proba(X), rtol=1e-5)

"""Modules with frozen parts, with ties, and in several threads."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from torch import nn

from sklearn_hfl import HFLClassifier, HFLRegressor
from tests.posterior.test_module import NOISE, PLAIN, WORKING, Tied, Twice, X, Y, anywhere

# Of torch, for modules that it cannot batch.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")

# ---------------------------------------------------------------------- frozen


def backbone(d, k):
    net = nn.Sequential(nn.Linear(d, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, k))
    net[:3].requires_grad_(False).eval()
    return net


def features(module):
    with torch.no_grad():
        phi = module[:3](torch.tensor(X)).numpy()
    return np.column_stack([phi, np.ones(len(X))])


def test_a_head_on_a_frozen_backbone_is_bayesian_linear_regression():
    made = []
    model = HFLRegressor(
        **PLAIN, module=lambda d, k: made.append(backbone(d, k)) or made[-1], tol=0.0
    ).fit(X, Y)
    frozen = {name: value for name, value in made[0].state_dict().items() if name[0] != "3"}
    for name, value in frozen.items():
        assert torch.equal(model.module_.state_dict()[name], value.to(torch.float64))
    trainable = [name for name, p in model.module_.named_parameters() if p.requires_grad]
    assert trainable == list(model.prior_precision_) == ["3.weight", "3.bias"]
    assert model.diagnostics_["n_weights"] == 7
    phi = features(model.module_)
    covariance = np.linalg.inv(phi.T @ phi / NOISE**2 + np.eye(7))
    mean, std = model.predict(X, return_std="epistemic")
    assert_allclose(mean, phi @ covariance @ phi.T @ Y / NOISE**2, rtol=1e-6)
    assert_allclose(std, np.sqrt(np.einsum("ni,ij,nj->n", phi, covariance, phi)), rtol=1e-6)


@pytest.mark.parametrize("variance", ["linearized", "network", "amortized"])
def test_a_frozen_backbone_gives_the_answers_of_its_features(variance):
    """The same as a network of the head alone, whatever is asked."""
    model = HFLRegressor(**PLAIN, module=backbone, variance=variance, tol=0.0).fit(X, Y)
    head = copy.deepcopy(model.module_[3])
    phi = features(model.module_)[:, :-1]
    alone = HFLRegressor(
        **PLAIN, module=lambda d, k: copy.deepcopy(head), variance=variance, tol=0.0
    ).fit(phi, Y)
    for ours, theirs in zip(
        (*model.predict(X, return_std=True), model.predict(X[:5], return_cov=True)[1]),
        (*alone.predict(phi, return_std=True), alone.predict(phi[:5], return_cov=True)[1]),
        strict=True,
    ):
        assert_allclose(ours, theirs, rtol=1e-3 if variance == "network" else 1e-6)
    assert model.log_marginal_likelihood_ == pytest.approx(alone.log_marginal_likelihood_, rel=1e-6)


def trained_backbone(k=1):
    torch_state = torch.get_rng_state()
    torch.manual_seed(1)
    module = backbone(4, k)
    module[1].running_mean += torch.randn(6)
    torch.set_rng_state(torch_state)
    return module


def test_from_torch_leaves_what_is_frozen_alone():
    module = trained_backbone()
    model = HFLRegressor.from_torch(module, X, Y, polish=True, prior_precision=1.0, noise_std=NOISE)
    phi = features(model.module_)
    covariance = np.linalg.inv(phi.T @ phi / NOISE**2 + np.eye(7))
    mean, std = model.predict(X, return_std="epistemic")
    assert_allclose(mean, phi @ covariance @ phi.T @ Y / NOISE**2, rtol=1e-5)
    assert_allclose(std, np.sqrt(np.einsum("ni,ij,nj->n", phi, covariance, phi)), rtol=1e-5)
    twin = pickle.loads(pickle.dumps(model))
    assert_array_equal(twin.predict(X, return_std=True), model.predict(X, return_std=True))
    refit = clone(model).set_params(random_state=0).fit(X, Y)
    for refitted in (twin, refit):
        for name, value in module.state_dict().items():
            same = torch.equal(refitted.module_.state_dict()[name], value.to(torch.float64))
            assert same == (name[0] != "3")
    # A linear head has one MAP, from wherever it starts.
    assert refit.loss_curve_[0] != model.loss_curve_[0]
    assert_allclose(refit.predict(X), mean, rtol=1e-4)


@pytest.mark.parametrize("n_outputs", [1, 2, 3])
def test_from_torch_of_a_classifier_leaves_what_is_frozen_alone(n_outputs):
    y = np.arange(30) % max(n_outputs, 2)
    module = trained_backbone(n_outputs)
    model = HFLClassifier.from_torch(module, X, y, polish=True, prior_precision=1.0)
    for fitted in (model, clone(model).fit(X, y)):
        frozen = {k: v for k, v in fitted.module_.state_dict().items() if "3." not in k}
        assert len(frozen) == 7
        for name, value in frozen.items():
            assert torch.equal(value, module.state_dict()[name.removeprefix("module.")].to(value))
        assert fitted.diagnostics_["n_weights"] == 7 * n_outputs
        assert fitted.predict_proba(X, return_std=True)[1].shape == (30, max(n_outputs, 2))


def test_a_frozen_part_of_a_layer_survives_its_reset():
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    module[0].weight.requires_grad_(False)
    params = {"prior_precision": 1.0, "noise_std": NOISE, "random_state": 0, "polish": True}
    refit = clone(HFLRegressor.from_torch(module, X, Y, **params)).fit(X, Y)
    assert torch.equal(refit.module_[0].weight, module[0].weight.double())
    assert not torch.equal(refit.module_[0].bias, module[0].bias.double())


@anywhere
def test_a_parametrized_layer_cannot_start_anew():
    module = WORKING["weight norm"]()
    model = HFLRegressor.from_torch(module, X, Y, prior_precision=1.0, noise_std=NOISE)
    with pytest.raises(ValueError, match=r"Parametrized.* '0' has a parametrization\. Set module"):
        clone(model).fit(X, Y)


@pytest.mark.parametrize("make", [Twice, Tied], ids=["layer", "weight"])
def test_ties_are_kept_and_counted_once(make):
    model = HFLRegressor(**PLAIN, module=lambda d, k: make()).fit(X, Y)
    for module in (model.module_, pickle.loads(pickle.dumps(Plain(model.module_))).module):
        if make is Twice:
            assert module.again is module.inner
        else:
            assert module.second.weight is module.first.weight
    once = [name for name, _ in model.module_.named_parameters()]
    assert list(model.prior_precision_) == once
    size = sum(p.numel() for p in model.module_.parameters())
    assert model.diagnostics_["n_weights"] == size
    assert_allclose(model.predict(X), model.module_(torch.tensor(X)).detach()[:, 0], rtol=1e-10)


class Plain:
    def __init__(self, module):
        self.module = module


# --------------------------------------------------------------------- threads


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_members_and_queries_on_every_backend_are_those_of_one_thread(monkeypatch, backend):
    monkeypatch.setattr("sklearn_hfl._ensemble.chunks.MAX_QUERIES", 5)
    params = {**PLAIN, "module": lambda d, k: Tied(), "n_estimators": 2}
    alone = HFLRegressor(**params).fit(X, Y)
    with parallel_config(backend=backend):
        together = HFLRegressor(**params, n_jobs=2).fit(X, Y)
        answers = together.predict(X, return_std=True)
        covariance = together.predict(X[:6], return_cov=True)[1]
    for ours, theirs in zip(answers, alone.predict(X, return_std=True), strict=True):
        assert_allclose(ours, theirs, rtol=1e-8)
    assert_allclose(covariance, alone.predict(X[:6], return_cov=True)[1], rtol=1e-8)


@pytest.mark.parametrize("variance", ["linearized", "network"])
def test_one_model_may_be_asked_by_eight_threads(variance):
    """Each call replaces the parameters of a module, but not those of another call's."""
    factory = WORKING["layer norm" if variance == "linearized" else "bilinear"]
    model = HFLRegressor(**PLAIN, module=lambda d, k: factory(), variance=variance).fit(X, Y)
    queries = [X[i : i + 3] for i in range(16)]
    expected = [model.predict(q, return_std=True) for q in queries]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda q: model.predict(q, return_std=True), queries))
    assert_array_equal(answers, expected)

"""from_torch: the module's predictions, with the dense Laplace error bars of its weights."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from torch import nn

from sklearn_hfl import HFLClassifier, HFLRegressor, HFLWarning
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.posterior.link import IDENTITY, SOFTMAX
from sklearn_hfl.uncertainty.exact import dense_ggn, exact_covariance

as_they_came = pytest.mark.filterwarnings("ignore:The MAP is not stationary")
GIVEN = {"prior_precision": 1.0, "noise_std": 0.2}
RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (40, 2))
Y = np.column_stack([np.sin(3 * X[:, 0]) + X[:, 1], X[:, 0] * X[:, 1]])
LABELS = np.array(["a", "b", "c"])[np.arange(40) % 3]


def perceptron(n_outputs=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, n_outputs)).to(dtype)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return module


def outputs(module):
    with torch.no_grad():
        return copy.deepcopy(module).double()(torch.tensor(X)).numpy()


def dense_std(model, link=IDENTITY):
    estimate = model.members_[0].estimate
    lp, weights = estimate.log_posterior, estimate.weights
    gradient = Prediction(lp.network, torch.tensor(X), link).gradient(weights)
    variance = exact_covariance(dense_ggn(lp, weights), gradient).diagonal()
    return variance.sqrt().reshape(len(X), -1).numpy()


@as_they_came
@pytest.mark.parametrize("params", [GIVEN, {}], ids=["given", "evidence"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_a_regressor_keeps_its_predictions_and_has_the_dense_stds(n_outputs, dtype, params):
    module = perceptron(n_outputs, dtype)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    model = HFLRegressor.from_torch(module, X, Y[:, :n_outputs], **params)
    mean, std = model.predict(X, return_std="epistemic")
    assert_allclose(mean, outputs(module), rtol=1e-12, atol=1e-14)
    assert_allclose(std, dense_std(model), rtol=model.std_rtol)
    for name, value in module.state_dict().items():
        assert value.dtype == dtype
        assert torch.equal(value, before[name])
    assert all(p.grad is None and p.requires_grad for p in module.parameters())


@as_they_came
@pytest.mark.parametrize("params", [{"prior_precision": 1.0}, {}], ids=["given", "evidence"])
@pytest.mark.parametrize(("n_classes", "n_outputs"), [(2, 1), (2, 2), (3, 3)])
def test_a_classifier_keeps_its_probabilities(n_classes, n_outputs, params):
    module = perceptron(n_outputs)
    y = np.arange(40) % n_classes
    model = HFLClassifier.from_torch(module, X, y, **params)
    logits = outputs(module)
    if n_outputs == 1:
        logits = np.hstack([0 * logits, logits])
    expected = torch.tensor(logits).softmax(1).numpy()
    proba, std = model.predict_proba(X, return_std="delta")
    assert_allclose(proba, expected, rtol=1e-12)
    assert_allclose(std, dense_std(model, SOFTMAX), rtol=model.std_rtol)
    if params:
        assert clone(model).fit(X, y).predict_proba(X).shape == (40, n_classes)


def test_the_evidence_settles_at_the_weights():
    with pytest.warns(HFLWarning, match=r"weights given are .* from it \(‖∇L‖ = "):
        model = HFLRegressor.from_torch(perceptron(), X, Y[:, 0])
    lp, weights = model.members_[0].estimate.log_posterior, model.members_[0].estimate.weights
    precision = lp.prior.precision
    inverse = torch.linalg.inv(dense_ggn(lp, weights))
    gamma = lp.prior.group_sum(1 - precision * inverse.diagonal())
    expected = (gamma + 0.01) / (lp.prior.group_sum(weights.square()) + 0.01)
    assert_allclose(lp.prior.group_precision, expected.clamp(min=0.01), rtol=0.05)


@pytest.mark.parametrize("scale", [1e-5, 1e5])
@as_they_came
def test_the_noise_is_learned_in_units_of_y(scale):
    module = nn.Linear(2, 1).double()
    scaled = copy.deepcopy(module)
    with torch.no_grad():
        for p in scaled.parameters():
            p *= scale
    ours = HFLRegressor.from_torch(scaled, X, scale * Y[:, 0], prior_precision=scale**-2)
    theirs = HFLRegressor.from_torch(module, X, Y[:, 0], prior_precision=1.0)
    assert ours.noise_std_ == pytest.approx(scale * theirs.noise_std_, rel=0.05)


def test_polish_goes_on_to_the_map():
    model = HFLRegressor.from_torch(perceptron(), X, Y[:, 0], polish=True, tol=0.0, **GIVEN)
    assert model.converged_
    assert model.diagnostics_["members"][0]["decrement"] < 1e-6
    std = model.predict(X, return_std="epistemic")[1]
    assert_allclose(std, dense_std(model)[:, 0], rtol=model.std_rtol)


def test_copies_and_refits():
    model = HFLRegressor.from_torch(perceptron(), X, Y[:, 0], polish=True, **GIVEN)
    twin = pickle.loads(pickle.dumps(model))
    assert_array_equal(twin.predict(X, return_std=True), model.predict(X, return_std=True))
    fresh = clone(model).set_params(random_state=0).fit(X, Y[:, 0])
    assert set(vars(fresh)) == set(vars(model))
    assert fresh.loss_curve_[0] != model.loss_curve_[0]  # from weights of its own
    assert "Sequential" in repr(model.module)
    assert np.isfinite(cross_val_score(fresh, X, Y[:, 0], cv=2)).all()


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 1))

    def forward(self, x):
        return x @ self.weight


def test_a_refit_does_not_start_from_trained_weights():
    model = HFLRegressor.from_torch(Bare(), X, Y[:, 0], polish=True, **GIVEN)
    with pytest.raises(ValueError, match="Refitting needs fresh weights, but Bare '' has"):
        clone(model).fit(X, Y[:, 0])


@as_they_came
def test_eval_mode_makes_batch_norm_and_dropout_harmless():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 1))
    model = HFLRegressor.from_torch(module.eval(), X, Y[:, 0], **GIVEN)
    mean, std = model.predict(X, return_std="epistemic")
    assert_allclose(mean, outputs(module)[:, 0], rtol=1e-12, atol=1e-14)
    assert_allclose(std, dense_std(model)[:, 0], rtol=model.std_rtol)


class Noisy(nn.Linear):
    def __init__(self):
        super().__init__(2, 1)

    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.5)


REFUSED = {
    "no module": (lambda: perceptron, {}, TypeError, "expects a trained torch.nn.Module, but got"),
    "outputs": (lambda: perceptron(3), {}, ValueError, r"to \(n, 1\), but .* shape \(2, 3\)"),
    "inputs": (lambda: nn.Linear(5, 1), {}, ValueError, r"module failed on rows of shape \(2, 2\)"),
    "two returned": (lambda: nn.LSTM(2, 1), {}, ValueError, "must return one Tensor"),
    "no weights": (nn.Identity, {}, ValueError, "must have weights"),
    "all frozen": (
        lambda: perceptron().requires_grad_(False),
        {},
        ValueError,
        "all of its parameters are frozen",
    ),
    "chance": (Noisy, {}, ValueError, "two outputs for the same rows"),
    "dropout": (
        lambda: nn.Sequential(perceptron(), nn.Dropout(0.5)),
        {},
        ValueError,
        r"Dropout as submodule '1', in training mode.*Call \.eval\(\)",
    ),
    "batch norm": (
        lambda: nn.Sequential(nn.BatchNorm1d(2), perceptron()),
        {},
        ValueError,
        r"BatchNorm1d as submodule '0'.*own row.*Call \.eval\(\)",
    ),
    "standardised": (perceptron, {"normalize_y": True}, ValueError, "normalize_y is False"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_calls_are_explained(name):
    make, params, error, message = REFUSED[name]
    module, state = make(), torch.get_rng_state()
    with pytest.raises(error, match=message):
        HFLRegressor.from_torch(module, X, Y[:, 0], **params)
    assert torch.equal(torch.get_rng_state(), state)


def test_logits_must_match_the_classes():
    with pytest.raises(ValueError, match=r"to \(n, 3\), but .* shape \(2, 2\)"):
        HFLClassifier.from_torch(perceptron(2), X, LABELS)

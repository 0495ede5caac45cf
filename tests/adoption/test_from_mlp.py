"""from_mlp: scikit-learn's predictions, and the error bars of its own penalty."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.neural_network import MLPClassifier, MLPRegressor

from sklearn_hfl import HFLClassifier, HFLRegressor, HFLWarning
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.posterior.link import IDENTITY, SOFTMAX
from sklearn_hfl.uncertainty.exact import dense_ggn, exact_covariance
from sklearn_hfl.uncertainty.post_hoc import BIAS_SHARE

ACTIVATIONS = ["identity", "logistic", "tanh", "relu"]
# Neither sklearn's several outputs nor relu's kinks need be stationary: said where tested.
as_they_came = pytest.mark.filterwarnings("ignore:The MAP is not stationary")


def data(n_outputs=None, n=50):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (n, 2))
    Y = np.column_stack([np.sin(3 * X[:, 0]) + X[:, 1], X[:, 0] * X[:, 1]])
    Y += 0.1 * rng.standard_normal((n, 2))
    return X, Y[:, :n_outputs] if n_outputs else Y[:, 0]


def labelled(n_classes, n=60):
    rng = np.random.default_rng(0)
    y = np.arange(n) % n_classes
    X = rng.standard_normal((n, 2)) + np.array([[0, 0], [2, 0], [0, 2]])[y]
    return X, np.array(["a", "b", "c"])[y]


def trained(kind, X, y, **params):
    defaults = {"hidden_layer_sizes": (4, 3), "activation": "tanh", "solver": "lbfgs", "alpha": 0.1,
                "tol": 1e-9, "max_iter": 3000, "max_fun": 30000, "random_state": 0}  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return kind(**{**defaults, **params}).fit(X, y)


def dense_std(model, X, link=IDENTITY):
    estimate = model.members_[0].estimate
    lp, weights = estimate.log_posterior, estimate.weights
    gradient = Prediction(lp.network, torch.tensor(X), link).gradient(weights)
    variance = exact_covariance(dense_ggn(lp, weights), gradient).diagonal()
    return variance.sqrt().reshape(len(X), -1).numpy()


def gradients(model):
    """∇L for each group of weights by name, and the weights."""
    estimate = model.members_[0].estimate
    lp, weights = estimate.log_posterior, estimate.weights
    gradient = lp.value_and_gradient(weights[None])[1][0]
    bias = lp.prior.groups.of_kind("biases")[lp.prior.groups.labels]
    return gradient, bias, lp.prior.precision * weights


@as_they_came
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("n_outputs", [None, 2])
def test_a_regressor_keeps_its_predictions_and_has_the_dense_stds(activation, n_outputs):
    X, y = data(n_outputs)
    mlp = trained(MLPRegressor, X, y, activation=activation)
    model = HFLRegressor.from_mlp(mlp, X, y)
    queries = np.random.default_rng(1).uniform(-2, 2, (9, 2))
    mean, std = model.predict(queries, return_std="epistemic")
    assert_allclose(mean, mlp.predict(queries), rtol=1e-12, atol=1e-14)
    assert_allclose(std.reshape(9, -1), dense_std(model, queries), rtol=model.std_rtol)
    assert model.n_iter_ == 0


@as_they_came
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_classifier_keeps_its_probabilities_and_has_the_dense_stds(activation, n_classes):
    X, y = labelled(n_classes)
    mlp = trained(MLPClassifier, X, y, activation=activation, alpha=1.0)
    model = HFLClassifier.from_mlp(mlp, X, y)
    proba, std = model.predict_proba(X, return_std="delta")
    assert_allclose(proba, mlp.predict_proba(X), rtol=1e-10, atol=1e-14)
    assert_array_equal(model.predict(X), mlp.predict(X))
    assert_allclose(std, dense_std(model, X, SOFTMAX), rtol=model.std_rtol, atol=1e-12)
    moderated = HFLClassifier.from_mlp(mlp, X, y, link_approx="mc").predict_proba(X)
    assert_allclose(moderated.sum(1), 1)


@pytest.mark.parametrize("alpha", [0.01, 1.0])
def test_a_converged_regressor_is_stationary_under_the_translated_prior(alpha):
    X, y = data()
    mlp = trained(MLPRegressor, X, y, hidden_layer_sizes=5, alpha=alpha)
    model = HFLRegressor.from_mlp(mlp, X, y)
    assert model.converged_
    beta = model.noise_std_**-2
    assert model.prior_precision_["layer 0 feature 0"] == pytest.approx(alpha * beta)
    assert model.prior_precision_["layer 1 biases"] == pytest.approx(BIAS_SHARE * alpha * beta)
    gradient, bias, prior = gradients(model)
    # L-BFGS of scikit-learn stops by its loss, a little early; a wrong factor would leave 1.
    size = prior[~bias].norm()
    assert gradient[~bias].norm() < 0.1 * size
    # scikit-learn's gradient leaves out the biases' prior.
    assert (gradient - prior)[bias].norm() < 0.1 * size
    # The noise is what the residuals leave, once the parameters are paid for.
    residual = y - mlp.predict(X)
    left = len(y) - model.n_effective_parameters_
    assert model.noise_std_**2 == pytest.approx((residual @ residual) / left, rel=0.1)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_converged_classifier_is_stationary_under_alpha(n_classes):
    X, y = labelled(n_classes)
    mlp = trained(MLPClassifier, X, y, alpha=1.0)
    model = HFLClassifier.from_mlp(mlp, X, y)
    assert model.converged_
    assert model.prior_precision_["layer 1 weights"] == pytest.approx(1.0)
    gradient, bias, prior = gradients(model)
    assert gradient[~bias].norm() < 0.02 * prior[~bias].norm()


def test_adam_counts_alpha_once_for_each_mini_batch():
    X, y = data()
    mlp = trained(MLPRegressor, X, y, solver="adam", max_iter=5, batch_size=10)
    with pytest.warns(
        HFLWarning, match=r"the weights given are .* away from it \(‖∇L‖ = .*polish=True"
    ):
        model = HFLRegressor.from_mlp(mlp, X, y, noise_std=0.5)
    assert model.prior_precision == pytest.approx(5 * 0.1 / 0.25)
    assert not model.converged_
    assert_allclose(model.predict(X), mlp.predict(X), rtol=1e-12)


@pytest.mark.parametrize("n_outputs", [None, 2])
def test_polish_goes_on_to_the_map(n_outputs):
    X, y = data(n_outputs)
    mlp = trained(MLPRegressor, X, y, hidden_layer_sizes=4, max_iter=20)
    model = HFLRegressor.from_mlp(mlp, X, y, polish=True, tol=0.0)
    assert model.converged_
    assert model.n_iter_ > 0
    assert model.diagnostics_["members"][0]["decrement"] < 1e-6
    std = model.predict(X, return_std="epistemic")[1]
    assert_allclose(std.reshape(len(X), -1), dense_std(model, X), rtol=model.std_rtol)


def test_a_given_precision_is_that_of_all_weights():
    X, y = data()
    mlp = trained(MLPRegressor, X, y)
    model = HFLRegressor.from_mlp(mlp, X, y, prior_precision=3.0, noise_std=0.2, polish=True)
    assert set(model.prior_precision_.values()) == {3.0}
    assert model.noise_std_ == pytest.approx(0.2)


@as_they_came
def test_copies_and_refits():
    X, y = data()
    mlp = trained(MLPRegressor, X, y)
    before = pickle.dumps(mlp)
    model = HFLRegressor.from_mlp(mlp, X, y)
    assert pickle.dumps(mlp) == before
    twin = pickle.loads(pickle.dumps(model))
    assert_array_equal(twin.predict(X, return_std=True), model.predict(X, return_std=True))
    assert model.hidden_layer_sizes == (4, 3)
    fresh = clone(model).fit(X, y)
    assert fresh.get_params() == model.get_params()
    assert [W.shape for W in fresh.coefs_] == [W.shape for W in mlp.coefs_]
    assert fresh.score(X, y) > 0.8
    assert set(vars(fresh)) == set(vars(model))


@as_they_came
def test_rows_of_weight_two_are_two_rows():
    X, y = data()
    mlp = trained(MLPRegressor, X, y)
    double = HFLRegressor.from_mlp(mlp, X, y, sample_weight=np.full(len(y), 2.0), noise_std=0.2)
    twice = HFLRegressor.from_mlp(mlp, np.tile(X, (2, 1)), np.tile(y, 2), noise_std=0.2)
    stds = [model.predict(X, return_std=True)[1] for model in (double, twice)]
    assert_allclose(*stds, rtol=1e-2)


REFUSED = {
    "alpha of zero": ({"alpha": 0.0}, {}, "alpha=0, which is no prior"),
    "a network parameter": ({}, {"activation": "relu"}, "activation comes from mlp"),
    "standardised": ({}, {"normalize_X": True}, "normalize_X is False for a network"),
    "members": ({}, {"n_estimators": 2}, "n_estimators is 1"),
    "polish": ({}, {"polish": "yes"}, "polish must be True or False"),
    "a parameter's value": ({}, {"std_rtol": 2.0}, "std_rtol must be a finite number"),
}


@pytest.mark.parametrize(("of_mlp", "params", "message"), REFUSED.values(), ids=list(REFUSED))
def test_bad_calls_are_explained(of_mlp, params, message):
    X, y = data()
    mlp = trained(MLPRegressor, X, y, **{"max_iter": 5, **of_mlp})
    with pytest.raises(ValueError, match=message):
        HFLRegressor.from_mlp(mlp, X, y, **params)


def test_bad_networks_are_explained():
    X, y = data()
    mlp = trained(MLPRegressor, X, y, max_iter=5)
    with pytest.raises(NotFittedError):
        HFLRegressor.from_mlp(MLPRegressor(), X, y)
    with pytest.raises(TypeError, match="expects a fitted MLPClassifier, but got MLPRegressor"):
        HFLClassifier.from_mlp(mlp, X, y)
    with pytest.raises(ValueError, match="expecting 2 features"):
        HFLRegressor.from_mlp(mlp, X[:, :1], y)
    with pytest.raises(ValueError, match="mlp has 1 outputs, but y needs 2"):
        HFLRegressor.from_mlp(mlp, *data(2))
    X, y = labelled(3)
    three = trained(MLPClassifier, X, y, max_iter=5)
    with pytest.raises(ValueError, match=r"classes \['a', 'b', 'c'\], but y has \['a', 'b'\]"):
        HFLClassifier.from_mlp(three, *labelled(2))
    several = trained(MLPClassifier, X, np.stack([y == "a", y != "b"], 1), max_iter=5)
    with pytest.raises(ValueError, match="mlp is multilabel, with 2 labels a row"):
        HFLClassifier.from_mlp(several, X, y)

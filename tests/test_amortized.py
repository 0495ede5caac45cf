"""variance="amortized": certified error bars, near and far, from an estimator without data."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from enum import Enum
from functools import cache

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from sklearn_hfl import HFLClassifier, HFLRegressor, HFLWarning
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.posterior.link import SOFTMAX
from sklearn_hfl.uncertainty.exact import dense_ggn, exact_covariance

KNOWN = {"hidden_layer_sizes": (6, 5), "n_estimators": 1, "prior_precision": 1.0, "random_state": 0}
NOISE = {**KNOWN, "noise_std": 0.2}
X = np.random.default_rng(0).uniform(-1, 1, (60, 2))
Y = np.column_stack([np.sin(3 * X[:, 0]) + X[:, 1], X[:, 0] * X[:, 1]])
LABELS = (X[:, 0] > 0).astype(int) + (X[:, 1] > X[:, 0])
NEAR = np.random.default_rng(1).uniform(-1, 1, (20, 2))
QUERIES = np.vstack([NEAR, 3 * NEAR, 30 * NEAR])


def pair(estimator, *data):
    """The same fit, amortized and with its data."""
    return estimator.fit(*data), clone(estimator).set_params(variance="linearized").fit(*data)


def exact_stds(model, rows, link=None):
    """Dense std of each output or link value, (n, values), standardised."""
    estimate = model.members_[0].estimate
    network = estimate.log_posterior.network
    functional = Prediction(network, model._queries(rows), *([link] if link else []))
    matrix = dense_ggn(estimate.log_posterior, estimate.weights)
    variance = exact_covariance(matrix, functional.gradient(estimate.weights)).diagonal()
    return variance.sqrt().numpy().reshape(len(rows), -1)


@pytest.mark.parametrize("std_rtol", [0.1, 0.01, 1e-5])
@pytest.mark.parametrize("params", [{}, {"hidden_layer_sizes": (10,), "activation": "silu"}])
def test_every_std_is_certified_near_and_far_from_the_data(params, std_rtol):
    base = HFLRegressor(**{**NOISE, **params}, variance="amortized", std_rtol=std_rtol)
    model, with_data = pair(base, X, Y)
    result = model.predict_uncertainty(QUERIES)
    exact = exact_stds(with_data, QUERIES) * model._y_scaler.scale
    error = np.abs(result.epistemic_std / exact - 1).max(1)
    assert result.converged.all()
    assert (result.rel_error <= std_rtol).all()
    # 1e-11 is what rounding leaves of the dense solve.
    assert (error <= result.rel_error + 1e-11).all()
    assert_array_equal(result.mean, with_data.predict(QUERIES))


def test_covariance_and_draws_agree_with_the_std():
    model, with_data = pair(HFLRegressor(**NOISE, variance="amortized", std_rtol=1e-4), X, Y)
    _, cov = model.predict(QUERIES, return_cov=True)
    _, std = model.predict(QUERIES, return_std=True)
    assert_allclose(np.sqrt(np.diagonal(cov)).T, std, rtol=1e-9)
    expected = with_data.predict(QUERIES, return_cov=True)[1]
    assert_allclose(cov, expected, atol=1e-3 * cov.max())
    assert model.sample_y(NEAR, 3).shape == (20, 2, 3)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_probabilities_and_their_std_are_those_with_data(n_classes):
    labels = LABELS % n_classes
    model, with_data = pair(HFLClassifier(**KNOWN, variance="amortized"), X, labels)
    result, expected = (m.predict_uncertainty(QUERIES) for m in (model, with_data))
    assert result.converged.all()
    assert_allclose(result.proba, expected.proba, atol=5e-3)
    assert_allclose(result.proba_std, expected.proba_std, atol=5e-3)
    _, std = model.predict_proba(QUERIES, return_std="delta")
    assert_allclose(std, exact_stds(with_data, QUERIES, SOFTMAX), rtol=model.std_rtol)
    mean, variance = model.latent_mean_and_variance(QUERIES)
    assert_allclose(mean, with_data.latent_mean_and_variance(QUERIES)[0], rtol=1e-9)
    exact = exact_stds(with_data, QUERIES)
    assert_allclose(np.sqrt(variance).reshape(exact.shape), exact, rtol=0.01)


# ---------------------------------------------------------- without the data

BOTH = {
    "regressor": (HFLRegressor(**NOISE, variance="amortized"), Y),
    "classifier": (HFLClassifier(**KNOWN, variance="amortized"), LABELS),
}
each = pytest.mark.parametrize("name", BOTH)


@cache
def fitted(name, **params):
    """One of the two with parameters, fitted once; tests that change it take a copy."""
    estimator, y = BOTH[name]
    return clone(estimator).set_params(**params).fit(X, y)


def tensors(thing):
    """All tensors and arrays that an object reaches, by its pickle."""
    found = []

    class Pickler(pickle.Pickler):
        def reducer_override(self, value):
            if isinstance(value, (torch.Tensor, np.ndarray)):
                found.append(value)
            return NotImplemented

    Pickler(io.BytesIO()).dump(thing)
    return found


@each
@pytest.mark.parametrize("params", [{}, {"n_estimators": 2}], ids=["one", "two members"])
def test_no_training_row_is_kept(name, params):
    model = fitted(name, **params)
    n = len(X)
    kept = [t for t in tensors(model) if n in t.shape and t.dtype != np.uint64]
    assert kept == []
    with_data = fitted(name, variance="linearized")
    assert any(t.shape == X.shape for t in tensors(with_data))


@pytest.mark.filterwarnings("ignore:The MAP is not stationary")
def test_the_pickle_does_not_grow_with_the_data():
    def size(n):
        rows = np.random.default_rng(2).uniform(-1, 1, (n, 2))
        model = HFLRegressor(**{**NOISE, "hidden_layer_sizes": (3,)}, variance="amortized")
        return len(pickle.dumps(model.set_params(max_iter=20).fit(rows, np.sin(rows[:, 0]))))

    # Beyond some thousand rows, whose fingerprints take 32 kB.
    assert size(20_000) == pytest.approx(size(5000), abs=2000)
    assert size(20_000) < 50_000


@each
def test_a_copy_answers_alike(name):
    model = fitted(name)
    for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        for ours, theirs in zip(
            copied.predict(QUERIES, return_std=True),
            model.predict(QUERIES, return_std=True),
            strict=True,
        ):
            assert_array_equal(ours, theirs)


@each
@pytest.mark.parametrize("variance", ["linearized", "network"])
def test_another_variance_needs_another_fit(name, variance):
    model = copy.copy(fitted(name)).set_params(variance=variance)
    expected = f"variance is '{variance}', but the estimator was fitted with 'amortized', and keeps"
    with pytest.raises(ValueError, match=expected):
        model.predict(NEAR, return_std=True)
    with pytest.raises(ValueError, match="Call fit again"):
        model.predict_uncertainty(NEAR)
    model.set_params(variance="amortized").predict(NEAR, return_std=True)


@each
def test_a_fit_with_data_is_not_amortized(name):
    model = copy.copy(fitted(name, variance="linearized"))
    with pytest.raises(ValueError, match="built no subspace for queries without data"):
        model.set_params(variance="amortized").predict(NEAR, return_std=True)
    model.fit(X, BOTH[name][1]).predict(NEAR, return_std=True)


def test_a_smaller_tolerance_after_fit_is_reported_not_met():
    # Data that determine more directions than the first block has.
    rows = np.random.default_rng(3).uniform(-1, 1, (300, 6))
    wide = {**KNOWN, "hidden_layer_sizes": (30,), "noise_std": 0.01}
    model = HFLRegressor(**wide, variance="amortized", std_rtol=0.3, max_iter=5)
    with pytest.warns(HFLWarning, match="The MAP is not stationary"):
        model.fit(rows, rows[:, 0] ** 2)
    model.set_params(std_rtol=1e-9)
    with pytest.warns(HFLWarning, match=r"missed std_rtol=1e-09"):
        result = model.predict_uncertainty(3 * rows[:9])
    assert not result.converged.all()
    assert_array_equal(result.converged, result.rel_error <= 1e-9)


def test_warm_start_goes_on_without_the_old_data():
    model = HFLRegressor(**NOISE, variance="amortized", warm_start=True).fit(X, Y)
    loss = model.loss_
    assert model.fit(X, Y).loss_ == pytest.approx(loss, abs=0.1)
    assert model.n_iter_ <= 15


@pytest.mark.parametrize("params", [{}, {"dtype": "float32", "std_rtol": 0.5}])
def test_conformalize_does_not_know_which_rows_were_trained_on(params):
    model = HFLRegressor(**NOISE, variance="amortized", **params).fit(X, Y[:, 0])
    labels = HFLClassifier(**KNOWN, variance="amortized").fit(X, LABELS)
    assert len(model._trained_rows.hashes) == len(labels._trained_rows.hashes) == 0
    # Rows of fit calibrate without a warning, which the docstrings say.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.conformalize(np.vstack([NEAR, X[7:10]]), np.append(NEAR[:, 0], Y[7:10, 0]))
        labels.conformalize(X, LABELS)
    _, interval = model.predict_interval(QUERIES, kind="conformal")
    assert interval.shape == (60, 2)


def test_an_adopted_network_can_be_amortized():
    module = torch.nn.Linear(2, 1)
    model = HFLRegressor.from_torch(module, X, Y[:, 0], polish=True, variance="amortized")
    with_data = HFLRegressor.from_torch(module, X, Y[:, 0], polish=True)
    ours, theirs = (m.predict(QUERIES, return_std=True)[1] for m in (model, with_data))
    assert_allclose(ours, theirs, rtol=0.01)


@pytest.mark.parametrize("likelihood", ["gaussian", "heteroscedastic"])
def test_functionals_need_no_data_either(likelihood):
    params = {"hidden_layer_sizes": (5,), "likelihood": likelihood, "std_rtol": 1e-4}
    base = HFLRegressor(**params, prior_precision=1.0, random_state=0, variance="amortized")
    model, with_data = pair(base, X, Y[:, 0])
    w = np.linspace(-1, 1, len(QUERIES))
    assert_allclose(
        model.predict_functional(QUERIES, weights=w),
        with_data.predict_functional(QUERIES, weights=w),
        rtol=2e-4,
    )


def test_profile_intervals_need_data():
    model = HFLRegressor(**NOISE, variance="amortized").fit(X, Y)
    with pytest.raises(ValueError, match="refits the network to the training data, of which"):
        model.predict_interval(NEAR, kind="profile")


# ------------------------------------------------------- nothing that grows with the rows

# Rows 53 and 503 are no other size of these models: features 2, weights 13 to 32.
TINY = {
    "hidden_layer_sizes": (3,),
    "n_estimators": 1,
    "random_state": 0,
    "variance": "amortized",
    "max_iter": 3,
}
FAMILIES = {
    "gaussian": (HFLRegressor, {}, "y"),
    # A prior that is given, or few rows could leave one model of these, and more rows another.
    "two outputs, two members": (HFLRegressor, {"n_estimators": 2, "prior_precision": 1.0}, "Y"),
    "heteroscedastic": (HFLRegressor, {"likelihood": "heteroscedastic"}, "Y"),
    "float32": (HFLRegressor, {"dtype": "float32", "likelihood": "heteroscedastic"}, "y"),
    "two classes": (HFLClassifier, {}, "two"),
    "three classes": (HFLClassifier, {"n_estimators": 2, "prior_precision": 1.0}, "three"),
}
# As many as training took steps, and as conformalize was given rows.
OF_ANOTHER_LENGTH = {"loss_curve", "loss_curve_", "conformity_scores_"}


def without_data(family, n):
    estimator, params, target = FAMILIES[family]
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (n, 2))
    y = np.sin(3 * X[:, 0]) + X[:, 1] + (0.1 + 0.2 * (X[:, 0] > 0)) * rng.standard_normal(n)
    targets = {
        "y": y,
        "Y": np.stack([y, -y], axis=1),
        "two": y > 0,
        "three": np.digitize(y, [-1, 1]),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HFLWarning)
        return estimator(**{**TINY, **params}).fit(X, targets[target])


def parts(value, path=""):
    """Every object that another one holds, with the way to it."""
    yield path, value
    if isinstance(value, dict):
        held = value.items()
    elif isinstance(value, (list, tuple)):
        held = enumerate(value)
    else:
        held = () if isinstance(value, Enum) else getattr(value, "__dict__", {}).items()
    for name, part in held:
        if name not in OF_ANOTHER_LENGTH:
            yield from parts(part, f"{path}.{name}")


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_that_is_kept_grows_with_the_rows(family):
    sizes = []
    for n in (53, 503):
        model = without_data(family, n)
        state = model.__getstate__()
        arrays = {
            path: value.shape
            for path, value in parts(state)
            if isinstance(value, (np.ndarray, torch.Tensor))
        }
        assert len(arrays) > 10
        assert not {path: shape for path, shape in arrays.items() if n in shape}
        # Nor a list of numbers: hashes, indices or names of rows.
        assert not [
            path for path, v in parts(state) if isinstance(v, (list, tuple)) and len(v) == n
        ]
        for member in model.members_:
            object.__setattr__(member, "loss_curve", ())
        del model.loss_curve_
        sizes.append(len(pickle.dumps(model)))
    # Less than a byte for each further row: a vector of coupling more or less, of 17 numbers in
    # float32, and whole numbers in diagnostics_ take their own length.
    assert abs(sizes[1] - sizes[0]) < 450

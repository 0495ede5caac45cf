"""Advice: a message names the cause that is there, and what it advises works."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
from sklearn.neural_network import MLPRegressor

from sklearn_hfl import HFLClassifier, HFLRegressor, HFLWarning
from sklearn_hfl.optim.solution import Status

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (60, 2))
Y = np.sin(3 * X[:, 0]) + X[:, 1] + 0.1 * RNG.standard_normal(60)
KNOWN = {"hidden_layer_sizes": (5,), "n_estimators": 1, "prior_precision": 1.0, "random_state": 0}
NOISE = {**KNOWN, "noise_std": 0.2}


def texts(call, *args):
    """The warnings that a call raises."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*args)
    assert all(issubclass(w.category, HFLWarning) for w in caught)
    return [str(w.message) for w in caught]


def fitted(estimator=HFLRegressor, y=Y, **params):
    known = NOISE if estimator is HFLRegressor else KNOWN
    return estimator(**{**known, **params}).fit(X, y)


# ------------------------------------------------------------------- training


@pytest.mark.parametrize(
    ("params", "reason", "said", "unsaid", "followed"),
    [
        (
            {"max_iter": 2},
            Status.MAX_ITER,
            "Try a max_iter above 2.",
            "newton-cg",
            {"max_iter": 200},
        ),
        (
            {"solver": "lbfgs", "max_iter": 2},
            Status.MAX_ITER,
            "Try a max_iter above 2 or solver='newton-cg'.",
            "tol",
            {"solver": "lbfgs", "max_iter": 2000, "tol": 1e-6},
        ),
        (
            {"solver": "lbfgs", "tol": 10.0},
            Status.STALLED,
            "Try a smaller tol or solver='newton-cg'.",
            "max_iter",
            {"solver": "lbfgs", "tol": 1e-6},
        ),
        (
            {"tol": 1e10},
            Status.STALLED,
            "Try a smaller tol or a larger prior_precision.",
            "max_iter",
            {"max_iter": 200},
        ),
        (
            {"solver": "adam", "tol": 10.0},
            Status.STALLED,
            "Try a smaller tol or solver='newton-cg'.",
            "max_iter",
            {"solver": "newton-cg"},
        ),
    ],
)
def test_an_unfinished_fit_is_told_what_it_lacks(params, reason, said, unsaid, followed):
    (text,) = texts(lambda: fitted(**params))
    assert text.startswith("The MAP is not stationary")
    assert f", since {reason.reason}: " in text
    assert said in text
    assert unsaid not in text
    assert not texts(lambda: fitted(**followed))


def test_a_network_that_came_trained_is_told_to_polish():
    mlp = MLPRegressor(
        hidden_layer_sizes=5, activation="tanh", solver="lbfgs", alpha=1.0, tol=1e-2, random_state=0
    )
    mlp.fit(X, Y)
    (text,) = texts(lambda: HFLRegressor.from_mlp(mlp, X, Y))
    assert "polish=True trains on to the MAP." in text
    assert not texts(lambda: HFLRegressor.from_mlp(mlp, X, Y, polish=True))


# ---------------------------------------------------------------- missed rows

WIDE = {"hidden_layer_sizes": (40,), "noise_std": 0.005, "std_rtol": 1e-4}
ROWS = RNG.uniform(-1, 1, (200, 3))
TARGET = np.sin(3 * ROWS[:, 0]) * ROWS[:, 1] + ROWS[:, 2] ** 2
PER_DIRECTION = 4 * 201 * 8  # bytes: basis and image, twice


@pytest.mark.parametrize("variance", ["linearized", "amortized"])
def test_rows_that_the_memory_limit_cuts_off_are_told_so(variance):
    def answers(limit):
        model = HFLRegressor(**{**KNOWN, **WIDE}, variance=variance, max_iter=3, memory_limit=limit)
        return model.fit(ROWS, TARGET).predict(ROWS[:30], return_std=True)

    text = texts(answers, 64 * PER_DIRECTION)[-1]  # after those of the fit, which was cut short
    assert "missed std_rtol=0.0001: the memory limit allows 64 directions of 201." in text
    assert "a larger memory_limit" in text
    assert "rounding" not in text
    assert not any("missed" in text for text in texts(answers, 1e9))


@pytest.mark.parametrize("estimator", [HFLRegressor, HFLClassifier])
def test_rows_that_rounding_spoils_are_told_so(estimator):
    y = Y if estimator is HFLRegressor else Y > 0

    def answers(dtype, std_rtol=1e-6):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The MAP is not stationary")
            model = fitted(estimator, y, dtype=dtype).set_params(std_rtol=std_rtol)
        return lambda: model.predict_uncertainty(X)

    (text,) = texts(answers("float32"))
    assert "missed std_rtol=1e-06: rounding in float32 alone may be larger" in text
    assert "dtype='float64'" in text
    assert ("noise_std" in text) == (estimator is HFLRegressor)
    assert not texts(answers("float64"))
    (text,) = texts(answers("float64", 1e-15))
    assert "rounding in float64" in text
    assert "dtype" not in text


# -------------------------------------------------------------- whose argument


def test_an_argument_of_a_method_is_not_set_in_the_constructor():
    model = fitted()
    calls = {
        "predict_interval: kind must be": lambda: model.predict_interval(X, kind="foo"),
        "sample_y: n_samples must be": lambda: model.sample_y(X, n_samples=0),
        "predict_functional: return_std must be": lambda: model.predict_functional(
            X, return_std="yes"
        ),
    }
    for expected, call in calls.items():
        with pytest.raises(ValueError, match=expected) as caught:
            call()
        assert "set_params" not in str(caught.value)
    with pytest.raises(ValueError, match=r"Set it with HFLRegressor\(tol=...\) or set_params"):
        HFLRegressor(tol=-1).fit(X, Y)


METHODS = [
    (estimator, name)
    for estimator in (HFLRegressor, HFLClassifier)
    for name in dir(estimator)
    if not name.startswith("_")
    and getattr(getattr(estimator, name), "__module__", "").startswith("sklearn_hfl")
]


@pytest.mark.parametrize(("estimator", "name"), METHODS)
def test_an_unknown_keyword_is_one_of_the_public_class(estimator, name):
    with pytest.raises(TypeError, match=rf"^{estimator.__name__}\.{name}\(\) .*"):
        getattr(estimator(), name)(foo=1)
    assert pickle.loads(pickle.dumps(getattr(estimator, name))) == getattr(estimator, name)


def test_every_public_method_is_checked_above():
    names = {name for estimator, name in METHODS if estimator is HFLRegressor}
    assert {
        "fit",
        "predict",
        "predict_uncertainty",
        "sample_y",
        "from_mlp",
        "conformalize",
    } <= names


def test_the_std_comes_from_the_covariance_as_the_message_says():
    model = fitted(y=np.stack([Y, -Y], axis=1))
    with pytest.raises(ValueError, match=r"np\.sqrt\(np\.diagonal\(cov\)\)\.T"):
        model.predict(X, return_std=True, return_cov=True)
    for either in (model, fitted()):
        _, cov = either.predict(X, return_cov=True)
        std = either.predict(X, return_std=True)[1]
        np.testing.assert_allclose(np.sqrt(np.diagonal(cov)).T, std, rtol=1e-6)


def test_the_noise_that_overflows_is_the_one_that_is_named():
    model = HFLRegressor(**{**NOISE, "noise_std": [1.0, 1e-25]}, dtype="float32")
    with pytest.raises(ValueError, match="but it is 1e-25 times as large"):
        model.fit(X, np.stack([Y, Y], axis=1) / Y.std())


# ------------------------------------------------------------------ unfinished


def test_a_search_that_max_iter_ended_says_so_and_its_advice_helps():
    y = np.sin(3 * X[:, 0]) + 0.1 * Y
    params = {"hidden_layer_sizes": (10,), "n_estimators": 1, "random_state": 0}
    linear = HFLRegressor(**params, max_iter=5)
    said = texts(lambda: linear.fit(X, y))
    assert "The search for a network ended after max_iter=5 steps" in said[0]
    assert said[0].endswith("Try a larger max_iter.")
    assert not linear.converged_
    assert len(linear.coefs_) == 1
    network = HFLRegressor(**params).fit(X, y)
    assert network.converged_
    assert len(network.coefs_) == 2
    assert network.score(X, y) > linear.score(X, y) + 0.5

"""Constructor parameters: keyword-only, stored untouched, judged in fit."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from torch import nn

from sklearn_hfl import HFLRegressor
from tests import regression

NAMES = (
    "hidden_layer_sizes", "activation", "module", "likelihood", "prior_precision", "noise_std",
    "normalize_X", "normalize_y", "variance", "std_rtol", "perturbation_scale", "solver",
    "memory_limit", "max_iter", "tol", "batch_size", "learning_rate_init", "early_stopping",
    "validation_fraction", "n_iter_no_change", "warm_start", "n_estimators", "random_state",
    "verbose", "n_jobs", "device", "dtype",
)  # fmt: skip
SMALL = {**regression.SMALL, "hidden_layer_sizes": (3,), "noise_std": 0.5}
X = np.random.default_rng(0).uniform(-1, 1, (20, 2))
Y = X[:, 0] - X[:, 1]


def factory(n_features, n_outputs):
    return nn.Linear(n_features, n_outputs)


ACCEPTED = {
    "hidden_layer_sizes": [(), [], 4, np.int64(4), (4, 3), [4, 3], np.array([4, 3])],
    "activation": ["tanh", "silu", "gelu", "logistic"],  # relu: see test_regressor
    "module": [None, factory],
    "likelihood": ["gaussian"],
    "prior_precision": ["evidence", 1, 2.5, np.float64(2.5), np.float32(2.5), np.int64(2)],
    "noise_std": ["evidence", 1, 0.5, np.float64(0.5), [0.5], (0.5,), np.array([0.5])],
    "normalize_X": [True, False, np.True_],
    "normalize_y": [True, False, np.False_],
    "variance": ["linearized", "network", "amortized"],
    "std_rtol": [0.5, 1e-4, np.float64(0.1)],
    "perturbation_scale": ["auto", 0.1, 1],
    "solver": ["auto", "newton-cg", "lbfgs", "adam"],
    "memory_limit": [4e9, 10**8, np.float64(1e9)],
    "max_iter": [1000, np.int64(1000)],
    "tol": [0, 0.0, 0.01, np.float64(0.01)],
    "batch_size": ["auto", 1, 10**6, np.int64(5)],
    "learning_rate_init": [1e-2, 1, np.float64(0.1)],
    "early_stopping": [False, np.False_],
    "validation_fraction": [0.1, 0.9, np.float64(0.5)],
    "n_iter_no_change": [1, np.int64(5)],
    "warm_start": [False, True, np.True_],
    "n_estimators": [1, 2, np.int64(2)],
    "random_state": [None, 0, np.int64(3), np.random.RandomState(0)],
    "verbose": [False, True, 0, 1],
    "n_jobs": [None, 1, np.int64(1)],
    "device": ["cpu"],
    "dtype": ["float64", "float32"],
}


def test_every_parameter_is_keyword_only_and_in_the_documented_order():
    parameters = inspect.signature(HFLRegressor).parameters
    assert tuple(parameters) == NAMES
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}


def test_get_params_gives_the_defaults():
    defaults = {n: p.default for n, p in inspect.signature(HFLRegressor).parameters.items()}
    assert HFLRegressor().get_params() == defaults


@pytest.mark.parametrize("name", NAMES)
def test_any_object_is_stored_untouched_until_fit(name):
    marker = object()
    assert getattr(HFLRegressor(**{name: marker}), name) is marker
    assert getattr(HFLRegressor().set_params(**{name: marker}), name) is marker


def test_an_unknown_parameter_is_refused():
    with pytest.raises(TypeError, match="alpha"):
        HFLRegressor(alpha=1.0)
    with pytest.raises(ValueError, match="Invalid parameter 'alpha'"):
        HFLRegressor().set_params(alpha=1.0)


CASES = [(name, value) for name, values in ACCEPTED.items() for value in values]


@pytest.mark.filterwarnings("ignore:The MAP is not stationary")  # adam, lbfgs
@pytest.mark.filterwarnings("ignore:The search for a network ended")
@pytest.mark.parametrize(("name", "value"), CASES)
def test_fit_accepts_and_leaves_alone(name, value):
    params = {**SMALL, "max_iter": 30, name: value}
    model = HFLRegressor(**params)
    before = model.get_params()
    mean, std = model.fit(X, Y).predict(X[:3], return_std=True)
    assert mean.shape == std.shape == (3,)
    assert (std > 0).all()
    after = model.get_params()
    assert all(after[key] is before[key] for key in before)


def test_the_table_above_names_every_parameter():
    assert set(ACCEPTED) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_clone_keeps_each_value(name):
    for value in ACCEPTED[name]:
        copied = clone(HFLRegressor(**{name: value})).get_params()[name]
        assert_array_equal(copied, value) if name != "random_state" else None
        assert type(copied) is type(value)


def test_a_value_that_fit_accepted_may_still_be_changed_for_predict():
    model = HFLRegressor(**SMALL).fit(X, Y)
    std = model.predict(X, return_std=True)[1]
    for changed in ({"std_rtol": 1e-6}, {"variance": "network"}):
        model.set_params(**changed)
        assert model.predict(X, return_std=True)[1] == pytest.approx(std, rel=0.5)

"""Inputs of every kind: numbers with a verdict, or a refusal that names its cause."""

from __future__ import annotations

import pickle
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sklearn_hfl import HFLClassifier, HFLRegressor, HFLWarning

from .contract import (
    battery,
    check_classifier,
    check_explained,
    check_refused,
    check_regressor,
    fitted,
    overflow_allowed,
    refusal_allowed,
    refusal_of_overflow,
)
from .data import CONTAINERS, FAULTS, SPARSE, inputs, parameters, queries, scales, seeds, targets

PLAIN = {"hidden_layer_sizes": (3,), "n_estimators": 1, "max_iter": 10, "random_state": 0}
RNG = np.random.default_rng(0)
X = RNG.integers(-4, 5, (24, 3)).astype(float)
Y = X[:, 0] - X[:, 1] * X[:, 2]
ROUTES = ("linearized", "network", "amortized")


@battery
@given(st.data())
def test_any_numbers_are_fitted_and_answered(data):
    rows = data.draw(inputs())
    y = data.draw(targets(rows))
    params = data.draw(parameters()) | {"normalize_y": data.draw(st.booleans())}
    if data.draw(st.booleans()):
        params["likelihood"] = "heteroscedastic"
    elif data.draw(st.booleans()):
        unit = y.std() if np.ptp(y) else 1.0  # the SD of a constant is rounding
        params["noise_std"] = float(10.0 ** data.draw(st.integers(-3, 3)) * unit)
    weight = None
    if data.draw(st.booleans()):
        weight = np.random.default_rng(data.draw(seeds)).integers(0, 4, len(rows))
        weight[:2] = 1
    model = HFLRegressor(**params)
    if fits(model, rows, y, sample_weight=weight):
        with overflow_allowed(model):
            check_regressor(model, data.draw(queries(rows)))


@battery
@given(st.data())
def test_any_classes_are_fitted_and_answered(data):
    rows = data.draw(inputs())
    names = data.draw(
        st.sampled_from([np.array([0, 1, 2, 3, 4]), np.array(list("abcde")), np.array([-2, 7])])
        | st.just(np.array([False, True]))
    )
    labels = data.draw(
        st.lists(st.sampled_from(list(names)), min_size=len(rows), max_size=len(rows))
    )
    model = HFLClassifier(**data.draw(parameters()), link_approx=data.draw(st.sampled_from(LINKS)))
    if len(set(labels)) < 2:
        with pytest.raises(ValueError, match="class") as refusal:
            fitted(model, rows, labels)
        check_refused(model, refusal.value)
        return
    if fits(model, rows, labels):
        with overflow_allowed(model):
            check_classifier(model, data.draw(queries(rows)))


LINKS = ("mc", "probit", "none")


def fits(model, *args, **kwargs):
    """Fit; numbers that overflow may be refused where they were not to be standardised."""
    # Of two or three rows none can be held out.
    few = ("early_stopping=True with",) if model.early_stopping else ()
    with refusal_allowed(model, "overflow", *few):
        fitted(model, *args, **kwargs)
    # Noise in another unit than an output's may overflow single precision.
    given = model.dtype == "float32" and not isinstance(getattr(model, "noise_std", ""), str)
    assert hasattr(model, "members_") or not model.normalize_X or given or few
    return hasattr(model, "members_")


@battery
@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from(ROUTES), seeds)
def test_the_fewest_rows(n, n_features, variance, seed):
    rng = np.random.default_rng(seed)
    rows, y = rng.standard_normal((n, n_features)), rng.standard_normal(n)
    model = HFLRegressor(**PLAIN, variance=variance)
    if n == 1:
        with pytest.raises(ValueError, match="minimum of 2") as refusal:
            model.fit(rows, y)
        check_refused(model, refusal.value)
        return
    fitted(model, rows, y)
    check_regressor(model, rng.standard_normal((4, n_features)))


@battery
@given(st.integers(1, 120), st.integers(2, 8), st.sampled_from(ROUTES), seeds)
def test_more_features_than_rows(n_features, n, variance, seed):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, n_features))
    model = fitted(HFLRegressor(**PLAIN, variance=variance), rows, rows[:, 0])
    check_regressor(model, rng.standard_normal((4, n_features)))


# ---------------------------------------------------------- what X is held in


@battery
@given(st.sampled_from(sorted(CONTAINERS | SPARSE)), st.sampled_from(sorted(CONTAINERS)))
def test_containers_do_not_matter(of_X, of_y):
    hold = (CONTAINERS | SPARSE)[of_X]
    expected = HFLRegressor(**PLAIN, noise_std=1.0, prior_precision=1.0)
    fitted(expected, X, Y)
    model = HFLRegressor(**expected.get_params())
    fitted(model, hold(X), CONTAINERS[of_y](Y))
    for ours, theirs in zip(
        model.predict(hold(X[:5]), return_std=True),
        expected.predict(X[:5], return_std=True),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


@battery
@given(
    st.sampled_from(sorted(FAULTS)), st.sampled_from(["X", "y", "sample_weight"]), seeds,
    st.sampled_from([HFLRegressor, HFLClassifier]), st.sampled_from(ROUTES),
)  # fmt: skip
def test_a_fault_is_refused_in_fit(fault, where, seed, estimator, variance):
    args = {"X": X, "y": Y > 0 if estimator is HFLClassifier else Y, "sample_weight": np.ones(24)}
    args[where] = FAULTS[fault](np.random.default_rng(seed), args[where] + 0.0)
    model = estimator(**PLAIN, variance=variance)
    if (fault, where) == ("None", "sample_weight"):
        fitted(model, **args)
        return
    with pytest.raises((ValueError, TypeError)) as refusal:
        fitted(model, **args)
    check_refused(model, refusal.value)


ASKED = {
    variance: fitted(HFLRegressor(**PLAIN, variance=variance), X, Y) for variance in ROUTES
} | {"classifier": fitted(HFLClassifier(**PLAIN), X, Y > 0)}


@battery
@given(st.sampled_from(sorted(FAULTS)), st.sampled_from(sorted(ASKED)), seeds)
def test_a_fault_is_refused_in_predict(fault, name, seed):
    model = ASKED[name]
    before = model.predict(X)
    bad = FAULTS[fault](np.random.default_rng(seed), X[:5].copy())
    if fault == "one row fewer":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HFLWarning)
            assert np.isfinite(model.predict(bad)).all() or name == "classifier"
        return
    with pytest.raises((ValueError, TypeError)) as refusal:
        model.predict_uncertainty(bad)
    check_explained(refusal.value)
    np.testing.assert_array_equal(model.predict(X), before)


@battery
@given(st.sampled_from(sorted(ASKED)), st.integers(-300, 300), seeds)
def test_queries_of_any_size_are_answered_or_refused(name, exponent, seed):
    model = ASKED[name]
    Q = 10.0**exponent * np.random.default_rng(seed).standard_normal((3, 3))
    check = check_classifier if name == "classifier" else check_regressor
    # The variance of a linear function is a square, which may overflow.
    large = exponent > 140 and len(model.coefs_) == 1
    with refusal_of_overflow() if large else nullcontext():
        check(model, Q)


# ----------------------------------------------------------- a whole session


@battery
@given(st.data())
def test_any_order_of_calls_keeps_the_contract(data):
    """Fit, ask, change parameters, copy and fail in any order: never another kind of error."""
    model = HFLRegressor(**PLAIN)
    for step in data.draw(st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=7)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HFLWarning)
            try:
                STEPS[step](model, data)
            except (ValueError, TypeError) as error:  # NotFittedError is a ValueError
                check_explained(error)
        model = pickle.loads(pickle.dumps(model))
    if hasattr(model, "members_"):
        model.set_params(**PLAIN, variance="linearized", noise_std="evidence")
        fitted(model, X, Y)
        check_regressor(model, X)


STEPS = {
    "fit": lambda model, data: model.fit(X, Y),
    "fit two outputs": lambda model, data: model.fit(X, np.column_stack([Y, Y])),
    "fit other features": lambda model, data: model.fit(X[:, :2], Y),
    "fit NaN": lambda model, data: model.fit(X * np.nan, Y),
    "predict": lambda model, data: model.predict(X, return_std=True),
    "covariance": lambda model, data: model.predict(X[:4], return_cov=True),
    "sample": lambda model, data: model.sample_y(X[:4], 2),
    "interval": lambda model, data: model.predict_interval(X[:4]),
    "conformal": lambda model, data: model.predict_interval(X[:4], kind="conformal"),
    "conformalize": lambda model, data: model.conformalize(X + 0.5, Y),
    "functional": lambda model, data: model.predict_functional(X),
    "variance": lambda model, data: model.set_params(variance=data.draw(st.sampled_from(ROUTES))),
    "likelihood": lambda model, data: model.set_params(
        likelihood=data.draw(st.sampled_from(["gaussian", "heteroscedastic"]))
    ),
    "noise": lambda model, data: model.set_params(noise_std=10.0 ** data.draw(st.integers(-4, 4))),
    "warm": lambda model, data: model.set_params(warm_start=data.draw(st.booleans())),
    "units": lambda model, data: model.fit(X * data.draw(scales), Y * data.draw(scales)),
}

"""Right, not only finite: two ways to one number agree, whatever the parameters are."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm

from sklearn_hfl import HFLClassifier, HFLRegressor, HFLWarning

from .contract import battery, fitted
from .data import parameters, scales, seeds

ROUTES = ("linearized", "amortized", "network")
WEIGHTS = {
    "none": lambda rng, n: None,
    "counts": lambda rng, n: rng.integers(0, 4, n) + (np.arange(n) < 2),
    "sum to one": lambda rng, n: rng.dirichlet(np.ones(n)),
    "tiny": lambda rng, n: 1e-9 * rng.uniform(0.5, 1.5, n),
    "large": lambda rng, n: 1e6 * rng.uniform(0.5, 1.5, n),
    "some": lambda rng, n: rng.uniform(0.5, 1.5, n),
}


@st.composite
def problems(draw, n_outputs=None):
    """X (N, D) and targets (N, K) with a signal, of 30 to 60 rows."""
    rng = np.random.default_rng(draw(seeds))
    n, d = draw(st.integers(30, 60)), draw(st.integers(1, 4))
    k = n_outputs or draw(st.integers(1, 3))
    X = rng.uniform(-1, 1, (n, d))
    Y = np.sin(2 * X @ rng.standard_normal((d, k))) + X @ rng.standard_normal((d, k))
    return X, Y + 0.1 * rng.standard_normal((n, k)), rng


def quietly(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HFLWarning)
        return function(*args, **kwargs)


def regressor(data):
    """A fitted regressor and some queries, with parameters of every kind."""
    X, Y, rng = data.draw(problems())
    params = data.draw(parameters()) | {"normalize_y": data.draw(st.booleans())}
    if data.draw(st.booleans()):
        params["likelihood"] = "heteroscedastic"
    weight = WEIGHTS[data.draw(st.sampled_from(sorted(WEIGHTS)))](rng, len(X))
    y = Y[:, 0] if Y.shape[1] == 1 else Y
    # In single precision flags are for rounding alone to earn.
    model = fitted(HFLRegressor(**{**params, "dtype": "float64"}), X, y, sample_weight=weight)
    # Refits of a network that is far from its MAP take seconds each.
    return model, rng.uniform(-2, 2, (2 if model.variance == "network" else 5, X.shape[1]))


@battery
@given(st.data())
def test_two_ways_to_one_number_agree(data):
    model, Q = regressor(data)
    mean, std = quietly(model.predict, Q, return_std=True)
    result = quietly(model.predict_uncertainty, Q)
    _, cov = quietly(model.predict, Q, return_cov=True)
    rtol = max(1e-6, 3 * float(result.rel_error.max()), 3 * model.std_rtol)
    assert_array_equal(mean, result.mean)
    assert_array_equal(std, result.std)
    assert_array_equal(mean, model.predict(Q))
    assert_allclose(np.einsum("ii...->i...", cov), std**2, rtol=2 * rtol)
    # Rows alone, and in another order.
    assert_allclose(model.predict(Q[::-1])[::-1], mean, rtol=1e-9, atol=1e-12)
    alone = quietly(model.predict, Q[1:2], return_std="epistemic")[1]
    assert_allclose(alone[0], result.epistemic_std[1], rtol=rtol)
    # The functional that is one row.
    row = np.eye(len(Q))[1]
    value, of_row = quietly(model.predict_functional, Q, weights=row)
    assert_allclose(value, mean[1], rtol=1e-9, atol=1e-12)
    assert_allclose(of_row, result.epistemic_std[1], rtol=rtol)
    # An interval is a quantile of the std.
    interval = quietly(model.predict_interval, Q, 0.8)[1]
    assert_allclose(interval[..., 1] - interval[..., 0], 2 * norm.ppf(0.9) * std, rtol=1e-9)
    assert_allclose(interval.mean(-1), mean, rtol=1e-6, atol=1e-9 * np.abs(interval).max())
    # Draws: their spread by the std, with six standard errors.
    draws = quietly(model.sample_y, Q, 400, noise=False)
    assert_allclose(draws.std(-1) / result.epistemic_std, 1, atol=6 / 800**0.5 + rtol)


@battery
@given(st.data(), scales, st.sampled_from([0.0, 1.0, -1e3]), scales)
def test_a_fit_has_the_units_of_its_data(data, scale, offset, factor):
    """Learned precisions: equivariant, standardised or not."""
    X, Y, _ = data.draw(problems())
    params = data.draw(parameters())
    fixed = {"prior_precision": "evidence", "dtype": "float64", "std_rtol": 0.01}
    switches = {
        "normalize_X": data.draw(st.booleans()),
        "normalize_y": data.draw(st.booleans()),
    }
    # Passes of adam that have not converged end, and are chosen among, by their last digits.
    params |= {
        "solver": data.draw(st.sampled_from(["newton-cg", "lbfgs"])),
        "early_stopping": False,
    }
    params |= fixed | {"max_iter": 60, "likelihood": "gaussian"}
    one = fitted(HFLRegressor(**{**params, "normalize_X": True}), X, Y)
    # The offset is in SDs of y, of which a double keeps 1e-13.
    other = scale * (Y + offset * Y.std(0))
    two = fitted(HFLRegressor(**{**params, **switches}), factor * X, other)
    assert_allclose(two.noise_std_ / scale, one.noise_std_, rtol=0.05)
    assert_allclose(two.score(factor * X, other), one.score(X, Y), atol=0.01)


@battery
@given(st.data())
def test_counts_are_repeated_rows(data):
    X, Y, rng = data.draw(problems(n_outputs=1))
    counts = rng.integers(0, 3, len(X)) + (np.arange(len(X)) < 5)
    params = {
        "hidden_layer_sizes": (3,),
        "n_estimators": 1,
        "prior_precision": 1.0,
        "noise_std": 0.3,
        "tol": 0.0,
    }
    params |= {"random_state": data.draw(seeds), "variance": data.draw(st.sampled_from(ROUTES))}
    weighted = fitted(HFLRegressor(**params), X, Y[:, 0], sample_weight=counts)
    repeated = fitted(HFLRegressor(**params), X.repeat(counts, 0), Y[:, 0].repeat(counts))
    ours, theirs = (quietly(model.predict_uncertainty, X) for model in (weighted, repeated))
    # Refits of the network that did not converge say so; where they end is a matter of rounding.
    converged = ours.converged & theirs.converged
    assert converged.mean() > 0.9
    assert_allclose(ours.mean, theirs.mean, rtol=0.02, atol=1e-3)
    assert_allclose(ours.std[converged], theirs.std[converged], rtol=0.02, atol=1e-3)


# What the fit decided, and what queries read with its rule.
STAY = {"dtype": "float32", "device": "meta", "solver": "no", "module": 3, "max_iter": -1}
REFUSED = {"variance": "linearised", "std_rtol": "a", "perturbation_scale": None, "n_jobs": 0}


@battery
@given(st.data(), st.sampled_from(sorted(STAY)), st.sampled_from(sorted(REFUSED)))
def test_parameters_set_after_fit_change_nothing_or_are_refused(data, stays, refused):
    model, Q = regressor(data)
    answers = pickle.dumps(quietly(model.predict_uncertainty, Q))
    before = model.get_params()
    model.set_params(**{stays: STAY[stays]})
    assert pickle.dumps(quietly(model.predict_uncertainty, Q)) == answers
    model.set_params(**{refused: REFUSED[refused]})
    with pytest.raises(ValueError, match=f"{refused} must be"):
        model.predict(Q)
    model.set_params(**{name: before[name] for name in (stays, refused)})
    assert pickle.dumps(quietly(model.predict_uncertainty, Q)) == answers


@battery
@given(st.data())
def test_classes_are_told_the_same_by_every_method(data):
    X, Y, rng = data.draw(problems(n_outputs=3))
    labels = Y.argmax(1) if data.draw(st.booleans()) else Y[:, 0] > np.median(Y[:, 0])
    params = data.draw(parameters()) | {"dtype": "float64"}
    link = data.draw(st.sampled_from(["mc", "probit", "none"]))
    weight = WEIGHTS[data.draw(st.sampled_from(sorted(WEIGHTS)))](rng, len(X))
    model = fitted(HFLClassifier(**params, link_approx=link), X, labels, sample_weight=weight)
    Q = rng.uniform(-2, 2, (6, X.shape[1]))
    proba = quietly(model.predict_proba, Q)
    again, std = quietly(model.predict_proba, Q, return_std=True)
    result = quietly(model.predict_uncertainty, Q)
    assert_allclose(proba, again, rtol=1e-9)
    assert_allclose(proba, result.proba, rtol=1e-9)
    assert_allclose(std, result.proba_std, rtol=1e-9)
    assert_allclose(np.exp(quietly(model.predict_log_proba, Q)), proba, rtol=1e-9)
    assert_array_equal(quietly(model.predict, Q), model.classes_[proba.argmax(1)])
    assert (std <= np.sqrt(proba * (1 - proba)) + 1e-12).all()
    decision = quietly(model.decision_function, Q)
    best = decision.argmax(1) if decision.ndim == 2 else (decision > 0).astype(int)
    assert_array_equal(best, proba.argmax(1))
    assert_allclose(quietly(model.predict_proba, Q[3:4])[0], proba[3], rtol=1e-6, atol=1e-9)

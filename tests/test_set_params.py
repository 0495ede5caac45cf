"""set_params after fit: queries check what they read, and keep what the fit decided."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sklearn_hfl import HFLClassifier, HFLRegressor, HFLWarning

X = np.random.default_rng(0).uniform(-1, 1, (40, 2))
Y = X[:, 0] ** 2 + X[:, 1]
PLAIN = {"hidden_layer_sizes": (4,), "n_estimators": 1, "random_state": 0, "max_iter": 30}
REGRESSOR = {
    "predict": lambda m: m.predict(X[:3]),
    "std": lambda m: m.predict(X[:3], return_std=True),
    "cov": lambda m: m.predict(X[:3], return_cov=True),
    "interval": lambda m: m.predict(X[:3], return_interval=0.9),
    "quantiles": lambda m: m.predict(X[:3], quantiles=[0.1, 0.9]),
    "predict_distribution": lambda m: m.predict_distribution(X[:3]).ppf(0.1),
    "predict_uncertainty": lambda m: m.predict_uncertainty(X[:3]),
    "sample_y": lambda m: m.sample_y(X[:3]),
    "predict_interval": lambda m: m.predict_interval(X[:3]),
    "conformal": lambda m: m.predict_interval(X[:3], kind="conformal", confidence_level=0.5),
    "conformalize": lambda m: m.conformalize(X[20:] + 0.01, Y[20:]),
    "predict_functional": lambda m: m.predict_functional(X[:3]),
    "influence": lambda m: m.influence(X[:3]),
    "loo_predict": lambda m: m.loo_predict(),
}
CLASSIFIER = {
    "predict": lambda m: m.predict(X[:3]),
    "predict_proba": lambda m: m.predict_proba(X[:3]),
    "std": lambda m: m.predict_proba(X[:3], return_std=True),
    "predict_log_proba": lambda m: m.predict_log_proba(X[:3]),
    "decision_function": lambda m: m.decision_function(X[:3]),
    "latent_mean_and_variance": lambda m: m.latent_mean_and_variance(X[:3]),
    "predict_uncertainty": lambda m: m.predict_uncertainty(X[:3]),
    "sample_proba": lambda m: m.sample_proba(X[:3]),
    "predict_set": lambda m: m.predict_set(X[:3], 0.5),
    "influence": lambda m: m.influence(X[:3]),
    "loo_predict": lambda m: m.loo_predict(),
    "conformalize": lambda m: m.conformalize(X[20:] + 0.01, Y[20:] > 0),
}
QUERIES = [(HFLRegressor, name) for name in REGRESSOR] + [
    (HFLClassifier, name) for name in CLASSIFIER
]
WRONG = {
    "variance": "linearised",
    "std_rtol": "a",
    "perturbation_scale": -1,
    "n_jobs": 0,
    "verbose": "no",
}


@pytest.fixture(scope="module")
def fitted():
    files = {}

    def fit(estimator, **params):
        """A copy of a calibrated estimator, which is fitted once."""
        key = (estimator, *params.items())
        if key not in files:
            labels = Y > 0 if estimator is HFLClassifier else Y
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", HFLWarning)
                model = estimator(**PLAIN, **params).fit(X, labels)
                files[key] = pickle.dumps(model.conformalize(X[:20] + 0.01, labels[:20]))
        return pickle.loads(files[key])

    return fit


def ask(model, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HFLWarning)
        return (CLASSIFIER if isinstance(model, HFLClassifier) else REGRESSOR)[name](model)


@pytest.mark.parametrize(("estimator", "query"), QUERIES)
@pytest.mark.parametrize("param", WRONG)
def test_a_query_refuses_what_fit_would_refuse(fitted, estimator, query, param):
    model = fitted(estimator).set_params(**{param: WRONG[param]})
    with pytest.raises(ValueError, match="must be") as of_query:
        ask(model, query)
    with pytest.raises(ValueError, match="must be") as of_fit:
        model.fit(X, Y > 0)
    assert str(of_query.value) == str(of_fit.value)


@pytest.mark.parametrize("query", CLASSIFIER)
def test_a_query_refuses_an_unknown_link(fitted, query):
    model = fitted(HFLClassifier).set_params(link_approx="probits")
    with pytest.raises(ValueError, match="link_approx must be one of 'mc', 'probit', 'none'"):
        ask(model, query)


# What the fit decided: none of these changes an answer, not even to something invalid.
DECIDED = {
    "dtype": ["float32", "float16"],
    "device": ["meta", "no such device"],
    "normalize_X": [False, "no"],
    "hidden_layer_sizes": [(7, 7), -1],
    "activation": ["relu", "no"],
    "module": [lambda d, k: None],
    "prior_precision": [3.0, -1],
    "solver": ["adam", "no"],
    "n_estimators": [4, 0],
    "random_state": [7, -1],
    "max_iter": [1, 0],
    "early_stopping": [True],
    "warm_start": [True],
}


@pytest.mark.parametrize(("estimator", "query"), QUERIES)
@pytest.mark.parametrize("param", DECIDED)
def test_what_the_fit_decided_stays(fitted, estimator, query, param):
    model = fitted(estimator)
    expected = pickle.dumps(ask(model, query)) if query != "conformalize" else None
    for value in DECIDED[param]:
        model.set_params(**{param: value})
        answer = ask(model, query)
        assert expected is None or pickle.dumps(answer) == expected
    if param != "module":  # a lambda has no pickle
        again = pickle.loads(pickle.dumps(model))
        assert expected is None or pickle.dumps(ask(again, query)) == expected


@pytest.mark.parametrize("estimator", [HFLRegressor, HFLClassifier])
def test_the_fitted_precision_stays(fitted, estimator):
    model = fitted(estimator, dtype="float32")
    before = model.predict(X)
    assert_array_equal(model.set_params(dtype="float64").predict(X), before)


def test_module_is_kept_in_pickles_whatever_module_is_set_to(fitted):
    model = fitted(HFLRegressor)
    weights = [p.clone() for p in model.module_.parameters()]
    again = pickle.loads(pickle.dumps(model.set_params(module=np.tanh)))
    for ours, theirs in zip(again.module_.parameters(), weights, strict=True):
        assert_array_equal(ours.detach(), theirs.detach())


CALIBRATED = [
    (HFLRegressor, {"variance": "network"}, "conformal"),
    (HFLRegressor, {"perturbation_scale": 0.5}, "conformal"),
    (HFLClassifier, {"link_approx": "none"}, "predict_set"),
    (HFLClassifier, {"variance": "network"}, "predict_set"),
]


@pytest.mark.parametrize(("estimator", "params", "query"), CALIBRATED)
def test_scores_serve_the_parameters_that_they_were_made_with(fitted, estimator, params, query):
    model = fitted(estimator)
    expected = ask(model, query)
    (name,) = params
    old = model.get_params()[name]
    model.set_params(**params)
    with pytest.raises(ValueError, match=f"was called with {name}={old!r}"):
        ask(model, query)
    model.set_params(**{name: old})
    assert pickle.dumps(ask(model, query)) == pickle.dumps(expected)

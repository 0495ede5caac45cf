"""Bad input: each is refused with what was expected, what came and what to do."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from numpy.testing import assert_array_equal
from sklearn.exceptions import NotFittedError
from torch import nn

from sklearn_hfl import HFLClassifier, HFLRegressor, HFLWarning
from tests import regression

SMALL = {**regression.SMALL, "hidden_layer_sizes": (3,), "noise_std": 0.5}
X = np.random.default_rng(0).uniform(-1, 1, (20, 2))
Y = X[:, 0] - X[:, 1]
ONES = np.ones(20)


def with_entry(array, value):
    array = array.copy()
    array.flat[3] = value
    return array


# ---------------------------------------------------------------- parameters

INTEGERS = r"an integer ≥ 1"
NUMBER = r"a finite number > 0"
TRUTH = r"True or False"
BAD_PARAMETERS = [
    *[("hidden_layer_sizes", v, r"integers? ≥ 1") for v in (0, -1, 2.0, True, "50", None)],
    *[("hidden_layer_sizes", v, r"integers? ≥ 1") for v in ((5, 0), (2.5,), [[5]], ("a",), {5})],
    *[("activation", v, r"one of 'tanh', 'relu'") for v in ("Tanh", "linear", None, np.tanh)],
    *[("module", v, r"None or a callable") for v in ("mlp", 3, torch.nn.Linear(3, 1))],
    *[("likelihood", v, r"'gaussian'") for v in ("normal", None)],
    *[
        ("prior_precision", v, r"'evidence' or a finite number > 1e-35 and < 1e\+35")
        for v in (0, -1.0, 1e-300, 1e300, np.nan, np.inf, 1j, "auto", None, [1.0], True)
    ],
    *[
        ("noise_std", v, rf"'evidence' or {NUMBER}")
        for v in (0, -0.1, np.nan, np.inf, "auto", None, True, [0.1, -1], ["a"])
    ],
    *[("noise_std", v, r"one for each of the 1 outputs") for v in ([], [0.1, 0.2])],
    *[("normalize_X", v, TRUTH) for v in (1, "yes", None)],
    *[("normalize_y", v, TRUTH) for v in (0, "no", None)],
    *[
        ("variance", v, r"one of 'linearized', 'network', 'amortized'")
        for v in ("exact", None, True)
    ],
    *[("std_rtol", v, NUMBER + " and < 1") for v in (0, 1, -0.1, np.nan, "auto", None)],
    *[
        ("perturbation_scale", v, rf"'auto' or {NUMBER}")
        for v in (0, -1, np.nan, np.inf, "big", None)
    ],
    *[("solver", v, r"one of 'auto', 'newton-cg', 'lbfgs', 'adam'") for v in ("sgd", None)],
    *[("memory_limit", v, NUMBER) for v in (0, -1, np.inf, 10**400, "4GB", None, True)],
    *[("max_iter", v, INTEGERS) for v in (0, -5, 2.5, np.inf, "many", None, True)],
    *[("tol", v, r"a finite number ≥ 0") for v in (-1e-3, np.nan, np.inf, "auto", None)],
    *[("batch_size", v, rf"'auto' or {INTEGERS}") for v in (0, -1, 2.5, "all", None)],
    *[("learning_rate_init", v, NUMBER) for v in (0, -1, np.nan, "auto", None)],
    *[("early_stopping", v, TRUTH) for v in (1, "yes", None)],
    *[("validation_fraction", v, NUMBER + " and < 1") for v in (0, 1, -0.5, np.nan, None)],
    *[("n_iter_no_change", v, INTEGERS) for v in (0, 1.5, None)],
    *[("warm_start", v, TRUTH) for v in (1, "yes", None)],
    *[("n_estimators", v, INTEGERS) for v in (0, -1, 1.5, None)],
    *[("random_state", v, r"random_state") for v in ("seed", 1.5, -1)],
    ("verbose", "loud", r"verbose must be"),
    *[("n_jobs", v, r"n_jobs") for v in (0, "all", 1.5)],
    *[("device", v, r"must be usable by torch") for v in ("warp", 3.5)],
    *[("dtype", v, r"one of 'float32', 'float64'") for v in ("float16", None, np.float64)],
]


@pytest.mark.parametrize(("name", "value", "expected"), BAD_PARAMETERS)
def test_a_bad_parameter_is_refused_by_name(name, value, expected):
    model = HFLRegressor(**{**SMALL, name: value})
    with pytest.raises(ValueError, match=expected) as caught:
        model.fit(X, Y)
    assert name in str(caught.value)
    assert not fitted_attributes(model)


@pytest.mark.parametrize("solver", ["newton-cg", "lbfgs"])
def test_solvers_that_take_all_rows_refuse_early_stopping(solver):
    model = HFLRegressor(**SMALL, solver=solver, early_stopping=True)
    with pytest.raises(ValueError, match=f"solver='adam' or 'auto', but solver is '{solver}'"):
        model.fit(X, Y)
    assert not fitted_attributes(model)


def test_every_parameter_has_a_bad_value():
    assert {name for name, _, _ in BAD_PARAMETERS} == set(HFLRegressor().get_params())


def test_the_message_shows_the_value_and_the_way_out():
    with pytest.raises(ValueError, match="but got -2") as caught:
        HFLRegressor(prior_precision=-2).fit(X, Y)
    assert "HFLRegressor(prior_precision=...)" in str(caught.value)


# ---------------------------------------------------------------------- data

TEXT = X.astype(object)
TEXT[3, 1] = "red"
FRAME = pd.DataFrame(X, columns=["a", "b"])
LABELS = (
    "Expected numbers.*'red' in y. A regressor's y must be numbers; HFLClassifier takes labels.$"
)
ENCODE = "Encode text columns first, for example with .*OneHotEncoder"

# Queries are refused for the same reasons, but one row of them is enough.
BAD_X = {
    "NaN": (with_entry(X, np.nan), ValueError, "Input X contains NaN"),
    "infinity": (with_entry(X, np.inf), ValueError, "Input X contains infinity"),
    "one-dimensional": (X[:, 0], ValueError, "Expected 2D array, got 1D array(?s:.*)reshape"),
    "three-dimensional": (X[:, :, None], ValueError, "dim 3.*<= 2"),
    "a number": (3.0, ValueError, "Expected 2D array, got scalar array"),
    "no rows": (X[:0], ValueError, r"0 sample\(s\).*a minimum of"),
    "no columns": (X[:, :0], ValueError, r"(0 feature\(s\).*minimum of 1|X has 0 features)"),
    "complex": (X + 0j, ValueError, "Complex data not supported"),
    "text": (TEXT, ValueError, f"Expected numbers.*'red' in column 1 of X.*{ENCODE}"),
    "missing in pandas": (FRAME.mask(FRAME > 0.9), ValueError, "Input X contains NaN"),
    "text in pandas": (FRAME.assign(b="red"), ValueError, f"'red' in column 'b' of X.*{ENCODE}"),
    "category in pandas": (
        FRAME.assign(b=pd.Categorical(["red"] * 20)),
        ValueError,
        f"'red'.*{ENCODE}",
    ),
}
BAD_Y = {
    "NaN": (with_entry(Y, np.nan), ValueError, "Input y contains NaN"),
    "infinity": (with_entry(Y, -np.inf), ValueError, "Input y contains infinity"),
    "None": (None, ValueError, "requires y to be passed"),
    "too short": (Y[:-1], ValueError, r"inconsistent numbers of samples: \[20, 19\]"),
    "three-dimensional": (Y[:, None, None], ValueError, "dim 3.*<= 2"),
    "no columns": (np.zeros((20, 0)), ValueError, r"0 feature\(s\)"),
    "complex": (Y + 0j, ValueError, "Complex data not supported"),
    "text": (np.array(["red"] * 20), ValueError, LABELS),
    "text objects": (np.array(["red"] * 20, dtype=object), ValueError, LABELS),
    "text in pandas": (pd.Series(["red"] * 20), ValueError, LABELS),
    "sparse": (scipy.sparse.csr_matrix(Y[:, None]), (TypeError, ValueError), "[Ss]parse"),
}
BAD_WEIGHT = {
    "NaN": (with_entry(ONES, np.nan), "Input sample_weight contains NaN"),
    "infinity": (with_entry(ONES, np.inf), "Input sample_weight contains infinity"),
    "negative": (
        with_entry(ONES, -1),
        r"sample_weight must be ≥ 0, but 1 of 20 weights are negative. Leave rows out by weight 0",
    ),
    "zero": (0 * ONES, "sample_weight is zero for every row"),
    "too short": (ONES[:-1], r"sample_weight must have shape \(20,\).* but got \(19,\)"),
    "two-dimensional": (
        ONES[:, None],
        r"sample_weight must have shape \(20,\).* but got \(20, 1\)",
    ),
    "a number": (2.0, "sample_weight must"),
    "text": (["heavy"] * 20, "sample_weight"),
    "complex": (ONES + 0j, "Complex data not supported"),
    "all but one zero": (with_entry(0 * ONES, 1.0), r"minimum of 2"),
}


@pytest.mark.parametrize(("bad", "error", "match"), BAD_X.values(), ids=list(BAD_X))
def test_bad_inputs_are_refused_in_fit(bad, error, match):
    model = HFLRegressor(**SMALL)
    with pytest.raises(error, match=match):
        model.fit(bad, Y)
    assert not fitted_attributes(model)


@pytest.mark.parametrize(("bad", "error", "match"), BAD_X.values(), ids=list(BAD_X))
def test_bad_queries_are_refused(fitted, bad, error, match):
    model = HFLRegressor(**SMALL).fit(FRAME, Y) if isinstance(bad, pd.DataFrame) else fitted
    for ask in (model.predict, model.predict_uncertainty, model.sample_y):
        with pytest.raises(error, match=match):
            ask(bad)


@pytest.mark.parametrize(("bad", "error", "match"), BAD_Y.values(), ids=list(BAD_Y))
def test_bad_targets_are_refused(bad, error, match):
    model = HFLRegressor(**SMALL)
    with pytest.raises(error, match=match):
        model.fit(X, bad)
    assert not fitted_attributes(model)


@pytest.mark.parametrize(("bad", "match"), BAD_WEIGHT.values(), ids=list(BAD_WEIGHT))
def test_bad_weights_are_refused(bad, match):
    model = HFLRegressor(**SMALL)
    with pytest.raises((ValueError, TypeError), match=match):
        model.fit(X, Y, sample_weight=bad)
    assert not fitted_attributes(model)


def test_one_row_is_too_few():
    with pytest.raises(ValueError, match=r"1 sample\(s\).*a minimum of 2 is required"):
        HFLRegressor(**SMALL).fit(X[:1], Y[:1])


@pytest.mark.parametrize("noise_std", [1e25, 1e-25])
def test_a_noise_std_whose_square_overflows_is_refused(noise_std):
    model = HFLRegressor(**{**SMALL, "noise_std": noise_std}, dtype="float32")
    with pytest.raises(ValueError, match="overflows float32"):
        model.fit(X, Y)
    model.set_params(dtype="float64")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HFLWarning)
        assert np.isfinite(model.fit(X, Y).predict(X, return_std=True)).all()


def test_a_noise_std_must_be_given_for_each_output():
    with pytest.raises(ValueError, match=r"noise_std .* each of the 3 outputs of y, but got 2"):
        HFLRegressor(**{**SMALL, "noise_std": [0.1, 0.2]}).fit(X, np.column_stack([Y, Y, Y]))


# ------------------------------------------------------------------- queries


@pytest.fixture(scope="module")
def fitted():
    return HFLRegressor(**SMALL).fit(X, Y)


@pytest.mark.parametrize("method", ["predict", "predict_uncertainty", "sample_y"])
def test_queries_before_fit_are_refused(method):
    with pytest.raises(NotFittedError, match=r"not fitted yet. Call 'fit'"):
        getattr(HFLRegressor(), method)(X)


@pytest.mark.parametrize("method", ["predict", "predict_uncertainty", "sample_y"])
def test_another_number_of_features_is_refused(fitted, method):
    with pytest.raises(ValueError, match="X has 3 features, but HFLRegressor is expecting 2"):
        getattr(fitted, method)(np.column_stack([X, X[:, 0]]))


@pytest.mark.parametrize(
    ("columns", "match"), [(["a", "c"], "unseen at fit time:\n- c"), (["b", "a"], "same order")]
)
def test_other_feature_names_are_refused(columns, match):
    model = HFLRegressor(**SMALL).fit(FRAME, Y)
    with pytest.raises(ValueError, match=match):
        model.predict(pd.DataFrame(X, columns=columns), return_std=True)


@pytest.mark.parametrize("return_std", [True, "total", "epistemic", "aleatoric"])
def test_a_std_and_a_covariance_at_once_are_refused(fitted, return_std):
    with pytest.raises(ValueError, match=r"return_std and return_cov are set.*np.sqrt\(np.diag"):
        fitted.predict(X, return_std=return_std, return_cov=True)


@pytest.mark.parametrize("return_std", ["", "both", "Total", 2, 1, None, ["total"]])
def test_an_unknown_return_std_is_refused(fitted, return_std):
    allowed = "False, True or one of 'total', 'epistemic', 'aleatoric'"
    with pytest.raises(ValueError, match=f"return_std must be {allowed}, but got"):
        fitted.predict(X, return_std=return_std)


@pytest.mark.parametrize("n_samples", [-1, 1.5, "many", None])
def test_a_bad_number_of_samples_is_refused(fitted, n_samples):
    with pytest.raises(ValueError, match="n_samples must be an integer"):
        fitted.sample_y(X, n_samples=n_samples)


# ------------------------------------------------------------ after a failure


def fitted_attributes(model):
    """Names of what fit left, but for what scikit-learn's own validation records."""
    recorded = {"n_features_in_", "feature_names_in_"}
    return vars(model).keys() - model.get_params().keys() - recorded


def raising(n_features, n_outputs):
    raise RuntimeError("the factory failed")


WIDER = np.column_stack([X, X[:, 0]])
FAILURES = {
    "a parameter": ({"max_iter": 0}, (X, Y), ValueError),
    "NaN": ({}, (with_entry(X, np.nan), Y), ValueError),
    "NaN, more features": ({}, (with_entry(WIDER, np.nan), Y), ValueError),
    "a target, more features": ({}, (WIDER, with_entry(Y, np.nan)), ValueError),
    "text, more features": ({}, (WIDER, np.array(["red"] * 20)), ValueError),
    "a weight, more features": ({}, (WIDER, Y, -ONES), ValueError),
    "noise of too many outputs": ({"noise_std": [1.0, 2.0]}, (WIDER, Y), ValueError),
    "a factory": ({"module": raising}, (WIDER, np.column_stack([Y, Y])), RuntimeError),
    "a batch norm": (
        {"module": lambda d, k: nn.Sequential(nn.BatchNorm1d(d), nn.Linear(d, k))},
        (WIDER, np.column_stack([Y, Y])),
        ValueError,
    ),
    "names of features": ({}, (FRAME, with_entry(Y, np.nan)), ValueError),
}


@pytest.mark.parametrize(("params", "args", "error"), FAILURES.values(), ids=list(FAILURES))
def test_a_failed_refit_leaves_the_fitted_model_as_it_was(params, args, error):
    model = HFLRegressor(**SMALL).fit(X, Y)
    before = {name: value for name, value in vars(model).items() if name not in SMALL}
    answers = model.predict(X, return_std=True)
    original = {name: model.get_params()[name] for name in params}
    with pytest.raises(error):
        model.set_params(**params).fit(*args)
    model.set_params(**original)
    after = {name: value for name, value in vars(model).items() if name not in SMALL}
    assert after.keys() == before.keys()
    for ours, theirs in zip(model.predict(X, return_std=True), answers, strict=True):
        assert_array_equal(ours, theirs)


WARNED = {
    "not stationary": ({"max_iter": 1}, (X, Y)),
    "constant target": ({}, (X, ONES)),
}


@pytest.mark.parametrize(("params", "args"), WARNED.values(), ids=list(WARNED))
def test_a_warning_made_an_error_leaves_all_or_nothing(params, args):
    model, complete = (HFLRegressor(**{**SMALL, **params}) for _ in range(2))
    with pytest.warns(HFLWarning):
        complete.fit(*args)
    with pytest.raises(HFLWarning):
        model.fit(*args)
    assert fitted_attributes(model) in (set(), fitted_attributes(complete))


# ------------------------------------------------------------ early stopping

SPLITS = [(3, 0.9, 0, 3), (4, 0.9, 0, 4), (3, 0.5, 1, 2), (4, 0.1, 3, 1), (10, 0.9, 1, 9)]


@pytest.mark.parametrize(("n", "fraction", "trained", "held_out"), SPLITS)
@pytest.mark.parametrize("estimator", [HFLRegressor, HFLClassifier])
def test_a_split_without_rows_for_early_stopping_is_refused(
    estimator, n, fraction, trained, held_out
):
    model = estimator(solver="adam", early_stopping=True, validation_fraction=fraction)
    expected = rf"would train on {trained} of {n} rows and hold out {held_out}, .* 2 rows or more"
    with pytest.raises(ValueError, match=expected):
        model.fit(np.arange(n)[:, None], np.arange(n) % 2)
    assert not hasattr(model, "members_")


@pytest.mark.parametrize(("n", "fraction"), [(4, 0.5), (11, 0.1), (20, 0.9)])
def test_a_split_of_two_rows_each_is_not_refused(n, fraction):
    model = HFLRegressor(
        solver="adam", early_stopping=True, validation_fraction=fraction, max_iter=2,
        hidden_layer_sizes=(3,), prior_precision=1.0, noise_std=0.5, random_state=0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HFLWarning)
        model.fit(np.arange(n)[:, None], np.arange(n) % 2)
    assert np.isfinite(model.predict([[1.0]])).all()

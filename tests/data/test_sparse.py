"""Sparse X: the answers of its dense copy, which is made a block of rows at a time."""

from __future__ import annotations

import tracemalloc
import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_array_equal
from sklearn.compose import make_column_transformer
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import nn

from sklearn_hfl import HFLClassifier, HFLRegressor, HFLWarning
from sklearn_hfl._data import standardizer
from sklearn_hfl.metrics import nlpd_scorer

SMALL = {
    "hidden_layer_sizes": (3,),
    "n_estimators": 1,
    "prior_precision": 1.0,
    "max_iter": 30,
    "random_state": 0,
}
RNG = np.random.default_rng(0)
DENSE = RNG.integers(1, 4, (60, 6)) * (RNG.uniform(size=(60, 6)) < 0.3).astype(float)
DENSE[:, 4] = 0.0  # a constant column without an entry, and one without a zero
DENSE[:, 5] = 3.0
Y = np.sin(DENSE[:, 0]) + DENSE[:, 1] + 0.1 * RNG.standard_normal(60)
LABELS = np.where(np.median(Y) < Y, "up", "down")
TRAIN, HELD_OUT, QUERIES = slice(0, 30), slice(30, 55), slice(55, 60)

FORMATS = ("csr", "csc", "coo", "bsr", "dia", "lil", "dok")
SPARSE = {
    f"{name}_{kind}": getattr(sp, f"{name}_{kind}")
    for name in FORMATS
    for kind in ("array", "matrix")
}


def quietly(call, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HFLWarning)
        return call(*args, **kwargs)


def fitted(estimator, X, **params):
    y = LABELS if estimator is HFLClassifier else Y
    return quietly(estimator(**{**SMALL, **params}).fit, X, y[: X.shape[0]])


@cache
def of_dense(estimator, dtype=float):
    """The fit to the dense copy, and its values."""
    values = DENSE.astype(dtype).astype(float)
    return fitted(estimator, values), values


def numbers(answer):
    """Everything that an answer holds, in order."""
    if isinstance(answer, dict):
        answer = tuple(answer.values())
    return answer if isinstance(answer, tuple) else (answer,)


def assert_same(ours, theirs):
    for a, b in zip(numbers(ours), numbers(theirs), strict=True):
        assert_array_equal(a, b)


# ----------------------------------------------------- formats, types and weights


@pytest.mark.parametrize("estimator", [HFLRegressor, HFLClassifier])
@pytest.mark.parametrize("form", SPARSE.values(), ids=list(SPARSE))
def test_every_format_gives_the_bits_of_its_dense_copy(estimator, form):
    ours, (theirs, _) = fitted(estimator, form(DENSE)), of_dense(estimator)
    assert_array_equal(ours._x_scaler.mean, theirs._x_scaler.mean)
    assert_array_equal(ours._x_scaler.scale, theirs._x_scaler.scale)
    weights = (m.members_[0].estimate.weights for m in (ours, theirs))
    assert torch.equal(*weights)
    assert_same(
        quietly(ours.predict_uncertainty, form(DENSE[QUERIES])),
        quietly(theirs.predict_uncertainty, DENSE[QUERIES]),
    )


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.uint16, np.float32, np.longdouble])
@pytest.mark.parametrize("form", [sp.csr_array, sp.coo_matrix, sp.csc_array])
def test_entries_of_every_type_are_numbers(form, dtype):
    X = form(DENSE.astype(dtype))
    theirs, values = of_dense(HFLRegressor, dtype)
    assert_same(fitted(HFLRegressor, X).predict(X), theirs.predict(values))


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("form", [sp.csr_array, sp.csc_matrix, sp.coo_array])
def test_indices_of_both_sizes_are_taken(form, index):
    X = form(DENSE)
    if form is sp.coo_array:
        X = form((X.data, (X.row.astype(index), X.col.astype(index))), X.shape)
    else:
        X = form((X.data, X.indices.astype(index), X.indptr.astype(index)), X.shape)
    assert_same(fitted(HFLRegressor, X).predict(X), of_dense(HFLRegressor)[0].predict(DENSE))


@pytest.mark.parametrize("dtype", [float, bool])
@pytest.mark.parametrize("form", [sp.csr_array, sp.csc_array, sp.coo_array, sp.bsr_matrix])
def test_entries_of_one_place_count_as_in_the_dense_copy(form, dtype):
    rows, columns = np.nonzero(DENSE)
    twice = np.tile(rows, 2), np.tile(columns, 2)
    if form in (sp.csr_array, sp.csc_array):  # not summed where they are made of these arrays
        X = _with_duplicates(form, DENSE.astype(dtype))
        assert not X.has_canonical_format
    else:
        X = form(sp.coo_array((np.ones(2 * len(rows), dtype), twice), shape=DENSE.shape))
    kept = X.nnz
    dense = X.toarray().astype(float)
    assert_same(fitted(HFLRegressor, X).predict(X), fitted(HFLRegressor, dense).predict(dense))
    assert X.nnz == kept  # the caller's array is as it was


def _with_duplicates(form, values):
    X = form(values)
    return form((np.repeat(X.data, 2), np.repeat(X.indices, 2), 2 * X.indptr), X.shape)


@pytest.mark.parametrize("estimator", [HFLRegressor, HFLClassifier])
def test_rows_of_weight_zero_are_left_out(estimator):
    weight, y = np.arange(60) % 3, LABELS if estimator is HFLClassifier else Y
    ours, theirs = (
        quietly(estimator(**SMALL).fit, X, y, sample_weight=weight)
        for X in (sp.csr_matrix(DENSE), DENSE)
    )
    assert_array_equal(ours.predict(DENSE), theirs.predict(DENSE))


@pytest.mark.parametrize("params", [{"normalize_X": False}, {"dtype": "float32"}])
def test_neither_units_nor_precision_matter(params):
    ours, theirs = (fitted(HFLRegressor, X, **params) for X in (sp.csr_array(DENSE), DENSE))
    assert_array_equal(ours.predict(sp.csr_array(DENSE)), theirs.predict(DENSE))


def test_blocks_of_a_few_rows_are_as_good_as_one(monkeypatch):
    monkeypatch.setattr(standardizer, "MAX_NUMBERS", 7 * DENSE.shape[1])
    ours, theirs = (fitted(HFLRegressor, X) for X in (sp.csr_array(DENSE), DENSE))
    assert_array_equal(ours.predict(sp.csr_array(DENSE)), theirs.predict(DENSE))


def test_frames_of_sparse_columns_keep_their_names():
    frame = pd.DataFrame.sparse.from_spmatrix(sp.csr_matrix(DENSE), columns=list("abcdef"))
    model = fitted(HFLRegressor, frame)
    assert_array_equal(model.feature_names_in_, list("abcdef"))
    assert_same(model.predict(frame), fitted(HFLRegressor, DENSE).predict(DENSE))


# ------------------------------------------------------------------- every method

SHARED = {
    "predict": lambda m, X: m.predict(X),
    "predict with std": lambda m, X: m.predict(X, return_std=True),
    "predict_uncertainty": lambda m, X: m.predict_uncertainty(X),
}
METHODS = {
    HFLRegressor: SHARED | {
        "predict with cov": lambda m, X: m.predict(X, return_cov=True),
        "predict with interval": lambda m, X: m.predict(X, return_interval=0.8),
        "quantiles": lambda m, X: m.predict(X, quantiles=[0.1, 0.9]),
        "predict_distribution": lambda m, X: m.predict_distribution(X).ppf(0.1),
        "score": lambda m, X: m.score(X, Y[QUERIES]),
        "sample_y": lambda m, X: m.sample_y(X, 3),
        "gaussian": lambda m, X: m.predict_interval(X, kind="gaussian"),
        "conformal": lambda m, X: m.predict_interval(X, kind="conformal"),
        "profile": lambda m, X: m.predict_interval(X, kind="profile"),
        "functional": lambda m, X: m.predict_functional(X, np.arange(5.0)),
        "influence": lambda m, X: m.influence(X),
        "function": lambda m, X: m.predict_functional(X, func=lambda f: f.logsumexp(0)),
        "scorer": lambda m, X: nlpd_scorer(m, X, Y[QUERIES]),
    },
    HFLClassifier: SHARED | {
        "predict_proba": lambda m, X: m.predict_proba(X, return_std=True),
        "predict_log_proba": lambda m, X: m.predict_log_proba(X),
        "influence": lambda m, X: m.influence(X),
        "decision_function": lambda m, X: m.decision_function(X),
        "latent": lambda m, X: m.latent_mean_and_variance(X),
        "sample_proba": lambda m, X: m.sample_proba(X, 2),
        "score": lambda m, X: m.score(X, LABELS[QUERIES]),
        "predict_set": lambda m, X: m.predict_set(X, 0.8),
    },
}  # fmt: skip
ASKED = [(estimator, name) for estimator, methods in METHODS.items() for name in methods]


@pytest.fixture(scope="module")
def calibrated():
    models = {}
    for estimator, y in ((HFLRegressor, Y), (HFLClassifier, LABELS)):
        for form in (sp.coo_matrix, np.asarray):
            model = fitted(estimator, form(DENSE[TRAIN]))
            quietly(model.conformalize, form(DENSE[HELD_OUT]), y[HELD_OUT])
            models[estimator, form is np.asarray] = model
    return models


@pytest.mark.parametrize(("estimator", "method"), ASKED)
def test_every_method_answers_as_for_the_dense_copy(calibrated, estimator, method):
    ask, Q = METHODS[estimator][method], DENSE[QUERIES]
    assert_same(
        quietly(ask, calibrated[estimator, False], sp.coo_matrix(Q)),
        quietly(ask, calibrated[estimator, True], Q),
    )


def test_every_public_method_of_x_is_asked():
    """Methods that take X, but for fit, score and those that have tests of their own."""
    for estimator, methods in METHODS.items():
        asked = " ".join(methods) + " predict_interval predict_functional latent_mean_and_variance"
        own = {"fit", "conformalize", "from_mlp", "from_torch", "loo_predict"}  # or take no X
        public = {
            name for name in dir(estimator)
            if not name.startswith(("_", "get_", "set_")) and callable(getattr(estimator, name))
        }  # fmt: skip
        assert {name for name in public - own if name not in asked} == set()


def test_calibration_rows_that_were_trained_on_are_found():
    model = fitted(HFLRegressor, sp.csr_array(DENSE))
    with pytest.warns(HFLWarning, match="25 of 25 calibration rows were trained on"):
        model.conformalize(sp.csc_array(DENSE[HELD_OUT]), Y[HELD_OUT])


@pytest.mark.parametrize(
    ("estimator", "mlp", "y"),
    [(HFLRegressor, MLPRegressor, Y), (HFLClassifier, MLPClassifier, LABELS)],
)
def test_trained_networks_take_sparse_rows(estimator, mlp, y):
    X = sp.csr_matrix(DENSE)
    trained = mlp(
        hidden_layer_sizes=[3],
        activation="tanh",
        solver="lbfgs",
        alpha=10.0,
        max_iter=2000,
        random_state=0,
    ).fit(X, y)
    module = nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    for adopt, network in ((estimator.from_mlp, trained), (estimator.from_torch, module)):
        ours, theirs = (quietly(adopt, network, rows, y, random_state=0) for rows in (X, DENSE))
        assert_same(quietly(ours.predict, X, return_std=True),
                    quietly(theirs.predict, DENSE, return_std=True))  # fmt: skip


def test_a_pipeline_with_an_encoder_is_fitted_as_it_comes():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"size": rng.normal(size=200), "colour": rng.choice(list("uvwxyz"), 200)})
    columns = (StandardScaler(), ["size"]), (OneHotEncoder(), ["colour"])
    pipes = [
        make_pipeline(
            make_column_transformer(*columns, sparse_threshold=share), HFLRegressor(**SMALL)
        )
        for share in (1.0, 0.0)
    ]
    y = table["size"] + (table["colour"] == "u")
    ours, theirs = (quietly(pipe.fit, table, y) for pipe in pipes)
    assert sp.issparse(ours[:-1].transform(table))
    assert ours.score(table, y) > 0.9
    assert_same(ours.predict(table, return_std=True), theirs.predict(table, return_std=True))


# ----------------------------------------------------------------------- refusals


@pytest.mark.parametrize(("value", "match"), [(np.nan, "contains NaN"), (np.inf, "infinity")])
@pytest.mark.parametrize("form", SPARSE.values(), ids=list(SPARSE))
def test_entries_that_are_no_numbers_are_refused(form, value, match):
    bad = DENSE.copy()
    bad[3, 1] = value
    bad = form(bad)
    with pytest.raises(ValueError, match=f"Input X.*{match}"):
        HFLRegressor(**SMALL).fit(bad, Y)
    with pytest.raises(ValueError, match=f"Input X.*{match}"):
        fitted(HFLRegressor, DENSE).predict(bad)


BAD = {
    "complex": (sp.csr_array(DENSE + 0j), "Complex data not supported"),
    # SciPy before 1.13 makes a row of it.
    "one-dimensional": (sp.coo_array(Y), "Expected 2D array|60 features"),
    "no rows": (sp.csr_array((0, 6)), r"0 sample\(s\)"),
    "features": (sp.csr_array(DENSE[:, :5]), "5 features, but HFLRegressor is expecting 6"),
}


@pytest.mark.parametrize(("bad", "match"), BAD.values(), ids=list(BAD))
def test_bad_sparse_queries_are_refused(bad, match):
    with pytest.raises(ValueError, match=match):
        fitted(HFLRegressor, DENSE).predict(bad)


@pytest.mark.parametrize("estimator", [HFLRegressor, HFLClassifier])
def test_what_is_no_x_stays_dense(estimator):
    X, y = sp.csr_array(DENSE), LABELS if estimator is HFLClassifier else Y
    column = sp.csr_array(np.abs(Y)[:, None])
    with pytest.raises(TypeError, match=r"dense.*\.toarray\(\)"):
        estimator(**SMALL).fit(X, column)
    with pytest.raises(ValueError, match=r"sample_weight.*dense"):
        estimator(**SMALL).fit(X, y, sample_weight=column)


# ------------------------------------------------------------------------- memory


@pytest.mark.parametrize("estimator", [HFLRegressor, HFLClassifier])
@pytest.mark.parametrize(("dtype", "size"), [("float64", 8), ("float32", 4)])
def test_a_dense_copy_beyond_the_limit_is_refused_with_its_size(estimator, dtype, size):
    n, d = 60, 10**8
    X = sp.csr_array((np.ones(n), np.arange(n), np.arange(n + 1)), shape=(n, d))
    model = estimator(**SMALL, dtype=dtype)
    with pytest.raises(ValueError, match=r"max_categories.*memory_limit") as refusal:
        model.fit(X, LABELS if estimator is HFLClassifier else Y)
    assert f"needs {n * d * size:.2e} bytes" in str(refusal.value)
    assert "memory_limit=4.00e+09" in str(refusal.value)
    assert ("dtype='float32'" in str(refusal.value)) == (dtype == "float64")
    assert not hasattr(model, "n_features_in_")


def test_queries_and_calibration_rows_follow_the_limit_too():
    model = fitted(HFLRegressor, DENSE).set_params(memory_limit=8.0 * DENSE.size - 1)
    frame = pd.DataFrame.sparse.from_spmatrix(sp.csr_matrix(DENSE))
    for call in (
        lambda: model.predict(sp.csr_array(DENSE)),
        lambda: model.conformalize(sp.csr_array(DENSE), Y),
        lambda: model.predict(frame),
    ):
        with pytest.raises(ValueError, match="pass fewer rows"):
            call()
    half = DENSE[:30]
    assert_array_equal(model.predict(sp.csr_array(half)), model.predict(half))


@pytest.mark.parametrize("estimator", [HFLRegressor, HFLClassifier])
def test_there_is_no_dense_copy_beside_the_tensor(estimator, monkeypatch):
    monkeypatch.setattr(standardizer, "MAX_NUMBERS", 10**5)
    n, d = 100_000, 40
    places = np.random.default_rng(0).integers((n, d), size=(2 * n, 2)).T
    X = sp.csr_array((np.ones(2 * n), tuple(places)), shape=(n, d))
    y = np.asarray(X[:, [0]].toarray()[:, 0] > 0, dtype=float)
    model = estimator(
        hidden_layer_sizes=(2,), prior_precision=1.0, solver="adam", dtype="float32",
        batch_size=4000, max_iter=1, random_state=0, variance="amortized",
    )  # fmt: skip
    quietly(model.fit, X[:100], np.arange(100) % 2)  # modules that are imported when needed
    tracemalloc.start()
    quietly(model.fit, X, y)
    _, peak = tracemalloc.get_traced_memory()  # NumPy's; the tensor is torch's
    tracemalloc.stop()
    assert peak < n * d * 8 / 3

"""Dask: fits and queries of rows in chunks are those of the same rows in memory."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import tracemalloc

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.neural_network import MLPRegressor

from sklearn_hfl import HFLClassifier, HFLRegressor
from sklearn_hfl._data.cluster_chunks import ClusterChunks
from sklearn_hfl.exceptions import HFLDataWarning
from sklearn_hfl.optim import dual
from tests.clusters import two_workers

GIVEN = {"prior_precision": 1.0, "noise_std": 0.3, "n_estimators": 1, "random_state": 0}
LINEAR = HFLRegressor(hidden_layer_sizes=(), **GIVEN)
SMALL = HFLRegressor(hidden_layer_sizes=(3,), **GIVEN)
ODDS = HFLClassifier(hidden_layer_sizes=(), prior_precision=1.0, n_estimators=1, random_state=0)
CLASSES = clone(ODDS).set_params(hidden_layer_sizes=(3,))


def made_up(n):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (n, 2))
    return X, np.sin(3 * X[:, 0]) + X[:, 1] + 0.2 * rng.standard_normal(n)


X, Y = made_up(60)
TWO = np.column_stack([Y, X[:, 0] ** 2])
LABELS = np.array(["low", "middle", "high"])[np.digitize(Y, [-0.3, 0.5])]
WEIGHT = np.arange(60) % 3  # a third of the rows count as none, and the last chunk has few
QUERIES = np.random.default_rng(1).uniform(-2, 2, (23, 2))


def chunked(values, rows=(12, 20, 28), columns=1):
    """Chunks of so many rows, and one for each column: fit joins the columns."""
    chunks = (rows,) if values.ndim == 1 else (rows, columns)
    return da.from_array(values, chunks=chunks)


@pytest.fixture
def threads():
    """No cluster: chunks are computed here, one after the other."""
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def cluster():
    before = set(threading.enumerate())
    with two_workers() as client:
        yield client
    assert all(t.daemon for t in set(threading.enumerate()) - before)


def answers(model, queries=QUERIES):
    if isinstance(model, HFLClassifier):
        return model.predict_proba(queries, return_std=True)
    return model.predict(queries, return_std="epistemic")


# ------------------------------------------------------------------------- fits


FITS = {
    "linear": (LINEAR, Y),
    "network": (SMALL, Y),
    "two targets": (clone(LINEAR).set_params(noise_std=[0.3, 0.1]), TWO),
    "quasi-Newton": (clone(LINEAR).set_params(solver="lbfgs", tol=1e-9), Y),
    "module units": (clone(LINEAR).set_params(normalize_X=False, normalize_y=False), Y),
    # Its preconditioner is in single precision: rounding does not show in the MAP itself.
    "Krylov": (
        clone(LINEAR).set_params(hidden_layer_sizes=(80,), variance="amortized", tol=1e-12),
        Y,
    ),
    "refits": (clone(LINEAR).set_params(variance="network"), Y),
    "members": (clone(LINEAR).set_params(n_estimators=2), Y),
    "learned": (HFLRegressor(hidden_layer_sizes=(), random_state=0), Y),
    "classes": (CLASSES, LABELS),
    "two classes": (ODDS, LABELS == "low"),
    "balanced": (clone(ODDS).set_params(class_weight="balanced"), LABELS),
    "some heavier": (clone(ODDS).set_params(class_weight={"low": 2.0}), LABELS),
}


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", FITS)
def test_a_fit_to_chunks_is_that_to_the_same_rows(monkeypatch, name):
    estimator, y = FITS[name]
    # Chunks have no dual: both ways are to train with the same preconditioner.
    monkeypatch.setattr(dual, "MAX_RESIDUALS", 0)
    expected = clone(estimator).fit(X, y)
    model = clone(estimator).fit(chunked(X), chunked(y, (30, 30), -1))
    assert vars(model).keys() == vars(expected).keys()
    for ours, theirs in zip(answers(model), answers(expected), strict=True):
        assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)
    ours, theirs = (m.diagnostics_["members"][0] for m in (model, expected))
    for fact in set(ours) - {"grad_norm", "decrement", "solver", "training_ended"}:
        # None, the shape of the residuals that classes do not have, is NaN.
        assert_allclose(np.float64(ours[fact]), np.float64(theirs[fact]), 1e-6, err_msg=fact)
    assert model.n_features_in_ == 2


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(("estimator", "y"), [(LINEAR, Y), (ODDS, LABELS)])
def test_weights_come_in_chunks_or_not(estimator, y, lazy):
    weight = np.where(np.arange(60) < 12, 0, WEIGHT)  # a whole chunk counts as none
    expected = clone(estimator).fit(X, y, weight)
    model = clone(estimator).fit(chunked(X), y, chunked(weight, 25) if lazy else weight)
    for ours, theirs in zip(answers(model), answers(expected), strict=True):
        assert_allclose(ours, theirs, rtol=1e-7)


@pytest.mark.usefixtures("threads")
def test_a_search_on_many_rows_starts_on_the_same_sample():
    many, y = made_up(4200)
    estimator = HFLRegressor(hidden_layer_sizes=(2,), n_estimators=2, random_state=0)
    expected = clone(estimator).fit(many, y)
    model = clone(estimator).fit(chunked(many, 1300), chunked(y, 2000))
    mean, std = answers(model)
    expected_mean, expected_std = answers(expected)
    # Rounding that differs takes searches along other paths, to 1e-3 standard deviations here.
    assert_allclose(std, expected_std, rtol=0.02)
    assert_allclose(mean, expected_mean, atol=0.02 * expected_std.mean())
    assert len(model.coefs_) == len(expected.coefs_) == 2
    assert model.noise_std_ == pytest.approx(expected.noise_std_, rel=1e-3)


@pytest.mark.usefixtures("threads")
def test_constants_are_found_as_in_memory():
    constant = np.column_stack([X, np.full(60, 0.1)])
    model = clone(LINEAR).fit(chunked(constant), Y)
    assert_array_equal(model._x_scaler.scale[2], 1.0)
    with pytest.warns(HFLDataWarning, match="Constant target: y has"):
        clone(LINEAR).fit(chunked(X), chunked(np.full(60, 0.1), 20))


@pytest.mark.usefixtures("threads")
def test_a_fit_goes_on_from_the_last():
    model = clone(LINEAR).set_params(warm_start=True).fit(chunked(X), Y)
    assert model.fit(chunked(X), Y).n_iter_ < 3


@pytest.mark.usefixtures("threads")
def test_calibration_rows_that_were_trained_on_are_noticed():
    model = clone(LINEAR).fit(chunked(X), Y)
    with pytest.warns(HFLDataWarning, match="20 of 20 calibration rows were trained on"):
        model.conformalize(X[:20], Y[:20])


@pytest.mark.usefixtures("threads")
def test_a_copy_of_a_fit_has_no_rows():
    model = clone(LINEAR).fit(chunked(X), Y)
    copy = pickle.loads(pickle.dumps(model))
    assert_array_equal(answers(copy), answers(model))
    with pytest.raises(ValueError, match="Expected the 60 training rows"):
        copy.set_params(variance="network").predict(QUERIES, return_std=True)
    amortized = clone(LINEAR).set_params(variance="amortized").fit(chunked(X), Y)
    assert_array_equal(answers(pickle.loads(pickle.dumps(amortized))), answers(amortized))


def test_frames_have_names():
    frame = pd.DataFrame(X, columns=["left", "right"])
    from dask.dataframe import from_pandas

    with dask.config.set(scheduler="synchronous"):
        lazy = from_pandas(frame, npartitions=3)
        model = clone(LINEAR).fit(lazy, from_pandas(pd.Series(Y), npartitions=2))
        expected = clone(LINEAR).fit(frame, Y)
        assert list(model.feature_names_in_) == ["left", "right"]
        assert model.prior_precision_.keys() == expected.prior_precision_.keys()
        assert_allclose(model.predict(lazy), expected.predict(frame), rtol=1e-9)
        text = from_pandas(frame.assign(left="north"), npartitions=3)
        with pytest.raises(ValueError, match="found text"):
            clone(LINEAR).fit(text, Y)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", ["Int64", "Float64", "boolean"])
def test_columns_that_could_have_missing_values_are_numbers(dtype):
    frame = pd.DataFrame({"left": X[:, 0] > 0, "right": X[:, 1] > 0}).astype(dtype)
    with dask.config.set({"dataframe.convert-string": False}):
        from dask.dataframe import from_pandas

        model = clone(LINEAR).fit(from_pandas(frame, npartitions=3), Y)
        frame.loc[3, "left"] = pd.NA
        with pytest.raises(ValueError, match="Input X contains NaN"):
            clone(LINEAR).fit(from_pandas(frame, npartitions=3), Y)
    expected = clone(LINEAR).fit((X > 0).astype(float), Y).coefs_[0]
    assert_allclose(model.coefs_[0], expected, rtol=1e-9)


# ---------------------------------------------------------------------- queries


@pytest.mark.usefixtures("threads")
def test_queries_in_chunks_are_answered_one_chunk_after_the_other():
    model = clone(LINEAR).fit(X, Y).conformalize(QUERIES, QUERIES[:, 0])
    lazy = chunked(QUERIES, (10, 13))
    assert_allclose(model.predict(lazy), model.predict(QUERIES), rtol=1e-9)
    assert_allclose(model.predict(X=lazy, quantiles=[0.1, 0.9]).shape, (23, 2))
    for ours, theirs in zip(
        model.predict_interval(lazy, [0.5, 0.9], "conformal"),
        model.predict_interval(QUERIES, [0.5, 0.9], "conformal"),
        strict=True,
    ):
        assert_allclose(ours, theirs, rtol=1e-9)
    with_empty = chunked(QUERIES, (0, 10, 0, 13))
    assert with_empty.numblocks[0] == 4
    assert_allclose(model.predict(with_empty), model.predict(QUERIES), rtol=1e-9)
    with pytest.raises(ValueError, match="0 sample"):
        model.predict(lazy[:0])
    found, expected = model.predict_uncertainty(lazy), model.predict_uncertainty(QUERIES)
    assert found.keys() == expected.keys()
    for name in found:
        assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-9)
    y = QUERIES[:, 0]
    assert model.score(lazy, chunked(y, 23)) == pytest.approx(model.score(QUERIES, y))


@pytest.mark.usefixtures("threads")
def test_classes_of_queries_in_chunks():
    model = clone(CLASSES).fit(X, LABELS)
    lazy = chunked(QUERIES, (10, 13))
    assert_array_equal(model.predict(lazy), model.predict(QUERIES))
    for method in (model.predict_proba, model.predict_log_proba, model.decision_function):
        assert_allclose(method(lazy), method(QUERIES), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "ask",
    [
        lambda model, lazy: model.predict(lazy, return_cov=True),
        lambda model, lazy: model.sample_y(lazy),
        lambda model, lazy: model.predict_functional(lazy, np.ones(23) / 23),
        lambda model, lazy: model.conformalize(lazy, QUERIES[:, 0]),
    ],
)
def test_joint_queries_do_not_load_what_is_in_chunks(ask):
    model = clone(LINEAR).fit(X, Y)
    with pytest.raises(TypeError, match=r"X is a dask Array.*pass X.compute\(\)"):
        ask(model, chunked(QUERIES, (10, 13)))


# ----------------------------------------------------------------------- errors


def with_nan():
    values = X.copy()
    values[40, 1] = np.nan
    return values


UNKNOWN = da.from_array(X, chunks=(20, 2))
UNKNOWN = UNKNOWN[UNKNOWN[:, 0] > 0]
REFUSED = {
    "unknown chunks": (LINEAR, UNKNOWN, Y, None, r"Call X.compute_chunk_sizes\(\)"),
    "lengths": (LINEAR, chunked(X), Y[:50], None, "inconsistent numbers of samples"),
    "one dimension": (LINEAR, chunked(Y), Y, None, "Expected 2D array, got a dask array"),
    "one row": (LINEAR, chunked(X[:1], 1), Y[:1], None, "minimum of 2 is required"),
    "missing target": (LINEAR, chunked(X), chunked(with_nan()[:, 1]), None, "Input y contains NaN"),
    "text": (LINEAR, chunked(X), chunked(LABELS), None, "Expected numbers, but found text"),
    "negative": (LINEAR, chunked(X), Y, chunked(-1.0 * WEIGHT), "sample_weight must be ≥ 0"),
    "no weight": (LINEAR, chunked(X), Y, chunked(0 * WEIGHT), "zero for every row"),
    "weights": (LINEAR, chunked(X), Y, chunked(WEIGHT[:50], 50), "sample_weight must have shape"),
    "one class": (CLASSES, chunked(X), chunked(np.ones(60)), None, "two classes or more"),
    "numbers": (CLASSES, chunked(X), chunked(Y), None, "Unknown label type"),
    "no class": (
        clone(CLASSES).set_params(class_weight={"none": 2.0}),
        chunked(X), chunked(LABELS), None, "class_weight names",
    ),
    "adam": (clone(LINEAR).set_params(solver="adam"), chunked(X), Y, None, "solver='adam'"),
    "early stopping": (
        clone(LINEAR).set_params(early_stopping=True), chunked(X), Y, None, "early_stopping=True"
    ),
    "heteroscedastic": (
        HFLRegressor(likelihood="heteroscedastic"), chunked(X), Y, None,
        "likelihood='heteroscedastic'",
    ),
}  # fmt: skip


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_fitted_says_why(name):
    estimator, rows, y, weight, message = REFUSED[name]
    model = clone(estimator)
    with pytest.raises(ValueError, match=message):
        model.fit(rows, y, weight)
    assert not hasattr(model, "members_")
    assert not hasattr(model, "n_features_in_")


@pytest.mark.usefixtures("threads")
def test_missing_values_are_refused_as_in_memory():
    with pytest.raises(ValueError, match="Input X contains NaN") as expected:
        clone(LINEAR).fit(with_nan(), Y)
    with pytest.raises(ValueError, match="Input X contains NaN") as found:
        clone(LINEAR).fit(chunked(with_nan()), Y)
    assert str(found.value) == str(expected.value)


@pytest.mark.usefixtures("threads")
def test_what_needs_single_rows_says_so():
    model = clone(LINEAR).fit(chunked(X), Y)
    with pytest.raises(ValueError, match="loo_predict needs each training row"):
        model.loo_predict()
    with pytest.raises(ValueError, match="influence needs each training row"):
        model.influence(QUERIES)
    mlp = MLPRegressor(hidden_layer_sizes=3, solver="lbfgs", alpha=0.1, random_state=0).fit(X, Y)
    with pytest.raises(TypeError, match=r"pass X.compute\(\)"):
        HFLRegressor.from_mlp(mlp, chunked(X), Y)


# ---------------------------------------------------------------------- cluster


def generated(block_info=None):
    """A chunk of rows that exists on the worker which computes it, and nowhere else."""
    place = block_info[None]
    rng = np.random.default_rng(place["chunk-location"][0])
    return rng.uniform(-1, 1, place["chunk-shape"])


def rows_on_workers(n):
    lazy = da.map_blocks(
        generated, chunks=((n // 4,) * 4, (3,)), dtype=float, meta=np.empty((0, 0))
    )
    return lazy[:, :2], lazy[:, 0] + 0.3 * lazy[:, 2]


def test_a_worker_that_is_killed_costs_time_alone(cluster, monkeypatch):
    rows, y = rows_on_workers(400)
    expected = clone(LINEAR).fit(*dask.compute(rows, y))
    total, passes = ClusterChunks.total, []

    def disturbed(self, *arguments):
        passes.append(None)
        if len(passes) == 5:
            pid = next(iter(cluster.run(os.getpid).values()))
            os.kill(pid, signal.SIGKILL)
        return total(self, *arguments)

    monkeypatch.setattr(ClusterChunks, "total", disturbed)
    model = clone(LINEAR).fit(rows, y)
    assert len(passes) > 10
    assert_allclose(answers(model), answers(expected), rtol=1e-9, atol=1e-12)
    assert model.loss_ == pytest.approx(expected.loss_, rel=1e-12)


def test_the_memory_of_the_client_does_not_depend_on_the_rows(cluster, monkeypatch):
    received = []
    gather = cluster.gather
    monkeypatch.setattr(cluster, "gather", lambda *a, **k: _recorded(gather(*a, **k), received))
    peaks, largest = [], []
    for n in (8_000, 400_000):
        rows, y = rows_on_workers(n)
        received.clear()
        tracemalloc.start()
        clone(LINEAR).fit(rows, y)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        largest.append(max(received))
    assert peaks[1] - peaks[0] < 0.2 * 8 * 400_000  # a fifth of a column
    # Torch's memory is not traced: what came from the workers is the same.
    assert largest[1] == pytest.approx(largest[0], rel=0.01)


def _recorded(values, received):
    received.append(len(pickle.dumps(values)))
    return values

"""Memory: a limit that fit and queries follow, and data that are never copied whole."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sklearn_hfl import HFLClassifier, HFLRegressor, HFLWarning
from sklearn_hfl._data import standardizer
from sklearn_hfl._ensemble import chunks
from sklearn_hfl._ensemble.chunks import MAX_QUERIES, chunk_size
from sklearn_hfl.optim import krylov
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.uncertainty.exact import dense_ggn, exact_covariance

# 201 weights, and data that determine more than a hundred of them.
WIDE = {
    "hidden_layer_sizes": (25,),
    "n_estimators": 1,
    "prior_precision": 0.1,
    "noise_std": 0.01,
    "max_iter": 5,
    "random_state": 0,
}
X = np.random.default_rng(0).uniform(-1, 1, (300, 6))
Y = np.sin(X @ np.arange(1, 7))
PER_DIRECTION = 4 * 8 * 201


def exact_std(model, rows):
    estimate = model.members_[0].estimate
    gradient = Prediction(estimate.log_posterior.network, model._queries(rows)).gradient(
        estimate.weights
    )
    matrix = dense_ggn(estimate.log_posterior, estimate.weights)
    return exact_covariance(matrix, gradient).diagonal().sqrt().numpy() * model._y_scaler.scale


@pytest.mark.filterwarnings("ignore:The MAP is not stationary")
@pytest.mark.parametrize("variance", ["linearized", "amortized"])
def test_where_the_limit_ends_the_search_bounds_still_hold(variance):
    full = HFLRegressor(**WIDE).fit(X, Y)
    assert full.diagnostics_["members"][0]["rank"] > 70

    def fitted(variance):
        model = HFLRegressor(**WIDE, variance=variance, memory_limit=70 * PER_DIRECTION)
        with pytest.warns(HFLWarning, match="memory limit stopped .* at 70 of 201"):
            return model.fit(X, Y)

    model = fitted(variance)
    # The preconditioner was limited too, so that only such a fit has the same weights.
    with_data = fitted("linearized")
    assert model.diagnostics_["members"][0]["rank"] == 70
    with pytest.warns(HFLWarning, match="missed std_rtol"):
        result = model.predict_uncertainty(X[:40])
    error = np.abs(result.epistemic_std / exact_std(with_data, X[:40]) - 1)
    assert not result.converged.all()
    assert (error <= result.rel_error + 1e-11).all()


def test_too_little_for_one_block_is_an_error_that_leaves_nothing():
    model = HFLRegressor(**WIDE, memory_limit=60 * PER_DIRECTION)
    with pytest.raises(ValueError, match=r"curvature of 201 weights needs 411,648 bytes or more"):
        model.fit(X, Y)
    assert not hasattr(model, "members_")


@pytest.mark.filterwarnings("ignore:The MAP is not stationary")
def test_queries_are_cut_to_chunks_that_follow_the_limit():
    model = HFLRegressor(**WIDE).fit(X, Y)
    estimate = model.members_[0].estimate.log_posterior
    assert chunk_size(estimate, "linearized") == MAX_QUERIES
    limit = 300 * PER_DIRECTION
    small = HFLRegressor(**WIDE, memory_limit=limit).fit(X, Y)
    size = chunk_size(small.members_[0].estimate.log_posterior, "linearized")
    assert size * 8 * 8 * 201 <= limit / 4
    for ours, theirs in zip(
        small.predict(X, return_std=True), model.predict(X, return_std=True), strict=True
    ):
        assert_allclose(ours, theirs, rtol=0.02)


def test_the_bytes_that_are_asked_for_are_enough():
    params = {
        "hidden_layer_sizes": (5,),
        "n_estimators": 1,
        "prior_precision": 1.0,
        "random_state": 0,
    }
    model = HFLRegressor(**params).fit(X[:40], Y[:40])
    expected = model.predict(X[:5], return_std=True)
    with pytest.raises(ValueError, match="bytes or more") as refusal:
        model.set_params(memory_limit=1.0).predict(X[:5], return_std=True)
    needed = int(str(refusal.value).split("needs ")[1].split(" bytes")[0].replace(",", ""))
    model.set_params(memory_limit=needed - 1)
    with pytest.raises(ValueError, match=f"needs {needed:,} bytes"):
        model.predict(X[:5], return_std=True)
    answers = model.set_params(memory_limit=needed).predict(X[:5], return_std=True)
    assert_allclose(answers, expected, rtol=1e-9)


# --------------------------------------------------- memory-mapped arrays


@pytest.mark.filterwarnings("ignore:The MAP is not stationary")
@pytest.mark.parametrize("estimator", [HFLRegressor, HFLClassifier])
def test_a_memory_mapped_array_is_not_copied_whole(estimator, tmp_path, monkeypatch):
    monkeypatch.setattr(standardizer, "MAX_NUMBERS", 10**5)
    n, d = 100_000, 40
    mapped = np.memmap(tmp_path / "X", dtype=np.float32, mode="w+", shape=(n, d))
    mapped[:] = np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)
    y = np.asarray(mapped[:, 0] > 0, dtype=float)
    model = estimator(
        hidden_layer_sizes=(2,), prior_precision=1.0, solver="adam", dtype="float32",
        batch_size=4000, max_iter=1, random_state=0, variance="amortized",
    )  # fmt: skip
    tracemalloc.start()
    model.fit(mapped, y)
    _, peak = tracemalloc.get_traced_memory()  # NumPy's; the tensor is one copy in float32
    tracemalloc.stop()
    assert peak < n * d * 8 / 3  # of a copy in double precision


@pytest.mark.parametrize("estimator", [HFLRegressor, HFLClassifier])
def test_single_precision_in_gives_the_fit_of_the_same_numbers(estimator):
    single = X.astype(np.float32)
    y = (Y > 0).astype(int)
    params = {
        "hidden_layer_sizes": (3,),
        "n_estimators": 1,
        "prior_precision": 1.0,
        "random_state": 0,
    }
    ours, theirs = (estimator(**params).fit(rows, y) for rows in (single, single.astype(float)))
    assert torch.equal(ours.members_[0].estimate.weights, theirs.members_[0].estimate.weights)


def test_many_chunks_start_from_what_some_rows_have_found(monkeypatch):
    """Ten chunks need hardly more passes over the data than one, and bounds hold as before."""
    monkeypatch.setattr(krylov, "MAX_MATRIX_WEIGHTS", 0)  # few of the directions are kept
    rng = np.random.default_rng(0)
    rows, queries = rng.uniform(-1, 1, (1000, 6)), rng.uniform(-3, 3, (2000, 6))
    model = HFLRegressor(
        hidden_layer_sizes=(80,), prior_precision=0.1, noise_std=1.0, std_rtol=1e-3,
        max_iter=5, n_estimators=1, random_state=0,
    )  # fmt: skip
    with pytest.warns(HFLWarning, match="not stationary"):
        model.fit(rows, np.sin(rows @ np.arange(1, 7)))
    passes, product, counts = [], GaussNewton.product, {}
    monkeypatch.setattr(GaussNewton, "product", lambda *args: passes.append(1) or product(*args))
    for most in (2000, 200):
        monkeypatch.setattr(chunks, "MAX_QUERIES", most)
        passes.clear()
        result = model.predict_uncertainty(queries)
        counts[most] = len(passes)
        error = np.abs(result.epistemic_std / exact_std(model, queries) - 1)
        assert (error <= result.rel_error).all()
        assert result.converged.all()
    assert 0 < counts[200] <= counts[2000] + 2

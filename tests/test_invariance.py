"""Invariance: an error bar depends on its own row and the fit, on nothing else."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest
import torch
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from sklearn_hfl import HFLRegressor

KNOWN = {
    "hidden_layer_sizes": (4,),
    "n_estimators": 1,
    "prior_precision": 1.0,
    "noise_std": 0.2,
    "tol": 0.0,  # to the very MAP
    "random_state": 0,
}
MODELS = {
    "linearized": {},
    # As loose as it may be, so that rows have something to learn from each other.
    "linearized, coarse": {"std_rtol": 0.2},
    "linearized, fine": {"std_rtol": 1e-6},
    "network": {"variance": "network"},
    "amortized": {"variance": "amortized"},
    "two members": {"n_estimators": 2},
}


def data():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (40, 2))
    return X, np.sin(3 * X[:, 0]) + X[:, 1] + 0.2 * rng.standard_normal(len(X))


@cache
def fitted(**params):
    """A model that tests leave as it is."""
    return HFLRegressor(**{**KNOWN, **params}).fit(*data())


# Near the data, where the network's refit settles, and without a warning.
QUERIES = np.random.default_rng(1).uniform(-1, 1, (5, 2))
FAR = np.random.default_rng(1).uniform(-4, 4, (5, 2))


@pytest.fixture(scope="module", params=MODELS.values(), ids=list(MODELS))
def model(request):
    return fitted(**request.param)


@pytest.fixture
def queries(model):
    return QUERIES if model.variance == "network" else np.vstack([QUERIES, FAR])


def epistemic(model, X):
    return model.predict(X, return_std="epistemic")


def one_by_one(model, X):
    return np.concatenate([epistemic(model, row[None]) for row in X], axis=1)


def two_by_two(model, X):
    return np.concatenate([epistemic(model, X[i : i + 2]) for i in range(0, len(X), 2)], axis=1)


def backwards(model, X):
    return np.array(epistemic(model, X[::-1]))[:, ::-1]


def shuffled(model, X):
    order = np.random.default_rng(2).permutation(len(X))
    answers = np.empty((2, len(X)))
    answers[:, order] = epistemic(model, X[order])
    return answers


def repeated(model, X):
    return np.array(epistemic(model, np.repeat(X, 3, axis=0)))[:, 1::3]


def among_many(model, X):
    # More rows than are answered in one go, and more linearised ones than fit one chunk.
    n = 30 if model.variance == "network" else 1100
    others = np.random.default_rng(3).uniform(-1, 1, (n, 2))
    return np.array(epistemic(model, np.vstack([others, X])))[:, n:]


def from_the_covariance(model, X):
    mean, cov = model.predict(X, return_cov=True)
    return mean, np.sqrt(np.diag(cov) - model.noise_std_**2)


@contextmanager
def torch_threads(n):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(n)
        yield
    finally:
        torch.set_num_threads(before)


def in_two_threads(model, X):
    with torch_threads(2):
        return epistemic(model, X)


def by_two_workers(model, X):
    with parallel_config(backend="threading"):
        return epistemic(clone_with(model, n_jobs=2), X)


def clone_with(model, **params):
    """The same fit, asked with other parameters."""
    other = clone(model)
    vars(other).update(vars(model))
    return other.set_params(**params)


WAYS = [
    one_by_one, two_by_two, backwards, shuffled, repeated, among_many,
    from_the_covariance, in_two_threads, by_two_workers,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])
def test_a_rows_answer_does_not_depend_on_how_it_is_asked_for(model, queries, way):
    mean, std = epistemic(model, queries)
    other_mean, other_std = way(model, queries)
    assert_allclose(other_mean, mean, rtol=1e-12, atol=1e-12)
    assert_allclose(other_std, std, rtol=model.std_rtol)


def test_a_rows_verdict_does_not_depend_on_the_other_rows(model, queries):
    assert model.predict_uncertainty(queries).converged.all()
    assert all(model.predict_uncertainty(row[None]).converged.all() for row in queries)


def test_equal_seeds_give_equal_bits(model):
    again = clone(model).fit(*data()).predict(QUERIES, return_std=True)
    assert_array_equal(again, model.predict(QUERIES, return_std=True))


def test_the_global_generators_do_not_matter():
    answers = []
    for seed in (0, 1):
        np_state, torch_state = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        try:
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            answers.append(HFLRegressor(**KNOWN).fit(*data()).predict(QUERIES, return_std=True))
        finally:
            np.random.set_state(np_state)  # noqa: NPY002
            torch.set_rng_state(torch_state)
    assert_array_equal(answers[0], answers[1])


def test_processes_give_the_bits_of_one():
    params = {**KNOWN, "n_estimators": 2}
    alone, together = (HFLRegressor(**params, n_jobs=n).fit(*data()) for n in (None, 2))
    for ours, theirs in zip(
        together.predict(QUERIES, return_std=True),
        alone.predict(QUERIES, return_std=True),
        strict=True,
    ):
        assert_allclose(ours, theirs, rtol=1e-10)
    assert together.diagnostics_ == alone.diagnostics_


def test_the_number_of_threads_in_fit_does_not_matter():
    X, y = data()
    model = HFLRegressor(**{**KNOWN, "hidden_layer_sizes": (2,), "tol": 0.01})
    expected = model.fit(X, y).predict(QUERIES, return_std=True)
    with torch_threads(2):
        answers = model.fit(X, y).predict(QUERIES, return_std=True)
    for ours, theirs in zip(answers, expected, strict=True):
        assert_allclose(ours, theirs, rtol=1e-6)


SCALES = [1e-8, 1e8]
# The evidence's rounds end at a tolerance of 2 % in each precision: on the way, rounding
# moves the weights by some thousandths of a standard deviation. All else ends at an optimum.
PRECISIONS = {
    "known": ({}, 1e-6),
    "network": ({"variance": "network"}, 1e-6),
    "evidence": ({"prior_precision": "evidence", "noise_std": "evidence"}, 1e-2),
}
precisions = pytest.mark.parametrize(
    ("params", "rtol"), PRECISIONS.values(), ids=list(PRECISIONS)
)  # fmt: skip


def assert_equivalent(answers, expected, rtol):
    """Means to a share of the std, stds to a share of themselves."""
    (mean, std), (expected_mean, expected_std) = answers, expected
    assert (np.abs(mean - expected_mean) <= rtol * expected_std).all()
    assert_allclose(std, expected_std, rtol=rtol)


@precisions
@pytest.mark.parametrize("scale", SCALES)
def test_units_of_y_do_not_matter(params, rtol, scale):
    X, y = data()
    expected = fitted(**params).predict(QUERIES, return_std=True)
    model = HFLRegressor(**{**KNOWN, **params})
    if model.noise_std != "evidence":
        model.set_params(noise_std=scale * model.noise_std)
    mean, std = model.fit(X, scale * y).predict(QUERIES, return_std=True)
    assert_equivalent((mean / scale, std / scale), expected, rtol)


@precisions
@pytest.mark.parametrize("scale", SCALES)
def test_units_of_x_do_not_matter(params, rtol, scale):
    X, y = data()
    expected = fitted(**params).predict(QUERIES, return_std=True)
    model = HFLRegressor(**{**KNOWN, **params})
    answers = model.fit(scale * X, y).predict(scale * QUERIES, return_std=True)
    assert_equivalent(answers, expected, rtol)


@precisions
@pytest.mark.parametrize("scale", [1e-8])
def test_columns_may_have_units_of_their_own(params, rtol, scale):
    X, y = data()
    y = np.column_stack([y, -y + X[:, 0]])
    units = np.array([scale, 1 / scale])
    model = HFLRegressor(**{**KNOWN, **params})
    expected = model.fit(X, y).predict(QUERIES, return_std=True)
    if model.noise_std != "evidence":
        model.set_params(noise_std=units * model.noise_std)
    mean, std = model.fit(units * X, units * y).predict(units * QUERIES, return_std=True)
    assert_equivalent((mean / units, std / units), expected, rtol)


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_origins_of_x_and_y_do_not_matter(shift):
    X, y = data()
    expected = HFLRegressor(**KNOWN).fit(X, y).predict(QUERIES, return_std=True)
    model = HFLRegressor(**KNOWN).fit(X + shift, y + shift)
    mean, std = model.predict(QUERIES + shift, return_std=True)
    assert_equivalent((mean - shift, std), expected, rtol=1e-6)


def rows_of(n):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 5))
    return X, np.sin(2 * X[:, 0]) + 0.5 * X[:, 1] * X[:, 2] + 0.1 * rng.standard_normal(n)


@pytest.mark.parametrize("n_rows", [100, 250], ids=["fewer rows than half of the weights", "more"])
def test_the_order_of_rows_leaves_a_searched_fit_as_it_is(n_rows):
    """To rounding, through hundreds of steps: each is solved exactly."""
    X, y = rows_of(n_rows)
    order = np.random.default_rng(1).permutation(n_rows)
    model = HFLRegressor(hidden_layer_sizes=(30,), random_state=0)
    there, back = clone(model).fit(X, y), clone(model).fit(X[order], y[order])
    for ours, theirs in zip(
        there.predict(X, return_std=True), back.predict(X, return_std=True), strict=True
    ):
        assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("n_rows", "n_estimators", "atol"), [(90, 1, 1e-8), (100, 1, 1e-8), (80, 3, 1e-6)]
)
def test_a_row_of_weight_two_is_two_rows_to_a_searched_fit(n_rows, n_estimators, atol):
    """To rounding, which further members amplify: they come from far away to their MAPs."""
    X, y = rows_of(n_rows)
    weight = np.where(np.arange(n_rows) < 30, 2.0, 1.0)
    model = HFLRegressor(hidden_layer_sizes=(30,), n_estimators=n_estimators, random_state=0)
    weighted = clone(model).fit(X, y, sample_weight=weight)
    repeated = clone(model).fit(np.r_[X, X[:30]], np.r_[y, y[:30]])
    assert_allclose(weighted.predict(X), repeated.predict(X), rtol=0, atol=atol)

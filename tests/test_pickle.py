"""Copies: pickle, joblib, skops, deepcopy and clone keep predictions and error bars, bit by bit."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
import skops.io
from numpy.testing import assert_array_equal
from sklearn.base import clone
from torch import nn

import sklearn_hfl
from sklearn_hfl import HFLClassifier, HFLRegressor
from tests.regression import SMALL

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (40, 2))
Y = np.sin(3 * X[:, 0]) + X[:, 1] + 0.1 * RNG.standard_normal(40)


def perceptron(n_features, n_outputs):
    return nn.Sequential(nn.Linear(n_features, 4), nn.Tanh(), nn.Linear(4, n_outputs))


MODELS = {
    "linearized": {},
    "network": {"variance": "network"},
    "amortized": {"variance": "amortized"},
    "two members": {"n_estimators": 2},
    "module": {"module": perceptron},
    "float32": {"dtype": "float32", "std_rtol": 0.5},
    "log noise": {"likelihood": "heteroscedastic", "noise_std": "evidence"},
}


@pytest.fixture(scope="module", params=MODELS.values(), ids=list(MODELS))
def model(request):
    return HFLRegressor(**{**SMALL, **request.param}).fit(X, Y)


def by_joblib(model, folder):
    joblib.dump(model, folder / "model.joblib", compress=3)
    return joblib.load(folder / "model.joblib")


def by_skops(model, folder):
    skops.io.dump(model, folder / "model.skops")
    return skops.io.load(folder / "model.skops", trusted=untrusted(folder / "model.skops"))


def untrusted(path):
    """Types of the file that skops does not know: all of them are the package's own."""
    types = skops.io.get_untrusted_types(file=path)
    assert all(name.startswith("sklearn_hfl.") for name in types)
    return types


COPIES = {
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)),
    "oldest protocol": lambda model, _: pickle.loads(pickle.dumps(model, protocol=2)),
    "joblib": by_joblib,
    "deepcopy": lambda model, _: copy.deepcopy(model),
    "clone, fitted again": lambda model, _: clone(model).fit(X, Y),
}


def answers(model):
    result = model.predict_uncertainty(X[:6])
    return [
        result.mean, result.std, result.rel_error,
        model.predict(X[:6], return_cov=True)[1], model.sample_y(X[:6], 2),
    ]  # fmt: skip


@pytest.mark.parametrize("how", COPIES.values(), ids=list(COPIES))
def test_a_copy_answers_with_the_same_bits(model, how, tmp_path):
    copied = how(model, tmp_path)
    assert copied is not model
    for ours, theirs in zip(answers(copied), answers(model), strict=True):
        assert_array_equal(ours, theirs)
    assert copied.diagnostics_ == model.diagnostics_


def test_a_copy_can_be_fitted_anew(model):
    copied = pickle.loads(pickle.dumps(model)).fit(X[:30], Y[:30])
    fresh = clone(model).fit(X[:30], Y[:30])
    assert_array_equal(copied.predict(X), fresh.predict(X))


def test_asking_does_not_change_the_pickle(model):
    fresh = clone(model).fit(X, Y)
    before = pickle.dumps(fresh)
    names = set(vars(fresh))
    answers(fresh)
    repr(fresh)
    fresh._repr_html_()
    assert set(vars(fresh)) == names
    assert len(pickle.dumps(fresh)) == len(before)


def test_the_data_are_pickled_once(model):
    # As many copies of X as members would let the size grow with their number.
    size = len(pickle.dumps(model))
    weights = model.diagnostics_["n_weights"]
    arrays = 8 * (X.size + 2 * Y.size + 60 * weights + 4 * weights**2)
    assert size < 20_000 * model.n_estimators + arrays


# A module is code of its own, which skops does not load.
@pytest.mark.parametrize("name", [name for name in MODELS if name != "module"])
def test_skops_keeps_every_bit(name, tmp_path):
    model = HFLRegressor(**{**SMALL, **MODELS[name]}).fit(X, Y)
    for ours, theirs in zip(answers(by_skops(model, tmp_path)), answers(model), strict=True):
        assert_array_equal(ours, theirs)


def test_skops_loads_no_type_that_was_not_named(tmp_path):
    model = HFLRegressor(**SMALL).fit(X, Y)
    skops.io.dump(model, tmp_path / "model.skops")
    with pytest.raises(TypeError, match="HFLRegressor"):
        skops.io.load(tmp_path / "model.skops")


def test_skops_keeps_a_classifier(tmp_path):
    model = HFLClassifier(hidden_layer_sizes=(4,), prior_precision=1.0, random_state=0)
    model.fit(X, np.where(Y > 0, "high", "low"))
    copied = by_skops(model, tmp_path)
    for ours, theirs in zip(
        copied.predict_proba(X, return_std=True),
        model.predict_proba(X, return_std=True),
        strict=True,
    ):
        assert_array_equal(ours, theirs)
    assert_array_equal(copied.predict(X), model.predict(X))


def test_an_unfitted_model_can_be_copied():
    model = HFLRegressor(**SMALL)
    for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), clone(model)):
        assert copied.get_params() == model.get_params()
        assert_array_equal(copied.fit(X, Y).predict(X), clone(model).fit(X, Y).predict(X))


def test_clone_forgets_the_fit_and_keeps_the_parameters(model):
    copied = clone(model)
    assert copied.get_params() == model.get_params()
    assert vars(copied).keys() == copied.get_params().keys()


def test_a_copy_shares_no_weights():
    model = HFLRegressor(**SMALL).fit(X, Y)
    mean = model.predict(X)
    copied = copy.deepcopy(model)
    for weights in copied.module_.parameters():
        weights.data.zero_()
    for weights in copied.coefs_:
        weights[:] = 0
    assert_array_equal(model.predict(X), mean)


def test_another_process_reads_the_pickle_and_gives_the_same_bits(tmp_path):
    model = HFLRegressor(**SMALL).fit(X, Y)
    joblib.dump(model, tmp_path / "model.joblib")
    np.save(tmp_path / "X.npy", X[:6])
    script = (
        "import joblib, numpy as np\n"
        "model = joblib.load('model.joblib')\n"
        "np.save('answer.npy', model.predict(np.load('X.npy'), return_std=True))\n"
    )
    package = str(Path(sklearn_hfl.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": package}
    subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=tmp_path, env=environment, check=True
    )
    assert_array_equal(np.load(tmp_path / "answer.npy"), model.predict(X[:6], return_std=True))

"""Hygiene: import, fit and predict leave the process as they found it."""

from __future__ import annotations

import logging
import os
import pickle
import random
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

import sklearn_hfl
from sklearn_hfl import HFLRegressor
from sklearn_hfl.exceptions import HFLWarning

SMALL = {
    "hidden_layer_sizes": (4,),
    "n_estimators": 1,
    "prior_precision": 1.0,
    "noise_std": 0.2,
    "tol": 0.0,  # to the very MAP
    "random_state": 0,
}
RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (40, 2))
Y = np.sin(3 * X[:, 0]) + X[:, 1] + 0.1 * RNG.standard_normal(40)


def perceptron(n_features, n_outputs):
    return nn.Sequential(nn.Linear(n_features, 4), nn.Tanh(), nn.Linear(4, n_outputs))


MODELS = {
    "linearized": {},
    "network": {"variance": "network"},
    "amortized": {"variance": "amortized"},
    "evidence": {"prior_precision": "evidence", "noise_std": "evidence"},
    "module": {"module": perceptron},
    "adam": {"solver": "adam", "max_iter": 5},
    "lbfgs": {"solver": "lbfgs", "max_iter": 5},
    "verbose": {"verbose": True},
    "float32": {"dtype": "float32", "std_rtol": 0.5, "tol": 0.01},
    "two processes": {"n_estimators": 2, "n_jobs": 2},
    "two processes, network": {"n_estimators": 2, "n_jobs": 2, "variance": "network"},
}


def global_state():
    """What a library has no business to change, in comparable form."""
    loggers = {
        name: (logger.level, tuple(logger.handlers), logger.propagate, logger.disabled)
        for name, logger in [("", logging.root), *logging.root.manager.loggerDict.items()]
        if isinstance(logger, logging.Logger)
    }
    return {
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "torch's threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "gradient mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "determinism": torch.are_deterministic_algorithms_enabled(),
        "precision of products": torch.get_float32_matmul_precision(),
        "denormal numbers": float(torch.tensor([1e-310], dtype=torch.float64) * 1.0) > 0,
        "NumPy's random state": str(np.random.get_state()),  # noqa: NPY002
        "NumPy's error handling": np.geterr(),
        "NumPy's printing": np.get_printoptions(),
        "Python's random state": random.getstate(),
        "warning filters": list(warnings.filters),
        "warnings shown by": warnings.showwarning,
        "loggers": loggers,
        "scikit-learn's configuration": sklearn.get_config(),
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
        "recursion limit": sys.getrecursionlimit(),
        "exception hook": sys.excepthook,
        "standard streams": (sys.stdout, sys.stderr),
    }


def assert_unchanged(before):
    after = global_state()
    assert {name for name in before if after[name] != before[name]} == set()


def fit_and_ask(params):
    model = HFLRegressor(**{**SMALL, **params}).fit(X, Y)
    model.predict(X, return_std=True)
    model.predict(X[:5], return_cov=True)
    model.predict(X[:5], quantiles=[0.1, 0.9])
    model.predict_distribution(X[:5]).rvs(random_state=0)
    model.predict_uncertainty(X[:5])
    model.sample_y(X[:5], 3)
    model.predict_functional(X[:5])
    if model.variance != "amortized":
        model.loo_predict()
        model.influence(X[:5], top=2)
    model.predict_functional(X[:5], func=lambda f: f.logsumexp(0), return_cov=True)


@pytest.fixture(scope="module", autouse=True)
def _warm():
    """What torch and joblib set up on first use is theirs, not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for params in ({"n_estimators": 2, "n_jobs": 2}, {"solver": "adam", "max_iter": 2}):
            fit_and_ask(params)


@pytest.mark.filterwarnings("ignore:The MAP is not stationary")
@pytest.mark.parametrize("params", MODELS.values(), ids=list(MODELS))
def test_fit_and_predict_change_no_global_state(params):
    before = global_state()
    fit_and_ask(params)
    assert_unchanged(before)


def test_without_a_seed_the_global_generator_of_numpy_alone_is_used():
    before = global_state()
    fit_and_ask({"random_state": None})
    after = global_state()
    # As everywhere in scikit-learn, None is that generator.
    assert {name for name in before if after[name] != before[name]} == {"NumPy's random state"}


def test_a_failed_fit_changes_no_global_state():
    def factory(n_features, n_outputs):
        raise RuntimeError("the factory failed")

    before = global_state()
    with pytest.raises(RuntimeError, match="the factory failed"):
        HFLRegressor(**SMALL, module=factory).fit(X, Y)
    assert_unchanged(before)


def test_import_changes_no_global_state():
    # The dependencies are imported first: what they do is their own business.
    source = Path(__file__).read_text(encoding="utf-8")
    start, end = source.index("def global_state"), source.index("def assert_unchanged")
    script = (
        textwrap.dedent("""
        import logging, os, random, sys, warnings
        import joblib, numpy as np, scipy, sklearn, torch, torch.func, tqdm
        import sklearn.preprocessing, sklearn.utils.parallel
    """)
        + source[start:end]
        + textwrap.dedent("""
        before = global_state()
        import sklearn_hfl
        after = global_state()
        changed = {name for name in before if after[name] != before[name]}
        assert not changed, changed
    """)
    )
    result = run(script)
    assert result.returncode == 0, result.stderr
    assert result.stdout == result.stderr == ""


def test_a_perceptron_needs_no_compiler_of_torch():
    """Some of torch's functions import sympy when they are first called: two seconds or more."""
    script = """
        import sys
        from tests.test_hygiene import SMALL, X, Y, HFLRegressor
        assert "sympy" not in sys.modules
        for variance in ("linearized", "network", "amortized"):
            HFLRegressor(**SMALL, variance=variance).fit(X, Y).predict(X, return_std=True)
        assert "sympy" not in sys.modules
    """
    result = run(textwrap.dedent(script))
    assert result.returncode == 0, result.stderr


def run(script):
    """Run a script in a process of its own."""
    root = str(Path(sklearn_hfl.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )


# ------------------------------------------- and the user's state changes nothing

INSIDE = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "enable_grad": torch.enable_grad,
    "NumPy raising": lambda: np.errstate(all="raise"),
}


@pytest.mark.parametrize("params", [{}, {"variance": "network"}, {"module": perceptron}])
@pytest.mark.parametrize("inside", INSIDE.values(), ids=list(INSIDE))
def test_fit_and_predict_work_inside(inside, params):
    expected = HFLRegressor(**{**SMALL, **params}).fit(X, Y)
    with inside():
        model = HFLRegressor(**{**SMALL, **params}).fit(X, Y)
        answers = model.predict(X[:5], return_std=True)
        asked = expected.predict(X[:5], return_std=True)
    assert_array_equal(answers, expected.predict(X[:5], return_std=True))
    assert_array_equal(asked, expected.predict(X[:5], return_std=True))
    # What was fitted inside is of use outside.
    assert_array_equal(model.predict(X[:5], return_std=True), answers)
    assert model.module_(torch.tensor(X)).requires_grad


@pytest.mark.parametrize("params", MODELS.values(), ids=list(MODELS))
def test_torchs_default_device_does_not_matter(params):
    """A generator of the CPU draws nothing elsewhere; "meta" stands for a GPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HFLWarning)
        expected = HFLRegressor(**{**SMALL, **params}).fit(X, Y).predict(X, return_std=True)
        with torch.device("meta"):
            model = HFLRegressor(**{**SMALL, **params}).fit(X, Y)
            answers = model.predict(X, return_std=True)
            loaded = pickle.loads(pickle.dumps(model)).predict(X, return_std=True)
            assert torch.get_default_device().type == "meta"
    assert_array_equal(answers, expected)
    assert_array_equal(loaded, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("params", [{}, {"module": perceptron}], ids=["mlp", "module"])
def test_torchs_default_dtype_does_not_matter(dtype, params):
    expected = HFLRegressor(**{**SMALL, **params}).fit(X, Y).predict(X, return_std=True)
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        answers = HFLRegressor(**{**SMALL, **params}).fit(X, Y).predict(X, return_std=True)
    finally:
        torch.set_default_dtype(default)
    # A module's own starting weights are drawn in the default dtype.
    same = assert_array_equal if not params else lambda a, b: assert_allclose(a, b, atol=0.5)
    for ours, theirs in zip(answers, expected, strict=True):
        same(ours, theirs)


def test_threads_may_fit_side_by_side():
    expected = HFLRegressor(**SMALL).fit(X, Y).predict(X)
    answers = {}

    def work(i):
        answers[i] = HFLRegressor(**SMALL).fit(X, Y).predict(X)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 3
    for answer in answers.values():
        assert_array_equal(answer, expected)


def test_arguments_are_left_alone():
    inputs, targets, weight = X.copy(), Y.copy(), np.linspace(0, 2, 40)
    arrays = (inputs, targets, weight)
    copies = [a.copy() for a in arrays]
    for array in arrays:
        array.flags.writeable = False
    model = HFLRegressor(**SMALL, normalize_X=False, normalize_y=False)
    model.fit(inputs, targets, sample_weight=weight).predict(inputs, return_std=True)
    for array, before in zip(arrays, copies, strict=True):
        assert_array_equal(array, before)


def test_arguments_may_be_overwritten_after_fit():
    inputs, targets, weight = X.copy(), Y.copy(), np.linspace(0.1, 2, 40)
    model = HFLRegressor(**SMALL, normalize_X=False, normalize_y=False)
    model.fit(inputs, targets, sample_weight=weight)
    answers = model.predict(X, return_std=True)
    for array in (inputs, targets, weight):
        array[:] = np.nan
    for ours, theirs in zip(model.predict(X, return_std=True), answers, strict=True):
        assert_array_equal(ours, theirs)


def test_answers_may_be_overwritten():
    model = HFLRegressor(**SMALL).fit(X, Y)
    expected = [a.copy() for a in model.predict(X, return_std=True)]
    for array in model.predict(X, return_std=True):
        array[:] = np.nan
    for ours, theirs in zip(model.predict(X, return_std=True), expected, strict=True):
        assert_array_equal(ours, theirs)


SUBPACKAGES = """
    import sys
    import sklearn_hfl
    assert {"calibration", "metrics", "plotting"} <= set(dir(sklearn_hfl))
    for name in ("sklearn_hfl.metrics", "sklearn_hfl.plotting", "matplotlib"):
        assert name not in sys.modules, name
    assert sklearn_hfl.metrics.crps_gaussian.__name__ == "crps_gaussian"
    assert "HFLRegressor" in dir(sklearn_hfl)
    assert sklearn_hfl.calibration.__name__ == "sklearn_hfl.calibration"
    assert sklearn_hfl.plotting.CoverageDisplay
    assert "matplotlib" not in sys.modules
    try:
        sklearn_hfl.nothing
    except AttributeError as error:
        assert "'sklearn_hfl' has no attribute 'nothing'" in str(error)
    else:
        raise AssertionError
"""


def test_subpackages_come_when_they_are_asked_for():
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SUBPACKAGES)],
        env={**os.environ, "PYTHONPATH": str(Path(sklearn_hfl.__file__).parents[1])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr

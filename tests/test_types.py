"""Types: mypy knows what each keyword of predict returns, and finds a user's mistakes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# As for a user whose other libraries have no types; torch's own would take most of the time.
CONFIG = """
    [mypy]
    strict = True
    [mypy-sklearn_hfl.*]
    follow_imports = silent
    [mypy-joblib.*,scipy.*,sklearn.*,torch.*,tqdm.*]
    follow_imports = skip
    ignore_missing_imports = True
"""
START = """
    import numpy as np
    from numpy.typing import NDArray
    from sklearn_hfl import HFLClassifier, HFLRegressor

    Array = NDArray[np.float64]
    X: Array = np.zeros((20, 2))
    model = HFLRegressor(random_state=0).fit(X, X[:, 0])
    classifier = HFLClassifier(random_state=0).fit(X, X[:, 0] > 0)
"""
RIGHT = """
    mean: Array = model.predict(X)
    mean = model.predict(X, return_std=False)
    mean, std = model.predict(X, return_std=True)
    mean, std = model.predict(X, True)
    mean, std = model.predict(X, return_std="epistemic", return_cov=False)
    mean, cov = model.predict(X, return_cov=True)
    mean, interval = model.predict(X, return_interval=0.9)
    mean, interval = model.predict(X, return_interval=[0.5, 0.9], interval_kind="conformal")
    quantiles: Array = model.predict(X, quantiles=[0.05, 0.5, 0.95])
    quantiles = model.predict(X, quantiles=np.array([0.05, 0.95]))
    mean, interval = model.predict_interval(X, np.array([0.5, 0.9]))
    proba: Array = classifier.predict_proba(X)
    proba, std = classifier.predict_proba(X, return_std=True)
    proba, std = classifier.predict_proba(X, "delta")
    labels = classifier.predict(X)
    first = labels[0]
    labels, std = classifier.predict(X, return_std=True)
    HFLRegressor(variance="network", prior_precision=1.0, noise_std=[0.1, 0.2], dtype="float32")
    HFLClassifier(link_approx="probit", class_weight={0: 2.0}, batch_size=32, solver="adam")


    def either(flag: bool) -> Array | tuple[Array, Array]:
        return model.predict(X, return_std=flag)


    def either_of_classes(flag: bool) -> Array | tuple[Array, Array]:
        return classifier.predict_proba(X, return_std=flag)
"""
WRONG = """
    model.predict(X, return_std="epistemc")
    half_width = 1.64 * model.predict(X, return_interval=0.9)
    mean, quantiles, rest = model.predict(X, return_std=True)
"""
WRONG_CLASSIFIER = """
    classifier.predict_proba(X, return_std="epistemic")
    most_probable = classifier.predict_proba(X, return_std=True).argmax(1)
    classifier.predict(X, return_std=True)[2]
"""
WRONG_OPTIONS = """
    HFLRegressor(variance="linearised")
    HFLClassifier(solver="newton")
    model.loo_predict(method="refits")
"""
MORE_THAN_ONE = """
    model.predict(X, return_std=True, return_cov=True)
    model.predict(X, return_interval=0.9, quantiles=[0.5])
    model.predict(X, interval_kind="profile")
"""


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """Lines of a script, below its start, that mypy finds wrong."""
    folder = tmp_path_factory.mktemp("mypy")
    (folder / "mypy.ini").write_text(textwrap.dedent(CONFIG), encoding="utf-8")

    def check(script):
        start, lines = textwrap.dedent(START), textwrap.dedent(script).strip().splitlines()
        (folder / "user.py").write_text(start + "\n".join(lines) + "\n", encoding="utf-8")
        result = subprocess.run(
            [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "user.py"],
            cwd=folder, env={**os.environ, "MYPYPATH": str(ROOT)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert not result.stderr
        assert result.returncode in (0, 1), result.stdout
        found = re.findall(r"^user.py:(\d+): error:", result.stdout, re.MULTILINE)
        first = start.count("\n")
        return [lines[int(number) - 1 - first] for number in found]

    return check


def test_each_use_of_predict_has_its_type(errors):
    assert errors(RIGHT) == []


@pytest.mark.parametrize(
    "script",
    [WRONG, WRONG_CLASSIFIER, WRONG_OPTIONS, MORE_THAN_ONE],
    ids=["mistakes", "of classes", "options", "more than one"],
)
def test_three_mistakes_are_three_errors(errors, script):
    assert errors(script) == textwrap.dedent(script).strip().splitlines()

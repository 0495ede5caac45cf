"""Documents: the Python of README.md, the ten minutes and the user guide runs as it stands."""

from __future__ import annotations

import re
import warnings
from functools import cache
from pathlib import Path

import pytest
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPRegressor
from torch import nn

from sklearn_hfl import HFLRegressor, HFLWarning

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = ("README.md", "docs/start.md", "docs/user_guide.md")


@cache
def given():
    """What a reader has at hand where a page speaks of it."""
    X, y = load_diabetes(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X[:120], y[:120], random_state=0)
    mlp = MLPRegressor(hidden_layer_sizes=(5,), solver="lbfgs", max_iter=20, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = HFLRegressor(hidden_layer_sizes=(5,), random_state=0).fit(X_train, y_train)
        mlp.fit(X_train, y_train)
    return {
        "model": model, "X": X, "y": y, "X_train": X_train, "y_train": y_train,
        "X_calibration": X_test[:20], "y_calibration": y_test[:20], "X_test": X_test,
        "fitted_mlp": mlp,
        "trained_module": nn.Sequential(nn.Linear(10, 3), nn.Tanh(), nn.Linear(3, 1)),
        "HFLRegressor": HFLRegressor,
    }  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    assert blocks
    monkeypatch.chdir(tmp_path)
    # Blocks follow each other in one session. Networks taken over half-trained warn.
    session = dict(given())
    for number, block in enumerate(blocks):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HFLWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="skops")
            exec(compile(block, f"{page}, block {number}", "exec"), session)

"""Run the Python of the documents as a reader would: the blocks of a page follow each other.

With a plain install, so without the blocks that say that they need more.
"""

from __future__ import annotations

import warnings
from collections.abc import Set
from concurrent.futures import ProcessPoolExecutor
from functools import cache

from blocks import blocks, execute, pages
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPRegressor
from torch import nn

from sklearn_hfl import HFLRegressor, HFLWarning


@cache
def given() -> dict[str, object]:
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
        "y_test": y_test,
        "X_fit": X_train, "y_fit": y_train, "X_new": X_test,
        "fitted_mlp": mlp,
        "trained_module": nn.Sequential(nn.Linear(10, 3), nn.Tanh(), nn.Linear(3, 1)),
        "HFLRegressor": HFLRegressor,
    }  # fmt: skip


def run(page: str, having: Set[str] = frozenset()) -> None:
    """Run the blocks of a page that need no more than ``having``, extras and packages."""
    # Networks taken over half-trained warn.
    execute((b for b in blocks(page) if b.needs <= having), given(), HFLWarning)


def report(page: str) -> str:
    """Run a page, and say how many of its blocks that were."""
    run(page)
    needs = [block.needs for block in blocks(page)]
    left_out = ", ".join(sorted(set().union(*needs)))
    return (f"{page}: {sum(not n for n in needs)} of {len(needs)} blocks run"
            f"{left_out and ', without those for ' + left_out}")  # fmt: skip


if __name__ == "__main__":
    with ProcessPoolExecutor() as pool:
        print(*pool.map(report, pages()), sep="\n")

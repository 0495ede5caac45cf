"""Tasks of fit.py: the data of each, and who fits them.

A task is made in the process that fits it, so that none holds the data of another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from problems import TEST_ROWS, Problem, classes
from scale import N_QUERIES, drawn, memory_map, smooth
from sklearn.datasets import make_classification, make_friedman1, make_regression

__all__ = [
    "FEATURES", "FITS", "GROWTH", "MAX_GP_ROWS", "ROWS", "TEACHER", "Task", "growth_name",
    "mapped",
]  # fmt: skip

# The network, its noise and the SD of its outputs are 1×50, 0.3 and 1.
TEACHER_UNITS, TEACHER_NOISE, TEACHER_FEATURES = 50, 0.3, 9


@dataclass(frozen=True)
class Task:
    """Data to fit.

    Parameters
    ----------
    make : callable
        (folder of the UCI sets, empty folder) -> Problem, whose parameters are this checkout's.
    who : tuple of str
        Keys of ``fit.METHODS``.
    old : mapping
        Parameters for the old commit, whose names and defaults differ.
    """

    make: Callable[[Path, Path], Problem]
    who: tuple[str, ...]
    old: Mapping[str, object] = field(default_factory=dict)


# ---------------------------------------------------------------- data


def uci(name: str, folder: Path, scratch: Path) -> Problem:
    """The first standard split."""
    data = np.load(folder / f"{name}.npz")
    X, y, test = data["X"], data["y"].ravel(), data["test_mask_standard"][0]
    return Problem(name, X[~test], y[~test], X[test], y[test], {})


def toy(name: str, folder: Path, scratch: Path) -> Problem:
    """The first of five folds."""
    return next(problem for problem in classes() if problem.name == name)


def friedman(n: int, n_features: int, folder: Path, scratch: Path) -> Problem:
    size = n + TEST_ROWS
    X, y = make_friedman1(size, n_features, noise=1.0, random_state=0)
    _, truth = make_friedman1(size, n_features, noise=0.0, random_state=0)
    return Problem("Friedman 1", X[:n], y[:n], X[n:], y[n:], {}, truth[n:])


def waves(n: int, n_features: int, folder: Path, scratch: Path, **params: object) -> Problem:
    """The rows of scale.py."""
    X, y = drawn(n, n_features, seed=0)
    X_test, y_test = drawn(N_QUERIES, n_features, seed=1)
    return Problem("waves", X, y, X_test, y_test, params, smooth(X_test))


def wide(n: int, n_features: int, folder: Path, scratch: Path) -> Problem:
    """A linear signal in ten of many features; the noise has about a third of its SD."""
    X, y = make_regression(n + TEST_ROWS, n_features, n_informative=10, noise=60.0, random_state=0)
    return Problem("wide", X[:n], y[:n], X[n:], y[n:], {})


def five_classes(n: int, n_features: int, folder: Path, scratch: Path) -> Problem:
    X, y = make_classification(
        n + TEST_ROWS, n_features, n_informative=10, n_classes=5, class_sep=1.0, flip_y=0.02,
        random_state=0,
    )  # fmt: skip
    return Problem("five classes", X[:n], y[:n], X[n:], y[n:], {})


def mapped(n: int, folder: Path, scratch: Path) -> Problem:
    X, y = memory_map(scratch / "X.npy", n)
    X_test, y_test = drawn(N_QUERIES, 10, seed=1)
    return Problem("mapped", X, y, X_test, y_test, {"variance": "amortized"}, smooth(X_test))


def taught(n: int, folder: Path, scratch: Path) -> Problem:
    """Rows drawn from a network of the shape that is fitted."""
    rng = np.random.default_rng(0)
    W = 1.5 * rng.standard_normal((TEACHER_FEATURES, TEACHER_UNITS)) / TEACHER_FEATURES**0.5
    b, v = rng.standard_normal(TEACHER_UNITS), rng.standard_normal(TEACHER_UNITS)
    X = rng.standard_normal((n + N_QUERIES, TEACHER_FEATURES))
    f = np.empty(len(X))
    for block in np.array_split(np.arange(len(X)), 1 + len(X) // 100_000):
        f[block] = np.tanh(X[block] @ W + b) @ v
    f = (f - f.mean()) / f.std()
    y = f + TEACHER_NOISE * rng.standard_normal(len(f))
    return Problem("teacher", X[:n], y[:n], X[n:], y[n:], {}, f[n:])


# ---------------------------------------------------------------- tasks

ONE = "old", "new", "mlp", "boosting"
MEMBERS = (*ONE, "default")
# lbfgs and adam, which classifier.py uses, take very different times: both are shown.
CLASSES = (*ONE, "mlp-adam")
OLD_ADAM = {"variance": "pretrained", "solver": "adam", "max_iter": 2}

FITS = {
    "iris, 120 × 4": Task(partial(toy, "iris"), CLASSES),
    "yacht, 277 × 6": Task(partial(uci, "yacht"), (*MEMBERS, "gp")),
    "concrete, 927 × 8": Task(partial(uci, "concrete"), (*MEMBERS, "gp")),
    "kin8nm, 7 373 × 8": Task(partial(uci, "kin8nm"), MEMBERS),
    "Friedman 1, 20 000 × 20": Task(partial(friedman, 20_000, 20), MEMBERS),
    "waves, 41 000 × 9": Task(partial(waves, 41_000, 9), ONE),
    # A GP with a length scale for each of 1000 features is not a peer that anybody would use.
    "linear, 500 × 1000": Task(partial(wide, 500, 1000), (*ONE, "ridge")),
    "digits, 1 437 × 64": Task(partial(toy, "digits"), CLASSES),
    "5 classes, 2 000 × 20": Task(partial(five_classes, 2000, 20), ONE),
    "5 classes, 20 000 × 30": Task(partial(five_classes, 20_000, 30), ONE),
    "Friedman 1, 100 000 × 10": Task(partial(friedman, 100_000, 10), ONE),
    "2 000 000 × 10, memory map": Task(
        partial(mapped, 2_000_000), ("old", "new", "boosting"), OLD_ADAM
    ),
    "relu, 333 × 14": Task(partial(waves, 333, 14, activation="relu"), ("old", "new")),
    "tanh, 333 × 14": Task(partial(waves, 333, 14), (*ONE, "gp")),
}


def growth_name(n: int, n_features: int) -> str:
    return f"growth, {n} × {n_features}"


ROWS = 100, 300, 1000, 3000, 10_000, 30_000, 100_000
FEATURES = 10, 30, 100, 300, 1000
MAX_GP_ROWS = 3000
GROWTH = {
    growth_name(n, 10): Task(
        partial(friedman, n, 10),
        ("new", "default", "one-mlp", "boosting") + ("gp",) * (n <= MAX_GP_ROWS),
    )
    for n in ROWS
} | {growth_name(1000, d): Task(partial(friedman, 1000, d), ("new",)) for d in FEATURES if d != 10}

# The old commit as its own scale.py fitted so many rows: adam, with as many passes.
TEACHER = {
    "teacher, 41 000 rows": Task(
        partial(taught, 41_000), ("old", "new", "default"), {"solver": "adam", "max_iter": 30}
    ),
    "teacher, 1 000 000 rows": Task(
        partial(taught, 1_000_000), ("old", "new", "default"), OLD_ADAM
    ),
}

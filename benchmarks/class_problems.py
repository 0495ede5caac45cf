"""Classes that classifier.py chooses defaults by: none of them is in its quality table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from problems import Problem, split
from sklearn import datasets

__all__ = ["other_data"]

TEST_ROWS = 1000
# Rows, features, informative ones, classes, share of wrong labels, separation.
SHAPES = [
    (150, 4, 4, 3, 0.0, 2.0),
    (180, 13, 8, 3, 0.0, 1.5),
    (500, 30, 10, 2, 0.02, 1.2),
    (400, 30, 20, 6, 0.0, 2.0),
    (300, 10, 5, 2, 0.1, 0.8),
]
N_RANDOM_SHAPES = 16
QUANTILES = (("concrete", 3), ("energy", 4), ("yacht", 3), ("wine", 2), ("power", 2))


def other_data(folder: Path) -> Iterator[Problem]:
    """Synthetic classes, and targets of the UCI sets in ``folder`` cut at their quantiles."""
    for seed, (n, d, informative, k, flip, separation) in enumerate(SHAPES):
        yield synthetic(n, d, informative, k, flip, separation, 1 if k > 2 else 2, seed)
    rng = np.random.default_rng(1)
    for seed in range(100, 100 + N_RANDOM_SHAPES):
        yield of_random_shape(rng, seed)
    for n, noise, seed in ((200, 0.2, 0), (300, 0.1, 1), (300, 0.3, 2), (300, 0.4, 3)):
        X, y = datasets.make_moons(n + TEST_ROWS, noise=noise, random_state=seed)
        yield split(f"moons, noise {noise}", X, y, n)
    X, y = datasets.make_circles(200 + TEST_ROWS, noise=0.15, factor=0.5, random_state=0)
    yield split("circles", X, y, 200)
    X, y = datasets.make_blobs(
        150 + TEST_ROWS, centers=4, n_features=5, cluster_std=2.5, random_state=1
    )
    yield split("blobs", X, y, 150)
    X = rng.normal(size=(400 + TEST_ROWS, 2))
    y = ((X[:, 0] * X[:, 1] > 0) ^ (rng.random(len(X)) < 0.15)).astype(int)
    yield split("xor, noisy", X, y, 400)
    X = rng.normal(size=(200 + TEST_ROWS, 5))
    yield split("no signal", X, rng.integers(0, 3, len(X)), 200)
    y = (X[:, 0] + rng.logistic(size=len(X)) > 0).astype(int)
    yield split("logistic", X, y, 200)
    for name, k in QUANTILES:
        if (folder / f"{name}.npz").exists():
            yield cut_at_quantiles(folder / f"{name}.npz", k)


def synthetic(
    n: int,
    d: int,
    informative: int,
    k: int,
    flip: float,
    separation: float,
    clusters: int,
    seed: int,
) -> Problem:
    X, y = datasets.make_classification(
        n + TEST_ROWS, d, n_informative=informative, n_redundant=min(2, d - informative),
        n_classes=k, flip_y=flip, class_sep=separation, n_clusters_per_class=clusters,
        random_state=seed,
    )  # fmt: skip
    return split(f"synthetic {seed}", X, y, n)


def of_random_shape(rng: np.random.Generator, seed: int) -> Problem:
    """From few rows of noisy labels to many of clean ones."""
    n, d, k = (int(rng.choice(some)) for some in ((60, 120, 250, 500), (3, 6, 12, 25), (2, 3, 4)))
    informative = max(2, min(d, int(rng.choice([2, 4, 8]))))
    while 2**informative < 2 * k:  # room for two clusters of each class
        informative += 1
    flip, separation = float(rng.choice([0.0, 0.05, 0.2])), float(rng.choice([0.5, 1.0, 2.0]))
    clusters = int(rng.choice([1, 2]))
    return synthetic(n, max(d, informative), informative, k, flip, separation, clusters, seed)


def cut_at_quantiles(file: Path, k: int) -> Problem:
    """Training rows of the first split; the quantile of the target is the class."""
    data = np.load(file)
    rows = np.flatnonzero(~data["test_mask_standard"][0])
    rows = np.random.default_rng(0).permutation(rows)
    X, y = data["X"][rows], data["y"][rows].ravel()
    y = np.digitize(y, np.quantile(y, np.arange(1, k) / k), right=True)
    n = min(400, 2 * len(X) // 3)
    return split(f"{file.stem} in {k}", X[: n + 1500], y[: n + 1500], n)

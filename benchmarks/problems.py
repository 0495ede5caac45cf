"""Problems to fit: synthetic, real training rows split again, and scikit-learn's classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sklearn.datasets
from sklearn.datasets import make_circles, make_moons
from sklearn.model_selection import StratifiedKFold

from sklearn_hfl import HFLClassifier, HFLRegressor

Array = np.ndarray
TEST_ROWS = 2000
SIZES = (5, 20, 50), (100, 400, 1600), ("linear", "additive", "interaction")
# Noise in SDs of the signal, and for classes the SD of the logits.
NOISE_STD = 0.1, 0.7, 3.0
LOGIT_STD = 6.0, 2.0, 0.5
KINDS = "2 classes", "4 classes", "gaussian", "heteroscedastic"


@dataclass(frozen=True)
class Problem:
    """Training and test samples.

    Parameters
    ----------
    name : str
        Label.
    X, y, X_test, y_test : ndarray
        Data.
    params : dict
        Parameters of the estimator that are not the defaults.
    truth : ndarray
        The function without noise at ``X_test``, where it is known.
    """

    name: str
    X: Array
    y: Array
    X_test: Array
    y_test: Array
    params: dict[str, object]
    truth: Array | None = None

    @property
    def classes(self) -> bool:
        return self.y.dtype.kind == "i"

    def model(self, **changes: object) -> HFLClassifier | HFLRegressor:
        estimator = HFLClassifier if self.classes else HFLRegressor
        return estimator(**{"n_estimators": 1, "random_state": 0, **self.params, **changes})


# ---------------------------------------------------------------- synthetic problems


def grid() -> Iterator[Problem]:
    """Fifteen problems of each kind: two Latin squares of size, rows, form and noise."""
    for k, kind in enumerate(KINDS):
        for j in range(15):
            a, b, shift = j % 3, (j // 3) % 3, j // 9 + k
            levels = a, b, (a + b + shift) % 3, (a + 2 * b + shift) % 3
            yield made_up(kind, *levels, dummies=(j + k) % 2 == 1, seed=100 * k + j)


def made_up(kind: str, a: int, b: int, form: int, noise: int, dummies: bool, seed: int) -> Problem:
    random = np.random.RandomState(seed)
    d, n, form_name = SIZES[0][a], SIZES[1][b], SIZES[2][form]
    X = random.randn(n + TEST_ROWS, d)
    if dummies:
        columns = np.arange(d) % 2 == 1
        X[:, columns] = X[:, columns] > random.uniform(-1, 1, columns.sum())
    n_signals = {"2 classes": 1, "4 classes": 4}.get(kind, 1)
    signal = np.column_stack([_signal(X, form_name, random) for _ in range(n_signals)])
    name = f"{kind}, {d} features, {n} rows, {form_name}"
    name += ", dummies" if dummies else ""
    params: dict[str, object] = {}
    if kind.endswith("classes"):
        logits = LOGIT_STD[noise] * signal
        if n_signals == 1:
            logits = np.column_stack([np.zeros(len(X)), logits])
        y = (logits + random.gumbel(size=logits.shape)).argmax(1)
        name += f", logits {LOGIT_STD[noise]:g}"
    else:
        varies = kind == "heteroscedastic" and seed % 2 == 1
        log_std = X[:, 0] - X[:, 0].mean() if varies else np.zeros(len(X))
        y = signal[:, 0] + NOISE_STD[noise] * np.exp(0.7 * log_std) * random.randn(len(X))
        name += f", noise {NOISE_STD[noise]:g}" + (" varies" if varies else "")
        params["likelihood"] = kind
    return Problem(name, X[:n], y[:n], X[n:], y[n:], params)


def _signal(X: Array, form: str, random: np.random.RandomState) -> Array:
    """Three to five relevant features; unit SD."""
    used = random.permutation(X.shape[1])[:4]
    Z = (X[:, used] - X[:, used].mean(0)) / X[:, used].std(0)
    weights = random.uniform(0.5, 1.5, 4) * random.choice([-1, 1], 4)
    if form == "linear":
        f = Z @ weights
    elif form == "additive":
        f = np.sin(1.5 * Z) @ weights + 0.5 * Z[:, 0] ** 2
    else:
        f = Z @ (0.5 * weights) + Z[:, 0] * Z[:, 1] + np.tanh(2 * Z[:, 2]) * Z[:, 3]
    return (f - f.mean()) / f.std()


def shapes() -> Iterator[Problem]:
    """Shapes that no linear model learns, and cases known to go wrong."""
    for name, make in (("moons", make_moons), ("circles", make_circles)):
        noise = {"noise": 0.2} if name == "moons" else {"noise": 0.1, "factor": 0.5}
        X, y = make(200 + TEST_ROWS, random_state=0, **noise)
        yield split(name, X, y, 200)
    random = np.random.RandomState(0)
    X = random.uniform(-2, 2, (300 + TEST_ROWS, 2))
    radius = np.hypot(*X.T) + 0.05 * random.randn(len(X))
    yield split("rings", X, np.digitize(radius, [0.7, 1.3, 1.9]), 300)
    X = random.randn(200 + TEST_ROWS, 2)
    flip = random.uniform(size=len(X)) < 0.05
    yield split("XOR", X, ((X.prod(1) > 0) ^ flip).astype(int), 200)
    X = random.uniform(-3, 3, (60 + TEST_ROWS, 1))
    yield split("sine", X, np.sin(2 * X[:, 0]) + 0.1 * random.randn(len(X)), 60)
    for seed in range(4):
        random = np.random.RandomState(seed)
        X = random.randn(400 + TEST_ROWS, 20)
        y = X[:, :3] @ [1.0, -1.0, 0.5] / 1.5 + 0.7 * random.randn(len(X))
        yield split(f"constant noise {seed}", X, y, 400, likelihood="heteroscedastic")
    random = np.random.RandomState(0)
    for classes, n in ((4, 600), (2, 400)):
        X = random.randn(n + TEST_ROWS, 20)
        logits = X[:, :5] @ random.randn(5, classes) * (0.5 if classes == 4 else 0.7)
        y = (logits + random.gumbel(size=logits.shape)).argmax(1)
        yield split(f"noisy, {classes} classes", X, y, n)


# Of one feature, and log odds of the first features.
FUNCTIONS = {
    "sine": lambda x: np.sin(1.5 * x),
    "absolute value": lambda x: np.abs(x) - 1,
    "quadratic": lambda x: 0.3 * x**2 - 1,
    "step": lambda x: (x > 0).astype(float),
    "S-shape": lambda x: np.tanh(2 * x),
    "waves on a line": lambda x: 0.3 * x + 0.3 * np.cos(2 * x),
    "line": lambda x: 0.5 * x,
    "nothing": np.zeros_like,
}
LOG_ODDS = {
    "product, 2 classes": lambda X: 2 * X[:, 0] * X[:, 1],
    "absolute value, 2 classes": lambda X: 2 * np.abs(X[:, 0]) - 1.5,
    "ellipse, 2 classes": lambda X: X[:, :2].sum(1) + X[:, 0] ** 2 - 1,
    "line, 2 classes": lambda X: 1.5 * X[:, 0] - 1,
}


def few_rows(n_draws: int) -> Iterator[Problem]:
    """Functions of 15 to 80 rows, and classes of 40 to 250, with both activations."""
    for i, (name, function) in enumerate(FUNCTIONS.items()):
        for j in range(n_draws):
            random, n = np.random.RandomState(1000 * i + j), (15, 25, 40, 80)[j % 4]
            x = random.uniform(-3, 3, (n + TEST_ROWS, 1))
            y = function(x[:, 0]) + (0.3, 1.0)[j // 4 % 2] * random.randn(len(x))
            yield split(name, x, y, n, activation=("tanh", "relu")[(i + j) % 2])
    for i, (name, log_odds) in enumerate(LOG_ODDS.items()):
        for j in range(n_draws):
            random, n = np.random.RandomState(9000 + 1000 * i + j), (40, 80, 150, 250)[j % 4]
            X = random.randn(n + TEST_ROWS, (2, 4, 8)[j // 4 % 3])
            y = (random.logistic(size=len(X)) < log_odds(X)).astype(int)
            yield split(name, X, y, n, activation=("tanh", "relu")[(i + j) % 2])


def split(name: str, X: Array, y: Array, n: int, **params: object) -> Problem:
    """The first n rows, and the others for testing."""
    return Problem(name, X[:n], y[:n], X[n:], y[n:], params)


# ---------------------------------------------------------------- training rows split again

UCI = "yacht", "energy", "concrete", "wine", "power", "kin8nm"


def inner(folder: Path, n_splits: int) -> Iterator[Problem]:
    """Rows of the first splits that are not for testing, split at random and with a gap."""
    for name in UCI:
        data = np.load(folder / f"{name}.npz")
        # The two large ones take a minute a fit.
        for split in range(n_splits if len(data["y"]) < 3000 else 1):
            mine = ~data["test_mask_standard"][split]
            X, y = data["X"][mine], data["y"].ravel()[mine]
            rows = np.random.RandomState(split).permutation(len(y))
            by_feature = np.argsort(X[:, split % X.shape[1]], kind="stable")
            cut = {
                "standard": rows[: len(y) // 10],
                "gap": by_feature[len(y) // 3 : 2 * len(y) // 3],
            }
            for family, test in cut.items():
                train = np.setdiff1d(np.arange(len(y)), test)
                yield Problem(f"{name} {family}", X[train], y[train], X[test], y[test], {})


def classes() -> Iterator[Problem]:
    """Five folds of scikit-learn's classification data."""
    for name in ("iris", "wine", "breast_cancer", "digits"):
        X, y = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
        for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(X, y):
            yield Problem(name, X[train], y[train], X[test], y[test], {})

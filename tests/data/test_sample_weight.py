"""Weights: a warning where they are no counts, and silence where they can be."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, make_moons
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    BaggingRegressor,
    StackingRegressor,
    VotingRegressor,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import RANSACRegressor
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neural_network import MLPRegressor
from torch import nn

from sklearn_hfl import HFLClassifier, HFLRegressor, HFLWarning

SMALL = {"hidden_layer_sizes": (5,), "n_estimators": 1, "random_state": 0}
X, Y = load_diabetes(return_X_y=True)
X, Y = X[:120], Y[:120]
MOONS, LABELS = make_moons(100, noise=0.2, random_state=0)
RNG = np.random.default_rng(0)
ODD = RNG.uniform(0.5, 1.5, 120)

# Ways in: what each fits with weights (n,), for 100 rows or 120.
WAYS = {
    "regressor": (120, lambda w: HFLRegressor(**SMALL).fit(X, Y, w)),
    "classifier": (100, lambda w: HFLClassifier(**SMALL).fit(MOONS, LABELS, w)),
    "from_mlp": (120, lambda w: HFLRegressor.from_mlp(perceptron(), X, Y, sample_weight=w)),
    "from_torch": (
        120,
        lambda w: HFLRegressor.from_torch(nn.Linear(10, 1), X, Y, sample_weight=w, polish=True),
    ),
}


def perceptron():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return MLPRegressor(hidden_layer_sizes=3, solver="lbfgs", max_iter=5, random_state=0).fit(
            X, Y
        )


def texts(call):
    """The package's warnings about weights that a call raises."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    found = [w for w in caught if issubclass(w.category, HFLWarning)]
    return [str(w.message) for w in found if "rows count as" in str(w.message)]


@pytest.mark.parametrize("way", WAYS)
def test_weights_that_sum_to_one_warn(way):
    n, fit = WAYS[way]
    (text,) = texts(lambda: fit(np.full(n, 1 / n)))
    assert f"{n} rows count as 1:" in text
    assert "sample_weight * len(sample_weight) / sample_weight.sum()" in text


def test_following_the_advice_gives_the_unweighted_fit():
    sample_weight = np.full(120, 1 / 120)
    weight = sample_weight * len(sample_weight) / sample_weight.sum()
    with pytest.warns(HFLWarning, match="120 rows count as 1"):
        alone = HFLRegressor(**SMALL).fit(X, Y, sample_weight)
    assert alone.score(X, Y) < 0.05  # the prior's constant
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = HFLRegressor(**SMALL).fit(X, Y, weight)
    assert model.score(X, Y) > 0.45  # that of least squares is 0.48
    assert model.score(X, Y) == pytest.approx(HFLRegressor(**SMALL).fit(X, Y).score(X, Y), rel=1e-6)


WEIGHTS = {
    "ones": (np.ones(120), False),
    "counts of 50": (np.full(120, 50.0), False),
    "few counts": (np.arange(120) % 40 == 0, False),
    "importance": (ODD, False),
    "fading": (np.exp(-np.arange(120) / 30), False),
    "a tenth": (np.full(120, 0.11), False),
    "rare rows": (np.where(np.arange(120) < 3, 0.5, 0.0), True),
    "sum to one": (ODD / ODD.sum(), True),
    "less than a tenth": (0.09 * ODD, True),
    "a population": (50.0 * ODD, True),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_only_weights_that_are_no_counts_warn(name):
    weight, warns = WEIGHTS[name]
    assert bool(texts(lambda: HFLRegressor(**SMALL, max_iter=1).fit(X, Y, weight))) is warns
    rescaled = weight * len(weight) / weight.sum()
    assert not texts(lambda: HFLRegressor(**SMALL, max_iter=1).fit(X, Y, rescaled))


def test_class_weights_count_too():
    def fit(**params):
        return lambda: HFLClassifier(**SMALL, max_iter=1, **params).fit(MOONS, LABELS)

    (text,) = texts(fit(class_weight={0: 0.01, 1: 0.02}))
    assert "sample_weight times class_weight" in text
    assert "100 rows count as 1.5" in text
    assert not texts(fit(class_weight="balanced"))
    assert not texts(fit(class_weight={0: 1.0, 1: 5.0}))


class Rescaled(HFLClassifier):
    """What the user guide offers for AdaBoostClassifier."""

    def fit(self, X, y, sample_weight=None):
        if sample_weight is not None:
            sample_weight = sample_weight * len(sample_weight) / sample_weight.sum()
        return super().fit(X, y, sample_weight)


def test_adaboost_needs_weights_rescaled():
    boosted = AdaBoostClassifier(HFLClassifier(**SMALL), n_estimators=2, random_state=0)
    rows = np.arange(100)[np.argsort(LABELS, kind="stable")][:80]  # a constant is then not chance
    assert texts(lambda: boosted.fit(MOONS[rows], LABELS[rows]))
    boosted = AdaBoostClassifier(Rescaled(**SMALL), n_estimators=2, random_state=0)
    assert not texts(lambda: boosted.fit(MOONS, LABELS))
    assert boosted.score(MOONS, LABELS) > 0.9


REGRESSOR, CLASSIFIER = HFLRegressor(**SMALL, max_iter=1), HFLClassifier(**SMALL, max_iter=1)
META = {
    "AdaBoostRegressor": (AdaBoostRegressor(REGRESSOR, n_estimators=2), {}),
    "BaggingRegressor": (BaggingRegressor(REGRESSOR, n_estimators=2), {}),
    "BaggingRegressor, small": (BaggingRegressor(REGRESSOR, 2, max_samples=0.05), {}),
    "BaggingClassifier": (BaggingClassifier(CLASSIFIER, n_estimators=2), {}),
    "VotingRegressor": (VotingRegressor([("net", REGRESSOR)]), {"sample_weight": ODD}),
    "StackingRegressor": (StackingRegressor([("net", REGRESSOR)]), {"sample_weight": ODD}),
    "MultiOutputRegressor": (MultiOutputRegressor(REGRESSOR), {"sample_weight": ODD}),
    "RANSACRegressor": (RANSACRegressor(REGRESSOR, min_samples=60), {"sample_weight": ODD}),
}


@pytest.mark.parametrize("name", META)
def test_the_meta_estimators_that_the_user_guide_calls_fine_are(name):
    model, params = META[name]
    y = {"BaggingClassifier": Y > 150, "MultiOutputRegressor": np.stack([Y, -Y], axis=1)}
    if hasattr(model, "random_state"):
        model.set_params(random_state=0)
    assert not texts(lambda: model.fit(X, y.get(name, Y), **params))

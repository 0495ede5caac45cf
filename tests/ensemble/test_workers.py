"""Workers: joblib's processes find the members that one process finds, with any of its versions."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_array_equal

from sklearn_hfl import HFLRegressor

RNG = np.random.default_rng(0)
X = RNG.uniform(-2, 2, (40, 2))
Y = np.sin(2 * X[:, 0]) + X[:, 1] + 0.1 * RNG.standard_normal(40)


def test_workers_find_the_same_members():
    alone, parallel = (
        HFLRegressor(hidden_layer_sizes=(5,), random_state=0, n_jobs=n_jobs).fit(X, Y)
        for n_jobs in (None, 2)
    )
    assert len(parallel.members_) > 1
    for member, expected in zip(parallel.members_, alone.members_, strict=True):
        assert_array_equal(member.estimate.weights, expected.estimate.weights)

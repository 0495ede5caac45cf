"""scikit-learn's own checks of each route and likelihood, with no failure expected.

These see no containers of data, so that the checks of containers are for `make reliability`.
"""

from __future__ import annotations

import pytest

from sklearn_hfl import HFLClassifier, HFLRegressor
from tests.scikit_learn import GIVEN, each_check, run

COARSE = {**GIVEN, "hidden_layer_sizes": (3,), "std_rtol": 0.1}
ESTIMATORS = [
    HFLRegressor(**COARSE, variance="amortized", noise_std=0.3),
    HFLClassifier(**COARSE, variance="amortized"),
    HFLRegressor(**COARSE, variance="network", noise_std=0.3),
    HFLClassifier(**COARSE, variance="network"),
    HFLRegressor(
        hidden_layer_sizes=(3,), likelihood="heteroscedastic", prior_precision=10.0, n_estimators=1
    ),
]


# scikit-learn's own test suite ignores warnings of convergence in these checks too.
@pytest.mark.filterwarnings("ignore::sklearn_hfl.HFLWarning")
@each_check(ESTIMATORS, containers=False)
def test_scikit_learns_checks_pass_with_each_route(estimator, check):
    run(estimator, check)

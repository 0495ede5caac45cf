"""scikit-learn's own checks of the defaults, with no failure expected."""

from __future__ import annotations

import pytest

from sklearn_hfl import HFLClassifier, HFLRegressor
from tests.scikit_learn import each_check, run


# scikit-learn's own test suite ignores warnings of convergence in these checks too.
@pytest.mark.filterwarnings("ignore::sklearn_hfl.HFLWarning")
@each_check([HFLRegressor(), HFLClassifier()])
def test_scikit_learns_checks_pass(estimator, check):
    run(estimator, check)

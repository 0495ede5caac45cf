"""scikit-learn's own checks, with no failure expected."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_hfl import HFLClassifier, HFLRegressor

ESTIMATORS = [
    HFLRegressor(),
    HFLClassifier(),
    HFLRegressor(hidden_layer_sizes=(3,), variance="amortized"),
    HFLClassifier(hidden_layer_sizes=(3,), variance="amortized"),
    HFLRegressor(hidden_layer_sizes=(3,), variance="network", prior_precision=1.0, noise_std=0.3),
    HFLClassifier(hidden_layer_sizes=(3,), variance="network", prior_precision=1.0),
    HFLRegressor(hidden_layer_sizes=(3,), likelihood="heteroscedastic", prior_precision=10.0),
]


generated = parametrize_with_checks(ESTIMATORS)
names, arguments = generated.args
# A list, since the iterator that scikit-learn 1.6 gives is deprecated in pytest 9.
each_check = pytest.mark.parametrize(names, list(arguments), **generated.kwargs)


# scikit-learn's own test suite ignores warnings of convergence in these checks too.
@pytest.mark.filterwarnings("ignore::sklearn_hfl.HFLWarning")
@each_check
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)

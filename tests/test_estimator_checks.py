"""scikit-learn's own checks, with no failure expected.

The defaults pass all of them. Where a check repeats a fit for each container or dtype of the data,
the suite gives them their precisions, and one member: what holds the data is dealt with before any
is learned, and the other checks fit such data with all that the defaults do. `make reliability`
learns them there too, and checks containers with each route.
"""

from __future__ import annotations

import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_hfl import HFLClassifier, HFLRegressor
from tests.reliability.contract import NIGHTLY

GIVEN = {"prior_precision": 1.0, "n_estimators": 1}
COARSE = {**GIVEN, "hidden_layer_sizes": (3,), "std_rtol": 0.1}
ESTIMATORS = [
    HFLRegressor(),
    HFLClassifier(),
    HFLRegressor(**COARSE, variance="amortized", noise_std=0.3),
    HFLClassifier(**COARSE, variance="amortized"),
    HFLRegressor(**COARSE, variance="network", noise_std=0.3),
    HFLClassifier(**COARSE, variance="network"),
    HFLRegressor(
        hidden_layer_sizes=(3,), likelihood="heteroscedastic", prior_precision=10.0, n_estimators=1
    ),
]
# Two to nine fits each, of the same rows in other containers and dtypes; so do those of read-only
# memory maps, which have a twin each without one.
OF_CONTAINERS = {
    "check_classifier_data_not_an_array",
    "check_dtype_object",
    "check_estimator_sparse_array",
    "check_estimator_sparse_matrix",
    "check_estimators_dtypes",
    "check_regressor_data_not_an_array",
    "check_sample_weight_equivalence_on_sparse_data",
    "check_sample_weights_list",
    "check_sample_weights_not_an_array",
    "check_sample_weights_pandas_series",
}


def of_containers(check):
    return check.func.__name__ in OF_CONTAINERS or "readonly_memmap" in check.keywords


generated = parametrize_with_checks(ESTIMATORS)
names, arguments = generated.args
# Of the routes and likelihoods, which see no containers, those checks are for `make reliability`.
chosen = [
    (estimator, check)
    for estimator, check in arguments
    if NIGHTLY or estimator.hidden_layer_sizes != (3,) or not of_containers(check)
]
each_check = pytest.mark.parametrize(names, chosen, **generated.kwargs)


# scikit-learn's own test suite ignores warnings of convergence in these checks too.
@pytest.mark.filterwarnings("ignore::sklearn_hfl.HFLWarning")
@each_check
def test_scikit_learns_checks_pass(estimator, check):
    if of_containers(check) and not NIGHTLY:
        estimator = clone(estimator).set_params(**GIVEN)
    check(estimator)

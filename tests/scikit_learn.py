"""scikit-learn's own checks, as the tests run them.

Where a check repeats a fit for each container or dtype of the data, the suite gives the estimator
its precisions, and one member: what holds the data is dealt with before any is learned, and the
other checks fit such data with all that the defaults do. `make reliability` learns them there too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from tests.reliability.contract import NIGHTLY

__all__ = ["GIVEN", "each_check", "run"]

GIVEN = {"prior_precision": 1.0, "n_estimators": 1}
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


def of_containers(check: Any) -> bool:
    return check.func.__name__ in OF_CONTAINERS or "readonly_memmap" in check.keywords


def each_check(estimators: list, *, containers: bool = True) -> Callable:
    """Parametrise a test with ``estimator`` and ``check``, by night with all of them."""
    generated = parametrize_with_checks(estimators)
    names, arguments = generated.args
    chosen = [
        (estimator, check)
        for estimator, check in arguments
        if NIGHTLY or containers or not of_containers(check)
    ]
    return pytest.mark.parametrize(names, chosen, **generated.kwargs)


def run(estimator: Any, check: Any) -> None:
    if of_containers(check) and not NIGHTLY:
        estimator = clone(estimator).set_params(**GIVEN)
    check(estimator)

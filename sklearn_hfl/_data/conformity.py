"""Conformity: calibration rows of an estimator, and the validity of their scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from sklearn_hfl._data.validation import Array, to_numpy
from sklearn_hfl.calibration.fingerprints import Fingerprints
from sklearn_hfl.exceptions import HFLDataWarning, warn

__all__ = ["check_scores", "fingerprints", "scored_with", "warn_of_trained_rows"]

BLOCK_OF_ROWS = 4096
# Parameters that may change after fit, and with them the scores of calibration rows.
SCORED_PARAMS = ("variance", "perturbation_scale", "link_approx")


def fingerprints(X: Tensor, y: Tensor) -> Fingerprints:
    """Remember rows X (n, D) with targets y (n, K), both as they are trained on."""
    return Fingerprints.of_rows(_blocks(X, y))


def warn_of_trained_rows(trained: Fingerprints, X: Tensor, y: Tensor) -> None:
    """Warn of calibration rows X (n, D), y (n, K) that were trained on."""
    count = trained.count(np.vstack(list(_blocks(X, y))))
    if count:
        about = "" if trained.complete else "About "
        warn(
            f"{about}{count} of {len(X)} calibration rows were trained on, or are copies of "
            "rows that were. Their scores are too small, and coverage will be too low. Split "
            "the data before fit, and give conformalize the part that fit has not seen.",
            HFLDataWarning,
        )


def scored_with(estimator: Any) -> dict[str, Any]:
    """Parameters on which the scores of an estimator's calibration rows depend."""
    params = estimator.get_params(deep=False)
    return {name: params[name] for name in SCORED_PARAMS if name in params}


def check_scores(estimator: Any, owner: str) -> None:
    """Raise an error where there are no scores, or they are those of other parameters."""
    if not hasattr(estimator, "conformity_scores_"):
        raise ValueError(
            f"{owner} needs calibration rows. Call conformalize(X, y) first, with rows that "
            "were not trained on; of a pipeline, sklearn_hfl.calibration.conformalize(pipeline, "
            "X, y)."
        )
    then, now = getattr(estimator, "_scored_with", {}), scored_with(estimator)
    for name in then:
        if then[name] != now[name]:
            raise ValueError(
                f"{owner}: conformalize(X, y) was called with {name}={then[name]!r}, but {name} "
                f"is {now[name]!r} now, to which its scores do not apply. Call conformalize "
                "again, or set_params back."
            )


def _blocks(X: Tensor, y: Tensor) -> Iterator[Array]:
    """Inputs and targets side by side, in blocks of rows."""
    for block in zip(X.split(BLOCK_OF_ROWS), y.split(BLOCK_OF_ROWS), strict=True):
        yield np.hstack([to_numpy(part) for part in block])

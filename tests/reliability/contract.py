"""The contract: what must hold of every fit and every answer, whatever came in.

Either numbers with a verdict, or a ValueError or TypeError that says what was wrong. Warnings
of other kinds than HFLWarning are errors here, as everywhere in these tests: NumPy's
"invalid value" is how a silent NaN begins.
"""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import numpy as np
from hypothesis import HealthCheck, Phase, settings

from sklearn_hfl import HFLWarning

# Cases of each property; `make reliability` asks for many more.
CASES = int(os.environ.get("RELIABILITY_CASES", "8"))
NIGHTLY = CASES >= 100
battery = settings(
    max_examples=CASES,
    # A case is a few dozen numbers: what takes a minute hangs.
    deadline=timedelta(seconds=60),
    derandomize=not NIGHTLY,
    database=None,
    # Cases are small and read as they are; shrinking one that is slow takes many minutes.
    phases=[Phase.generate],
    report_multiple_bugs=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def fitted(model, *args, **kwargs):
    """Fit, with the package's own warnings allowed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HFLWarning)
        return model.fit(*args, **kwargs)


@contextmanager
def refusal_allowed(model, *words):
    """Either no error, or a ValueError with one of these words that leaves nothing behind."""
    try:
        yield
    except ValueError as error:
        if not any(word in str(error) for word in words):
            raise
        check_refused(model, error)


@contextmanager
def overflow_allowed(model):
    """Answers of inputs that were not to be standardised may be refused where they overflow."""
    with nullcontext() if model.normalize_X else refusal_of_overflow():
        yield


@contextmanager
def refusal_of_overflow():
    """Answers that overflow may be refused, and say so."""
    try:
        yield
    except ValueError as error:
        if "not finite" not in str(error):
            raise


def check_refused(model, error):
    """A refusal has a cause in words, and leaves nothing half-fitted."""
    check_explained(error)
    assert not hasattr(model, "members_")


def check_explained(error):
    """The words are for whoever called, not for whoever reads the source."""
    message = str(error)
    assert len(message) > 20
    for leak in ("linalg", "Traceback", "NoneType", "tensor", "broadcast", "unsupported operand"):
        assert leak not in message, message


def check_regressor(model, Q):
    """Finite numbers, stds that are none below zero, parts that add up, honest verdicts."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HFLWarning)
        result = model.predict_uncertainty(Q)
    check_verdicts(result, caught)
    assert np.isfinite(result.mean).all()
    for name in ("std", "epistemic_std", "aleatoric_std"):
        assert np.isfinite(result[name]).all(), name
        assert (result[name] >= 0).all(), name
    assert (result.std > 0).all()
    parts = np.hypot(result.epistemic_std, result.aleatoric_std)
    np.testing.assert_allclose(result.std, parts, rtol=1e-6)
    return result


def check_classifier(model, Q):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HFLWarning)
        result = model.predict_uncertainty(Q)
        count = len(caught)
        proba, std = model.predict_proba(Q, return_std=True)
        labels = model.predict(Q)
    check_verdicts(result, caught[:count])
    # All methods speak of the logits' stds, from which probabilities and their stds are made.
    check_verdicts(result, caught[count:])
    assert np.isfinite(proba).all()
    assert ((proba >= 0) & (proba <= 1)).all()
    np.testing.assert_allclose(proba.sum(1), 1)
    # What no probability of that mean can exceed, up to rounding.
    rounding = 1e-3 if proba.dtype == np.float32 or model.dtype == "float32" else 1e-7
    assert (std <= np.sqrt(proba * (1 - proba)) + rounding).all()
    for values in (std, result.entropy, result.mutual_information):
        assert np.isfinite(values).all()
        assert (values >= 0).all()
    assert set(labels) <= set(model.classes_)
    return result


def check_verdicts(result, caught):
    """A bound for every row, and a warning where one was missed, and only there."""
    assert not np.isnan(result.rel_error).any()
    assert (result.rel_error >= 0).all()
    missed = any("standard deviations" in str(w.message) for w in caught)
    assert missed == (not result.converged.all())

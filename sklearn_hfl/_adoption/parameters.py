"""Parameters: which of an estimator's a trained network decides."""

from __future__ import annotations

from typing import Any

from sklearn_hfl._data.params import boolean

__all__ = ["FIXED", "check_fixed", "check_polish"]

# The network was trained on inputs and targets as they are.
FIXED = {
    "normalize_X": "is False for a network that is trained already: it takes X as it is",
    "normalize_y": "is False for a network that is trained already: it predicts y as it is",
    "n_estimators": "is 1 for a network that is trained already",
}


def check_fixed(params: dict[str, Any], fixed: dict[str, str]) -> None:
    for name, why in fixed.items():
        if name in params:
            raise ValueError(f"{name} {why}. Leave it out.")
    if params.get("likelihood") == "heteroscedastic":
        raise ValueError(
            "likelihood='heteroscedastic' needs a network that also gives the log noise, but one "
            "that is trained already has no output for it. Leave it out, or train a new network: "
            "HFLRegressor(likelihood='heteroscedastic').fit(X, y)."
        )


def check_polish(polish: Any) -> bool:
    if not boolean().accepts(polish):
        raise ValueError(f"polish must be True or False, but got {polish!r}.")
    return bool(polish)

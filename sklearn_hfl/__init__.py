"""Neural networks with error bars for scikit-learn, by the Hessian-free Laplace approximation."""

import importlib
import types

from sklearn_hfl._classifier import HFLClassifier
from sklearn_hfl._regressor import HFLRegressor
from sklearn_hfl._version import __version__
from sklearn_hfl.exceptions import HFLConvergenceWarning, HFLDataWarning, HFLWarning

__all__ = [
    "HFLClassifier",
    "HFLConvergenceWarning",
    "HFLDataWarning",
    "HFLRegressor",
    "HFLWarning",
    "__version__",
]

# Imported when first asked for: fits need none of them.
_SUBPACKAGES = ("calibration", "metrics", "plotting")


def __getattr__(name: str) -> types.ModuleType:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBPACKAGES})

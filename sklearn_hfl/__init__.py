"""Neural networks with error bars for scikit-learn, by the Hessian-free Laplace approximation."""

from sklearn_hfl._classifier import HFLClassifier
from sklearn_hfl._regressor import HFLRegressor
from sklearn_hfl._version import __version__
from sklearn_hfl.exceptions import HFLWarning

__all__ = ["HFLClassifier", "HFLRegressor", "HFLWarning", "__version__"]

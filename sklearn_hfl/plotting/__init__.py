"""Displays of predictive uncertainty, in scikit-learn's style; they need matplotlib."""

from sklearn_hfl.plotting.coverage import CoverageDisplay
from sklearn_hfl.plotting.decomposition import UncertaintyDecompositionDisplay
from sklearn_hfl.plotting.prediction_interval import PredictionIntervalDisplay

__all__ = ["CoverageDisplay", "PredictionIntervalDisplay", "UncertaintyDecompositionDisplay"]

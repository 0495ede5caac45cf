"""Displays of predictive uncertainty, in scikit-learn's style; they need matplotlib."""

from sklearn_hfl.plotting.coverage import CoverageDisplay
from sklearn_hfl.plotting.decomposition import UncertaintyDecompositionDisplay
from sklearn_hfl.plotting.influence import InfluenceDisplay
from sklearn_hfl.plotting.leave_one_out import LeaveOneOutDisplay
from sklearn_hfl.plotting.prediction_interval import PredictionIntervalDisplay

__all__ = [
    "CoverageDisplay",
    "InfluenceDisplay",
    "LeaveOneOutDisplay",
    "PredictionIntervalDisplay",
    "UncertaintyDecompositionDisplay",
]

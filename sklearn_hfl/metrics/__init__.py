"""Metrics of predictive distributions and intervals, and scorers for model selection."""

from sklearn_hfl.metrics.scorers import (
    CoverageScorer,
    CRPSScorer,
    IntervalScorer,
    NLPDScorer,
    coverage_scorer,
    crps_scorer,
    interval_scorer,
    nlpd_scorer,
)
from sklearn_hfl.metrics.scores import (
    coverage_score,
    crps_gaussian,
    interval_score,
    negative_log_predictive_density,
)

__all__ = [
    "CRPSScorer",
    "CoverageScorer",
    "IntervalScorer",
    "NLPDScorer",
    "coverage_score",
    "coverage_scorer",
    "crps_gaussian",
    "crps_scorer",
    "interval_score",
    "interval_scorer",
    "negative_log_predictive_density",
    "nlpd_scorer",
]

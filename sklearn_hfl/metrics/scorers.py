"""Scorers for model selection: called with a fitted estimator and held-out data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri
from sklearn.utils.metadata_routing import MetadataRequest

from sklearn_hfl._data.moments import Array, check_level, predict_moments
from sklearn_hfl.metrics.scores import (
    column_means,
    crps_gaussian,
    ends_of,
    gaussians,
    interval_score,
    negative_log_predictive_density,
)

__all__ = [
    "CRPSScorer",
    "CoverageScorer",
    "IntervalScorer",
    "NLPDScorer",
    "coverage_scorer",
    "crps_scorer",
    "interval_scorer",
    "nlpd_scorer",
]


@dataclass(frozen=True)
class _Scorer(ABC):
    """Base of the scorers: the call, and the routing of sample_weight."""

    _request: bool | str | None = field(default=None, init=False, repr=False)

    def __call__(
        self, estimator: Any, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        """Score a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            Its ``predict(X, return_std=True)`` returns (mean, std).
        X : array-like of shape (n, n_features)
            Inputs.
        y : array-like of shape (n,) or (n, n_outputs)
            Observed values.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows.

        Returns
        -------
        float
            Larger is better.
        """
        return self._score(y, *predict_moments(estimator, X), sample_weight)

    @abstractmethod
    def _score(
        self, y: ArrayLike, mean: ArrayLike, std: ArrayLike, sample_weight: ArrayLike | None
    ) -> float:
        """Score predicted moments; larger is better."""

    def set_score_request(self, *, sample_weight: bool | str | None) -> Any:
        """Request routed metadata.

        Parameters
        ----------
        sample_weight : bool, str or None
            As for ``set_score_request`` of scikit-learn's scorers: True, False, another
            name under which the weights are passed, or None (an error if they are).

        Returns
        -------
        scorer
            A copy with this request; the original is unchanged.
        """
        scorer = copy(self)
        object.__setattr__(scorer, "_request", sample_weight)
        scorer.get_metadata_routing()  # raises an error for an invalid request
        return scorer

    def get_metadata_routing(self) -> Any:
        """Return the metadata request.

        Returns
        -------
        MetadataRequest
        """
        request = MetadataRequest(owner=type(self).__name__)
        request.score.add_request(param="sample_weight", alias=self._request)
        return request


@dataclass(frozen=True)
class _LevelScorer(_Scorer):
    """Scorer of the central Gaussian intervals of one level."""

    confidence_level: float = 0.9

    def __post_init__(self) -> None:
        check_level(type(self).__name__, self.confidence_level)

    def _intervals(self, y: ArrayLike, mean: ArrayLike, std: ArrayLike) -> tuple[Array, Array]:
        """Observed values (n, K) and intervals (n, K, 2)."""
        values, means, stds = gaussians(y, mean, std)
        half = ndtri((1 + self.confidence_level) / 2) * stds
        return values, np.stack([means - half, means + half], axis=-1)


@dataclass(frozen=True)
class NLPDScorer(_Scorer):
    """Scorer by minus the negative log predictive density of Gaussian predictions.

    Like all scorers here it is called with ``(estimator, X, y, sample_weight=None)``,
    and accepts any estimator whose ``predict(X, return_std=True)`` returns (mean, std).
    The std must be that of a new observation, noise included (of a GaussianProcessRegressor:
    with a WhiteKernel instead of ``alpha``). With metadata routing enabled, the
    estimator needs ``set_predict_request(return_std=True)`` in a pipeline.

    See Also
    --------
    negative_log_predictive_density : The metric.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import BayesianRidge
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn_hfl.metrics import nlpd_scorer
    >>> X, y = load_diabetes(return_X_y=True)
    >>> cross_val_score(BayesianRidge(), X, y, scoring=nlpd_scorer, cv=3).round(2)
    array([-5.43, -5.46, -5.39])
    """

    def _score(
        self, y: ArrayLike, mean: ArrayLike, std: ArrayLike, sample_weight: ArrayLike | None
    ) -> float:
        return -negative_log_predictive_density(y, mean, std, sample_weight=sample_weight)


@dataclass(frozen=True)
class CRPSScorer(_Scorer):
    """Scorer by minus the continuous ranked probability score of Gaussian predictions.

    See Also
    --------
    crps_gaussian : The metric.
    NLPDScorer : Requirements on the estimator.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import BayesianRidge
    >>> from sklearn_hfl.metrics import crps_scorer
    >>> X, y = load_diabetes(return_X_y=True)
    >>> round(crps_scorer(BayesianRidge().fit(X, y), X, y), 1)
    -30.5
    """

    def _score(
        self, y: ArrayLike, mean: ArrayLike, std: ArrayLike, sample_weight: ArrayLike | None
    ) -> float:
        return -crps_gaussian(y, mean, std, sample_weight=sample_weight)


@dataclass(frozen=True)
class IntervalScorer(_LevelScorer):
    """Scorer by minus the interval score of the central Gaussian intervals mean ± z std.

    Attributes
    ----------
    confidence_level : float, default=0.9
        Level of the intervals, between 0 and 1.

    See Also
    --------
    interval_score : The metric.
    NLPDScorer : Requirements on the estimator.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import BayesianRidge
    >>> from sklearn_hfl.metrics import IntervalScorer
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = BayesianRidge().fit(X, y)
    >>> round(IntervalScorer(confidence_level=0.5)(model, X, y))
    -137
    """

    def _score(
        self, y: ArrayLike, mean: ArrayLike, std: ArrayLike, sample_weight: ArrayLike | None
    ) -> float:
        level = self.confidence_level
        values = self._intervals(y, mean, std)
        return -interval_score(*values, confidence_level=level, sample_weight=sample_weight)


@dataclass(frozen=True)
class CoverageScorer(_LevelScorer):
    """Scorer by minus ``|coverage − level|`` of the central Gaussian intervals mean ± z std.

    The best score is 0. Coverage does not reward intervals that adapt to the input: use the
    other scorers too.

    Attributes
    ----------
    confidence_level : float, default=0.9
        Level of the intervals, between 0 and 1.

    See Also
    --------
    coverage_score : The coverage itself.
    NLPDScorer : Requirements on the estimator.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import BayesianRidge
    >>> from sklearn_hfl.metrics import CoverageScorer
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = BayesianRidge().fit(X, y)
    >>> round(CoverageScorer(confidence_level=0.95)(model, X, y), 3)
    -0.014
    """

    def _score(
        self, y: ArrayLike, mean: ArrayLike, std: ArrayLike, sample_weight: ArrayLike | None
    ) -> float:
        values, lower, upper = ends_of(*self._intervals(y, mean, std))
        coverage = column_means((lower <= values) & (values <= upper), sample_weight)
        # Per output: over-coverage of one does not compensate under-coverage of another.
        return -float(np.abs(coverage - self.confidence_level).mean())


nlpd_scorer = NLPDScorer()
crps_scorer = CRPSScorer()
interval_scorer = IntervalScorer()
coverage_scorer = CoverageScorer()

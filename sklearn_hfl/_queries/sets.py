"""Sets of classes that hold the label of a new row with a given probability."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from sklearn_hfl._data.conformity import check_scores, scored_with, warn_of_trained_rows
from sklearn_hfl._data.labels import check_known_labels, one_hot
from sklearn_hfl._data.modes import own_modes
from sklearn_hfl._data.moments import check_level
from sklearn_hfl._data.validation import Array
from sklearn_hfl._queries.classes import ClassPosterior
from sklearn_hfl.calibration.conformal import conformal_quantile, label_scores, label_sets

__all__ = ["PredictionSets"]


class PredictionSets(ClassPosterior):
    """Prediction sets of a classifier, in the order of ``classes_``."""

    conformity_scores_: Array

    def conformalize(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Calibrate sets of classes on rows that were held out of fit.

        Parameters
        ----------
        X : {array-like, sparse array} of shape (n, n_features)
            Inputs of the calibration rows.
        y : array-like of shape (n,)
            Their labels, elements of ``classes_``.

        Returns
        -------
        HFLClassifier
            Itself, with ``conformity_scores_``. A second call replaces the first, and
            ``fit`` discards it.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If an array is not as expected or a label is unknown; nothing is then changed.

        Warns
        -----
        HFLDataWarning
            If rows were trained on: sets calibrated on them are too small. Not with
            variance="amortized", which keeps nothing that could recognise them.

        Notes
        -----
        Split conformal prediction with the score 1 − p, where p is the probability that
        ``predict_proba`` gives the row's own class (least ambiguous set-valued
        classifiers: M. Sadinle, J. Lei, L. Wasserman, arXiv:1609.00451). Coverage then
        holds for rows that are exchangeable with the calibration rows, on average over
        draws of both and over classes. Other parameters of the estimator (``link_approx``, for
        example) need another calibration.

        Examples
        --------
        >>> from sklearn.datasets import make_moons
        >>> from sklearn_hfl import HFLClassifier
        >>> X, y = make_moons(120, noise=0.3, random_state=0)
        >>> model = HFLClassifier(hidden_layer_sizes=(5,), random_state=0).fit(X[:60], y[:60])
        >>> model.conformalize(X[60:], y[60:]).conformity_scores_.shape
        (60,)
        """
        check_is_fitted(self)
        rows, index = check_known_labels(self, X, y)
        with own_modes():
            queries = self._standardized(rows)
            warn_of_trained_rows(
                self._trained_rows, queries, self._tensor(one_hot(self.classes_, index))
            )
        scores = np.sort(label_scores(self.predict_proba(X), index))
        self.conformity_scores_, self._scored_with = scores, scored_with(self)
        return self

    def predict_set(self, X: ArrayLike, confidence_level: float = 0.9) -> NDArray[Any]:
        """Predict sets of classes; needs ``conformalize``.

        Parameters
        ----------
        X : {array-like, sparse array} of shape (n, n_features)
            Queries.
        confidence_level : float, default=0.9
            Probability that the set holds the row's class, between 0 and 1.

        Returns
        -------
        ndarray of bool, of shape (n, n_classes)
            Whether each class is in the row's set. The most probable class always is, so
            that no set is empty: coverage is then at least ``confidence_level``, and at
            least the accuracy of ``predict``.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If the level is not between 0 and 1; before ``conformalize``, after a change of
            ``link_approx`` or ``variance`` since, or with fewer than level / (1 − level)
            calibration rows.

        Examples
        --------
        >>> from sklearn.datasets import make_moons
        >>> from sklearn_hfl import HFLClassifier
        >>> X, y = make_moons(120, noise=0.3, random_state=0)
        >>> model = HFLClassifier(hidden_layer_sizes=(5,), random_state=0).fit(X[:60], y[:60])
        >>> model = model.conformalize(X[60:], y[60:])
        >>> model.predict_set([[0.0, 1.0], [0.5, 0.25]], 0.95)
        array([[ True, False],
               [ True,  True]])
        """
        check_is_fitted(self)
        level = check_level("predict_set", confidence_level)
        proba = self.predict_proba(X)
        check_scores(self, "predict_set")
        return label_sets(proba, conformal_quantile(self.conformity_scores_, level))

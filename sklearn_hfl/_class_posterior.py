"""Class posterior: what a fitted classifier says of new rows."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklearn_hfl._base import HFLBase
from sklearn_hfl._members import member_logits, member_means
from sklearn_hfl._params import boolean
from sklearn_hfl._validation import Array, check_finite, to_numpy
from sklearn_hfl.posterior.link import SOFTMAX, log_probabilities
from sklearn_hfl.uncertainty.moderation import LogitPosterior, entropy, normal_draws
from sklearn_hfl.uncertainty.predictive import Predictive, mixture
from sklearn_hfl.uncertainty.variance import Variance

__all__ = ["ClassPosterior"]

# Draws for link="mc" and the mutual information: the error of a mean probability is then
# about a thousandth (tests/uncertainty/test_moderation.py).
N_DRAWS = 1024


class ClassPosterior(HFLBase):
    """Queries of a classifier, in the order of ``classes_``."""

    classes_: NDArray[Any]
    _draw_seed: int
    _query_params: ClassVar[tuple[str, ...]] = (*HFLBase._query_params, "link")

    def predict(self, X: ArrayLike, return_std: bool = False) -> Any:
        """Predict the most probable class, and with it how sure its probability is.

        Parameters
        ----------
        X : {array-like, sparse array} of shape (n, n_features)
            Queries.
        return_std : bool, default=False
            Return the standard deviation of the predicted class's probability.

        Returns
        -------
        labels : ndarray of shape (n,)
            Elements of ``classes_``.
        std : ndarray of shape (n,)
            Only with ``return_std``; on the scale of probabilities.

        Warns
        -----
        HFLWarning
            With the number of standard deviations that missed ``std_rtol``.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_hfl import HFLClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> model = HFLClassifier(hidden_layer_sizes=(5,), random_state=0).fit(X, y)
        >>> model.predict(X[::50])
        array([0, 1, 2])
        """
        if not _asked(return_std):
            best = self.predict_proba(X).argmax(1)
            return self.classes_[best]
        proba, std = self.predict_proba(X, return_std=True)
        best = proba.argmax(1)
        return self.classes_[best], np.take_along_axis(std, best[:, None], axis=1)[:, 0]

    def predict_proba(self, X: ArrayLike, return_std: bool = False) -> Any:
        """Predict class probabilities that average over the posterior of the weights.

        Parameters
        ----------
        X : {array-like, sparse array} of shape (n, n_features)
            Queries.
        return_std : bool, default=False
            Return the standard deviation of each probability: that of the functional
            softmax_k(f(x)) itself, by its own perturbed optimum.

        Returns
        -------
        proba : ndarray of shape (n, n_classes)
            Rows sum to 1. Moderated as ``link`` says: less extreme than at the MAP
            where the logits are uncertain.
        std : ndarray of shape (n, n_classes)
            Only with ``return_std``. Epistemic: what more data would remove. It is a
            width of first order around the MAP's probability, and can pass 1 where
            the logits are very uncertain.

        Warns
        -----
        HFLWarning
            With the number of standard deviations that missed ``std_rtol``.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_hfl import HFLClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> model = HFLClassifier(hidden_layer_sizes=(5,), random_state=0).fit(X, y)
        >>> proba, std = model.predict_proba(X[:3], return_std=True)
        >>> proba.shape, std.shape
        ((3, 3), (3, 3))
        """
        if not _asked(return_std):
            return np.exp(self.predict_log_proba(X))
        check_is_fitted(self)
        with torch.inference_mode(False):
            queries = self._queries(X)
            log_p = self._log_probabilities(queries, warns=False)
            moments = self._moments(queries, log_p)
            return to_numpy(_mean_log(log_p).exp()), to_numpy(moments.epistemic.sqrt())

    def predict_log_proba(self, X: ArrayLike) -> Array:
        """Predict the logarithm of the class probabilities.

        Parameters
        ----------
        X : {array-like, sparse array} of shape (n, n_features)
            Queries.

        Returns
        -------
        ndarray of shape (n, n_classes)
            Log of ``predict_proba``, finite also where that rounds to 0.
        """
        check_is_fitted(self)
        with torch.inference_mode(False):
            return to_numpy(_mean_log(self._log_probabilities(self._queries(X))))

    def decision_function(self, X: ArrayLike) -> Array:
        """Predict the logits of ``predict_proba``.

        Parameters
        ----------
        X : {array-like, sparse array} of shape (n, n_features)
            Queries.

        Returns
        -------
        ndarray of shape (n,) or (n, n_classes)
            Two classes: log odds of the second. More: log probabilities less their
            mean. With link="none" and one member these are the MAP's logits; else
            they are moderated, so that both methods rank rows and classes alike.
        """
        log_proba = self.predict_log_proba(X)
        if len(self.classes_) == 2:
            return log_proba[:, 1] - log_proba[:, 0]
        return log_proba - log_proba.mean(1, keepdims=True)

    def latent_mean_and_variance(self, X: ArrayLike) -> tuple[Array, Array]:
        """Predict the logits, the network's outputs, with their posterior variance.

        Parameters
        ----------
        X : {array-like, sparse array} of shape (n, n_features)
            Queries.

        Returns
        -------
        latent_mean, latent_var : ndarray of shape (n,) or (n, n_classes)
            Mean and variance of the logits, before any moderation. Two classes have
            one logit, that of the second class.

        Warns
        -----
        HFLWarning
            With the number of standard deviations that missed ``std_rtol``.
        """
        check_is_fitted(self)
        with torch.inference_mode(False):
            queries = self._queries(X)
            moments = mixture(
                member_means(self.estimators_, queries), self._variances(queries), self._no_noise()
            )
            mean, var = to_numpy(moments.mean), to_numpy(moments.epistemic)
            return (mean[:, 0], var[:, 0]) if len(self.classes_) == 2 else (mean, var)

    def predict_uncertainty(self, X: ArrayLike) -> Bunch:
        """Predict with every part of the uncertainty, and a verdict on each row.

        Parameters
        ----------
        X : {array-like, sparse array} of shape (n, n_features)
            Queries.

        Returns
        -------
        Bunch
            ``proba``, ``proba_std`` of shape (n, n_classes), see ``predict_proba``;
            ``entropy`` (n,): that of ``proba`` in nats, the whole uncertainty of the
            label; ``mutual_information`` (n,): its epistemic part in nats, what the
            label would tell about the weights, from draws of the logits whatever
            ``link`` is; ``converged`` (n,): whether all of the row's stds met
            ``std_rtol``; ``rel_error`` (n,): the largest bound of their relative
            errors (an estimate where variance="network").

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_hfl import HFLClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> model = HFLClassifier(hidden_layer_sizes=(5,), random_state=0).fit(X, y)
        >>> near, far = model.predict_uncertainty([X[0], X[0] + 20]).mutual_information
        >>> bool(far > near)
        True
        """
        check_is_fitted(self)
        with torch.inference_mode(False):
            queries = self._queries(X)
            logits, _ = self._logits(queries)
            log_p = self._moderated(queries, logits)
            moments = self._moments(queries, log_p)
            draws = self._draws()
            log_means, entropies = zip(*(each.sampled(draws) for each in logits), strict=True)
            # I(y; θ) = H(E p) − E H(p), with one set of draws in both terms: never negative.
            information = entropy(_mean_log(log_means)) - torch.stack(entropies).mean(0)
            return Bunch(
                proba=to_numpy(_mean_log(log_p).exp()),
                proba_std=to_numpy(moments.epistemic.sqrt()),
                entropy=to_numpy(entropy(_mean_log(log_p))),
                mutual_information=to_numpy(information.clamp(min=0.0)),
                converged=moments.converged.all(1).cpu().numpy(),
                rel_error=to_numpy(moments.rel_error.amax(1)),
            )

    def _logits(self, X: Tensor) -> tuple[list[LogitPosterior], list[Variance]]:
        logits, verdicts = member_logits(
            self.estimators_, X, self._query_route(), self.n_jobs, bool(self.verbose)
        )
        check_finite([each.mean for each in logits], "predictions")
        check_finite([v.value for v in verdicts], "variances")
        return logits, verdicts

    def _log_probabilities(self, X: Tensor, warns: bool = True) -> list[Tensor]:
        """Log probabilities (Q, C) of each member at X (Q, D), moderated as ``link`` says."""
        if self.link == "none":
            return self._moderated(X, [])
        logits, verdicts = self._logits(X)
        if warns:
            self._warn_of_misses(verdicts)
        return self._moderated(X, logits)

    def _moderated(self, X: Tensor, logits: list[LogitPosterior]) -> list[Tensor]:
        if self.link == "none":  # of the MAP weights: the logits' own mean is the posterior's
            return [log_probabilities(mean) for mean in member_means(self.estimators_, X)]
        if self.link == "probit":
            return [each.probit() for each in logits]
        draws = self._draws()
        return [each.sampled(draws)[0] for each in logits]

    def _moments(self, X: Tensor, log_p: list[Tensor]) -> Predictive:
        means = [each.exp() for each in log_p]
        return mixture(means, self._variances(X, SOFTMAX), self._no_noise())

    def _encoded(self, classes: NDArray[Any], index: NDArray[np.intp]) -> Array:
        """Labels as the likelihood takes them, (n, K)."""
        one_hot = np.eye(len(classes))[index]
        # Two classes share one logit, that of the second.
        return one_hot[:, 1:] if len(classes) == 2 else one_hot

    def _draws(self) -> Tensor:
        return normal_draws(N_DRAWS, len(self.classes_), self._draw_seed).to(
            self._tensor(np.empty(0))
        )

    def _no_noise(self) -> list[Tensor]:
        return [self._tensor(np.zeros(1))] * len(self.estimators_)


def _mean_log(log_probabilities: Any) -> Tensor:
    """Log of the members' mean probabilities (Q, C)."""
    stacked = torch.stack(list(log_probabilities))
    return (stacked.logsumexp(0) - math.log(len(stacked))).log_softmax(-1)


def _asked(return_std: Any) -> bool:
    if not boolean().accepts(return_std):
        raise ValueError(
            f"return_std must be True or False, but got {return_std!r}. predict_uncertainty "
            "gives the other parts of the uncertainty."
        )
    return bool(return_std)

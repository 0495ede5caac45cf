"""Class posterior: class probabilities of new rows, with their uncertainty."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklearn_hfl._base import HFLBase
from sklearn_hfl._data.collections import by_chunks, is_collection
from sklearn_hfl._data.modes import own_modes
from sklearn_hfl._data.params import boolean, integer, validate_arguments
from sklearn_hfl._data.validation import Array, to_numpy
from sklearn_hfl.posterior.link import CENTRED, SOFTMAX, log_probabilities
from sklearn_hfl.uncertainty.moderation import (
    Moderation,
    entropy,
    mean_log,
    mixed,
    n_draws,
    normal_draws,
)
from sklearn_hfl.uncertainty.variance import Variance

__all__ = ["ClassPosterior"]


class ClassPosterior(HFLBase):
    """Predictions of a classifier, in the order of ``classes_``."""

    classes_: NDArray[Any]
    _draw_seed: int
    _query_params: ClassVar[tuple[str, ...]] = (*HFLBase._query_params, "link_approx")

    @overload
    def predict(self, X: ArrayLike, return_std: Literal[False] = ...) -> NDArray[Any]: ...
    @overload
    def predict(
        self, X: ArrayLike, return_std: Literal[True, "delta"]
    ) -> tuple[NDArray[Any], Array]: ...
    @overload  # for flags that are variables
    def predict(
        self, X: ArrayLike, return_std: bool
    ) -> NDArray[Any] | tuple[NDArray[Any], Array]: ...

    def predict(self, X: ArrayLike, return_std: bool | Literal["delta"] = False) -> Any:
        """Predict the most probable class, and the std of its probability.

        Parameters
        ----------
        X : {array-like, sparse array, dask array, dask frame} of shape (n, n_features)
            Queries.
        return_std : bool or "delta", default=False
            Return the standard deviation of the predicted class's probability, as
            ``predict_proba`` does.

        Returns
        -------
        labels : ndarray of shape (n,)
            Elements of ``classes_``.
        std : ndarray of shape (n,)
            Only with ``return_std``; on the scale of probabilities.

        Warns
        -----
        HFLConvergenceWarning
            With the number of logits whose standard deviation missed ``std_rtol``.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_hfl import HFLClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> model = HFLClassifier(hidden_layer_sizes=(5,), random_state=0).fit(X, y)
        >>> model.predict(X[::50])
        array([0, 1, 2])
        """
        if not _wants_std(return_std):
            best = self.predict_proba(X).argmax(1)
            return self.classes_[best]
        proba, std = self.predict_proba(X, return_std=return_std)
        best = proba.argmax(1)
        return self.classes_[best], np.take_along_axis(std, best[:, None], axis=1)[:, 0]

    @overload
    def predict_proba(self, X: ArrayLike, return_std: Literal[False] = ...) -> Array: ...
    @overload
    def predict_proba(
        self, X: ArrayLike, return_std: Literal[True, "delta"]
    ) -> tuple[Array, Array]: ...
    @overload
    def predict_proba(self, X: ArrayLike, return_std: bool) -> Array | tuple[Array, Array]: ...

    def predict_proba(self, X: ArrayLike, return_std: bool | Literal["delta"] = False) -> Any:
        """Predict class probabilities that average over the posterior of the weights.

        Parameters
        ----------
        X : {array-like, sparse array, dask array, dask frame} of shape (n, n_features)
            Queries.
        return_std : bool or "delta", default=False
            Return the standard deviation of each probability. True: that under the
            posterior of the logits over which ``proba`` averages, by the same draws or
            quadrature. "delta": that of first order at the MAP, from the perturbed
            optimum of softmax_k(f(x)) itself, which costs a gradient for each class.

        Returns
        -------
        proba : ndarray of shape (n, n_classes)
            Rows sum to 1. Moderated according to ``link_approx``: less extreme than at the MAP
            where the logits are uncertain.
        std : ndarray of shape (n, n_classes)
            Only with ``return_std``. Epistemic: more data would reduce it. With True
            it is never above sqrt(p (1 − p)), the most that a probability of mean p can
            vary; "delta" has no such limit, and can pass 1 where the logits are very
            uncertain.

        Warns
        -----
        HFLConvergenceWarning
            With the number of logits, with "delta" also of probabilities, whose standard
            deviation missed ``std_rtol``.

        Notes
        -----
        Two classes are averaged by quadrature, to 1e-8, more by draws: a mean is then off by up to
        0.001 and a std by 0.002 where the std of logits is 0.3, by up to 0.004 and 0.015 where it
        is 3, and by 0.02 and 0.06 there for a hundred classes, which have fewer draws.

        ``link_approx`` changes ``proba`` and not the posterior: with "probit" and "none" the std is
        still that around the posterior's own mean, but no more than sqrt(p (1 − p)) for
        the p returned, so that the two are moments of one distribution. With "none" a MAP
        that is over-confident therefore has too small a std; the mutual information of
        ``predict_uncertainty`` is not affected.

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
        if is_collection(X):
            return by_chunks(self.predict_proba, X, return_std)
        if not _wants_std(return_std):
            return np.exp(self.predict_log_proba(X))
        check_is_fitted(self)
        with own_modes():
            queries = self._queries(X)
            log_proba, averages, _ = self._moderated(queries)
            if return_std == "delta":
                std = self._moments(self._ensemble(SOFTMAX), queries).epistemic.sqrt()
            else:
                std = _std(averages, log_proba)
            return to_numpy(log_proba.exp()), to_numpy(std)

    def predict_log_proba(self, X: ArrayLike) -> Array:
        """Predict the logarithm of the class probabilities.

        Parameters
        ----------
        X : {array-like, sparse array, dask array, dask frame} of shape (n, n_features)
            Queries.

        Returns
        -------
        ndarray of shape (n, n_classes)
            Log of ``predict_proba``, finite also where that rounds to 0.
        """
        if is_collection(X):
            return by_chunks(self.predict_log_proba, X)
        check_is_fitted(self)
        with own_modes():
            queries = self._queries(X)
            if self.link_approx == "none":  # nothing of the posterior is needed
                return to_numpy(_mean_log_softmax(self._ensemble().means(queries)))
            return to_numpy(self._moderated(queries)[0])

    def decision_function(self, X: ArrayLike) -> Array:
        """Predict the logits of ``predict_proba``.

        Parameters
        ----------
        X : {array-like, sparse array, dask array, dask frame} of shape (n, n_features)
            Queries.

        Returns
        -------
        ndarray of shape (n,) or (n, n_classes)
            Two classes: log odds of the second. More: log probabilities less their
            mean. With link_approx="none" and one member these are the MAP's logits; else
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
        X : {array-like, sparse array, dask array, dask frame} of shape (n, n_features)
            Queries.

        Returns
        -------
        latent_mean, latent_var : ndarray of shape (n,) or (n, n_classes)
            The logits at the MAP, averaged over members, and their posterior variance (Laplace),
            without the shift to the posterior mean about which ``predict_proba`` averages. Two
            classes have one logit, that of the second class.

        Warns
        -----
        HFLConvergenceWarning
            With the number of standard deviations that missed ``std_rtol``.
        """
        if is_collection(X):
            return by_chunks(self.latent_mean_and_variance, X)
        check_is_fitted(self)
        with own_modes():
            moments = self._moments(self._ensemble(), self._queries(X))
            mean, var = to_numpy(moments.mean), to_numpy(moments.epistemic)
            return (mean[:, 0], var[:, 0]) if len(self.classes_) == 2 else (mean, var)

    def predict_uncertainty(self, X: ArrayLike) -> Bunch:
        """Predict with every part of the uncertainty, and a convergence flag for each row.

        Parameters
        ----------
        X : {array-like, sparse array, dask array, dask frame} of shape (n, n_features)
            Queries.

        Returns
        -------
        Bunch
            ``proba``, ``proba_std`` of shape (n, n_classes), see ``predict_proba`` with
            ``return_std=True``;
            ``entropy`` (n,): that of ``proba`` in nats, the total uncertainty of the
            label; ``mutual_information`` (n,): its epistemic part in nats, the
            information of the label about the weights, averaged over the logits whatever
            ``link_approx`` is; ``converged`` (n,): whether the stds of all of the row's logits,
            less their mean, met ``std_rtol``; ``rel_error`` (n,): the largest bound of
            their relative errors (an estimate where variance="network"). The error
            that draws add to ``proba`` and ``proba_std`` is given under ``predict_proba``.

        Warns
        -----
        HFLConvergenceWarning
            With the number of logits whose standard deviation missed ``std_rtol``.

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
        if is_collection(X):
            return by_chunks(self.predict_uncertainty, X)
        check_is_fitted(self)
        with own_modes():
            log_proba, averages, of_logits = self._moderated(self._queries(X))
            # I(y; θ) = H(E p) − E H(p), with one set of draws in both terms: never negative.
            information = entropy(averages.log_mean) - averages.mean_entropy
            rows = (len(log_proba), -1)
            rel_error = torch.stack([v.rel_error.view(rows) for v in of_logits]).amax((0, 2))
            converged = torch.stack([v.converged.view(rows).all(1) for v in of_logits]).all(0)
            return Bunch(
                proba=to_numpy(log_proba.exp()),
                proba_std=to_numpy(_std(averages, log_proba)),
                entropy=to_numpy(entropy(log_proba)),
                mutual_information=to_numpy(information.clamp(min=0.0)),
                converged=converged.cpu().numpy(),
                rel_error=to_numpy(rel_error),
            )

    def sample_proba(
        self,
        X: ArrayLike,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = 0,
    ) -> Array:
        """Draw joint samples of the class probabilities from their posterior.

        A draw is one function: its rows and classes vary together. The cost is linear in the
        number of rows, but cubic with variance="network".

        Parameters
        ----------
        X : {array-like, sparse array} of shape (n, n_features)
            Queries.
        n_samples : int, default=1
            Draws.
        random_state : int, RandomState instance or None, default=0
            Source of randomness.

        Returns
        -------
        ndarray of shape (n, n_classes, n_samples)
            Probabilities that sum to 1 over the classes; each draw comes from one member of
            the mixture. Their mean and std are those of ``predict_proba`` with link_approx="mc".

        Warns
        -----
        HFLConvergenceWarning
            With the number of logits whose standard deviation missed ``std_rtol``.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_hfl import HFLClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> model = HFLClassifier(hidden_layer_sizes=(5,), random_state=0).fit(X, y)
        >>> model.sample_proba(X, n_samples=4).shape
        (150, 3, 4)
        """
        check_is_fitted(self)
        validate_arguments("sample_proba", {"n_samples": n_samples}, {"n_samples": integer(1)})
        rng = check_random_state(random_state)
        with own_modes():
            drawn, variances = self._ensemble(CENTRED).draws(self._queries(X), n_samples, rng)
            self._warn_of_misses(variances)
            logits = torch.cat(drawn, dim=2)[..., rng.permutation(n_samples)]
            return to_numpy(log_probabilities(logits.mT).exp()).swapaxes(1, 2)

    def _moderated(self, X: Tensor) -> tuple[Tensor, Moderation, list[Variance]]:
        """Log probabilities (Q, C) at X (Q, D), averages, and the logits' variances.

        Averages are over the posterior of the logits, variances those of each member's logits;
        a warning counts those that missed their tolerance.
        """
        ensemble = self._ensemble()
        at_map = ensemble.means(X)  # which raises where they are not finite
        draws, probit = self._draws(), self.link_approx == "probit"
        parts, of_logits = ensemble.logits(X, lambda logits: logits.averaged(draws, probit=probit))
        self._warn_of_misses(of_logits)
        averages = mixed(parts)
        if self.link_approx == "none":
            return _mean_log_softmax(at_map), averages, of_logits
        return averages.log_proba, averages, of_logits

    def _draws(self) -> Tensor:
        n_classes = len(self.classes_)
        draws = normal_draws(n_draws(n_classes), n_classes, self._draw_seed)
        return draws.to(self._tensor(np.empty(0)))


def _mean_log_softmax(logits: Tensor) -> Tensor:
    """Log of the mean probabilities (Q, C) of members with these logits."""
    return mean_log([log_probabilities(each) for each in logits])


def _std(averages: Moderation, log_proba: Tensor) -> Tensor:
    """Std (Q, C) of the probabilities, no more than one of that mean can have.

    Averages over the posterior stay below sqrt(p (1 − p)) by themselves. The probabilities of
    link_approx="probit" and "none" are not quite that posterior's, or not at all.
    """
    p = log_proba.exp()
    most = p * (p.sum(1, keepdim=True) - p).clamp(min=0.0)
    return torch.minimum(averages.variance, most).sqrt()


def _wants_std(return_std: Any) -> bool:
    if isinstance(return_std, str) and return_std == "delta":
        return True
    if not boolean().accepts(return_std):
        raise ValueError(
            f"return_std must be False, True or 'delta', but got {return_std!r}. "
            "predict_uncertainty gives the other parts of the uncertainty."
        )
    return bool(return_std)

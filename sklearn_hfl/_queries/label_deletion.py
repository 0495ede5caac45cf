"""Deletion of a classifier: each training row as the others predict it, and what it moves."""

from __future__ import annotations

from typing import Any, Literal

import torch
from numpy.typing import ArrayLike
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklearn_hfl._data.modes import own_modes
from sklearn_hfl._data.validation import check_finite, to_numpy
from sklearn_hfl._ensemble.member import Member
from sklearn_hfl._queries.classes import ClassPosterior
from sklearn_hfl._queries.deletion import RowDeletion
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.posterior.link import CENTRED, log_probabilities
from sklearn_hfl.uncertainty.deletion import Deletion
from sklearn_hfl.uncertainty.moderation import LogitPosterior, mean_log

__all__ = ["LabelDeletion"]


class LabelDeletion(RowDeletion, ClassPosterior):
    """Leave-one-out predictions and influences of training rows, in the order of ``classes_``."""

    def loo_predict(
        self, method: Literal["linearized", "refit"] = "linearized", rows: ArrayLike | None = None
    ) -> Bunch:
        """Predict each training row from the others.

        Approximates a fit without the row, at the prior precisions that were learned from all
        rows. These, and the mode, have seen the row, so ``log_density`` is optimistic for new
        samples. It finds rows whose label the others contradict.

        Parameters
        ----------
        method : {"linearized", "refit"}, default="linearized"
            "linearized": by one Newton step from the MAP of all rows, for the network's
            linearisation there, at the cost of ``predict_proba`` of the training rows. The
            posterior mean of the logits is moved too: it lacks the row's own part of its
            distance from the MAP, while the parts of the others are those of the fit.
            "refit": the network itself is trained on without the row, from there, with its own
            covariance and posterior mean; many passes over the data a row. Where the classes
            are separable under a weak prior, a row may change its own probability by tenths, and
            "refit" is much nearer to a fit without it.
        rows : array-like of int, default=None
            Numbers of the rows in the X of ``fit``; None is all.

        Returns
        -------
        Bunch
            For each of the rows, in this order: ``proba`` (n, n_classes), averaged over the
            posterior without the row as ``predict_proba`` averages; ``log_density`` (n,): the log
            of the row's own label in it, in nats; ``leverage`` (n,): effective parameters that one
            copy of the row determines: times max(w, 1), for weights w, they add up to γ, the mean
            over members; ``converged`` (n,): whether the error bounds of the stds of the logits
            are within ``std_rtol`` ("refit": and the refit converged; others keep the linearized
            prediction); ``rows`` (n,): their numbers. Rows that had sample_weight 0 in ``fit`` are
            no training rows, and of a row of weight w one of w copies is left out.

        Raises
        ------
        ValueError
            If the fit holds no training rows (variance="amortized", or dask X), or ``rows`` are
            none of them.

        Warns
        -----
        HFLConvergenceWarning
            With the number of rows that are not converged.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_hfl import HFLClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> y[10] = 2  # a wrong label
        >>> model = HFLClassifier(hidden_layer_sizes=(5,), random_state=0).fit(X, y)
        >>> int(model.loo_predict().log_density.argmin())
        10
        """
        check_is_fitted(self)
        refit = self._check_method(method)
        draws, link_approx = self._draws(), self.link_approx

        def read(member: Member, chunk: Tensor, left: Deletion) -> tuple[Tensor, ...]:
            if link_approx == "none":
                log_proba = log_probabilities(left.moved)
            else:
                logits = LogitPosterior(CENTRED.value(left.mean), left.covariance)
                log_proba = logits.averaged(draws, probit=link_approx == "probit").log_proba
            return log_proba, left.leverage.sum(1)

        with own_modes():
            self._check_query_params()
            index, numbers = self._left_out_rows("loo_predict", rows)
            found, variances = self._ensemble().left_out(index, refit, read)
            log_probas, leverages = zip(*found, strict=True)
            check_finite(log_probas, "left-out predictions")
            log_proba = mean_log(log_probas)
            y = self.members_[0].estimate.log_posterior.y[index]
            label = y[:, 0].long() if y.shape[1] == 1 else y.argmax(1)
            return Bunch(
                proba=to_numpy(log_proba.exp()),
                log_density=to_numpy(log_proba.gather(1, label[:, None])[:, 0]),
                leverage=to_numpy(torch.stack(leverages).mean(0)),
                converged=self._left_out_converged(variances, len(index), refit),
                rows=numbers.copy(),
            )

    def influence(self, X: ArrayLike, rows: ArrayLike | None = None, top: int | None = None) -> Any:
        """How each class probability changes when a training row is left out.

        The probability at the MAP (that of link_approx="none") without the row less that with
        it, at the prior precisions that the fit has learned. The perturbed optima of the logits
        give their covariance with those of all training rows, so the influence of all of them
        costs little more than the std of a query; a row goes by one Newton step. ``variance``
        says whose optima these are, as for ``predict_proba``.

        Parameters
        ----------
        X : {array-like, sparse array} of shape (n, n_features)
            Queries.
        rows : array-like of int, default=None
            Numbers of the training rows in the X of ``fit``; None is all.
        top : int, default=None
            Return only this many training rows, the largest absolute change first. The whole
            array is then never held.

        Returns
        -------
        change : ndarray of shape (n, n_rows, n_classes)
            Adds up to 0 over the classes. A row of sample_weight w counts as w rows, of
            which one is left out. With several members, the mean of theirs.
        numbers : ndarray of int, shaped as change
            Only with ``top``, as ``(numbers, change)``, where n_rows is ``top``: numbers of the
            rows in the X of ``fit``, for each class by itself.

        Raises
        ------
        ValueError
            If the fit holds no training rows (variance="amortized", or dask X), or an argument is
            not as expected.

        Warns
        -----
        HFLConvergenceWarning
            With the number of standard deviations, of the logits of queries or rows, that
            missed ``std_rtol``.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_hfl import HFLClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> model = HFLClassifier(hidden_layer_sizes=(5,), random_state=0).fit(X, y)
        >>> model.influence(X[:2]).shape
        (2, 150, 3)
        """
        check_is_fitted(self)

        def read(member: Member, chunk: Tensor, change: Tensor) -> Tensor:
            logits = member.network.forward(member.estimate.weights[None], chunk)[0][:, None]
            moved = logits + change.unflatten(0, (len(chunk), -1)).mT
            return log_probabilities(moved).exp() - log_probabilities(logits).exp()

        with own_modes():
            queries = self._queries(X)
            index, numbers = self._left_out_rows("influence", rows)
            self._check_top(top, len(index))
            found, variances, of_rows = self._ensemble().influence(
                queries,
                lambda lp, chunk: Prediction(lp.network, chunk, CENTRED),
                index,
                read,
                top=top,
            )
        self._warn_of_misses(variances)
        self._left_out_converged(of_rows, len(index), refit=False)
        check_finite([found.change], "changes")
        change = to_numpy(found.change)
        return change if top is None else (numbers[found.rows.cpu().numpy()], change)

"""Deletion of a regressor: each training row as the others predict it, and what it moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklearn_hfl._data.modes import own_modes
from sklearn_hfl._data.validation import Array, check_finite, to_numpy
from sklearn_hfl._ensemble.member import Member
from sklearn_hfl._queries.deletion import RowDeletion
from sklearn_hfl._queries.functionals import (
    PopulationFunctionals,
    check_one_functional,
    checked_weights,
)
from sklearn_hfl.posterior.functional import Functional, Prediction
from sklearn_hfl.posterior.likelihood import GaussianLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.uncertainty.deletion import Deletion

__all__ = ["TargetDeletion"]


class TargetDeletion(RowDeletion, PopulationFunctionals):
    """Leave-one-out predictions and influences of training rows, in units of y."""

    def loo_predict(
        self, method: Literal["linearized", "refit"] = "linearized", rows: ArrayLike | None = None
    ) -> Bunch:
        """Predict each training row from the others.

        Approximates a fit without the row, at the precisions of prior and noise that were learned
        from all rows. These, and the mode, have seen the row, so ``log_density`` is optimistic and
        intervals from these residuals under-cover: for coverage, calibrate on held-out rows
        (``conformalize``).

        Parameters
        ----------
        method : {"linearized", "refit"}, default="linearized"
            "linearized": in closed form for the network's linearisation at the MAP, at the
            cost of one ``predict`` of the training rows with std. The residual is that of the
            fit divided by 1 − leverage, exact for ``hidden_layer_sizes=()``; one Newton step if
            heteroscedastic. "refit": the network itself is trained on without
            the row, from there; many passes over the data a row.
        rows : array-like of int, default=None
            Numbers of the rows in the X of ``fit``; None is all.

        Returns
        -------
        Bunch
            For each of the rows, in this order: ``mean``, ``std`` (noise included) of shape (n,)
            or (n, n_outputs) in units of y; ``log_density`` (n,) of the observed y, all outputs
            together, in nats and units of y; ``leverage``, shaped as mean: the derivative of the
            fitted mean with respect to the row's own y; ``converged`` (n,): whether the error bound
            of the epistemic std is within ``std_rtol`` ("refit": and the refit converged; others
            keep the linearized prediction); ``rows`` (n,): their numbers. Rows that had
            sample_weight 0 in ``fit`` are no training rows, and of a row of weight w one of w
            copies is left out. Moments and density are those of the mixture of members.

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
        >>> from sklearn.datasets import load_diabetes
        >>> from sklearn_hfl import HFLRegressor
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = HFLRegressor(hidden_layer_sizes=(5,), random_state=0).fit(X[:100], y[:100])
        >>> left_out = model.loo_predict()
        >>> left_out.mean.shape, left_out.leverage.shape
        ((100,), (100,))
        >>> worst = left_out.rows[left_out.log_density.argsort()[:5]]
        >>> refit = model.loo_predict(method="refit", rows=worst)
        """
        check_is_fitted(self)
        refit = self._check_method(method)
        with own_modes():
            self._check_query_params()
            index, numbers = self._left_out_rows("loo_predict", rows)
            found, variances = self._ensemble().left_out(index, refit, _read)
            mean, variance, noise, log_density, leverage = (
                torch.stack(each) for each in zip(*found, strict=True)
            )
            check_finite([*mean], "left-out predictions")
            total = variance.mean(0) + mean.var(0, correction=0) + noise.mean(0)
            scale = self._y_scaler.scale
            density = log_density.logsumexp(0) - math.log(len(log_density))
            return Bunch(
                mean=self._in_units(mean.mean(0)),
                std=self._shaped(to_numpy(total.sqrt()) * scale),
                log_density=to_numpy(density) - np.log(scale).sum(),
                leverage=self._shaped(to_numpy(leverage.mean(0))),
                converged=self._left_out_converged(variances, len(index), refit),
                rows=numbers.copy(),
            )

    def influence(
        self,
        X: ArrayLike,
        weights: ArrayLike | None = None,
        func: Callable[[Tensor], Tensor] | None = None,
        rows: ArrayLike | None = None,
        top: int | None = None,
    ) -> Any:
        """How each prediction changes when a training row is left out.

        The mean without the row less that with it, in units of y, at the precisions that the fit
        has learned. The perturbed optima of a prediction give its covariance with the outputs of
        all training rows, so all influences cost little more than the std of the query.
        ``variance`` says whose optima these are: with "network" the
        curvature is the exact Hessian, which is nearer to refits where the model does not fit
        well. With "linearized" the change at a training row itself is that of ``loo_predict``.

        Parameters
        ----------
        X : {array-like, sparse array} of shape (n, n_features)
            Queries.
        weights : array-like of shape (n,) or (n_functionals, n), default=None
            Change of ``weights @ f(X)`` instead of that of each prediction, as in
            ``predict_functional``.
        func : callable, default=None
            Change of a differentiable torch function of the predictions, to first order, as in
            ``predict_functional``; such as the squared error of held-out rows,
            ``lambda f: (f - torch.as_tensor(np.asarray(y_held_out))).square().mean()``.
        rows : array-like of int, default=None
            Numbers of the training rows in the X of ``fit``; None is all.
        top : int, default=None
            Return only this many training rows, the largest absolute change first. The whole
            matrix is then never held.

        Returns
        -------
        change : ndarray of shape (n, n_rows) or (n, n_rows, n_outputs)
            With ``weights`` or ``func`` (n_functionals, n_rows), or (n_rows,) for a single
            functional; ``weights`` add an axis for several outputs. A row of sample_weight w
            counts as w rows, of which one is left out. With several members, the mean of theirs.
        numbers : ndarray of int, shaped as change
            Only with ``top``, as ``(numbers, change)``, where n_rows is ``top``: numbers of the
            rows in the X of ``fit``.

        Raises
        ------
        ValueError
            If the fit holds no training rows (variance="amortized", or dask X), or an argument is
            not as expected.

        Warns
        -----
        HFLConvergenceWarning
            With the number of standard deviations, of queries or rows, that missed ``std_rtol``:
            the covariance of query and row is as inaccurate, relative to the product of the two.

        Examples
        --------
        >>> from sklearn.datasets import load_diabetes
        >>> from sklearn_hfl import HFLRegressor
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = HFLRegressor(hidden_layer_sizes=(5,), random_state=0).fit(X[:100], y[:100])
        >>> model.influence(X[100:103]).shape
        (3, 100)
        >>> numbers, change = model.influence(X[100:101], top=5)
        >>> numbers.shape
        (1, 5)
        """
        check_is_fitted(self)
        check_one_functional("influence", weights, func)
        with own_modes():
            queries = self._queries(X)
            index, numbers = self._left_out_rows("influence", rows)
            self._check_top(top, len(index))
            functional, scale, single = self._changed(queries, weights, func)
            found, variances, of_rows = self._ensemble().influence(
                queries,
                functional,
                index,
                lambda member, chunk, change: change.unflatten(0, (-1, len(scale))).mT,
                top=top,
                whole=weights is not None or func is not None,
            )
        self._warn_of_misses(variances)
        self._left_out_converged(of_rows, len(index), refit=False)
        check_finite([found.change], "changes")
        without_outputs = func is not None or self._one_dimensional

        def shaped(values: Any) -> Any:
            values = values[..., 0] if without_outputs else values
            return values[0] if single else values

        change = shaped(to_numpy(found.change) * scale)
        return change if top is None else (shaped(numbers[found.rows.cpu().numpy()]), change)

    def _changed(
        self, X: Tensor, weights: ArrayLike | None, func: Callable[[Tensor], Tensor] | None
    ) -> tuple[Callable[[LogPosterior, Tensor], Functional], Array, bool]:
        """Functionals of a chunk of X, the units of their last axis, and whether it is but one."""
        if func is not None:
            of_predictions, shape = self._function_of_predictions(X, func)
            return lambda lp, chunk: of_predictions(lp), np.ones(1), shape == ()
        scale = self._y_scaler.scale
        if weights is not None:
            array = checked_weights(weights, len(X))
            sums = self._weighted_sums(X, np.atleast_2d(array))
            return lambda lp, chunk: sums(lp), scale, array.ndim == 1
        link = self._mean_ensemble().link
        return lambda lp, chunk: Prediction(lp.network, chunk, link), scale, False


def _read(member: Member, rows: Tensor, left: Deletion) -> tuple[Tensor, ...]:
    """Mean, its variance, noise, log density and leverage of each row."""
    log_posterior = member.estimate.log_posterior
    likelihood = cast(GaussianLikelihood, log_posterior.likelihood)
    mean_of = likelihood.mean_link.value
    return (
        mean_of(left.moved),
        mean_of(left.covariance.diagonal(dim1=1, dim2=2)).clamp(min=0.0),
        likelihood.noise_variance(left.moved),
        left.log_density(likelihood, log_posterior.y[rows]),
        mean_of(left.leverage).clamp(max=1.0),  # a rounded 1 may be larger
    )

"""Population functionals: functions of many predictions, such as their mean, with error bars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklearn_hfl._data.columns import numbers_expected
from sklearn_hfl._data.modes import own_modes
from sklearn_hfl._data.params import boolean, validate_arguments
from sklearn_hfl._data.validation import Array, check_finite, to_numpy
from sklearn_hfl._ensemble.deletion import FunctionalOf
from sklearn_hfl._queries.units import UnitsOfY
from sklearn_hfl.posterior.functional import PredictionFunction, WeightedSum
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["PopulationFunctionals", "check_one_functional", "checked_weights"]


class PopulationFunctionals(UnitsOfY):
    """Functions of the predictions for many rows, in units of y or of the functional."""

    def predict_functional(
        self,
        X: ArrayLike,
        weights: ArrayLike | None = None,
        func: Callable[[Tensor], Tensor] | None = None,
        return_std: bool = True,
        return_cov: bool = False,
    ) -> Any:
        """Predict a function of the mean function at many rows, with its epistemic std.

        Prediction errors are correlated, so the std of a mean, or of a contrast of two
        groups, is not that of independent rows. Here it comes from one perturbed pair of
        optima for each functional, however many rows there are.

        Parameters
        ----------
        X : {array-like, sparse array} of shape (n, n_features)
            The population.
        weights : array-like of shape (n,) or (n_functionals, n), default=None
            The functional is ``weights @ f(X)``, for each output. None, without
            ``func``: 1 / n everywhere, the population mean.
        func : callable, default=None
            A differentiable torch function, instead of ``weights``: from the
            predictions *in units of y*, a tensor of shape (n,) or (n, n_outputs), to
            a tensor of shape () or (n_functionals,), such as
            ``lambda f: torch.sigmoid((f - 3) / 0.1).mean()``.
        return_std : bool, default=True
            Return the standard deviation.
        return_cov : bool, default=False
            Return the joint covariance of the functionals instead of the std.

        Returns
        -------
        value : float or ndarray of shape (n_functionals,)
            The functional of the mean function: a float for ``weights`` of shape (n,)
            and for a scalar ``func``. With ``weights``, y of several dimensions adds a
            last axis of n_outputs. With several members, the mean of theirs.
        std : float or ndarray, shaped as value
            Only with ``return_std``, and not with ``return_cov``. Epistemic, *noise
            excluded*, in the units of the functional. Of first order (the delta method)
            where ``func`` is not linear.
        cov : float or ndarray of shape (n_functionals, n_functionals)
            Only with ``return_cov``; a float, the variance, where value is one. With
            ``weights``, y of several dimensions adds a last axis: one matrix for each
            output.

        Raises
        ------
        ValueError
            If both ``weights`` and ``func`` are given, the weights have another
            shape, or ``func`` or its gradient is not finite or not differentiable.
        TypeError
            If ``func`` is not callable or does not return a tensor.

        Warns
        -----
        HFLConvergenceWarning
            With the number of standard deviations that missed ``std_rtol``.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_hfl import HFLRegressor
        >>> X = np.linspace(0, 1, 30)[:, None]
        >>> model = HFLRegressor(hidden_layer_sizes=(5,), random_state=0).fit(X, X[:, 0] ** 2)
        >>> mean, std = model.predict_functional(X)
        >>> bool(abs(mean - np.mean(X**2)) < 0.01)
        True
        >>> contrast = np.where(X[:, 0] > 0.5, 1, -1) / 15  # upper half less lower half
        >>> difference, std = model.predict_functional(X, weights=contrast)
        >>> largest, std = model.predict_functional(X, func=lambda f: f.logsumexp(0))
        """
        check_is_fitted(self)
        flags = {"return_std": return_std, "return_cov": return_cov}
        validate_arguments("predict_functional", flags, dict.fromkeys(flags, boolean()))
        check_one_functional("predict_functional", weights, func)
        with own_modes():
            queries = self._queries(X)
            if func is not None:
                return self._of_function(queries, func, return_std, return_cov)
            n = len(queries)
            return self._of_weights(
                queries,
                np.full(n, 1 / n) if weights is None else checked_weights(weights, n),
                return_std,
                return_cov,
            )

    def _of_weights(self, X: Tensor, weights: Array, std: bool, cov: bool) -> Any:
        W, k = np.atleast_2d(weights), self.n_outputs_
        functional = self._weighted_sums(X, W)

        def shaped(values: Array) -> Any:
            values = self._shaped(values)
            return _plain(values if weights.ndim == 2 else values[(0,) * (values.ndim - tail)])

        tail = 0 if self._one_dimensional else 1
        scale, mean = self._y_scaler.scale, self._y_scaler.mean
        values, squares = self._functional(functional, std, cov)
        check_finite([torch.as_tensor(values)], "values")
        total = values.reshape(-1, k) * scale + W.sum(1, keepdims=True) * mean
        if squares is None:
            return shaped(total)
        if cov:
            blocks = squares.reshape(len(W), k, len(W), k).diagonal(axis1=1, axis2=3)
            return shaped(total), shaped(blocks * scale**2)
        return shaped(total), shaped(np.sqrt(squares).reshape(-1, k) * scale)

    def _of_function(
        self, X: Tensor, func: Callable[[Tensor], Tensor], std: bool, cov: bool
    ) -> Any:
        functional, shape = self._function_of_predictions(X, func)
        values, squares = self._functional(functional, std, cov)
        if squares is None:
            return _plain(values.reshape(shape))
        errors = squares if cov else np.sqrt(squares)
        return _plain(values.reshape(shape)), _plain(errors if shape else errors.reshape(()))

    def _weighted_sums(self, X: Tensor, W: Array) -> FunctionalOf:
        """Sums of the predictions at X (n, D) with weights W (n_sums, n), of each output."""
        tensor, link = self._tensor(W), self._mean_ensemble().link

        def functional(log_posterior: LogPosterior) -> WeightedSum:
            return WeightedSum(log_posterior.network, X, tensor, link, log_posterior.memory_limit)

        return functional

    def _function_of_predictions(
        self, X: Tensor, func: Callable[[Tensor], Tensor]
    ) -> tuple[FunctionalOf, tuple[int, ...]]:
        """``func`` of the predictions at X (n, D) in units of y, and the shape of its values."""
        scale, mean = self._tensor(self._y_scaler.scale), self._tensor(self._y_scaler.mean)
        ensemble = self._mean_ensemble()

        def of_outputs(outputs: Tensor) -> Tensor:
            in_units = ensemble.link.value(outputs) * scale + mean
            return func(in_units[:, 0] if self._one_dimensional else in_units)

        shapes = {_checked_shape(func, of_outputs, f) for f in self._ensemble().means(X)}
        if len(shapes) > 1:
            raise ValueError(
                f"func must return as many numbers whatever the predictions are, but it returned "
                f"tensors of shapes {sorted(shapes)} for the members of this fit."
            )

        def functional(log_posterior: LogPosterior) -> PredictionFunction:
            return PredictionFunction(
                log_posterior.network, X, of_outputs, log_posterior.memory_limit
            )

        (shape,) = shapes
        return functional, shape

    def _functional(
        self, functional: FunctionalOf, std: bool, cov: bool
    ) -> tuple[Array, Array | None]:
        """Values (G,), and variances (G,) or the covariance (G, G) if asked for."""
        if not (std or cov):
            return to_numpy(self._ensemble().values(functional).mean(0)), None
        mean, variance, of_members = self._ensemble().functionals(functional, joint=cov)
        self._warn_of_misses(of_members)
        return to_numpy(mean), to_numpy(variance)


def _plain(values: Array) -> Any:
    """Give a single number as a float."""
    return float(values) if values.ndim == 0 else values


def check_one_functional(owner: str, weights: Any, func: Any) -> None:
    """Refuse weights and func together.

    Parameters
    ----------
    owner : str
        Name of the method.
    weights, func : object
        Its arguments.

    Raises
    ------
    ValueError
        If neither is None.
    """
    if weights is not None and func is not None:
        raise ValueError(
            f"{owner} takes weights or func, but both are given. Put the weights into func: "
            "lambda f: weights @ f, with torch tensors."
        )


def checked_weights(weights: ArrayLike, n: int) -> Array:
    """Validate the weights of functionals.

    Parameters
    ----------
    weights : array-like of shape (n,) or (n_functionals, n)
        Of the rows.
    n : int
        Number of rows.

    Returns
    -------
    ndarray
        Of the same shape.

    Raises
    ------
    ValueError
        If they have another shape, or are no finite numbers.
    """
    with numbers_expected(weights=weights):
        array: Array = check_array(
            weights, dtype=np.float64, ensure_2d=False, allow_nd=True, input_name="weights"
        )
    if array.ndim not in (1, 2) or array.shape[-1] != n:
        raise ValueError(
            f"weights must have shape ({n},) or (n_functionals, {n}), one number for each of the "
            f"{n} rows of X, but got {array.shape}."
        )
    return array


def _checked_shape(
    func: Callable[[Tensor], Tensor], of_outputs: Callable[[Tensor], Tensor], outputs: Tensor
) -> tuple[int, ...]:
    """Shape of what ``func`` returns, after checking that it is finite and differentiable."""
    expected = "func must return a torch tensor of shape () or (n_functionals,)"
    if not callable(func):
        raise TypeError(f"func must be a callable, but got {type(func).__name__}.")
    with torch.enable_grad():
        f = outputs.clone().requires_grad_()
        try:
            values = of_outputs(f)
        except (RuntimeError, TypeError) as error:
            reason = str(error).rstrip(".")
            raise ValueError(
                f"func failed on a torch tensor of {len(f)} predictions: {reason}. Use torch's "
                "functions in it, not NumPy's."
            ) from error
        if not isinstance(values, Tensor):
            raise TypeError(
                f"{expected}, but it returned {type(values).__name__}. Use torch's functions in "
                "it, and neither .item() nor float()."
            )
        if values.ndim > 1 or values.numel() == 0:
            raise ValueError(f"{expected}, but it returned one of shape {tuple(values.shape)}.")
        if not values.isfinite().all():
            raise ValueError(
                f"{expected} and of finite numbers, but {int((~values.isfinite()).sum())} of "
                f"{values.numel()} are not finite at the predictions."
            )
        gradient: Tensor | None = None
        if values.grad_fn is not None:
            (gradient,) = torch.autograd.grad(values.sum(), f, allow_unused=True)
    if gradient is None:
        raise ValueError(
            f"{expected} that is differentiable by the predictions, but nothing links it to them. "
            "Leave out .detach(), .item() and comparisons: torch.sigmoid((f - level) / width) is "
            "a threshold that has a slope."
        )
    if not gradient.isfinite().all():
        raise ValueError(
            "The gradient of func is not finite at the predictions, as that of sqrt is not at 0: "
            "no standard deviation exists there. Use a func that is smooth."
        )
    return tuple(values.shape)

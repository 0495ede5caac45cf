"""Adoption: fitted estimators around networks that were trained elsewhere."""

from __future__ import annotations

from typing import Any, Self

from numpy.typing import ArrayLike
from torch import Generator, Tensor, nn

from sklearn_hfl._adoption.mlp import check_mlp, mlp_params, trained_mlp
from sklearn_hfl._adoption.module import FreshCopies, LogitDifference, gives_two, module_params
from sklearn_hfl._adoption.parameters import check_polish
from sklearn_hfl._base import HFLBase
from sklearn_hfl._data.modes import own_modes
from sklearn_hfl._ensemble.trained import Trained
from sklearn_hfl.posterior.module import module_start
from sklearn_hfl.posterior.network import Network

__all__ = ["ClassifierAdoption", "RegressorAdoption"]


class RegressorAdoption(HFLBase):
    """``from_mlp`` and ``from_torch`` of the regressor."""

    noise_std_: Any

    @classmethod
    def from_mlp(
        cls,
        mlp: Any,
        X: ArrayLike,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        polish: bool = False,
        **params: Any,
    ) -> Self:
        """Give error bars to a fitted ``MLPRegressor``.

        Parameters
        ----------
        mlp : MLPRegressor
            Fitted; left unchanged.
        X : {array-like, sparse array} of shape (n_samples, n_features)
            The inputs that it was trained on.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The targets.
        sample_weight : array-like of shape (n_samples,), default=None
            The weights that it was trained with.
        polish : bool, default=False
            Train on to the MAP, at the precisions found at the weights as they came.
            False leaves the weights alone, and warns where they are not stationary.
        **params : object
            Parameters of the estimator, but none that the network decides: neither its shape nor
            ``normalize_X``, ``normalize_y`` or ``n_estimators``.

        Returns
        -------
        HFLRegressor
            Fitted; unless ``polish``, with the predictions of ``mlp``. Its parameters describe the
            same network and precisions, so that a clone can be fitted.

        Raises
        ------
        TypeError
            If ``mlp`` is something else.
        NotFittedError
            If it is not fitted.
        ValueError
            If ``mlp``, the data or a parameter is not as expected.

        Warns
        -----
        HFLConvergenceWarning
            If the weights are not stationary: with their distance from the MAP in
            posterior standard deviations, and the gradient's norm.

        Notes
        -----
        scikit-learn minimises ½ Σ (y − f)² + ½ α ‖W‖², with the weights W but not the
        biases; α is ``mlp.alpha``, times the number of mini-batches in a pass for
        "adam" and "sgd". That is the negative log posterior, times the noise variance
        σ², of a prior of precision α / σ² on W. Biases get a thousandth of it. Unless
        ``noise_std`` is given, σ² is Σ (y − f)² / (N K − γ), the same for all K outputs.
        ``prior_precision`` replaces this prior by a number for all weights and biases,
        or by the evidence's at these weights.

        For several outputs the gradient of ``MLPRegressor`` is that of the sum over
        outputs, and its loss the mean: "lbfgs" then stops early, and ``polish`` helps.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.neural_network import MLPRegressor
        >>> from sklearn_hfl import HFLRegressor
        >>> X = np.linspace(-1, 1, 40)[:, None]
        >>> y = X[:, 0] ** 2 + 0.1 * np.cos(50 * X[:, 0])
        >>> mlp = MLPRegressor(hidden_layer_sizes=5, solver="lbfgs", alpha=0.1, random_state=0)
        >>> model = HFLRegressor.from_mlp(mlp.fit(X, y), X, y, polish=True)
        >>> near, far = model.predict([[0.0], [4.0]], return_std="epistemic")[1]
        >>> bool(far > near)
        True
        """
        from sklearn.neural_network import MLPRegressor  # a tenth of a second that fits do not need

        check_mlp(mlp, MLPRegressor, cls.__name__)
        if mlp.out_activation_ != "identity":
            raise ValueError(
                f"from_mlp needs squared error, but mlp has loss={mlp.loss!r}. Fit an "
                "MLPRegressor with loss='squared_error'."
            )
        model = cls(**mlp_params(mlp, params), normalize_X=False, normalize_y=False)
        trained = trained_mlp(mlp, X, polish, params)
        _fit_around(trained, model, X, y, sample_weight)
        if trained.alpha is not None:
            model.prior_precision = _of_weights(model)
        if "noise_std" not in params:
            model.noise_std = model.noise_std_
        return model

    @classmethod
    def from_torch(
        cls,
        module: nn.Module,
        X: ArrayLike,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        polish: bool = False,
        **params: Any,
    ) -> Self:
        """Give error bars to a trained torch module.

        Parameters
        ----------
        module : torch.nn.Module
            Trained, and in eval mode where that matters; frozen parameters are constants. It
            maps (n, n_features) to (n, n_outputs). A copy is taken to ``dtype`` (float64).
        X : {array-like, sparse array} of shape (n_samples, n_features)
            The inputs that it was trained on, as the module takes them.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The targets.
        sample_weight : array-like of shape (n_samples,), default=None
            How many rows each row counts as.
        polish : bool, default=False
            Train on to the MAP, at the precisions found at the weights as they came.
            False leaves the weights alone, and warns where they are not stationary.
        **params : object
            Parameters of the estimator, except ``normalize_X``, ``normalize_y`` and
            ``n_estimators``. ``module`` may be a factory for refits; by default
            ``reset_parameters`` starts copies anew, but for frozen parts and buffers.

        Returns
        -------
        HFLRegressor
            Fitted; unless ``polish``, with the predictions of ``module``.

        Raises
        ------
        TypeError
            If ``module`` is not a torch module.
        ValueError
            If its output has the wrong shape, it has no trainable parameters or an unsupported
            operation, or the data or a parameter is invalid.

        Warns
        -----
        HFLConvergenceWarning
            If the weights are not stationary: with their distance from the MAP in
            posterior standard deviations, and the gradient's norm.

        Notes
        -----
        ``prior_precision`` and ``noise_std`` are "evidence" unless given: MacKay's
        updates at the module's weights, with a prior precision for each parameter
        tensor. They expect inputs and hidden units near unit scale. To say how the
        module was trained instead: ``weight_decay`` λ of mean squared error is
        ``prior_precision`` λ N K / (2 σ²), for N rows, K outputs and noise std σ.

        Examples
        --------
        >>> import numpy as np
        >>> from torch import nn
        >>> from sklearn_hfl import HFLRegressor
        >>> X = np.linspace(-1, 1, 40)[:, None]
        >>> y = 2 * X[:, 0] + 0.1 * np.cos(50 * X[:, 0])
        >>> module = nn.Linear(1, 1)
        >>> model = HFLRegressor.from_torch(module, X, y, polish=True)
        >>> near, far = model.predict([[0.0], [4.0]], return_std="epistemic")[1]
        >>> bool(far > near)
        True
        """
        fixed = module_params(module, params)
        model = cls(**fixed, normalize_X=False, normalize_y=False)

        def start(X: Tensor, n_outputs: int, generator: Generator) -> tuple[Network, Tensor]:
            return module_start(module, X, n_outputs)

        trained = Trained(start, check_polish(polish))
        return _fit_around(trained, model, X, y, sample_weight)


class ClassifierAdoption(HFLBase):
    """``from_mlp`` and ``from_torch`` of the classifier."""

    @classmethod
    def from_mlp(
        cls,
        mlp: Any,
        X: ArrayLike,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        polish: bool = False,
        **params: Any,
    ) -> Self:
        """Give error bars to a fitted ``MLPClassifier``.

        Parameters
        ----------
        mlp : MLPClassifier
            Fitted; left unchanged.
        X : {array-like, sparse array} of shape (n_samples, n_features)
            The inputs that it was trained on.
        y : array-like of shape (n_samples,)
            The labels.
        sample_weight : array-like of shape (n_samples,), default=None
            The weights that it was trained with.
        polish : bool, default=False
            Train on to the MAP, at the precisions found at the weights as they came.
            False leaves the weights alone, and warns where they are not stationary.
        **params : object
            Parameters of the estimator, but none that the network decides: neither its shape nor
            ``normalize_X``, ``normalize_y`` or ``n_estimators``.

        Returns
        -------
        HFLClassifier
            Fitted; unless ``polish``, with the predictions of ``mlp``. Its parameters describe the
            same network and precisions, so that a clone can be fitted.

        Raises
        ------
        TypeError
            If ``mlp`` is something else.
        NotFittedError
            If it is not fitted.
        ValueError
            If ``mlp``, the data or a parameter is not as expected.

        Warns
        -----
        HFLConvergenceWarning
            If the weights are not stationary: with their distance from the MAP in
            posterior standard deviations, and the gradient's norm.

        Notes
        -----
        scikit-learn minimises the log loss, summed, + ½ α ‖W‖², with the weights W but
        not the biases; α is ``mlp.alpha``, times the number of mini-batches in a pass
        for "adam" and "sgd". It is the precision of the prior on W; biases get a
        thousandth of it. ``prior_precision`` replaces this prior by a number for all
        weights and biases, or by the evidence's at these weights.

        ``link_approx`` is "none" unless given, for the probabilities of ``mlp``; "mc" and
        "probit" average over the posterior.

        Examples
        --------
        >>> from sklearn.datasets import make_moons
        >>> from sklearn.neural_network import MLPClassifier
        >>> from sklearn_hfl import HFLClassifier
        >>> X, y = make_moons(60, noise=0.1, random_state=0)
        >>> mlp = MLPClassifier([5], "tanh", solver="lbfgs", alpha=1.0, random_state=0)
        >>> model = HFLClassifier.from_mlp(mlp.fit(X, y), X, y, polish=True)
        >>> proba, std = model.predict_proba(X[:4], return_std=True)
        >>> proba.shape, std.shape
        ((4, 2), (4, 2))
        """
        from sklearn.neural_network import MLPClassifier

        check_mlp(mlp, MLPClassifier, cls.__name__)
        if mlp.out_activation_ == "logistic" and mlp.n_outputs_ > 1:
            raise ValueError(
                f"from_mlp needs one label a row, but mlp is multilabel, with {mlp.n_outputs_} "
                "labels a row. Fit one MLPClassifier for each label."
            )
        model = cls(**{"link_approx": "none", **mlp_params(mlp, params)}, normalize_X=False)
        trained = trained_mlp(mlp, X, polish, params)
        _fit_around(trained, model, X, y, sample_weight)
        if trained.alpha is not None:
            model.prior_precision = _of_weights(model)
        return model

    @classmethod
    def from_torch(
        cls,
        module: nn.Module,
        X: ArrayLike,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        polish: bool = False,
        **params: Any,
    ) -> Self:
        """Give error bars to a trained torch module.

        Parameters
        ----------
        module : torch.nn.Module
            Trained, and in eval mode where that matters; frozen parameters are constants. It
            maps (n, n_features) to logits (n, n_classes), or (n, 1) for two classes. A copy
            is taken to ``dtype`` (float64).
        X : {array-like, sparse array} of shape (n_samples, n_features)
            The inputs that it was trained on, as the module takes them.
        y : array-like of shape (n_samples,)
            The labels.
        sample_weight : array-like of shape (n_samples,), default=None
            How many rows each row counts as.
        polish : bool, default=False
            Train on to the MAP, at the precisions found at the weights as they came.
            False leaves the weights alone, and warns where they are not stationary.
        **params : object
            Parameters of the estimator, except ``normalize_X``, ``normalize_y`` and
            ``n_estimators``. ``module`` may be a factory for refits; by default
            ``reset_parameters`` starts copies anew, but for frozen parts and buffers.

        Returns
        -------
        HFLClassifier
            Fitted; unless ``polish``, with the predictions of ``module``.

        Raises
        ------
        TypeError
            If ``module`` is not a torch module.
        ValueError
            If its output has the wrong shape, it has no trainable parameters or an unsupported
            operation, or the data or a parameter is invalid.

        Warns
        -----
        HFLConvergenceWarning
            If the weights are not stationary: with their distance from the MAP in
            posterior standard deviations, and the gradient's norm.

        Notes
        -----
        ``prior_precision`` is "evidence" unless given: MacKay's updates at the module's
        weights, with a precision for each parameter tensor. They expect inputs and
        hidden units near unit scale. To say how the module was trained instead:
        ``weight_decay`` λ of mean cross entropy over N rows is ``prior_precision`` λ N.

        ``link_approx`` is "none" unless given, for the probabilities of ``module``; "mc" and
        "probit" average over the posterior. Two logits for two classes become their
        difference.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from torch import nn
        >>> from sklearn_hfl import HFLClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> model = HFLClassifier.from_torch(
        ...     nn.Linear(4, 3), X, y, prior_precision=1.0, polish=True
        ... )
        >>> proba, std = model.predict_proba(X[:2], return_std=True)
        >>> proba.shape, std.shape
        ((2, 3), (2, 3))
        """
        fixed = module_params(module, params)
        model = cls(**{"link_approx": "none", **fixed}, normalize_X=False)

        def start(X: Tensor, n_outputs: int, generator: Generator) -> tuple[Network, Tensor]:
            if n_outputs > 1 or not gives_two(module, X):
                return module_start(module, X, n_outputs)
            if "module" not in params:
                model.module = FreshCopies(LogitDifference(module))
            return module_start(LogitDifference(module), X, n_outputs)

        trained = Trained(start, check_polish(polish))
        return _fit_around(trained, model, X, y, sample_weight)


def _fit_around(trained: Trained, model: Any, X: Any, y: Any, sample_weight: Any) -> Any:
    """Fit an estimator that starts from the weights of a network, and may stay there."""
    model._check_params()
    with own_modes():
        model._fit(X, y, sample_weight, trained)
    return model


def _of_weights(model: HFLBase) -> float:
    """Prior precision of the weights, which is that of the first group."""
    return float(next(iter(model.prior_precision_.values())))

"""Regressor: a neural network with error bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import RegressorMixin
from torch import nn

from sklearn_hfl._adoption.estimators import RegressorAdoption
from sklearn_hfl._base import HFLBase
from sklearn_hfl._data.cluster_rows import ClusterRows
from sklearn_hfl._data.collections import is_collection
from sklearn_hfl._data.columns import numbers_expected
from sklearn_hfl._data.modes import own_modes
from sklearn_hfl._data.params import Rule, any_of, boolean, named_as_public, one_of, real, reals
from sklearn_hfl._data.validation import Array, check_training_data, to_numpy, warn_of_constants
from sklearn_hfl._ensemble.trained import Trained
from sklearn_hfl._queries.predictive import PosteriorPredictive
from sklearn_hfl._queries.target_deletion import TargetDeletion
from sklearn_hfl.posterior.likelihood import GaussianLikelihood, HeteroscedasticLikelihood
from sklearn_hfl.posterior.rescaling import Affine
from sklearn_hfl.uncertainty.precisions import EvidenceOptions

__all__ = ["HFLRegressor"]

# Initial noise std, in SDs of y, where the prior is given: at first all of y is noise.
INITIAL_NOISE_STD = 1.0
LIKELIHOODS = {"gaussian": GaussianLikelihood, "heteroscedastic": HeteroscedasticLikelihood}


@named_as_public
class HFLRegressor(RegressorMixin, RegressorAdoption, TargetDeletion, PosteriorPredictive):
    """Neural network regression with the standard deviation of every prediction.

    A multi-layer perceptron is trained to its maximum a posteriori (MAP) weights. The uncertainty
    of a prediction f(x) is its Laplace variance, found without a Hessian from *perturbed optima*:
    the weights that minimise the same loss plus or minus a small multiple of f(x) itself [1]_.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(50,)
        Widths of the hidden layers; () is Bayesian linear regression. Where the prior is learned,
        ``fit`` returns the linear model unless a network has more evidence, and evidence and
        leave-one-out log density together favour it.
    activation : {"tanh", "relu", "silu", "gelu", "logistic", "identity"}, default="tanh"
        Activation of the hidden layers.
    module : callable, default=None
        (n_features, n_outputs) -> torch.nn.Module, used instead of the perceptron; called with
        twice the columns of y if heteroscedastic. The module maps (n, n_features) to (n,
        n_outputs), each row by itself. Its frozen parameters (``requires_grad=False``) and
        buffers are constants; a parameter in several places is one. torch's global generator is
        seeded for the factory, and put back.
    likelihood : {"gaussian", "heteroscedastic"}, default="gaussian"
        Distribution of y around the mean: normal, with one noise for all rows, or with one that
        depends on X. The network's 2 n_outputs outputs are then means and log noise, which the
        prior shrinks towards a constant.
    prior_precision : "evidence" or float, default="evidence"
        Precision of the Gaussian prior on weights and biases, in standardised
        units; a float is shared by all. "evidence" learns one for each input feature, and for the
        other weights and the biases of each layer (``module``: for each parameter tensor).
    noise_std : "evidence", float or sequence of float, default="evidence"
        Standard deviation of the noise in units of y, one for all outputs or one each. "evidence"
        learns it, but no less than 0.001 SDs of y. Only "evidence" if heteroscedastic.
    normalize_X, normalize_y : bool, default=True
        Whether X and y are standardised inside: the units of ``module_``, ``coefs_``, a given
        ``prior_precision`` and a ``module``'s X. Results are in units of y either way; with
        prior_precision="evidence" and no ``module`` they do not depend on this choice.
    variance : {"linearized", "network", "amortized"}, default="linearized"
        Whose perturbed optima are found: those of the network's linearisation at the MAP
        (curvature: generalised Gauss-Newton; always defined), or those of the network itself, as
        in the paper (curvature: exact Hessian; rows whose refit does not converge fall back to
        "linearized" and are counted in a warning). "amortized" is "linearized" with all work done
        in ``fit``: queries then cost one matrix product, and no training data are kept.
    std_rtol : float, default=0.01
        Relative error to which each epistemic standard deviation is refined, or for
        variance="amortized" the error that ``fit`` prepares queries for.
    perturbation_scale : "auto" or float, default="auto"
        For variance="network": how far the optimum is moved, in posterior
        standard deviations. "auto" compares several scales row by row.
    solver : {"auto", "newton-cg", "lbfgs", "adam"}, default="auto"
        "auto" is "newton-cg", or "adam" (mini-batches) where ``early_stopping`` holds out rows.
    memory_limit : float, default=4e9
        Bytes of work memory that fit and queries may use beside the data and the results.
    max_iter : int, default=2000
        Maximum number of steps of each member ("adam": passes over the data), those between
        updates of the precisions included; those of linear models count by themselves.
    tol : float, default=0.01
        Near the MAP, training ends when the loss, summed over the data, fell by less than ``tol``
        sqrt(γ) nats per step over ``n_iter_no_change`` steps (elsewhere a thousandth of it): draws
        from the posterior of γ effective parameters differ in it by sqrt(γ / 2). "lbfgs": ``tol``
        nats per step, "adam": per row and pass. variance="network" ignores it and trains on.
    batch_size : "auto" or int, default="auto"
        Rows of a mini-batch of "adam"; "auto" is min(200, n_samples).
    learning_rate_init : float, default=0.001
        Step size of "adam".
    early_stopping : bool, default=False
        With "adam", stop when the loss of held-out rows (part of the curvature) stops falling.
    validation_fraction : float, default=0.1
        Share of the rows that ``early_stopping`` holds out.
    n_iter_no_change : int, default=10
        See ``tol``. For "adam" passes, or 200 mini-batches where these are more.
    warm_start : bool, default=False
        Start from the last fit's weights, where model and units are the same; and from its learned
        precisions, where the given ones are too, rows number the same within a factor of 1.5, and
        the precisions suit these rows. Start anew elsewhere.
    n_estimators : int, default=3
        MAPs from random starts, at most, mixed with equal weights; poor modes are left out. The
        first learns the precisions of all.
    random_state : int, RandomState instance or None, default=None
        Source of initial weights, mini-batches and random probes.
    verbose : bool, default=False
        Show progress bars.
    n_jobs : int or None, default=None
        joblib workers, over members when fitting and over chunks of queries.
    device : str, default="cpu"
        Torch device.
    dtype : {"float64", "float32"}, default="float64"
        Precision. "float32" halves the memory, but rounding limits the accuracy of stds.

    Attributes
    ----------
    n_features_in_ : int
        Features seen in fit.
    feature_names_in_ : ndarray of str
        Their names, where X had any.
    n_outputs_ : int
        Outputs.
    members_ : tuple of Member
        MAP estimate, diagnostics and loss curve of each: one for a linear model.
    module_ : torch.nn.Module
        Maps X to the mean, both standardised unless ``normalize_X`` or ``normalize_y`` is
        False. Here and below, that of the member with most evidence. If heteroscedastic,
        the outputs after the means are the logs of the noise std, each up to a constant.
    coefs_, intercepts_ : list of ndarray
        Weights (n_in, n_out) and biases (n_out,) of each layer, not with ``module``.
    n_iter_ : int
        Training steps.
    solver_ : str
        Solver that ran, "newton-cg" of a linear model; ``diagnostics_`` has its preconditioner.
    loss_ : float
        Negative log posterior at the MAP: nats, summed over the data, for standardised targets. In
        units of y where ``normalize_y`` is False and ``prior_precision`` a number, or after
        ``from_mlp`` or ``from_torch``. Heteroscedastic: with the variance of the mean.
    loss_curve_ : list of float
        Loss at the start and after each step; precisions, and of many the rows, change on the way.
    noise_std_ : float or ndarray of shape (n_outputs,)
        Noise in units of y (root mean square over members and training rows).
    prior_precision_ : dict of str to float
        Precision of each group of weights, in the units of ``loss_``; features by the names
        that X has, or by number.
    n_effective_parameters_ : float
        Number of weights that the data determine, γ.
    log_marginal_likelihood_ : float
        Laplace approximation of the log evidence, in nats, of targets standardised as for
        ``loss_``. Counts all permutations of hidden units, which are the same function.
    converged_ : bool
        Whether every member's MAP is stationary (closer to the optimum than a tenth of the
        posterior's radius), and none kept its linear model because of ``max_iter`` alone.
    grad_norm_ : float
        Norm of the loss's gradient.
    diagnostics_ : dict
        These numbers for each member, its ``hidden_layer_sizes`` ([] where the linear model is
        kept), mean log density of the training rows, fitted and left out, why training ended.
    conformity_scores_ : ndarray of shape (n_calibration_rows,) or (n_calibration_rows, n_outputs)
        Only after ``conformalize``: ``|y − mean|`` / std of its rows, ascending in each
        column.

    See Also
    --------
    sklearn.gaussian_process.GaussianProcessRegressor : Exact posterior, cubic in the rows.
    sklearn.linear_model.BayesianRidge : What ``hidden_layer_sizes=()`` amounts to.

    References
    ----------
    .. [1] J. McInerney, N. Kallus, "Hessian-Free Laplace in Bayesian Deep Learning",
       arXiv:2403.10671; N. Kallus, J. McInerney, "The Implicit Delta Method", arXiv:2211.06457.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_hfl import HFLRegressor
    >>> X = np.linspace(-1, 1, 40)[:, None]
    >>> y = np.sin(3 * X[:, 0]) + 0.1 * np.cos(50 * X[:, 0])
    >>> model = HFLRegressor(hidden_layer_sizes=(10,), random_state=0).fit(X, y)
    >>> mean, std = model.predict([[0.0], [4.0]], return_std="epistemic")
    >>> bool(std[1] > 5 * std[0])
    True
    """

    _rules: ClassVar[dict[str, Rule]] = {
        **HFLBase._rules,
        "likelihood": one_of("gaussian", "heteroscedastic"),
        "noise_std": any_of(one_of("evidence"), real(0), reals(0)),
        "normalize_y": boolean(),
    }

    def __init__(
        self,
        *,
        hidden_layer_sizes: int | Sequence[int] = (50,),
        activation: Literal["tanh", "relu", "silu", "gelu", "logistic", "identity"] = "tanh",
        module: Callable[[int, int], nn.Module] | None = None,
        likelihood: Literal["gaussian", "heteroscedastic"] = "gaussian",
        prior_precision: float | Literal["evidence"] = "evidence",
        noise_std: float | Sequence[float] | Literal["evidence"] = "evidence",
        normalize_X: bool = True,
        normalize_y: bool = True,
        variance: Literal["linearized", "network", "amortized"] = "linearized",
        std_rtol: float = 0.01,
        perturbation_scale: float | Literal["auto"] = "auto",
        solver: Literal["auto", "newton-cg", "lbfgs", "adam"] = "auto",
        memory_limit: float = 4e9,
        max_iter: int = 2000,
        tol: float = 0.01,
        batch_size: int | Literal["auto"] = "auto",
        learning_rate_init: float = 0.001,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        warm_start: bool = False,
        n_estimators: int = 3,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
        n_jobs: int | None = None,
        device: str = "cpu",
        dtype: Literal["float32", "float64"] = "float64",
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.module = module
        self.likelihood = likelihood
        self.prior_precision = prior_precision
        self.noise_std = noise_std
        self.normalize_X = normalize_X
        self.normalize_y = normalize_y
        self.variance = variance
        self.std_rtol = std_rtol
        self.perturbation_scale = perturbation_scale
        self.solver = solver
        self.memory_limit = memory_limit
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.n_estimators = n_estimators
        self.random_state = random_state
        self.verbose = verbose
        self.n_jobs = n_jobs
        self.device = device
        self.dtype = dtype

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.single_output = True
        tags.target_tags.multi_output = True
        return tags

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> HFLRegressor:
        """Train to the MAP and learn the curvature around it.

        Parameters
        ----------
        X : {array-like, sparse array, dask array, dask frame} of shape (n_samples, n_features)
            Inputs; what dask holds in chunks of rows is never loaded together.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Number of rows that each row counts as; rows of weight 0 are ignored. Relative
            weights should be scaled to sum to n_samples.

        Returns
        -------
        self : HFLRegressor
            Fitted.

        Raises
        ------
        ValueError, TypeError
            If a parameter or an array is not as expected; nothing is then changed.

        Warns
        -----
        HFLConvergenceWarning, HFLDataWarning
            If a MAP is not stationary or a limit ended the fit; if the data are doubtful.
        """
        self._check_params()
        with own_modes(), self._unchanged_on_failure():
            self._fit(X, y, sample_weight)
        return self

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Coefficient of determination R² of the predicted mean.

        Parameters
        ----------
        X : {array-like, sparse array} of shape (n, n_features)
            Queries.
        y : array-like of shape (n,) or (n, n_outputs)
            Observed values.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows.

        Returns
        -------
        float
            As scikit-learn's ``r2_score``; the mean of those of several outputs.
        """
        with numbers_expected(y=y, sample_weight=sample_weight):
            return float(super().score(X, y, sample_weight))

    def _fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        trained: Trained | None = None,
    ) -> None:
        rows: ClusterRows | None = None
        if trained is None and is_collection(X):
            rows = ClusterRows.of_numbers(self, X, y, sample_weight)
            self._one_dimensional = np.ndim(y) == 1
            X, targets, weight = rows.ends, rows.targets, rows.weight
        else:
            X, y, weight = check_training_data(self, X, y, sample_weight)
            self._one_dimensional = y.ndim == 1
            targets = y.reshape(len(y), -1)
        free = self._learns_units(trained)
        x_scaler, start_X, module_X = self._scaled(
            X, weight, self.normalize_X, free and self.module is None
        )
        y_scaler, start_y, module_y = self._scaled(targets, weight, self.normalize_y, free)
        noise = self._start_noise(y_scaler.scale, start_y)
        inputs = x_scaler.to_tensor(X, self.dtype, self.device)
        encode = y_scaler.of_targets
        members = self._fit_members(
            inputs,
            self._fit_tensor(y_scaler.transform(targets)),
            weight,
            LIKELIHOODS[self.likelihood](self._fit_tensor(noise**-2)),
            EvidenceOptions(
                self._learns_prior,
                noise=isinstance(self.noise_std, str),
                noise_unit=1.0 if start_y is None else start_y.scale,
            ),
            trained,
            (start_X, start_y),
            None if rows is None else rows.chunks(x_scaler, encode, self.dtype, self.device),
        )
        self._x_scaler, self._y_scaler = x_scaler, y_scaler
        self.n_outputs_ = targets.shape[1]
        warn_of_constants(targets)
        self._record(members, (module_X, module_y))
        squares = self._mean_ensemble().noise(inputs).mean(0)
        # Weighted mean over the rows, exact where the noise is constant.
        mean = squares[0] + self._tensor(weight / weight.sum()) @ (squares - squares[0])
        noise_std = to_numpy(mean.sqrt()) * y_scaler.scale
        self.noise_std_ = float(noise_std[0]) if self._one_dimensional else noise_std

    def _check_params(self) -> None:
        super()._check_params()
        if self.likelihood == "heteroscedastic" and not isinstance(self.noise_std, str):
            raise ValueError(
                "HFLRegressor: likelihood='heteroscedastic' learns the noise of every row, but "
                f"noise_std is {self.noise_std!r}. Set noise_std='evidence', or "
                "likelihood='gaussian'."
            )

    def _start_noise(self, scale: Array, units: Affine | None) -> Array:
        """Initial noise std (K,) in units of ``scale``; the SD of y is 1 in these, or ``units``."""
        n_outputs = len(scale)
        if isinstance(self.noise_std, str):
            sd = np.ones(n_outputs) if units is None else to_numpy(units.scale)
            return INITIAL_NOISE_STD * sd
        noise = np.asarray(self.noise_std, dtype=float)
        if noise.ndim and noise.shape != (n_outputs,):
            raise ValueError(
                f"HFLRegressor: noise_std must be one number or one for each of the {n_outputs} "
                f"outputs of y, but got {noise.size}."
            )
        relative = np.broadcast_to(noise, (n_outputs,)) / scale
        limit = np.finfo(self.dtype).tiny ** -0.5
        worst = relative[np.abs(np.log(relative)).argmax()]
        if abs(np.log(worst)) > np.log(limit):
            raise ValueError(
                f"HFLRegressor: noise_std must lie within a factor of {limit:.0e} of y's standard "
                f"deviation, or its square overflows {self.dtype}, but it is {worst:.0e} "
                "times as large. It is in units of y; several outputs can have one each."
            )
        return relative

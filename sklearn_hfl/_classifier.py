"""Classifier: a neural network whose class probabilities have error bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin
from sklearn.utils import check_random_state
from torch import nn

from sklearn_hfl._adoption.estimators import ClassifierAdoption
from sklearn_hfl._base import HFLBase
from sklearn_hfl._data.cluster_rows import ClusterRows
from sklearn_hfl._data.collections import is_collection
from sklearn_hfl._data.columns import check_labels, numbers_expected
from sklearn_hfl._data.labels import (
    check_labelled_data,
    class_weighted,
    encoded_labels,
    one_hot,
)
from sklearn_hfl._data.modes import own_modes
from sklearn_hfl._data.params import Rule, any_of, mapping, named_as_public, none, one_of
from sklearn_hfl._ensemble.trained import Trained
from sklearn_hfl._queries.label_deletion import LabelDeletion
from sklearn_hfl._queries.sets import PredictionSets
from sklearn_hfl.posterior.likelihood import CategoricalLikelihood
from sklearn_hfl.uncertainty.precisions import EvidenceOptions

__all__ = ["HFLClassifier"]

# The evidence of separable classes has no maximum: it grows as the prior widens and the
# weights follow. A hundredth of the fan-in allows logits of some tens
# (benchmarks/classifier.py, docs/design/classifier.md).
MIN_PRIOR = 0.01
# Initial prior precisions, in multiples of the fan-in. Networks start from a wide prior, from which
# classes that no linear boundary separates are learned (moons, circles); more starts take longer
# and end no better. Linear models, which are cheap, start from a strong and from a wide one
# (benchmarks/classifier.py, docs/design/classifier.md).
STARTS = ((0.03, 1.0),)
LINEAR_STARTS = ((10.0, 1.0), (0.03, 1.0))


@named_as_public
class HFLClassifier(ClassifierMixin, ClassifierAdoption, LabelDeletion, PredictionSets):
    """Neural network classification with the standard deviation of every probability.

    A multi-layer perceptron is trained to its maximum a posteriori (MAP) weights.
    The logits have a Laplace posterior, found without a Hessian from *perturbed
    optima*: the weights that minimise the same loss plus or minus a small multiple of
    a logit [1]_. Probabilities are averages over it, and their standard deviations
    are those under it.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(50,)
        Widths of the hidden layers; () is logistic regression, which is also what a fit
        returns where the prior is learned, unless a network has more evidence, and evidence
        and leave-one-out log density together favour it.
    activation : {"tanh", "relu", "silu", "gelu", "logistic", "identity"}, default="tanh"
        Activation of the hidden layers.
    module : callable, default=None
        (n_features, n_outputs) -> torch.nn.Module, used instead of the perceptron.
        The module maps (n, n_features) to logits (n, n_outputs), each row by
        itself; n_outputs is the number of classes, but 1 for two classes. Its frozen
        parameters (``requires_grad=False``) and buffers are constants; a parameter in
        several places is one. torch's global generator is seeded for the factory, and
        put back.
    class_weight : dict, "balanced" or None, default=None
        Rows of class c count ``class_weight[c]`` times (once for classes not listed).
        "balanced" gives every class the same total weight.
    link_approx : {"mc", "probit", "none"}, default="mc"
        How probabilities average over the posterior of the logits. "mc": evenly spread
        draws, the same for all rows and calls after a fit (two classes: quadrature).
        "probit": in closed form, with the variance of each difference of logits [2]_;
        under-confident for many classes. "none": not at all, the softmax at the MAP.
    prior_precision : "evidence" or float, default="evidence"
        Precision of the Gaussian prior on weights and biases, in standardised
        units; a float is shared by all. "evidence" learns one for each input feature, and for the
        other weights and the biases of each layer (``module``: for each parameter tensor).
    normalize_X : bool, default=True
        Whether the network is in standardised units: ``module_``, ``coefs_``, a given
        ``prior_precision``, and the X that a ``module`` of yours receives. With
        prior_precision="evidence" and no ``module`` probabilities are the same either way.
    variance : {"linearized", "network", "amortized"}, default="linearized"
        Whose perturbed optima are found: those of the network's linearisation at
        the MAP (curvature: generalised Gauss-Newton; always defined), or those of
        the network itself, as in the paper (curvature: exact Hessian; rows whose
        refit does not converge fall back to "linearized" and are counted in a warning).
        "amortized" is "linearized" with all work done in ``fit``: queries then
        cost one matrix product, and the estimator keeps no training data.
    std_rtol : float, default=0.01
        Relative error to which each standard deviation is refined, or for
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
        With "adam", hold rows out and stop when their loss stops falling. The
        held-out rows still count in the posterior's curvature.
    validation_fraction : float, default=0.1
        Share of the rows that ``early_stopping`` holds out.
    n_iter_no_change : int, default=10
        See ``tol``. For "adam" passes, or 200 mini-batches where these are more.
    warm_start : bool, default=False
        Start from the last fit's weights, where model and units are the same; and from its learned
        precisions, where the given ones are too, rows number the same within a factor of 1.5, and
        the precisions suit these rows. Start anew elsewhere. Other classes are an error.
    n_estimators : int, default=3
        MAPs from random starts, at most, mixed with equal weights; poor modes are left out. The
        first learns the precisions of all.
    random_state : int, RandomState instance or None, default=None
        Source of initial weights, shuffles, probes and draws.
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
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    members_ : tuple of Member
        MAP estimate, diagnostics and loss curve of each: one for a linear model.
    module_ : torch.nn.Module
        Maps X, standardised unless ``normalize_X`` is False, to logits. Here and below, that
        of the member with most evidence, where nothing else is said.
    coefs_, intercepts_ : list of ndarray
        Weights (n_in, n_out) and biases (n_out,) of each layer, of which there is one where
        the linear model is more probable; not with ``module``.
    n_iter_ : int
        Training steps.
    solver_ : str
        Solver that ran, "newton-cg" of a linear model; ``diagnostics_`` has its preconditioner.
    loss_ : float
        Negative log posterior at the MAP: nats, summed over the data.
    loss_curve_ : list of float
        Loss at the start and after each step; precisions, and of many the rows, change on the way.
    prior_precision_ : dict of str to float
        Precision of each group of weights; features by the names that X has, or by number.
    n_effective_parameters_ : float
        Number of weights that the data determine, γ.
    log_marginal_likelihood_ : float
        Laplace approximation of the log evidence, in nats. Counts all modes that are the
        same function, since hidden units can be permuted.
    converged_ : bool
        Whether every member's MAP is stationary, which means closer to the optimum than a
        tenth of the posterior's radius, and no member kept its linear model only because
        ``max_iter`` was reached.
    grad_norm_ : float
        Norm of the loss's gradient.
    diagnostics_ : dict
        The numbers behind these for each member, its ``hidden_layer_sizes``, [] where the linear
        model is kept, log density of the training rows and of each left out, why training ended.
    conformity_scores_ : ndarray of shape (n_calibration_rows,)
        Only after ``conformalize``: 1 − p(own class) of its rows, ascending.

    See Also
    --------
    sklearn.gaussian_process.GaussianProcessClassifier : Laplace approximation of
        a latent function, one against the rest for more than two classes.
    sklearn.linear_model.LogisticRegression : The MAP of ``hidden_layer_sizes=()``.

    References
    ----------
    .. [1] J. McInerney, N. Kallus, "Hessian-Free Laplace in Bayesian Deep
       Learning", arXiv:2403.10671; N. Kallus, J. McInerney, "The Implicit Delta
       Method", arXiv:2211.06457.
    .. [2] D. MacKay, "The Evidence Framework Applied to Classification Networks",
       Neural Computation 4, 1992; for more than two classes J. Daunizeau,
       arXiv:1703.00091.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from sklearn_hfl import HFLClassifier
    >>> X, y = make_moons(60, noise=0.1, random_state=0)
    >>> model = HFLClassifier(hidden_layer_sizes=(10,), random_state=0).fit(X, y)
    >>> near, far = model.predict_uncertainty([[0, 1], [5, 5]]).mutual_information
    >>> bool(far > 5 * near)
    True
    """

    _rules: ClassVar[dict[str, Rule]] = {
        **HFLBase._rules,
        "class_weight": any_of(none(), one_of("balanced"), mapping(0)),
        "link_approx": one_of("mc", "probit", "none"),
    }

    def __init__(
        self,
        *,
        hidden_layer_sizes: int | Sequence[int] = (50,),
        activation: Literal["tanh", "relu", "silu", "gelu", "logistic", "identity"] = "tanh",
        module: Callable[[int, int], nn.Module] | None = None,
        class_weight: dict[Any, float] | Literal["balanced"] | None = None,
        link_approx: Literal["mc", "probit", "none"] = "mc",
        prior_precision: float | Literal["evidence"] = "evidence",
        normalize_X: bool = True,
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
        self.class_weight = class_weight
        self.link_approx = link_approx
        self.prior_precision = prior_precision
        self.normalize_X = normalize_X
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

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> HFLClassifier:
        """Train to the MAP and learn the curvature around it.

        Parameters
        ----------
        X : {array-like, sparse array, dask array, dask frame} of shape (n_samples, n_features)
            Inputs; what dask holds in chunks of rows is never loaded together.
        y : array-like of shape (n_samples,)
            Labels of any type, two classes or more.
        sample_weight : array-like of shape (n_samples,), default=None
            Number of rows that each row counts as; rows of weight 0 are ignored. Relative
            weights should be scaled to sum to n_samples.

        Returns
        -------
        self : HFLClassifier
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
        """Accuracy of the predicted labels.

        Parameters
        ----------
        X : {array-like, sparse array} of shape (n, n_features)
            Queries.
        y : array-like of shape (n,)
            Their labels.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows.

        Returns
        -------
        float
            Share of the rows, by weight, whose label is the most probable class.
        """
        check_labels("y", y)
        with numbers_expected(sample_weight=sample_weight):
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
            rows, classes = ClusterRows.of_labels(self, X, y, sample_weight, self.class_weight)
            X, weight, index = rows.ends, rows.weight, np.zeros(len(rows.weight), dtype=np.intp)
        else:
            X, classes, index, weight = check_labelled_data(self, X, y, sample_weight)
        if trained is not None:
            trained.check_classes(classes)
        if rows is None:
            weight = class_weighted(self.class_weight, classes, index, weight)
        if self.warm_start and not np.array_equal(getattr(self, "classes_", classes), classes):
            raise ValueError(
                f"HFLClassifier: warm_start=True keeps the classes {self.classes_.tolist()}, "
                f"but y has {classes.tolist()}. Set warm_start=False to start again."
            )
        free = self._learns_units(trained) and self.module is None
        x_scaler, start_X, module_X = self._scaled(X, weight, self.normalize_X, free)
        encode = partial(encoded_labels, classes)
        members = self._fit_members(
            x_scaler.to_tensor(X, self.dtype, self.device),
            self._fit_tensor(one_hot(classes, index)),
            weight,
            CategoricalLikelihood(),
            EvidenceOptions(self._learns_prior, False, MIN_PRIOR, STARTS, LINEAR_STARTS),
            trained,
            (start_X, None),
            None if rows is None else rows.chunks(x_scaler, encode, self.dtype, self.device),
        )
        self._x_scaler = x_scaler
        self._draw_seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.classes_ = classes
        self._record(members, (module_X, None))

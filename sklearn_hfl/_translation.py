"""Translation: networks trained elsewhere, as networks of this package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Generator, Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from sklearn_hfl._data.params import boolean
from sklearn_hfl._data.validation import check_features
from sklearn_hfl.optim.training import Trainer
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.module import copied, seeded
from sklearn_hfl.posterior.network import MLP, Network
from sklearn_hfl.posterior.traced import FAILURES, trainable
from sklearn_hfl.uncertainty.post_hoc import with_precisions
from sklearn_hfl.uncertainty.precisions import EvidenceOptions

__all__ = [
    "FreshCopies",
    "LogitDifference",
    "Trained",
    "check_mlp",
    "check_polish",
    "equivalent_alpha",
    "gives_two",
    "mlp_params",
    "mlp_start",
    "module_params",
    "trained_mlp",
]

Start = Callable[[Tensor, int, Generator], tuple[Network, Tensor]]


@dataclass(frozen=True)
class Trained:
    """A network with the weights that it was trained to.

    Attributes
    ----------
    start : callable
        (X, n_outputs, generator) -> network and weights.
    polish : bool
        Whether to train on.
    alpha : float or None
        Penalty that training minimised, α of squared error + α ‖W‖² or of log loss + ½ α ‖W‖²,
        from which the prior follows; None takes the estimator's prior.
    classes : ndarray or None
        Labels in the order of the outputs, where known.
    """

    start: Start
    polish: bool
    alpha: float | None = None
    classes: NDArray[Any] | None = None

    def check_classes(self, classes: NDArray[Any]) -> None:
        """Compare the labels of y with those of the network."""
        if self.classes is not None and not np.array_equal(self.classes, classes):
            raise ValueError(
                f"mlp was trained on the classes {self.classes.tolist()}, but y has "
                f"{classes.tolist()}. Pass the data that it was trained on."
            )

    def begin(self, X: Tensor, n_outputs: int, generator: Generator) -> tuple[Network, Tensor]:
        """Network and weights; torch's global generator is left as it was."""
        with seeded(generator.initial_seed()):
            return self.start(X, n_outputs, generator)

    def trainer(self, trainer: Trainer) -> Trainer:
        """Return the trainer, without steps where the weights are not to be polished."""
        return trainer if self.polish else replace(trainer, max_iter=0)

    def with_precisions(
        self,
        log_posterior: LogPosterior,
        weights: Tensor,
        generator: Generator,
        options: EvidenceOptions,
    ) -> LogPosterior:
        """Return L with the precisions that belong to the weights as they are."""
        return with_precisions(log_posterior, weights, self.alpha, options, generator)


# ------------------------------------------------------------------ scikit-learn


def mlp_start(mlp: Any) -> Start:
    """Start from the weights of a fitted perceptron of scikit-learn.

    Parameters
    ----------
    mlp : MLPRegressor or MLPClassifier
        Fitted.

    Returns
    -------
    callable
    """

    def start(X: Tensor, n_outputs: int, generator: Generator) -> tuple[Network, Tensor]:
        if mlp.n_outputs_ != n_outputs:
            raise ValueError(
                f"mlp has {mlp.n_outputs_} outputs, but y needs {n_outputs}. Pass the data that "
                "it was trained on."
            )
        sizes = (X.shape[1], *(len(b) for b in mlp.intercepts_))
        network = MLP(sizes, mlp.activation)
        layers = zip(mlp.coefs_, mlp.intercepts_, strict=True)
        tensors = [torch.tensor(a).to(X) for W, b in layers for a in (W.T.copy(), b)]
        return network, network.packing.pack(tensors)

    return start


def equivalent_alpha(mlp: Any, n: int) -> float:
    """Penalty α of the sum over n rows that the solver of a perceptron has minimised.

    Parameters
    ----------
    mlp : MLPRegressor or MLPClassifier
        Its ``alpha`` is divided by the rows of a mini-batch in each step, and so counts
        once for each of the mini-batches in a pass.
    n : int
        Training rows.

    Returns
    -------
    float
    """
    if mlp.solver == "lbfgs":
        return float(mlp.alpha)
    batch = min(200, n) if mlp.batch_size == "auto" else min(max(mlp.batch_size, 1), n)
    return float(mlp.alpha) * n / batch


# ------------------------------------------------------------------------- torch


class LogitDifference(nn.Module):
    """The one logit of two classes, from a module that gives one for each.

    Parameters
    ----------
    module : torch.nn.Module
        Maps (n, n_features) to (n, 2).
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, X: Tensor) -> Tensor:
        """Second logit less the first, (n, 1)."""
        logits = self.module(X)
        return cast(Tensor, logits[:, 1:] - logits[:, :1])


class FreshCopies:
    """Factory of untrained copies of a module, for refits.

    Layers start again by their ``reset_parameters``: a refit from the trained weights
    would have seen the rows that cross-validation holds out. Frozen parameters and buffers
    are no weights, and keep their values.

    Parameters
    ----------
    module : torch.nn.Module
        Copied.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = copied(module)

    def __call__(self, n_features: int, n_outputs: int) -> nn.Module:
        module = copied(self.module)
        tensors = (*module.parameters(), *module.buffers())
        constants = [(t, t.clone()) for t in tensors if not t.requires_grad]
        _reset(module, "")
        with torch.no_grad():
            for tensor, value in constants:
                tensor.copy_(value)
        return module

    def __repr__(self) -> str:
        inner = self.module.module if isinstance(self.module, LogitDifference) else self.module
        return f"{type(self).__name__}({type(inner).__name__})"


def _reset(module: nn.Module, name: str) -> None:
    if not trainable(module):
        return
    # A reset of a parametrized tensor would change the value that is computed, and be lost.
    computed = is_parametrized(module)
    reset = getattr(module, "reset_parameters", None)
    if callable(reset) and not computed:
        reset()
        return
    if computed or any(p.requires_grad for p in module.parameters(recurse=False)):
        why = "a parametrization" if computed else "parameters and no reset_parameters method"
        raise ValueError(
            f"Refitting needs fresh weights, but {type(module).__name__} {name!r} has {why}. Set "
            "module to a factory (n_features, n_outputs) -> torch.nn.Module, or add the method."
        )
    for child_name, child in module.named_children():
        _reset(child, f"{name}.{child_name}" if name else child_name)


# ----------------------------------------------------------------------- checks


# Standardised inputs or targets would be others than those that the network was trained on.
_FIXED = {
    "normalize_X": "is False for a network that is trained already: it takes X as it is",
    "normalize_y": "is False for a network that is trained already: it predicts y as it is",
    "n_estimators": "is 1 for a network that is trained already",
}
_DECIDED = dict.fromkeys(("hidden_layer_sizes", "activation", "module"), "comes from mlp")


def _check_fixed(params: dict[str, Any], fixed: dict[str, str]) -> None:
    for name, why in fixed.items():
        if name in params:
            raise ValueError(f"{name} {why}. Leave it out.")
    if params.get("likelihood") == "heteroscedastic":
        raise ValueError(
            "likelihood='heteroscedastic' needs a network that also gives the log noise, but one "
            "that is trained already has no output for it. Leave it out, or train a new network: "
            "HFLRegressor(likelihood='heteroscedastic').fit(X, y)."
        )


def mlp_params(mlp: Any, params: dict[str, Any]) -> dict[str, Any]:
    """Parameters of an estimator with the perceptron's network."""
    _check_fixed(params, {**_FIXED, **_DECIDED})
    sizes = tuple(len(b) for b in mlp.intercepts_[:-1])
    return {"hidden_layer_sizes": sizes, "activation": mlp.activation, **params}


def check_mlp(mlp: Any, expected: type, owner: str) -> None:
    if not isinstance(mlp, expected):
        raise TypeError(
            f"{owner}.from_mlp expects a fitted {expected.__name__}, but got "
            f"{type(mlp).__name__}. Of a pipeline or search, pass the fitted network itself, and X "
            "as it arrives there."
        )
    check_is_fitted(mlp)


def trained_mlp(mlp: Any, X: Any, polish: Any, params: dict[str, Any]) -> Trained:
    n = check_features(mlp, X).shape[0]
    alpha = None
    if "prior_precision" not in params:
        alpha = equivalent_alpha(mlp, n)
        if alpha == 0:
            raise ValueError(
                "mlp was trained with alpha=0, which is no prior: a posterior needs one. Pass "
                "prior_precision, a number > 0 or 'evidence'."
            )
    return Trained(mlp_start(mlp), check_polish(polish), alpha, getattr(mlp, "classes_", None))


def check_polish(polish: Any) -> bool:
    if not boolean().accepts(polish):
        raise ValueError(f"polish must be True or False, but got {polish!r}.")
    return bool(polish)


def module_params(module: Any, params: dict[str, Any]) -> dict[str, Any]:
    """Parameters of an estimator that refits copies of the module."""
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"from_torch expects a trained torch.nn.Module, but got {type(module).__name__}."
        )
    _check_fixed(params, _FIXED)
    return {"module": FreshCopies(module), **params}


def gives_two(module: nn.Module, X: Tensor) -> bool:
    """Whether the module gives two logits; what else is wrong with it is found later."""
    try:
        with torch.no_grad():
            output = copied(module).to(X)(X[:2].clone())
    except FAILURES:
        return False
    return isinstance(output, Tensor) and output.shape == (len(X[:2]), 2)

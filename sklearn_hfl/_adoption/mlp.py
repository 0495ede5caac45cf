"""MLP: fitted perceptrons of scikit-learn, as networks of this package."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.utils.validation import check_is_fitted
from torch import Generator, Tensor

from sklearn_hfl._adoption.parameters import FIXED, check_fixed, check_polish
from sklearn_hfl._data.validation import check_features
from sklearn_hfl._ensemble.trained import Start, Trained
from sklearn_hfl.posterior.network import MLP, Network

__all__ = ["check_mlp", "equivalent_alpha", "mlp_params", "mlp_start", "trained_mlp"]

DECIDED = dict.fromkeys(("hidden_layer_sizes", "activation", "module"), "comes from mlp")


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


def mlp_params(mlp: Any, params: dict[str, Any]) -> dict[str, Any]:
    """Parameters of an estimator with the perceptron's network."""
    check_fixed(params, {**FIXED, **DECIDED})
    sizes = tuple(len(b) for b in mlp.intercepts_[:-1])
    fixed = {"hidden_layer_sizes": sizes, "activation": mlp.activation, "n_estimators": 1}
    return {**fixed, **params}


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

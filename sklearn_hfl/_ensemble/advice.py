"""Advice: why a fit or a standard deviation missed its tolerance, and what to try."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sklearn_hfl._ensemble.member import Member
from sklearn_hfl.exceptions import HFLConvergenceWarning, HFLDataWarning, HFLWarning
from sklearn_hfl.optim.krylov import max_directions
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.solution import Status
from sklearn_hfl.optim.solvers import chosen_solver
from sklearn_hfl.optim.variance_bounds import rounding_error
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.uncertainty.diagnostics import Diagnostics

__all__ = ["of_fit", "of_left_out_rows", "of_missed_rows"]

# Skewness of the residuals above which the logarithm of y is worth a try. Not tuned.
MIN_SKEWNESS = 0.5


def _one_of(*advice: str) -> str:
    """Join pieces of advice, without those that do not apply, which are empty."""
    *first, last = filter(None, advice)
    return f"{', '.join(first)} or {last}" if first else last


def of_fit(
    model: Any, members: Sequence[Member], best: Member
) -> Iterator[tuple[str, type[HFLWarning]]]:
    """Shortcomings of a fit that its user should know.

    Parameters
    ----------
    model : estimator
        Fitted.
    members : sequence of Member
        Its members.
    best : Member
        The one whose facts its attributes give.

    Yields
    ------
    message : str
        What fell short, and what to try.
    category : type
        The warning that it is.
    """
    facts, lp = best.diagnostics, _with_most_weights(members)
    most, n_weights = max_directions(lp), lp.n_weights
    if most < n_weights and any(m.diagnostics.rank >= most for m in members):
        yield _of_directions(model, most, n_weights), HFLConvergenceWarning
    # A given noise decides by itself how closely rows are fitted.
    learned = isinstance(getattr(model, "noise_std", "evidence"), str)
    if facts.over_fitted and facts.stationary and learned:
        yield _of_over_fitting(facts), HFLDataWarning
    elif facts.heavy_tailed and facts.stationary and learned:
        yield _of_tails(model, facts), HFLDataWarning
    if not all(m.diagnostics.finished for m in members):
        network_solver = chosen_solver(model.solver, model.early_stopping)
        message = (
            f"The search for a network ended after max_iter={model.max_iter} steps, and the linear "
            "model that was found before is kept. Try a larger max_iter"
            + ("." if network_solver == "newton-cg" else " or solver='newton-cg'.")
        )
        yield message, HFLConvergenceWarning
    if not all(m.diagnostics.stationary for m in members):
        worst = max(m.diagnostics.decrement for m in members)
        # Only weights that were trained elsewhere are not trained here.
        steps = "1 step" if model.n_iter_ == 1 else f"{model.n_iter_} steps"
        reached = f"reached after {steps}" if model.n_iter_ else "given"
        message = (
            f"The MAP is not stationary{_reasons(model, members)}: the weights {reached} are about "
            f"{worst:.3g} posterior standard deviations away from it (‖∇L‖ = "
            f"{facts.grad_norm:.3g}), and the Laplace approximation is centred at them. "
            f"{_of_training(model, members)}"
        )
        yield message, HFLConvergenceWarning


def _reasons(model: Any, members: Sequence[Member]) -> str:
    """Why training ended before the MAP of some members; empty if there was none."""
    short = {m.status for m in members if not m.diagnostics.stationary}
    return ", since " + " or ".join(s.reason for s in sorted(short)) if model.n_iter_ else ""


def _of_training(model: Any, members: Sequence[Member]) -> str:
    """What to try where the MAP of some members is not stationary.

    Parameters
    ----------
    model : estimator
        Its parameters.
    members : sequence of Member
        Fitted.

    Returns
    -------
    str
        A sentence.
    """
    short = [m for m in members if not m.diagnostics.stationary]
    if all(len(m.loss_curve) == 1 for m in short):
        return "polish=True trains on to the MAP."  # weights trained elsewhere
    unfinished = any(m.status is Status.MAX_ITER for m in short)
    newton = all(m.solver_name == "newton-cg" for m in short)
    # The network route trains to a tolerance of its own.
    by_tol = model.variance != "network"
    return (
        "Try "
        + _one_of(
            f"a max_iter above {model.max_iter}" if unfinished else "",
            "a smaller tol" if by_tol and not unfinished else "",
            "" if newton else "solver='newton-cg'",
            "activation='silu' (a minimum at a kink of relu is not stationary)"
            if model.module is None and model.activation == "relu" and not unfinished
            else "",
            "dtype='float64'" if model.dtype == "float32" else "",
            "a larger prior_precision" if newton and not unfinished else "",
        )
        + "."
    )


def _of_directions(model: Any, most: int, n_weights: int) -> str:
    """What a subspace that the memory limit truncated means.

    Parameters
    ----------
    model : estimator
        Its parameters.
    most : int
        Directions that fit the limit.
    n_weights : int
        P.

    Returns
    -------
    str
        A few sentences.
    """
    return (
        f"The memory limit stopped the Krylov subspace at {most} of {n_weights} directions. "
        "Standard deviations that miss std_rtol for this reason will be reported, and the "
        f"evidence is less accurate. Try {_smaller(model)}."
    )


def _of_over_fitting(facts: Diagnostics) -> str:
    """What it means that left-out rows are predicted worse than without features.

    Parameters
    ----------
    facts : Diagnostics
        Of the member.

    Returns
    -------
    str
        A few sentences.
    """
    return (
        "Over-fitted: the leave-one-out log density of the training rows is "
        f"{facts.log_density_left_out:.3g} in the mean, less than without any features, while "
        f"their fitted one is {facts.log_density:.3g}. Do not trust predictions for new rows. Try "
        "prior_precision='evidence' or a larger number, fewer features or hidden units, or "
        "hidden_layer_sizes=()."
    )


def _of_tails(model: Any, facts: Diagnostics) -> str:
    """What heavy tails of the residuals mean.

    Parameters
    ----------
    model : estimator
        Its parameters.
    facts : Diagnostics
        Of the member.

    Returns
    -------
    str
        A few sentences.
    """
    skewness = facts.skewness or 0.0
    return (
        "Heavy tails: the leave-one-out residuals of the training rows have an excess kurtosis of "
        f"{facts.excess_kurtosis:.3g} and a skewness of {skewness:.2g}, both 0 for normal noise. "
        "Normal distributions then are too wide in their middle and too narrow in their tails. Try "
        + _one_of(
            "likelihood='heteroscedastic'"
            if model.likelihood == "gaussian" and model.module is None
            else "",
            "the logarithm of y, where it is positive (TransformedTargetRegressor, with quantiles)"
            if skewness > MIN_SKEWNESS
            else "",
            "conformalize, then interval_kind='conformal'",
        )
        + "."
    )


def of_missed_rows(model: Any, members: Sequence[Member]) -> str:
    """Why standard deviations missed ``std_rtol``, and what to try.

    Parameters
    ----------
    model : estimator
        Its parameters.
    members : sequence of Member
        Fitted.

    Returns
    -------
    str
        Continues a sentence that counts them.
    """
    if model.variance == "network":
        unfinished = any(len(m.loss_curve) > model.max_iter for m in members)
        return (
            "are linearized: the refit of the network did not converge, or two perturbation scales "
            "disagreed. Try "
            + _one_of(
                f"a max_iter above {model.max_iter}, so that the MAP is reached"
                if unfinished
                else "",
                "a larger prior_precision",
                "variance='linearized'",
            )
            + "."
        )
    found = _of_rounding(model, members) or _of_memory(model, members)
    cause, advice = found or (
        " in the subspace that fit has kept",
        _one_of(
            "to fit again with this std_rtol",
            "variance='linearized', which refines by the training data",
        ),
    )
    return (
        f"missed std_rtol={model.std_rtol:g}{cause}. Try {advice}. predict_uncertainty gives each "
        "row's error bound."
    )


def of_left_out_rows(model: Any, members: Sequence[Member], refit: bool) -> str:
    """Why rows that are left out were not predicted to ``std_rtol``, and what to try.

    Parameters
    ----------
    model : estimator
        Its parameters.
    members : sequence of Member
        Fitted.
    refit : bool
        Whether the network was refitted without each row.

    Returns
    -------
    str
        Continues a sentence that counts them.
    """
    found = _of_rounding(model, members) or _of_memory(model, members)
    if refit:
        cause, advice = found or (
            ": the refit without the row did not converge, as happens where the MAP is no strict "
            "minimum",
            "a fit with variance='network', which trains on to one, or a larger prior_precision",
        )
        return f"keep the linearized prediction{cause}. Try {advice}."
    cause, advice = found or (
        ": leaving a row out multiplies the error of its standard deviation by 1 / (1 − leverage)",
        _one_of(
            "method='refit' of loo_predict",
            "dtype='float64'" if model.dtype == "float32" else "",
            "a larger prior_precision",
        ),
    )
    return f"missed std_rtol={model.std_rtol:g}{cause}. Try {advice}."


def _of_rounding(model: Any, members: Sequence[Member]) -> tuple[str, str] | None:
    """Cause and advice, where rounding alone may be larger than ``std_rtol``."""
    largest = max((m.estimate.ritz or m.estimate.subspace).largest for m in members)
    if rounding_error(largest, _with_most_weights(members).X.dtype) <= model.std_rtol:
        return None
    cause = (
        f": rounding in {model.dtype} alone may be larger, since the data determine some direction "
        f"{largest:.1g} times as precisely as the prior does"
    )
    return cause, _one_of(
        "dtype='float64'" if model.dtype == "float32" else "",
        "a larger noise_std" if hasattr(model, "noise_std") else "",
        "a larger prior_precision",
        "a larger std_rtol",
    )


def _of_memory(model: Any, members: Sequence[Member]) -> tuple[str, str] | None:
    """Cause and advice, where the memory limit stops the subspace."""
    lp = _with_most_weights(members)
    most = max_directions(lp)
    if most >= lp.n_weights or _room_left([m.estimate for m in members], most):
        return None
    cause = f": the memory limit allows {most} directions of {lp.n_weights}"
    return cause, _one_of(_smaller(model), "a larger std_rtol")


def _with_most_weights(members: Sequence[Member]) -> LogPosterior:
    """The one that the memory limit truncates first: a member may have kept its linear model."""
    return max((m.estimate.log_posterior for m in members), key=lambda lp: lp.n_weights)


def _room_left(estimates: Sequence[MapEstimate], most: int) -> bool:
    """Whether an amortised fit stopped below the limit; other routes extend the subspace to it."""
    return all(e.ritz is not None and len(e.ritz.values) < most for e in estimates)


def _smaller(model: Any) -> str:
    return _one_of(
        "fewer hidden units" if model.module is None else "a smaller module",
        "dtype='float32'" if model.dtype == "float64" else "",
        "a larger memory_limit",
    )

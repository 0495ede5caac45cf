"""Post hoc: precisions of a network that was trained elsewhere, at the weights it has."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from sklearn_hfl.optim.krylov import determined_subspace
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.likelihood import GaussianLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.uncertainty.precisions import (
    EvidenceOptions,
    noise_precision,
    squared_residuals,
    updated_at,
)

__all__ = ["BIAS_SHARE", "equivalent_precisions", "evidence_at", "with_precisions"]

# Prior precision of biases, relative to that of weights. scikit-learn leaves biases unpenalised,
# but a posterior needs a prior: with a thousandth its SD is thirty times that of the weights. A
# hundredth moved the MAP of converged networks by more than what counts as stationary.
BIAS_SHARE = 0.001
# Updates stop here whether or not they have converged: perceptrons of 10 and 50 units on made-up
# rows, diabetes and iris took 5 to 36.
MAX_UPDATES = 40


def with_precisions(
    log_posterior: LogPosterior,
    weights: Tensor,
    penalty: float | None,
    options: EvidenceOptions,
    generator: Generator,
) -> LogPosterior:
    """Find the precisions of a network that was trained elsewhere.

    Parameters
    ----------
    log_posterior : LogPosterior
        Its precisions are kept where they are not to be found.
    weights : Tensor of shape (P,)
        Trained; taken for the MAP.
    penalty : float or None
        α of squared error + α ‖W‖², or of log loss + ½ α ‖W‖², that training minimised: the
        prior is then the one that is equivalent. None learns it if ``options`` say so.
    options : EvidenceOptions
        What to learn from the evidence.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    LogPosterior
        With the precisions found.
    """
    std = _target_std(log_posterior)
    likelihood = log_posterior.likelihood
    if options.noise and isinstance(likelihood, GaussianLikelihood):
        likelihood = likelihood.with_precision(std**-2)
        log_posterior = replace(log_posterior, likelihood=likelihood)
    if penalty is not None:
        return equivalent_precisions(log_posterior, weights, penalty, options.noise, generator)
    if options.prior or options.noise:
        unit = _unit_precision(log_posterior, weights)
        options = replace(options, noise_unit=std, prior_unit=unit)
        return evidence_at(log_posterior, weights, options, generator)
    return log_posterior


def equivalent_precisions(
    log_posterior: LogPosterior,
    weights: Tensor,
    penalty: float,
    learns_noise: bool,
    generator: Generator,
) -> LogPosterior:
    """Choose precisions under which L is a multiple of a penalised loss.

    Parameters
    ----------
    log_posterior : LogPosterior
        L; its noise is kept where it is not learned.
    weights : Tensor of shape (P,)
        Taken for the MAP.
    penalty : float
        α of squared error + α ‖W‖², or of log loss + ½ α ‖W‖².
    learns_noise : bool
        Whether to set the noise precision β to (N − γ) / Σ w r².
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    LogPosterior
        Prior precision α β of weights, with β = 1 for classes; of biases ``BIAS_SHARE`` of that.
    """
    prior, likelihood = log_posterior.prior, log_posterior.likelihood
    shares = [BIAS_SHARE if kind == "biases" else 1.0 for kind in prior.groups.kinds]
    relative = penalty * torch.tensor(shares).to(weights)
    if not isinstance(likelihood, GaussianLikelihood):
        return replace(log_posterior, prior=prior.with_precision(relative))
    if learns_noise:
        beta = _equivalent_noise(log_posterior, weights, relative, generator)
        likelihood = likelihood.with_precision(beta.expand_as(likelihood.noise_precision).clone())
    # Noises that are given and differ have no equivalent in a sum of squares: their mean is taken.
    beta = likelihood.noise_precision.mean()
    return replace(
        log_posterior, prior=prior.with_precision(beta * relative), likelihood=likelihood
    )


def _equivalent_noise(
    log_posterior: LogPosterior, weights: Tensor, relative: Tensor, generator: Generator
) -> Tensor:
    """β = (N K − γ) / Σ w r² of K outputs, which share it as they share a sum of squares.

    The prior's precision is β times ``relative`` (n_groups,), so that prior and data scale
    alike: γ does not depend on β, and one update is enough.
    """
    prior, likelihood = log_posterior.prior, log_posterior.likelihood
    assert isinstance(likelihood, GaussianLikelihood)
    at_one = replace(
        log_posterior,
        prior=prior.with_precision(relative),
        likelihood=likelihood.with_precision(torch.ones_like(likelihood.noise_precision)),
    )
    gamma = determined_subspace(GaussNewton(at_one, weights), generator).effective_parameters()
    squares = squared_residuals(log_posterior, weights)
    rows = log_posterior.sample_weight.sum() * len(squares)
    mean_std = _target_std(log_posterior).square().mean().sqrt()
    return noise_precision(squares.sum(), gamma.sum(), rows, mean_std)


def evidence_at(
    log_posterior: LogPosterior, weights: Tensor, options: EvidenceOptions, generator: Generator
) -> LogPosterior:
    """Repeat MacKay's updates of the precisions at weights that stay where they are.

    Parameters
    ----------
    log_posterior : LogPosterior
        Its precisions are where the updates start.
    weights : Tensor of shape (P,)
        Taken for the MAP at all precisions.
    options : EvidenceOptions
        What to learn.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    LogPosterior
        With the precisions found.
    """
    for _ in range(MAX_UPDATES):
        log_posterior, change = updated_at(log_posterior, weights, options, generator)
        if change < options.rtol:
            break
    return log_posterior


def _target_std(log_posterior: LogPosterior) -> Tensor:
    """SD (K,) of y, 1 for constant columns."""
    y, w = log_posterior.y, log_posterior.sample_weight
    mean = w @ y / w.sum()
    std = (w @ (y - mean).square() / w.sum()).sqrt()
    return torch.where(std > 0, std, torch.ones_like(std))


def _unit_precision(log_posterior: LogPosterior, weights: Tensor) -> Tensor:
    """1 / mean θ² of each group (n_groups,), 1 where all its weights are 0.

    X and y are in units of their own; trained weights show which these are.
    """
    prior = log_posterior.prior
    squares = prior.group_sum(weights.square()) / prior.group_sum(torch.ones_like(weights))
    return torch.where(squares > 0, 1 / squares, 1.0)

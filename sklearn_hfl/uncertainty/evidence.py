"""Evidence: noise and prior precisions that make the data most probable."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from sklearn_hfl.optim.solution import Callback, no_callback
from sklearn_hfl.optim.subspace import Subspace, krylov_subspace
from sklearn_hfl.optim.training import Trainer
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.initialization import scaled_precision
from sklearn_hfl.posterior.likelihood import GaussianLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["EvidenceOptions", "effective_parameters", "log_evidence", "maximize_evidence"]

# Weak Gamma(a, b) hyperprior of each α, which keeps groups without evidence at α = a/b = 1.
HYPERPRIOR = 0.005
PRIOR_PRECISION_RANGE = (1e-2, 1e5)
# The hyperprior of each β counts as one more row, with this residual in SDs of y: few
# rows that the network can interpolate do not prove that there is no noise.
PSEUDO_RESIDUAL = 0.03
# A noise std below a thousandth of the target's SD makes the curvature's condition
# number pass 1e11, and rounding shows in the standard deviations.
LEAST_NOISE_STD = 1e-3
# No update changes a precision by more than this factor: the first ones are far from a MAP.
LARGEST_STEP = 5.0
# First priors, in multiples of the fan-in. From a strong one the updates reach larger
# evidence than from a weak one, which first fits the noise and stays there (concrete
# −550 against −690, docs/design/evidence.md). Two and more hidden layers can collapse
# under it although there is signal; with one, a collapse says that there is none.
STRENGTHS = (10.0, 3.0, 1.0)
COLLAPSED = 1.5
MAX_ROUNDS = 40
STEPS_PER_ROUND = 10


@dataclass(frozen=True)
class EvidenceOptions:
    """What is learned from the evidence.

    Attributes
    ----------
    prior : bool
        Whether the prior precision of each group is.
    noise : bool
        Whether the noise of each output is.
    rtol : float
        Rounds end when no precision changes by more than this factor less one.
    """

    prior: bool
    noise: bool
    rtol: float = 0.02


def effective_parameters(subspace: Subspace) -> Tensor:
    """Share of each weight that the data determine, not the prior.

    Parameters
    ----------
    subspace : Subspace
        At the MAP.

    Returns
    -------
    Tensor of shape (P,)
        Diagonal of I − A⁻¹ = V (I − T⁻¹) Vᵀ; its sum is γ.
    """
    root = torch.linalg.solve_triangular(subspace.factor, subspace.basis.mT, upper=False)
    return (subspace.basis.square().sum(1) - root.square().sum(0)).clamp(min=0.0)


def log_evidence(log_posterior: LogPosterior, weights: Tensor, subspace: Subspace) -> float:
    """Laplace's log p(y | X) = −L(θ̂) − ½ log det A, in nats; the constants of 2π cancel.

    Parameters
    ----------
    log_posterior : LogPosterior
        L.
    weights : Tensor of shape (P,)
        θ̂.
    subspace : Subspace
        log det T, of which log det A differs by at most the trace of A − I that
        the subspace has not seen.

    Returns
    -------
    float
    """
    log_det = 2 * float(subspace.factor.diagonal().log().sum())
    return -float(log_posterior.value(weights[None])[0]) - 0.5 * log_det


def maximize_evidence(
    log_posterior: LogPosterior,
    weights: Tensor,
    trainer: Trainer,
    options: EvidenceOptions,
    generator: Generator,
    callback: Callback = no_callback,
) -> tuple[LogPosterior, Tensor, tuple[float, ...]]:
    """Find the precisions that make the data most probable, and weights near their MAP.

    Starts from a strong prior; for more than one hidden layer, from the strongest of
    ``STRENGTHS`` under which the network does not collapse to a constant.

    Parameters
    ----------
    log_posterior : LogPosterior
        Its noise, and its prior where that is not learned, are where the search starts.
    weights : Tensor of shape (P,)
        Start.
    trainer : Trainer
        Improves the weights; its ``max_iter`` bounds the steps in all.
    options : EvidenceOptions
        What to learn.
    generator : torch.Generator
        Source of randomness.
    callback : callable
        Called with the loss after each training step.

    Returns
    -------
    log_posterior : LogPosterior
        With the precisions found.
    weights : Tensor of shape (P,)
        Close to its MAP.
    curve : tuple of float
        Losses on the way; the precisions change between rounds, and L with them.
    """
    if not options.prior:
        return _alternate(log_posterior, weights, trainer, options, generator, callback)[:3]
    curve: tuple[float, ...] = ()
    deep = sum(len(shape) > 1 for shape in log_posterior.network.packing.shapes) > 2
    for strength in STRENGTHS if deep else STRENGTHS[:1]:
        precision = scaled_precision(log_posterior.network, strength).to(weights)
        start = replace(log_posterior, prior=log_posterior.prior.with_precision(precision))
        left = replace(trainer, max_iter=trainer.max_iter - len(curve))
        found, improved, steps, gamma = _alternate(
            start, weights, left, options, generator, callback
        )
        curve += steps
        # A network that is only its output bias has one effective parameter an output.
        if gamma > COLLAPSED * log_posterior.y.shape[1] or len(curve) >= trainer.max_iter:
            break
    return found, improved, curve


def _alternate(
    log_posterior: LogPosterior,
    weights: Tensor,
    trainer: Trainer,
    options: EvidenceOptions,
    generator: Generator,
    callback: Callback,
) -> tuple[LogPosterior, Tensor, tuple[float, ...], float]:
    """Alternate training with MacKay's updates of the precisions; γ comes last.

    α_g = γ_g / ‖θ_g‖² for each group g and β = (N − γ/K) / Σ w (y − f)² for each
    of K outputs (MacKay, Neural Computation 4, 1992), at weights that each round
    improves by a few steps only.
    """
    curve: list[float] = []
    subspace: Subspace | None = None
    gamma = 0.0
    for _ in range(MAX_ROUNDS):
        steps = min(STEPS_PER_ROUND, trainer.max_iter - len(curve))
        if steps <= 0:
            break
        trajectory = replace(trainer, max_iter=steps).train(
            log_posterior, weights, generator, callback, subspace
        )
        weights = trajectory.weights
        curve += trajectory.curve[1:]
        subspace = krylov_subspace(GaussNewton(log_posterior, weights), generator, trace_rtol=1e-2)
        determined = effective_parameters(subspace)
        gamma = float(determined.sum())
        log_posterior, change = _updated(log_posterior, weights, determined, options)
        if change < options.rtol:
            break
    return log_posterior, weights, tuple(curve), gamma


def _updated(
    log_posterior: LogPosterior, weights: Tensor, gamma: Tensor, options: EvidenceOptions
) -> tuple[LogPosterior, float]:
    change = 0.0
    prior, likelihood = log_posterior.prior, log_posterior.likelihood
    if options.prior:
        target = (prior.group_sum(gamma) + 2 * HYPERPRIOR) / (
            prior.group_sum(weights.square()) + 2 * HYPERPRIOR
        )
        alpha = _limited(prior.group_precision, target.clamp(*PRIOR_PRECISION_RANGE))
        change = max(change, _change(prior.group_precision, alpha))
        prior = prior.with_precision(alpha)
    if options.noise and isinstance(likelihood, GaussianLikelihood):
        squares = squared_residuals(log_posterior, weights)
        total = log_posterior.sample_weight.sum()
        # γ cannot exceed the rows; at least a twentieth of them stays for the noise.
        left = (total - gamma.sum() / len(squares)).clamp(min=0.05 * float(total))
        target = ((left + 1) / (squares + PSEUDO_RESIDUAL**2)).clamp(max=LEAST_NOISE_STD**-2)
        beta = _limited(likelihood.noise_precision, target)
        change = max(change, _change(likelihood.noise_precision, beta))
        likelihood = likelihood.with_precision(beta)
    return replace(log_posterior, prior=prior, likelihood=likelihood), change


def squared_residuals(log_posterior: LogPosterior, weights: Tensor) -> Tensor:
    """Σ w (y − f)² of each output.

    Parameters
    ----------
    log_posterior : LogPosterior
        The data and the network.
    weights : Tensor of shape (P,)
        Where f is evaluated.

    Returns
    -------
    Tensor of shape (K,)
    """
    total = weights.new_zeros(log_posterior.y.shape[1])
    for rows in log_posterior.blocks(log_posterior.network.width):
        f = log_posterior.network.forward(weights[None], log_posterior.X[rows])[0]
        residual = log_posterior.y[rows] - f
        total += log_posterior.sample_weight[rows] @ residual.square()
    return total


def _limited(old: Tensor, target: Tensor) -> Tensor:
    return old * (target / old).clamp(1 / LARGEST_STEP, LARGEST_STEP)


def _change(old: Tensor, new: Tensor) -> float:
    return float((new / old).log().abs().max())

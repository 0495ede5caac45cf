"""Precisions: MacKay's updates of noise and priors, with their hyperpriors and limits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor

from sklearn_hfl.optim.dual import inverse_curvature
from sklearn_hfl.optim.subsample import scaled_subsample
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.initialization import scaled_precision
from sklearn_hfl.posterior.likelihood import GaussianLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = [
    "EvidenceOptions",
    "Hyperprior",
    "log_hyperprior",
    "noise_precision",
    "prior_rescaling_gain",
    "relative_change",
    "squared_residuals",
    "updated",
    "updated_at",
]

# Hyperprior of each α: a Gamma distribution that counts as 2 · STRENGTH weights, weak enough to
# decide only in groups without evidence. Its mode is 1, or this multiple of ``scaled_precision``
# where a group leads to the log noise alone, which then varies by a tenth
# (docs/design/heteroscedastic.md).
STRENGTH = 0.005
NOISE_MULTIPLE = 100.0
# That of an input feature counts as two weights around the α that all features would share:
# without it, features of small effect are shrunk away (docs/design/evidence.md).
FEATURE_STRENGTH = 1.0
# Hyperprior of each β: one more row with this residual, in SDs of y. A few rows that the network
# can interpolate are no evidence that there is no noise (docs/design/evidence.md).
PSEUDO_RESIDUAL = 0.03
# Share of the rows that γ leaves for the noise at least. A valid γ never exceeds the rows; at
# weights that are not yet a MAP it can come so close that β would jump.
MIN_NOISE_ROWS = 0.05
# In SDs of y. Below it the condition number of the curvature passes 1e11, and rounding shows in
# the standard deviations (docs/design/evidence.md).
MIN_NOISE_STD = 1e-3
# Limits of α of standardised data. At the upper one a weight's prior SD is 0.003, and its group
# is off; at the lower one it is 10, and the data alone decide. They keep the precisions of groups
# without weights or without evidence finite. Not tuned.
PRIOR_PRECISION_RANGE = (1e-2, 1e5)
# No update changes a precision by more than this factor: at the first ones the weights are far
# from a MAP. A larger factor would let precisions follow such weights, a smaller one
# needs more rounds. Not tuned.
MAX_STEP_FACTOR = 5.0
# Where regression starts: prior in multiples of the fan-in, noise in SDs of y. Strong prior and
# all of y's variance as noise suit noisy data; little noise, few clean rows, which from the first
# start end at a constant. The evidence chooses (table in docs/design/evidence.md).
STARTS = ((10.0, 1.0), (1.0, 0.3))
# Log precisions are rounded to multiples of this, a 200th of the change that ends the rounds.
# The last bits of one round otherwise grow over the next: rows of weight 2 and rows repeated
# twice, the same problem, could end 1e-6 apart (docs/design/evidence.md).
LOG_RESOLUTION = 1e-4


@dataclass(frozen=True)
class EvidenceOptions:
    """What is learned from the evidence.

    Attributes
    ----------
    prior : bool
        Whether the prior precision of each group is learned.
    noise : bool
        Whether the noise precision of each output is learned.
    min_prior : float
        Lower limit of each group's precision, in multiples of ``scaled_precision``.
    starts : tuple of (float, float)
        Where the search of a network starts: prior precision in multiples of
        ``scaled_precision``, noise in SDs of y.
    linear_starts : tuple of (float, float)
        The same of a linear model.
    rtol : float
        Rounds end when no log precision changes by more than this.
    noise_unit : float or Tensor of shape (K,)
        SD of y, where it is not standardised.
    prior_unit : float or Tensor of shape (n_groups,)
        Precision under which the weights of each group are of order one, where inputs and
        targets are not standardised.
    """

    prior: bool
    noise: bool
    min_prior: float = 0.0
    starts: tuple[tuple[float, float], ...] = field(default_factory=lambda: STARTS)
    linear_starts: tuple[tuple[float, float], ...] = field(default_factory=lambda: STARTS)
    rtol: float = 0.02
    noise_unit: float | Tensor = 1.0
    prior_unit: float | Tensor = 1.0


@dataclass(frozen=True)
class Hyperprior:
    """Gamma(a, a/c) on each α, as a density over log α: a (log α/c − α/c).

    Parameters
    ----------
    strength : Tensor of shape (n_groups,)
        a; it counts as 2a weights.
    centre : Tensor of shape (n_groups,)
        c, the mode of the density over log α.
    """

    strength: Tensor
    centre: Tensor

    @classmethod
    def at(
        cls,
        log_posterior: LogPosterior,
        weights: Tensor,
        gamma: Tensor,
        unit: float | Tensor = 1.0,
    ) -> Hyperprior:
        """Return the hyperprior given weights (P,) and their shares ``gamma`` (P,) of γ.

        The features' centre is the α that they would share, Σγ / Σθ² of them together, in
        ``unit`` (n_groups,): the precision under which weights are of order one.
        """
        prior = log_posterior.prior
        ones = torch.ones_like(prior.group_precision)
        of_feature = prior.groups.of_kind("feature")
        of_noise = torch.tensor(prior.groups.noise_only, device=ones.device)
        squares = unit * prior.group_sum(weights.square())
        shared = (prior.group_sum(gamma)[of_feature].sum() + 2 * STRENGTH) / (
            squares[of_feature].sum() + 2 * STRENGTH
        )
        strong = NOISE_MULTIPLE * scaled_precision(log_posterior.network, 1.0).to(ones)
        centre = torch.where(of_feature, shared, torch.where(of_noise, strong, ones))
        return cls(torch.where(of_feature, FEATURE_STRENGTH, STRENGTH * ones), unit * centre)

    def update(self, gamma: Tensor, squares: Tensor) -> Tensor:
        """MacKay's α (n_groups,) for γ and Σθ² of each group: γ / Σθ² without hyperprior."""
        return (gamma + 2 * self.strength) / (squares + 2 * self.strength / self.centre)

    def log_density(self, precision: Tensor) -> float:
        """Log density of log α (n_groups,), without its constant."""
        ratio = precision / self.centre
        return float((self.strength * (ratio.log() - ratio)).sum())


def noise_precision(
    squares: Tensor, gamma: Tensor, rows: Tensor, unit: float | Tensor = 1.0
) -> Tensor:
    """MacKay's β = (N − γ) / Σ w r², with its hyperprior and its limits.

    Parameters
    ----------
    squares : Tensor
        Σ w r², the sum of squared residuals.
    gamma : Tensor
        γ, effective parameters fitted to these residuals.
    rows : Tensor
        N, the number of residuals.
    unit : float or Tensor
        SD of y.

    Returns
    -------
    Tensor
        (N − γ + 1) / (Σ w r² + r₀²), with the pseudo residual r₀ of ``PSEUDO_RESIDUAL`` SDs.
    """
    left = torch.maximum(rows - gamma, MIN_NOISE_ROWS * rows)
    unit = torch.as_tensor(unit).to(squares)
    target = (left + 1) / (squares + (PSEUDO_RESIDUAL * unit).square())
    return torch.minimum(target, (MIN_NOISE_STD * unit) ** -2)


def updated_at(
    log_posterior: LogPosterior, weights: Tensor, options: EvidenceOptions, generator: Generator
) -> tuple[LogPosterior, float]:
    """Update the precisions once, at weights whose curvature is not known yet.

    Parameters
    ----------
    log_posterior : LogPosterior
        Its precisions are the old ones.
    weights : Tensor of shape (P,)
        Taken for the MAP.
    options : EvidenceOptions
        What to learn.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    log_posterior : LogPosterior
        With the new precisions.
    change : float
        Largest change of a log precision.
    """
    # Of very many rows γ is a small share, and that of a sample near enough.
    curvature = GaussNewton(log_posterior, weights).on(scaled_subsample(log_posterior, generator))
    gamma = inverse_curvature(curvature, generator).effective_parameters().to(weights)
    return updated(log_posterior, weights, gamma, options)


def updated(
    log_posterior: LogPosterior, weights: Tensor, gamma: Tensor, options: EvidenceOptions
) -> tuple[LogPosterior, float]:
    """MacKay's update of every precision that is learned.

    α_g = γ_g / Σθ² for each group g, and β = (N − γ/K) / Σ w r² for each of K outputs (MacKay,
    Neural Computation 4, 1992, 448-472), each at the mode under its hyperprior.

    Parameters
    ----------
    log_posterior : LogPosterior
        Its precisions are the old ones.
    weights : Tensor of shape (P,)
        Taken for the MAP.
    gamma : Tensor of shape (P,)
        Share of each weight that the data determine.
    options : EvidenceOptions
        What to learn.

    Returns
    -------
    log_posterior : LogPosterior
        With the new precisions.
    change : float
        Largest change of a log precision.
    """
    change = 0.0
    prior, likelihood = log_posterior.prior, log_posterior.likelihood
    if options.prior:
        unit = options.prior_unit
        target = Hyperprior.at(log_posterior, weights, gamma, unit).update(
            prior.group_sum(gamma), prior.group_sum(weights.square())
        )
        lowest = options.min_prior * scaled_precision(log_posterior.network, 1.0).to(target)
        target = unit * torch.maximum((target / unit).clamp(*PRIOR_PRECISION_RANGE), lowest)
        alpha = _limited(prior.group_precision, target)
        change = max(change, relative_change(prior.group_precision, alpha))
        prior = prior.with_precision(alpha)
    if options.noise and isinstance(likelihood, GaussianLikelihood):
        squares = squared_residuals(log_posterior, weights)
        total = log_posterior.total_weight
        share = gamma.sum() / len(squares)
        target = noise_precision(squares, share, total, options.noise_unit)
        beta = _limited(likelihood.noise_precision, target)
        change = max(change, relative_change(likelihood.noise_precision, beta))
        likelihood = likelihood.with_precision(beta)
    return replace(log_posterior, prior=prior, likelihood=likelihood), change


def log_hyperprior(
    log_posterior: LogPosterior, weights: Tensor, gamma: Tensor, options: EvidenceOptions
) -> float:
    """Log density of the precisions that are learned, without its constants.

    Parameters
    ----------
    log_posterior : LogPosterior
        Its precisions.
    weights : Tensor of shape (P,)
        On which the features' hyperprior depends.
    gamma : Tensor of shape (P,)
        Share of each weight that the data determine.
    options : EvidenceOptions
        What is learned.

    Returns
    -------
    float
        In nats.
    """
    total, likelihood = 0.0, log_posterior.likelihood
    if options.prior:
        hyperprior = Hyperprior.at(log_posterior, weights, gamma, options.prior_unit)
        total += hyperprior.log_density(log_posterior.prior.group_precision)
    if options.noise and isinstance(likelihood, GaussianLikelihood):
        beta = likelihood.noise_precision
        unit = torch.as_tensor(options.noise_unit).to(beta)
        total += 0.5 * float((beta.log() - (PSEUDO_RESIDUAL * unit).square() * beta).sum())
    return total


def prior_rescaling_gain(log_posterior: LogPosterior, weights: Tensor, gamma: Tensor) -> float:
    """Log evidence that prior precisions of the right size would add, about.

    Parameters
    ----------
    log_posterior : LogPosterior
        Its precisions.
    weights : Tensor of shape (P,)
        Taken for the MAP.
    gamma : Tensor of shape (P,)
        Share of each weight that the data determine.

    Returns
    -------
    float
        Nats, Σ ½ γ_g (r − 1 − log r) for groups whose precision is r times MacKay's update: what
        a normal log density gains where SDs are off by so much.
    """
    prior = log_posterior.prior
    share = prior.group_sum(gamma)
    update = Hyperprior.at(log_posterior, weights, gamma).update(
        share, prior.group_sum(weights.square())
    )
    ratio = prior.group_precision / update
    return 0.5 * float(share @ (ratio - 1 - ratio.log()))


def squared_residuals(log_posterior: LogPosterior, weights: Tensor) -> Tensor:
    """Σ w r² of each target, with the residual r = y − f.

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
    likelihood = log_posterior.likelihood
    assert isinstance(likelihood, GaussianLikelihood)
    if log_posterior.chunks is not None:
        return log_posterior.over_chunks(squared_residuals, weights)
    total = weights.new_zeros(log_posterior.y.shape[1])
    for rows in log_posterior.pass_blocks():
        f = log_posterior.network.forward(weights[None], log_posterior.X[rows])[0]
        residual = log_posterior.y[rows] - likelihood.mean_link.value(f)
        total += log_posterior.sample_weight[rows] @ residual.square()
    return total


def relative_change(old: Tensor, new: Tensor) -> float:
    """Largest change of a logarithm between positive numbers.

    Parameters
    ----------
    old, new : Tensor of the same shape
        Positive.

    Returns
    -------
    float
    """
    return float((new / old).log().abs().max())


def _limited(old: Tensor, target: Tensor) -> Tensor:
    """The target, no more than ``MAX_STEP_FACTOR`` away and rounded to ``LOG_RESOLUTION``."""
    limited = old * (target / old).clamp(1 / MAX_STEP_FACTOR, MAX_STEP_FACTOR)
    return ((limited.log() / LOG_RESOLUTION).round() * LOG_RESOLUTION).exp()

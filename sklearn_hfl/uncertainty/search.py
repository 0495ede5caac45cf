"""Search: from the linear model outwards, for precisions that make the data most probable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Generator, Tensor

from sklearn_hfl.optim.solution import Callback, no_callback
from sklearn_hfl.optim.training import Trainer
from sklearn_hfl.posterior.initialization import scaled_precision
from sklearn_hfl.posterior.likelihood import GaussianLikelihood, HeteroscedasticLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import MLP
from sklearn_hfl.posterior.prior import GaussianPrior
from sklearn_hfl.uncertainty.alternation import EVIDENCE_TOL, Alternation, Fit
from sklearn_hfl.uncertainty.noise import freed_noise
from sklearn_hfl.uncertainty.precisions import MAX_ROUNDS, EvidenceOptions

__all__ = ["maximize_evidence"]

SCREENING_ROUNDS = 10


def maximize_evidence(
    log_posterior: LogPosterior,
    weights: Tensor,
    trainer: Trainer,
    options: EvidenceOptions,
    generator: Generator,
    callback: Callback = no_callback,
) -> tuple[LogPosterior, Tensor, tuple[float, ...]]:
    """Find the precisions that make the data most probable, and the MAP under them.

    Where the prior is learned, a perceptron's own linear model is fitted first, and returned
    where no network that is found has more evidence at its MAP.

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
        With the precisions found, and perhaps without the hidden layers.
    weights : Tensor of shape (P,)
        Its MAP, as far as the steps went.
    curve : tuple of float
        Losses on the way; the precisions change between rounds, and L with them.
    """
    best: Fit | None = None
    least = -float("inf")
    start = Fit(log_posterior, weights)
    for model in [*_linear_model(start, options), start]:
        if model is start:
            alternation = Alternation(trainer, options, generator, callback)
        else:
            # Random numbers of its own, so that the network's do not depend on the linear model.
            newton = replace(trainer, solver="newton-cg")
            alternation = Alternation(newton, options, Generator().manual_seed(0), callback)
        level = _search(_of_constant_noise(model), alternation, least)
        if level is None:
            continue
        least = level.log_evidence
        found = _of_varying_noise(level, alternation)
        if best is None or not best.log_evidence >= found.log_evidence:
            best = found
    assert best is not None
    return best.log_posterior, best.weights, best.curve


def _linear_model(start: Fit, options: EvidenceOptions) -> Iterator[Fit]:
    """The network without its hidden layers, where it has any and their prior is learned."""
    log_posterior = start.log_posterior
    network, X = log_posterior.network, log_posterior.X
    if options.prior and isinstance(network, MLP) and len(network.layer_sizes) > 2:
        linear = MLP((X.shape[1], network.n_outputs), n_noise=network.n_noise)
        labels, names = linear.group_labels()
        precision = scaled_precision(linear, 1.0).to(X)
        prior = GaussianPrior(precision, labels.to(X.device), names)
        model = replace(log_posterior, network=linear, prior=prior)
        yield Fit(model, start.weights.new_zeros(linear.n_weights))


def _search(start: Fit, alternation: Alternation, least: float) -> Fit | None:
    """Alternate from each start for some rounds, and compare at their MAPs.

    The most promising goes first; one that promises less than what a MAP has is left out. None
    where nothing reaches ``least``, the evidence that is known already, if any.
    """
    options, network = alternation.options, start.log_posterior.network
    if not options.prior:
        return alternation.at_map(alternation.rounds(start, MAX_ROUNDS))
    rounds: list[Fit] = []
    # Without hidden layers there is one MAP, and noise alone can make it depend on the start.
    layered = not isinstance(network, MLP) or len(network.layer_sizes) > 2
    for multiples in options.starts if layered or options.noise else options.starts[-1:]:
        # What has ended is near a MAP, so that its evidence is known.
        known = max([least, *(fit.log_evidence for fit in rounds if fit.ended)])
        if alternation.left > 0:
            begun = _started(start, *multiples, options)
            rounds.append(alternation.rounds(begun, SCREENING_ROUNDS, known))
    best: Fit | None = None
    for fit in sorted(rounds, key=lambda fit: fit.score, reverse=True):
        reached = least if best is None else best.log_evidence + EVIDENCE_TOL
        if fit.log_evidence < reached:
            continue
        if not fit.ended:
            fit = alternation.rounds(fit, MAX_ROUNDS - SCREENING_ROUNDS, reached)
        mapped = alternation.at_map(fit, least)
        # Log noise is freed at the weights of the round, whose residuals are not yet fitted.
        freed_later = isinstance(start.log_posterior.likelihood, HeteroscedasticLikelihood)
        same = mapped.log_posterior is fit.log_posterior
        fit = replace(mapped, weights=fit.weights) if freed_later and same else mapped
        if fit.log_evidence > reached or (best is None and least == -float("inf")):
            best = fit
    if best is None:
        return None
    # All steps that were taken, those of the fit that is kept last.
    others = tuple(
        x for fit in rounds if fit.curve != best.curve[: len(fit.curve)] for x in fit.curve
    )
    return replace(best, curve=others + best.curve)


def _of_constant_noise(start: Fit) -> Fit:
    """A constant noise first, or rows that are hard to fit would be taken for noisy ones."""
    likelihood = start.log_posterior.likelihood
    if not isinstance(likelihood, HeteroscedasticLikelihood):
        return start
    constant = replace(likelihood, constant=True)
    return replace(start, log_posterior=replace(start.log_posterior, likelihood=constant))


def _of_varying_noise(level: Fit, alternation: Alternation) -> Fit:
    """Let log noise vary around its level, which stays: a second one would drift against it."""
    options = alternation.options
    if not (
        options.noise and isinstance(level.log_posterior.likelihood, HeteroscedasticLikelihood)
    ):
        return level
    alternation = replace(alternation, options=replace(options, noise=False))
    freed = freed_noise(level.log_posterior, level.weights, alternation.generator)
    varying = replace(level, log_posterior=freed)
    return alternation.at_map(alternation.rounds(varying, MAX_ROUNDS))


def _started(start: Fit, strength: float, noise_std: float, options: EvidenceOptions) -> Fit:
    """Prior in multiples of the fan-in, noise in SDs of y."""
    log_posterior = start.log_posterior
    prior, likelihood = log_posterior.prior, log_posterior.likelihood
    precision = scaled_precision(log_posterior.network, strength).to(prior.group_precision)
    log_posterior = replace(log_posterior, prior=prior.with_precision(precision))
    if options.noise and isinstance(likelihood, GaussianLikelihood):
        beta = likelihood.noise_precision.new_full(
            (len(likelihood.noise_precision),), noise_std**-2
        )
        log_posterior = replace(log_posterior, likelihood=likelihood.with_precision(beta))
    return replace(start, log_posterior=log_posterior)

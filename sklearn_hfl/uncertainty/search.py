"""Search: from the linear model outwards, for precisions that make the data most probable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Generator, Tensor

from sklearn_hfl.optim.solution import Callback, no_callback
from sklearn_hfl.optim.training import Trainer
from sklearn_hfl.posterior.initialization import scaled_precision
from sklearn_hfl.posterior.likelihood import GaussianLikelihood, HeteroscedasticLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import MLP
from sklearn_hfl.posterior.prior import GaussianPrior
from sklearn_hfl.uncertainty.alternation import EVIDENCE_TOL, Alternation, Fit
from sklearn_hfl.uncertainty.noise import with_varying_noise
from sklearn_hfl.uncertainty.precisions import EvidenceOptions

__all__ = ["maximize_evidence"]

MAX_ROUNDS = 40
SCREENING_ROUNDS = 10
# Prior precision, in multiples of the fan-in, of the model that all others have to beat: under
# it a linear function has a tenth of the SD of y. That is as good as a constant where there is
# nothing to learn, and its error bars still grow away from the data.
NEARLY_CONSTANT = 100.0
# Of few rows, chance cannot be told by their scatter.
ONE_NAT = 1.0


def maximize_evidence(
    log_posterior: LogPosterior,
    weights: Tensor,
    trainer: Trainer,
    options: EvidenceOptions,
    generator: Generator,
    callback: Callback = no_callback,
) -> tuple[LogPosterior, Tensor, tuple[float, ...], bool]:
    """Find the precisions that make the data most probable, and the MAP under them.

    Models are fitted from the simplest to the richest: where the prior is learned, the
    perceptron's own linear model under a strong prior, the same with a prior that is learned,
    and the network; each with constant noise, then, if it may vary, with noise that does. A
    richer one takes the place of the simpler one that was best where it has more evidence at its
    MAP than all before and, left out one at a time, the training rows are more probable by more
    than one standard error.

    Parameters
    ----------
    log_posterior : LogPosterior
        Its noise, and its prior where that is not learned, are where the search starts.
    weights : Tensor of shape (P,)
        Start.
    trainer : Trainer
        Improves the weights, but for those of linear models, which are found by Newton's method;
        its ``max_iter`` bounds the steps to a network, and those to linear models.
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
        Losses on the way to the model that is returned, the last of them those of the training
        to its MAP; the precisions change between rounds, and L with them.
    finished : bool
        Whether ``max_iter`` left the network enough steps to lose against its linear model.
    """
    whole = Alternation(trainer, options, generator, callback)
    best: Fit | None = None
    least = most = -float("inf")
    losses = whole.losses
    for start, alternation in _models(Fit(log_posterior, weights), whole):
        level = _search(_of_constant_noise(start), alternation, least)
        if level is None:
            continue
        least = max(least, level.log_evidence)
        for fit in (level, *_of_varying_noise(level, alternation)):
            if best is None or (fit.log_evidence > most and _predicts_better(fit, best)):
                best, losses = fit, alternation.losses
            most = max(most, fit.log_evidence)
    assert best is not None
    first, after = best.trained
    curve = losses[:first] + losses[after:] + losses[first:after]
    finished = whole.left > 0 or best.log_posterior.network is log_posterior.network
    return best.log_posterior, best.weights, tuple(curve), finished


def _predicts_better(richer: Fit, simpler: Fit) -> bool:
    """Whether rows left out are more probable: beyond chance, and by a nat in all."""
    gain, error = richer.rows.gain(simpler.rows.left_out)
    return gain > error + ONE_NAT / richer.rows.n_rows


def _models(start: Fit, alternation: Alternation) -> Iterator[tuple[Fit, Alternation]]:
    """From the simplest to the richest: where each starts, and how it is trained."""
    log_posterior, options = start.log_posterior, alternation.options
    network, X = log_posterior.network, log_posterior.X
    if options.prior and isinstance(network, MLP):
        linear = MLP((X.shape[1], network.n_outputs), n_noise=network.n_noise)
        strong = scaled_precision(linear, NEARLY_CONSTANT).to(X)
        prior = GaussianPrior(strong, linear.weight_groups().to(X.device))
        model = replace(log_posterior, network=linear, prior=prior)
        simple = Fit(model, start.weights.new_zeros(linear.n_weights))
        # A convex problem; its random numbers do not change those of the network.
        newton = replace(
            alternation,
            trainer=replace(alternation.trainer, solver="newton-cg"),
            generator=Generator().manual_seed(0),
            losses=[],
        )
        yield simple, replace(newton, options=replace(options, prior=False))
        yield simple, newton
        if len(network.layer_sizes) == 2:
            return
    yield start, alternation


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
        known = max([least, *(fit.log_evidence for fit in rounds if fit.converged)])
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
        fit = alternation.at_map(fit, least)
        if fit.log_evidence > reached or (best is None and least == -float("inf")):
            best = fit
    return best


def _of_constant_noise(start: Fit) -> Fit:
    """A constant noise first, or rows that are hard to fit would be taken for noisy ones."""
    likelihood = start.log_posterior.likelihood
    if not isinstance(likelihood, HeteroscedasticLikelihood):
        return start
    constant = replace(likelihood, constant=True)
    return replace(start, log_posterior=replace(start.log_posterior, likelihood=constant))


def _of_varying_noise(level: Fit, alternation: Alternation) -> Iterator[Fit]:
    """Let log noise vary around its level, which stays: a second one would drift against it."""
    options = alternation.options
    if options.noise and isinstance(level.log_posterior.likelihood, HeteroscedasticLikelihood):
        varying = with_varying_noise(
            level.log_posterior, level.weights, alternation.generator, options.noise_unit
        )
        alternation = replace(alternation, options=replace(options, noise=False))
        yield alternation.at_map(
            alternation.rounds(replace(level, log_posterior=varying), MAX_ROUNDS)
        )


def _started(start: Fit, strength: float, noise_std: float, options: EvidenceOptions) -> Fit:
    """Prior in multiples of the fan-in, noise in SDs of y."""
    log_posterior = start.log_posterior
    prior, likelihood = log_posterior.prior, log_posterior.likelihood
    precision = scaled_precision(log_posterior.network, strength).to(prior.group_precision)
    log_posterior = replace(log_posterior, prior=prior.with_precision(precision))
    if options.noise and isinstance(likelihood, GaussianLikelihood):
        beta = torch.full_like(likelihood.noise_precision, noise_std**-2)
        log_posterior = replace(log_posterior, likelihood=likelihood.with_precision(beta))
    return replace(start, log_posterior=log_posterior)

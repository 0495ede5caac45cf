"""Search for the model and precisions with the largest evidence, from the simplest model on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Generator, Tensor

from sklearn_hfl.optim.solvers import make_trainer
from sklearn_hfl.optim.training import Callback, Trainer, no_callback
from sklearn_hfl.posterior.initialization import scaled_precision
from sklearn_hfl.posterior.likelihood import HeteroscedasticLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import MLP, is_linear
from sklearn_hfl.posterior.prior import GaussianPrior
from sklearn_hfl.uncertainty.alternation import EVIDENCE_TOL, Alternation, Fit
from sklearn_hfl.uncertainty.annealing import by_subsamples, started
from sklearn_hfl.uncertainty.noise import with_varying_noise
from sklearn_hfl.uncertainty.precisions import EvidenceOptions

__all__ = ["beats_linear_model", "gone_on", "maximize_evidence", "trainer_of"]

# Rounds of one search: an upper limit on its time. Most converge, or lose evidence, before it.
MAX_ROUNDS = 40
# Rounds from each start before the better one goes on (docs/design/evidence.md).
SCREENING_ROUNDS = 10
# Of twice as many residuals, N K, as these or more, the rounds start on a sample of about so many,
# where precisions are nearly those of all rows (docs/design/evidence.md).
MIN_SAMPLE_RESIDUALS = 2000
SAMPLE_RESIDUALS_PER_WEIGHT = 4
# Of twice this many times as many, they go on with a sample of so many alone, and all rows are for
# the MAP.
SAMPLE_GROWTH = 16
# Prior precision, in multiples of the fan-in, of the model that all others have to beat: under
# it a linear function has a tenth of the SD of y. That is as good as a constant where there is
# nothing to learn, and its error bars still grow away from the data (docs/design/reliable_fits.md).
NEARLY_CONSTANT_PRIOR = 100.0
# Nats, summed over the rows left out, that a richer model has to gain beyond one standard error:
# the scatter of few rows does not say what chance is (docs/design/reliable_fits.md).
MIN_TOTAL_GAIN = 1.0
# The same of a network above a linear model, its gain of evidence included: with few rows the
# standard error hides what nats of evidence show (docs/design/reliable_fits.md, "Few rows").
MIN_NETWORK_GAIN = 2.0


def maximize_evidence(
    log_posterior: LogPosterior,
    weights: Tensor,
    trainer: Trainer,
    options: EvidenceOptions,
    generator: Generator,
    callback: Callback = no_callback,
) -> tuple[Fit, tuple[float, ...], bool]:
    """Find the precisions of the largest evidence, and the MAP under them.

    Models are fitted from the simplest to the richest: where the prior is learned, the
    perceptron's own linear model under a strong prior, the same with a prior that is learned,
    and the network; each with constant noise, then, if it may vary, with noise that does. A
    richer model replaces the best of the simpler ones where it has more evidence at its MAP than
    all before it and predicts the training rows, left out one at a time, better by more than one
    standard error and by ``MIN_TOTAL_GAIN``; where a network follows a linear model, the gains of
    rows left out and of evidence count together, and have to exceed ``MIN_NETWORK_GAIN``.

    Parameters
    ----------
    log_posterior : LogPosterior
        The search starts from its noise, and keeps its prior where that is not learned.
    weights : Tensor of shape (P,)
        Start.
    trainer : Trainer
        Trains the network; linear models are trained by Newton's method. Its ``max_iter`` bounds
        the total steps of the network and, counted separately, of the linear models.
    options : EvidenceOptions
        What to learn.
    generator : torch.Generator
        Source of randomness.
    callback : callable
        Called after each training step and at each new phase.

    Returns
    -------
    fit : Fit
        The precisions found, without hidden layers where the linear model is better; the MAP, or
        the weights at which ``max_iter`` ended the training.
    curve : tuple of float
        Losses on the way to the model that is returned, its training to the MAP last; the
        precisions change between rounds, and L with them.
    finished : bool
        False where the linear model is returned because ``max_iter`` ended the network's search.
    """
    of_network = Alternation(trainer, options, generator, callback)
    best: Fit | None = None
    # The largest evidence so far: under constant noise, and of all models.
    of_constant = largest = -float("inf")
    losses = of_network.losses
    for start, alternation in _models(Fit(log_posterior, weights), of_network):
        constant = _search(_with_constant_noise(start), alternation, of_constant)
        if constant is None:
            continue
        of_constant = max(of_constant, constant.log_evidence)
        for fit in (constant, *_with_varying_noise(constant, alternation)):
            gain = fit.log_evidence - largest
            if best is None or (gain > 0.0 and _is_better(fit, best, gain)):
                best, losses = fit, alternation.losses
            largest = max(largest, fit.log_evidence)
    assert best is not None
    first, after = best.trained
    curve = losses[:first] + losses[after:] + losses[first:after]
    finished = of_network.left > 0 or best.log_posterior.network is log_posterior.network
    return best, tuple(curve), finished


def gone_on(fit: Fit, alternation: Alternation) -> Fit:
    """Go on with an earlier fit: to the MAP, and where it has not ended, with its precisions.

    Parameters
    ----------
    fit : Fit
        Model, precisions and weights.
    alternation : Alternation
        Trains the weights, and says what is learned.

    Returns
    -------
    Fit
        With the evidence at the MAP.
    """
    if fit.ended:
        return alternation.to_map(fit)
    likelihood, options = fit.log_posterior.likelihood, alternation.options
    if isinstance(likelihood, HeteroscedasticLikelihood) and not likelihood.constant:
        alternation = replace(alternation, options=replace(options, noise=False))
    return alternation.at_map(alternation.rounds(fit, MAX_ROUNDS))


def beats_linear_model(
    fit: Fit, log_posterior: LogPosterior, trainer: Trainer, options: EvidenceOptions
) -> bool:
    """Whether a fit would replace its linear model of the same rows in a search.

    Parameters
    ----------
    fit : Fit
        At its MAP.
    log_posterior : LogPosterior
        Where the search would start.
    trainer : Trainer
        Says how many steps a linear model may take.
    options : EvidenceOptions
        What is learned.

    Returns
    -------
    bool
        True where there is no linear model to compare with.
    """
    network = log_posterior.network
    if not (options.prior and isinstance(network, MLP)) or is_linear(fit.log_posterior.network):
        return True
    start = replace(log_posterior, network=_linear_part(network))
    seeded = Generator().manual_seed(0)
    simpler, *_ = maximize_evidence(start, fit.weights, trainer, options, seeded)
    gain = fit.log_evidence - simpler.log_evidence
    return gain > 0.0 and _is_better(fit, simpler, gain)


def trainer_of(log_posterior: LogPosterior, trainer: Trainer, options: EvidenceOptions) -> Trainer:
    """Trainer of a model in a search: a linear one is trained by Newton's method.

    Parameters
    ----------
    log_posterior : LogPosterior
        Of the model.
    trainer : Trainer
        Trains the network.
    options : EvidenceOptions
        What is learned.

    Returns
    -------
    Trainer
        ``trainer`` itself where the prior is not learned, and no linear models are compared.
    """
    if options.prior and is_linear(log_posterior.network):
        return make_trainer("newton-cg", **vars(trainer))
    return trainer


def _is_better(richer: Fit, simpler: Fit, evidence_gain: float) -> bool:
    """Whether rows left out agree with the evidence that the richer model is better.

    Two linear models, or two noises, differ by precisions alone, and learning these raises the
    evidence on noise too: there it does not count.
    """
    gain, error = richer.rows.gain_over(simpler.rows)
    beyond_chance = richer.rows.n_rows * (gain - error)
    if is_linear(simpler.log_posterior.network) and not is_linear(richer.log_posterior.network):
        return beyond_chance + evidence_gain > MIN_NETWORK_GAIN
    return beyond_chance > MIN_TOTAL_GAIN


def _linear_part(network: MLP) -> MLP:
    """The same inputs and outputs, without hidden layers."""
    return MLP((network.layer_sizes[0], network.n_outputs), n_noise=network.n_noise)


def _models(start: Fit, alternation: Alternation) -> Iterator[tuple[Fit, Alternation]]:
    """From the simplest to the richest: where each starts, and how it is trained."""
    log_posterior, options = start.log_posterior, alternation.options
    network, X = log_posterior.network, log_posterior.X
    if options.prior and isinstance(network, MLP):
        linear = _linear_part(network)
        strong = scaled_precision(linear, NEARLY_CONSTANT_PRIOR).to(X)
        prior = GaussianPrior(strong, linear.weight_groups().to(X.device))
        model = replace(log_posterior, network=linear, prior=prior)
        linear_start = Fit(model, start.weights.new_zeros(linear.n_weights))
        # A convex problem, with random numbers of its own, so that the network's stay the same.
        newton = replace(
            alternation,
            trainer=trainer_of(model, alternation.trainer, options),
            generator=Generator().manual_seed(0),
            losses=[],
        )
        yield linear_start, replace(newton, options=replace(options, prior=False))
        yield linear_start, newton
        if is_linear(network):
            return
    yield start, alternation


def _search(start: Fit, alternation: Alternation, known: float) -> Fit | None:
    """Alternate from each start, and train those with more evidence than ``known`` to their MAP.

    ``known`` is that of a simpler model. None where no start reaches it.
    """
    if not alternation.options.prior:
        begun = _noises(start, alternation)
        ends = [alternation.at_map(alternation.rounds(each, MAX_ROUNDS)) for each in begun]
        return max(ends, key=lambda fit: fit.log_evidence)
    best: Fit | None = None
    screened = _of_sample(start, alternation) or _screened(start, alternation, known)
    for fit in sorted(screened, key=lambda fit: fit.score, reverse=True):
        to_beat = known if best is None else best.log_evidence + EVIDENCE_TOL
        if fit.log_evidence < to_beat:
            continue
        if not fit.ended:
            fit = alternation.rounds(fit, MAX_ROUNDS - SCREENING_ROUNDS, to_beat)
        at_map = alternation.at_map(fit, known)
        nothing_known = best is None and known == -float("inf")
        if at_map.log_evidence > to_beat or nothing_known:
            best = at_map
    return best


def _noises(start: Fit, alternation: Alternation) -> Iterator[Fit]:
    """Where a search under a fixed prior begins: a network from the noise of each start.

    After much noise it may stay a smoother function, of more noise, than after little.
    """
    if is_linear(start.log_posterior.network):
        yield start
        return
    for multiples in alternation.options.starts:
        if alternation.left > 0:
            begun = started(start.log_posterior, multiples, alternation.options)
            yield replace(start, log_posterior=begun)


def _of_sample(start: Fit, alternation: Alternation) -> list[Fit]:
    """Where many rows begin: what rounds on a sample of them lead to, from the best start.

    Empty where there are too few rows, or too few steps, for that. Where few rows have most of the
    weight, or are of the rarest class, a sample says less.
    """
    log_posterior = start.log_posterior
    n, n_residuals = log_posterior.n_rows, log_posterior.n_residuals
    least = max(MIN_SAMPLE_RESIDUALS, SAMPLE_RESIDUALS_PER_WEIGHT * log_posterior.n_weights)
    if not (alternation.trainer.takes_all_rows and log_posterior.says_as_much_as(2 * least)):
        return []

    def sample(multiple: int) -> LogPosterior:
        return log_posterior.sample(multiple * n * least // n_residuals, alternation.generator)

    screened = _screened(start.on_rows(sample(1)), alternation, -float("inf"))
    if not screened:
        return []
    best = max(screened, key=lambda fit: fit.score)
    if not best.ended:
        best = alternation.rounds(best, MAX_ROUNDS - SCREENING_ROUNDS)
    larger = SAMPLE_GROWTH * least
    if many := log_posterior.says_as_much_as(2 * larger) and log_posterior.fits_sample(larger):
        best = alternation.rounds(
            best.on_rows(sample(SAMPLE_GROWTH)), MAX_ROUNDS - SCREENING_ROUNDS
        )
    on_all = best.on_rows(log_posterior)
    weights = by_subsamples(on_all.log_posterior, on_all.weights, alternation)
    # Its evidence on all rows is not known yet, and no reason to leave it.
    return [replace(on_all, weights=weights, log_evidence=float("inf"), ended=many)]


def _screened(start: Fit, alternation: Alternation, known: float) -> list[Fit]:
    """What the first rounds from each start lead to."""
    options, network = alternation.options, start.log_posterior.network
    screened: list[Fit] = []
    for multiples in options.linear_starts if is_linear(network) else options.starts:
        to_reach = max([known, *(fit.log_evidence for fit in screened if fit.converged)])
        if alternation.left > 0:
            begun = replace(start, log_posterior=started(start.log_posterior, multiples, options))
            screened.append(alternation.rounds(begun, SCREENING_ROUNDS, to_reach))
    return screened


def _with_constant_noise(start: Fit) -> Fit:
    """Start with constant noise, or rows that are hard to fit would be taken for noisy ones."""
    likelihood = start.log_posterior.likelihood
    if not isinstance(likelihood, HeteroscedasticLikelihood):
        return start
    constant = replace(likelihood, constant=True)
    return replace(start, log_posterior=replace(start.log_posterior, likelihood=constant))


def _with_varying_noise(constant: Fit, alternation: Alternation) -> Iterator[Fit]:
    """Let the log noise vary around its level, which is held: the two would drift apart."""
    options, log_posterior = alternation.options, constant.log_posterior
    if options.noise and isinstance(log_posterior.likelihood, HeteroscedasticLikelihood):
        varying = with_varying_noise(
            log_posterior, constant.weights, alternation.generator, options.noise_unit
        )
        alternation = replace(alternation, options=replace(options, noise=False))
        start = replace(constant, log_posterior=varying)
        yield alternation.at_map(alternation.rounds(start, MAX_ROUNDS))

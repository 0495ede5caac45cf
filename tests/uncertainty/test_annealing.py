"""Annealing: MAPs of known precisions from other weights."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.optim.newton_cg import NewtonCG
from sklearn_hfl.optim.solvers import make_trainer
from sklearn_hfl.optim.training import no_callback
from sklearn_hfl.posterior.initialization import initial_weights, scaled_precision
from sklearn_hfl.posterior.likelihood import GaussianLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import MLP
from sklearn_hfl.posterior.prior import GaussianPrior
from sklearn_hfl.uncertainty.alternation import Alternation
from sklearn_hfl.uncertainty.annealing import annealed_map, by_subsamples, started
from sklearn_hfl.uncertainty.precisions import EvidenceOptions
from tests.cases import F64, generator, randn, take_subsamples

NETWORK = MLP((2, 6, 1))
X = randn(40, 2)
Y = (2 * X[:, :1]).sin() + 0.1 * randn(40, 1, seed=1)
ALPHA = torch.linspace(0.5, 4.0, len(NETWORK.weight_groups()), dtype=F64)
LEARNED = EvidenceOptions(prior=True, noise=True)


def known():
    prior = GaussianPrior(ALPHA, NETWORK.weight_groups())
    likelihood = GaussianLikelihood(torch.tensor([100.0], dtype=F64))
    return LogPosterior(NETWORK, likelihood, prior, X, Y, torch.ones(40, dtype=F64))


def alternation(options=LEARNED, trainer=None, max_iter=500):
    trainer = trainer or NewtonCG(max_iter, tol=0.0, n_iter_no_change=10)
    return Alternation(trainer, options, generator(0), no_callback)


@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("noise", [True, False])
def test_only_what_is_learned_is_started(prior, noise):
    options = EvidenceOptions(prior, noise, noise_unit=2.0)
    found = started(known(), (10.0, 0.5), options)
    strong = scaled_precision(NETWORK, 10.0).to(ALPHA)
    assert_close(found.prior.group_precision, strong if prior else ALPHA)
    assert_close(found.likelihood.noise_precision.item(), 1.0 if noise else 100.0)


def test_the_end_is_a_map_of_the_known_precisions():
    fit = annealed_map(known(), initial_weights(NETWORK, generator(1)), (10.0, 1.0), alternation())
    assert_close(fit.log_posterior.prior.group_precision, ALPHA)
    gradient = torch.func.grad(lambda w: known().value(w[None])[0])(fit.weights)
    assert gradient.abs().max() < 1e-3
    assert torch.isfinite(torch.tensor(fit.log_evidence))


def test_precisions_go_from_the_start_to_the_end_in_equal_steps_of_their_logarithms():
    seen = []

    class Recorder(NewtonCG):
        def train(self, log_posterior, *arguments, **keywords):
            seen.append(log_posterior)
            return super().train(log_posterior, *arguments, **keywords)

    recorder = Recorder(500, tol=0.01, n_iter_no_change=10)
    annealed_map(known(), randn(NETWORK.n_weights), (10.0, 1.0), alternation(trainer=recorder))
    strong = scaled_precision(NETWORK, 10.0).to(ALPHA)
    for lp, share in zip(seen, (0.0, 0.25, 0.5, 0.75, 1.0), strict=True):
        assert_close(lp.prior.group_precision, strong ** (1 - share) * ALPHA**share)
        assert_close(lp.likelihood.noise_precision.item(), 100.0**share)


@pytest.mark.parametrize("max_iter", [0, 3, 25])
def test_the_trainer_bounds_the_steps(max_iter):
    bounded = alternation(max_iter=max_iter)
    fit = annealed_map(known(), randn(NETWORK.n_weights), (10.0, 1.0), bounded)
    assert len(bounded.losses) == max_iter
    assert torch.isfinite(fit.weights).all()


@pytest.fixture
def forty_rows_are_very_many(monkeypatch):
    take_subsamples(monkeypatch, 9)


class Counting(NewtonCG):
    """Appends the rows of each training, and the decrement that ends it, to ``seen``."""

    seen: ClassVar[list] = []

    def train(self, log_posterior, *arguments, **keywords):
        self.seen.append((log_posterior.n_rows, self.decrement_tol))
        return super().train(log_posterior, *arguments, **keywords)


@pytest.fixture
def counting():
    Counting.seen.clear()
    return Counting(500, tol=0.0, n_iter_no_change=10)


def test_very_many_rows_are_approached_by_ever_larger_subsamples(
    forty_rows_are_very_many, counting
):
    weights = by_subsamples(known(), randn(NETWORK.n_weights), alternation(trainer=counting))
    tol = 0.3 * NETWORK.n_weights**0.5
    assert counting.seen == [(10, tol), (20, tol)]
    # Near the MAP of 20 of 40 rows: much of what there is to gain is gained.
    best = annealed_map(known(), weights, (10.0, 1.0), alternation())
    worst, near, optimum = (
        float(known().value(w[None])[0]) for w in (randn(NETWORK.n_weights), weights, best.weights)
    )
    assert near - optimum < 0.2 * (worst - optimum)


def test_members_of_very_many_rows_are_annealed_on_the_smallest_subsample(
    forty_rows_are_very_many, counting
):
    fit = annealed_map(
        known(), randn(NETWORK.n_weights), (10.0, 1.0), alternation(trainer=counting)
    )
    assert [rows for rows, _ in counting.seen] == [10, 10, 10, 10, 10, 20, 40]
    assert fit.log_posterior.n_rows == 40
    gradient = torch.func.grad(lambda w: known().value(w[None])[0])(fit.weights)
    assert gradient.abs().max() < 1e-3


def test_few_rows_are_taken_as_they_are(counting):
    start = randn(NETWORK.n_weights)
    assert by_subsamples(known(), start, alternation(trainer=counting)) is start
    assert not counting.seen


def test_stages_of_adam_have_as_many_batches_as_its_rounds():
    """Ten passes over few rows hardly move the weights."""
    adam = make_trainer("adam", max_iter=5000, tol=0.0, n_iter_no_change=10, batch_size=40)
    passes = alternation(trainer=adam)
    phases = []
    passes = Alternation(adam, LEARNED, generator(0), lambda **facts: phases.append(facts))
    annealed_map(known(), randn(NETWORK.n_weights), (10.0, 1.0), passes)
    names = [fact["phase"] for fact in phases if "phase" in fact]
    first = phases.index({"phase": "to the MAP"})
    assert names[0] == "annealing"
    assert sum("loss" in fact for fact in phases[:first]) == 4 * adam.steps_of_round(10, 40) == 800


def test_adam_takes_no_subsamples_since_it_never_takes_all_rows(forty_rows_are_very_many):
    adam = make_trainer("adam", max_iter=3, tol=0.0, n_iter_no_change=3)
    start = randn(NETWORK.n_weights)
    assert by_subsamples(known(), start, alternation(trainer=adam)) is start

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.optim.adam import Adam
from sklearn_hfl.optim.solution import Status
from tests import reference
from tests.cases import F64, LINEAR, PROBLEMS, generator, problem

OPTIONS = {
    "max_iter": 50,
    "tol": 0.0,
    "n_iter_no_change": 1000,
    "batch_size": 5,
    "learning_rate": 0.02,
    "min_batches": 1,
}


def train(case, log_posterior=None, seed=0, **changes):
    lp = log_posterior or case.log_posterior
    return Adam(**{**OPTIONS, **changes}).train(lp, case.weights(), generator(seed))


@pytest.mark.parametrize("batch_size", [5, 14])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_loss_falls(name, batch_size):
    trajectory = train(problem(name), batch_size=batch_size)
    assert min(trajectory.curve) < 0.8 * trajectory.curve[0]


@pytest.mark.parametrize("name", LINEAR)
def test_full_batches_of_a_linear_network_end_at_the_closed_form(name):
    case = problem(name)
    expected = reference.BayesianLinearRegression(case.log_posterior).mean
    weights = train(case, max_iter=600, batch_size=14, learning_rate=0.03).weights
    assert_close(weights, expected, rtol=0, atol=1e-6)


def test_each_batch_keeps_the_weight_of_the_prior():
    case = problem("linear")
    prior = case.log_posterior.prior
    strong = prior.with_precision(50 * prior.group_precision)
    lp = replace(case.log_posterior, prior=strong)
    expected = reference.BayesianLinearRegression(lp).mean
    weights = train(case, lp, max_iter=300, batch_size=5, learning_rate=0.01).weights
    assert_close(weights, expected, rtol=0, atol=0.02)


def test_the_best_weights_are_returned():
    case = problem("two layers")
    trajectory = train(case, learning_rate=0.3)
    value = case.log_posterior.value(trajectory.weights[None])
    assert value.item() == pytest.approx(min(trajectory.curve[1:]), rel=1e-12)
    assert trajectory.curve[-1] > min(trajectory.curve)


@pytest.mark.parametrize("held_out", [False, True])
def test_a_start_that_no_pass_improves_on_is_kept(held_out):
    case = problem("linear")
    lp = case.log_posterior
    best = reference.BayesianLinearRegression(lp).mean
    rows = torch.arange(len(lp.X)) < 3 if held_out else None
    if held_out:
        best = train(case, validation_rows=rows, max_iter=2000).weights
    options = {**OPTIONS, "max_iter": 3, "learning_rate": 0.3, "validation_rows": rows}
    trajectory = Adam(**options).train(lp, best, generator(0))
    assert torch.equal(trajectory.weights, best)


def test_shuffles_come_from_the_generator():
    case = problem("two layers")
    one, again, two = (train(case, seed=seed, max_iter=5).weights for seed in (1, 1, 2))
    assert_close(one, again, rtol=0, atol=0)
    assert not torch.equal(one, two)


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    train(problem("linear"))
    assert torch.equal(torch.get_rng_state(), state)


def test_training_ends_without_progress():
    case = problem("linear")
    trajectory = train(case, max_iter=5000, tol=1e-6, n_iter_no_change=5, batch_size=14)
    assert trajectory.n_iter < 1000
    per_row = torch.tensor(trajectory.curve, dtype=F64) / len(case.log_posterior.X)
    assert per_row[-6:].min() > per_row[:-5].min() - 5e-6


def test_passes_over_few_rows_go_on_until_they_were_many_batches():
    case = problem("linear")
    options = {"tol": 1e6, "n_iter_no_change": 2, "batch_size": 5, "min_batches": 20}
    assert len(case.log_posterior.X) == 14  # so that 7 passes are 21 batches
    assert train(case, **options).n_iter == 1 + 7
    rounds = [
        Adam(**{**OPTIONS, **options, "max_iter": max_iter}).steps_of_round(least, n_rows=14)
        for max_iter, least in [(1000, 10), (1000, 1), (100, 1)]
    ]
    assert rounds == [10, 7, 5]


def test_held_out_rows_decide_when_to_stop():
    case = problem("two layers")
    lp = case.log_posterior
    # Held-out targets that contradict the others: their loss soon rises.
    contrary = replace(lp, X=torch.cat([lp.X, lp.X[:4]]), y=torch.cat([lp.y, -lp.y[:4]]))
    contrary = replace(contrary, sample_weight=torch.ones(len(contrary.X), dtype=F64))
    held_out = torch.arange(len(contrary.X)) >= len(lp.X)
    best, plain = train(case, contrary, validation_rows=held_out), train(case)
    stopped = train(case, contrary, validation_rows=held_out, n_iter_no_change=20)
    watched = contrary.select(held_out).value(torch.stack([best.weights, plain.weights]))
    assert watched[0] < watched[1]
    assert stopped.n_iter < plain.n_iter
    assert_close(stopped.weights, best.weights, rtol=0, atol=0)


def test_progress_is_measured_in_nats_a_row():
    case = problem("linear")
    lp = case.log_posterior
    # The same problem with twice the loss, in twice as many rows.
    prior = lp.prior.with_precision(2 * lp.prior.group_precision)
    twice = replace(lp, sample_weight=2 * lp.sample_weight, prior=prior)
    first, second = (
        train(case, p, max_iter=500, tol=1e-3, n_iter_no_change=3) for p in (lp, twice)
    )
    assert first.n_iter == second.n_iter < 500


def test_a_loss_that_is_not_finite_is_reported():
    case = problem("two layers")
    overflowing = replace(case.log_posterior, y=case.log_posterior.y * 1e200)
    assert train(case, overflowing, max_iter=2).status == Status.NOT_FINITE

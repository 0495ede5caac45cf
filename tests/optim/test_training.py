from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.optim.solution import Status
from sklearn_hfl.optim.solvers import make_trainer
from tests import reference
from tests.cases import LINEAR, PROBLEMS, generator, map_estimate, problem, randn

SOLVERS = ["newton-cg", "lbfgs", "adam"]
MAX_ITER = {"newton-cg": 100, "lbfgs": 500, "adam": 600}
ATOL = {"newton-cg": 1e-8, "lbfgs": 1e-8, "adam": 1e-6}


@pytest.fixture(params=SOLVERS)
def solver(request):
    return request.param


def trainer(solver, max_iter, **changes):
    settings = {
        "tol": 0.0,
        "n_iter_no_change": 1000,
        "learning_rate": 0.03,
        "min_batches": 1,
        **changes,
    }
    return make_trainer(solver, max_iter=max_iter, **settings)


@pytest.mark.parametrize("name", LINEAR)
def test_every_solver_reaches_the_closed_form(solver, name):
    case = problem(name)
    expected = reference.BayesianLinearRegression(case.log_posterior).mean
    trained = trainer(solver, MAX_ITER[solver]).train(
        case.log_posterior, case.weights(), generator(0)
    )
    assert_close(trained.weights, expected, rtol=0, atol=ATOL[solver])


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_curve_goes_from_the_start_to_the_end(solver, name):
    case, seen = problem(name), []
    lp = case.log_posterior

    def callback(**facts):
        seen.append(facts["loss"])

    trajectory = trainer(solver, 15).train(lp, case.weights(), generator(0), callback)
    ends = lp.value(torch.stack([case.weights(), trajectory.weights]))
    assert (trajectory.curve[0], min(seen)) == pytest.approx(ends.tolist(), rel=1e-12)
    assert list(trajectory.curve[1:]) == seen
    assert trajectory.n_iter <= 15


@pytest.mark.parametrize("max_iter", [0, 3])
def test_max_iter_ends_training(solver, max_iter):
    case = problem("two layers")
    trajectory = trainer(solver, max_iter).train(case.log_posterior, case.weights(), generator(0))
    assert trajectory.n_iter == max_iter
    assert trajectory.status == Status.MAX_ITER


@pytest.mark.parametrize("solver", ["newton-cg", "lbfgs"])
def test_a_loss_that_is_not_finite_ends_training(solver):
    case = problem("two layers")
    overflowing = replace(case.log_posterior, y=case.log_posterior.y * 1e200)
    trajectory = trainer(solver, 50).train(overflowing, case.weights(), generator(0))
    assert trajectory.status == Status.NOT_FINITE
    assert trajectory.n_iter == 0


@pytest.mark.parametrize("solver", ["newton-cg", "lbfgs"])
def test_a_loose_tolerance_ends_training_early(solver):
    case = problem("two layers")
    loose, tight = (
        trainer(solver, 300, tol=tol, n_iter_no_change=5).train(
            case.log_posterior, case.weights(), generator(0)
        )
        for tol in (1e-1, 1e-6)
    )
    assert loose.n_iter < tight.n_iter < 300
    assert loose.status == Status.STALLED
    assert tight.curve[-1] <= loose.curve[-1]


@pytest.mark.parametrize("n_iter_no_change", [1, 4])
def test_training_ends_after_so_many_steps_without_progress(solver, n_iter_no_change):
    estimate = map_estimate("two layers")
    start = estimate.weights + 1e-5 * randn(len(estimate.weights))
    trajectory = trainer(
        solver, 50, tol=1e6, n_iter_no_change=n_iter_no_change, decrement_tol=0.0
    ).train(estimate.log_posterior, start, generator(0))
    assert trajectory.status == Status.STALLED
    # Adam compares with the best pass, and the first has none before it.
    assert trajectory.n_iter == n_iter_no_change + (solver == "adam")


@pytest.mark.parametrize("solver", ["newton-cg", "lbfgs"])
def test_solvers_agree_on_a_curved_problem(solver):
    case = problem("one layer")
    end = trainer(solver, 2000, n_iter_no_change=2000).train(
        case.log_posterior, case.weights(), generator(0)
    )
    _, gradient = case.log_posterior.value_and_gradient(end.weights[None])
    assert end.status == Status.CONVERGED
    assert torch.linalg.vector_norm(case.log_posterior.prior.scale * gradient) < 1e-7


def test_adam_trains_on_the_rows_that_are_not_held_out():
    case = problem("linear")
    lp = case.log_posterior
    held_out = torch.arange(len(lp.X)) < 4
    trajectory = trainer("adam", 50, validation_rows=held_out).train(
        lp, case.weights(), generator(0)
    )
    rest = lp.select(~held_out).value(case.weights(1))
    watched = lp.select(held_out).value(torch.stack([case.weights(), trajectory.weights]))
    assert trajectory.curve[0] == pytest.approx(rest.item(), rel=1e-12)
    assert watched[1] < watched[0]


def test_a_setting_that_no_trainer_takes_is_refused():
    with pytest.raises(TypeError, match=r"No trainer takes \['learning_rat'\]"):
        trainer("adam", 5, learning_rat=0.1)

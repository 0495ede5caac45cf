from dataclasses import replace
from functools import cache

import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.optim import krylov, newton_cg, preconditioner
from sklearn_hfl.optim.newton_cg import NewtonCG
from sklearn_hfl.optim.preconditioner import Preconditioner
from sklearn_hfl.optim.solution import Status
from sklearn_hfl.optim.subsample import subsample_size
from sklearn_hfl.optim.subspace import Subspace, stationary_radius
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.initialization import initial_weights
from sklearn_hfl.posterior.network import MLP
from sklearn_hfl.posterior.prior import GaussianPrior
from sklearn_hfl.uncertainty.exact import dense_ggn, exact_covariance
from tests import reference
from tests.cases import (
    F64,
    LINEAR,
    PROBLEMS,
    TASKS,
    estimate_at,
    generator,
    in_precision,
    map_estimate,
    problem,
    take_subsamples,
)


def train(case, **changes):
    """Train from weights that are no optimum."""
    options = {"max_iter": 300, "tol": 0.0, "n_iter_no_change": 10, "decrement_tol": 1e-10}
    trainer = NewtonCG(**{**options, **changes})
    return trainer.train(case.log_posterior, case.weights(), generator(0))


@cache
def trained(name):
    return train(problem(name))


def decrement(lp, weights):
    gradient = lp.value_and_gradient(weights.double()[None])[1]
    return exact_covariance(dense_ggn(lp, weights.double()), gradient.mT).sqrt().item()


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_gradient_vanishes(name):
    lp, trajectory = problem(name).log_posterior, trained(name)
    assert trajectory.status == Status.CONVERGED
    assert decrement(lp, trajectory.weights) < 2e-10  # the tolerance is 1e-10


@pytest.mark.parametrize("name", PROBLEMS)
def test_curvature_known_elsewhere_does_no_harm(name):
    case = problem(name)
    known = estimate_at(case.log_posterior, case.weights(seed=3)).subspace
    trainer = NewtonCG(300, tol=0.0, n_iter_no_change=10, decrement_tol=1e-10)
    trajectory = trainer.train(
        case.log_posterior, case.weights(), generator(0), preconditioner=known
    )
    assert trajectory.status == Status.CONVERGED
    assert decrement(case.log_posterior, trajectory.weights) < 2e-10


@pytest.mark.parametrize("name", TASKS)
def test_the_gradient_vanishes_on_the_tasks(name):
    estimate = map_estimate(name)
    assert decrement(estimate.log_posterior, estimate.weights) < 2e-10  # the tolerance is 1e-10


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_network_ends_at_the_closed_form(name):
    expected = reference.BayesianLinearRegression(problem(name).log_posterior).mean
    assert_close(trained(name).weights, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_network_takes_few_steps(name):
    # The model is the loss, so that a damping of 100 falls fivefold at each step.
    assert trained(name).n_iter <= 10


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_loss_never_rises(name):
    curve = torch.tensor(trained(name).curve, dtype=F64)
    assert (curve.diff() <= 1e-12 * curve.abs().max()).all()


@pytest.mark.parametrize("tol", [1e-1, 1e-3])
def test_little_progress_ends_training_near_the_optimum(tol):
    case = problem("two layers")
    early, late = train(case, tol=tol, n_iter_no_change=3), trained("two layers")
    assert early.n_iter < late.n_iter
    scale = case.log_posterior.prior.scale
    dense = scale[:, None] * dense_ggn(case.log_posterior, early.weights) * scale
    gamma = float((1 - 1 / torch.linalg.eigvalsh(dense)).sum())
    assert early.curve[-4] - early.curve[-1] < 3 * tol * gamma**0.5
    # Two Newton decrements of one standard deviation are a nat.
    assert early.curve[-1] - late.curve[-1] < 1


@pytest.mark.parametrize("tol", [1.0, 1e-1, 1e-3])
def test_training_ends_at_the_first_step_that_is_near_and_brought_little(tol):
    case, curve = problem("two layers"), trained("two layers").curve
    lp, scale = case.log_posterior, case.log_posterior.prior.scale

    def ends_at(step):
        weights = train(case, max_iter=step).weights
        dense = scale[:, None] * dense_ggn(lp, weights) * scale
        gamma = float((1 - 1 / torch.linalg.eigvalsh(dense)).sum())
        near = decrement(lp, weights) <= 0.5 * stationary_radius(gamma)
        return near and curve[step - 3] - curve[step] <= 3 * tol * gamma**0.5

    expected = next(step for step in range(3, len(curve)) if ends_at(step))
    assert train(case, tol=tol, n_iter_no_change=3).n_iter == expected


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("noise_factor", [1.0, 1e5])
@pytest.mark.parametrize("name", ["one layer", "two outputs", "module"])
def test_single_precision_lowers_the_loss_too(name, noise_factor, seed):
    case = problem(name, seed)
    lp = in_precision(case.log_posterior, torch.float32, noise_factor)
    trainer = NewtonCG(50, tol=0.0, n_iter_no_change=10)
    trajectory = trainer.train(lp, case.weights().float(), generator(0))
    assert trajectory.curve[-1] < 0.5 * trajectory.curve[0]
    # Training ends before its time at an optimum only, whatever rounding does.
    assert trajectory.n_iter == 50 or decrement(in_precision(lp, F64), trajectory.weights) < 1


@pytest.mark.parametrize("name", ["linear", "one layer"])
def test_training_is_reproduced_by_the_generator(name):
    assert_close(train(problem(name)).weights, trained(name).weights, rtol=0, atol=0)


def test_a_stationary_start_stays():
    case = problem("linear")
    expected = reference.BayesianLinearRegression(case.log_posterior).mean
    start = expected + 1e-12
    trainer = NewtonCG(5, tol=0.0, n_iter_no_change=10)
    trajectory = trainer.train(case.log_posterior, start, generator(0))
    assert trajectory.status == Status.CONVERGED
    assert trajectory.n_iter == 0
    assert_close(trajectory.weights, start, rtol=0, atol=0)


def test_training_that_stands_still_ends_at_a_kink():
    """A minimum of relu where no gradient vanishes: the loss no longer falls, and no step helps."""
    lp = problem("two layers").log_posterior
    network = MLP((lp.X.shape[1], 20, lp.y.shape[1]), "relu")
    groups = network.weight_groups()
    prior = GaussianPrior(torch.ones(len(groups), dtype=F64), groups)
    lp = replace(lp, network=network, prior=prior)
    start = initial_weights(network, generator(0))
    trainer = NewtonCG(2000, tol=0.01, n_iter_no_change=10)
    trajectory = trainer.train(lp, start, generator(0))
    assert trajectory.status == Status.STALLED
    assert trajectory.n_iter < 1000
    on = NewtonCG(500, tol=0.0, n_iter_no_change=10).train(lp, trajectory.weights, generator(0))
    assert trajectory.curve[-1] - min(on.curve) < 0.1


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_gradient_vanishes_with_the_matrix_of_a_sample(monkeypatch, name):
    """The Hessian is then used where Gauss-Newton is slow, and not before."""
    monkeypatch.setattr(preconditioner, "MAX_EXACT_WORK", 0.0)
    monkeypatch.setattr(krylov, "MIN_RESIDUALS_PER_WEIGHT", 0.0)
    lp, trajectory = problem(name).log_posterior, train(problem(name))
    assert trajectory.status == Status.CONVERGED
    assert decrement(lp, trajectory.weights) < 2e-10


@pytest.fixture
def products_of_a_sample(monkeypatch):
    take_subsamples(monkeypatch, 300)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_gradient_of_all_rows_vanishes_with_products_of_a_sample(products_of_a_sample, name):
    case = PROBLEMS[name].problem(seed=0, n_rows=1500)
    lp, trajectory = case.log_posterior, train(case, decrement_tol=1e-6)
    assert subsample_size(lp) < lp.n_rows / 2
    trainer = NewtonCG(1, tol=0.0, n_iter_no_change=10)
    assert trainer.described(lp).endswith("; Hessians of a larger sample")
    assert trainer.described(lp.select(torch.arange(150))).endswith("of a sample of the rows")
    assert trajectory.status == Status.CONVERGED
    assert decrement(lp, trajectory.weights) < 2e-6


def test_a_row_that_the_sample_lacks_is_fitted_all_the_same(products_of_a_sample):
    """Its curvature is a million times that of the others, of which the sample knows nothing."""
    case = LINEAR["linear"].problem(seed=0, n_rows=1500)
    lp = case.log_posterior
    X = lp.X.clone()
    X[:, 1] = 0.0
    X[7, 1] = 1e3
    lp = replace(lp, X=X)
    trajectory = train(replace(case, log_posterior=lp), decrement_tol=1e-6)
    assert trajectory.status == Status.CONVERGED
    assert decrement(lp, trajectory.weights) < 2e-6
    assert trajectory.n_iter < 100


@pytest.mark.parametrize(("decrement", "needed"), [(5.0, False), (0.9, True)])
def test_the_hessian_is_used_near_the_map_or_where_gauss_newton_is_slow(decrement, needed):
    case = problem("two layers")
    curvature = GaussNewton(case.log_posterior, case.weights())
    known = Preconditioner(Subspace.complete(curvature.matrix()), exact=True)
    trainer, falling = NewtonCG(10, tol=0.0, n_iter_no_change=10), [100.0 - n for n in range(20)]
    assert trainer._needs_hessian(falling, decrement, known) == needed
    assert trainer._needs_hessian([1.0] * 20, decrement, known)


@pytest.mark.parametrize("damping", [0.0, 1e-3, 1.0, 100.0])
def test_the_decrement_is_bounded_with_any_damping(damping):
    case = problem("two layers")
    weights = case.weights()
    curvature = GaussNewton(case.log_posterior, weights)
    inverse = Subspace.complete(curvature.matrix()).preconditioner(damping)
    bound = newton_cg._decrement(curvature.gradient(), inverse, damping)
    exact = decrement(case.log_posterior, weights)
    assert exact * (1 - 1e-9) <= bound <= exact * (1 + damping) ** 0.5 * (1 + 1e-9)

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from sklearn_hfl.optim.newton_cg import conjugate_gradients, newton_cg
from sklearn_hfl.optim.subspace import stationary_radius
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
    randn,
)


def train(case, **changes):
    """Train from weights that are no optimum."""
    options = {"max_iter": 300, "tol": 0.0, "n_iter_no_change": 10, "decrement_tol": 1e-10}
    return newton_cg(
        case.log_posterior, case.weights(), generator=generator(0), **{**options, **changes}
    )


@cache
def trained(name):
    return train(problem(name))


def decrement(lp, weights):
    gradient = lp.value_and_gradient(weights.double()[None])[1]
    return exact_covariance(dense_ggn(lp, weights.double()), gradient.mT).sqrt().item()


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_gradient_vanishes(name):
    lp, trajectory = problem(name).log_posterior, trained(name)
    assert trajectory.n_iter < 300
    assert decrement(lp, trajectory.weights) < 2e-10  # of which 1e-10 is asked for


@pytest.mark.parametrize("name", PROBLEMS)
def test_curvature_known_elsewhere_does_no_harm(name):
    case = problem(name)
    known = estimate_at(case.log_posterior, case.weights(seed=3)).subspace
    trajectory = train(case, preconditioner=known)
    assert trajectory.n_iter < 300
    assert decrement(case.log_posterior, trajectory.weights) < 2e-10


@pytest.mark.parametrize("name", TASKS)
def test_the_gradient_vanishes_on_the_tasks(name):
    estimate = map_estimate(name)
    assert decrement(estimate.log_posterior, estimate.weights) < 2e-10  # 1e-10 is asked for


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_network_ends_at_the_closed_form(name):
    expected = reference.BayesianLinearRegression(problem(name).log_posterior).mean
    assert_close(trained(name).weights, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_network_takes_few_steps(name):
    # The model foretells its loss, so that a damping of 100 falls fivefold at each.
    assert trained(name).n_iter <= 10


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_loss_never_rises(name):
    curve = torch.tensor(trained(name).curve, dtype=F64)
    assert (curve.diff() <= 1e-12 * curve.abs().max()).all()


def test_the_curve_is_the_loss_of_each_step():
    case, seen = problem("two layers"), []
    trajectory = train(case, callback=seen.append, max_iter=7)
    start, end = case.weights(), trajectory.weights
    value = case.log_posterior.value(torch.stack([start, end]))
    assert trajectory.n_iter == len(seen) == 7
    assert list(trajectory.curve[1:]) == seen
    assert_close(torch.tensor([trajectory.curve[0], seen[-1]], dtype=F64), value)


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
    trajectory = newton_cg(
        lp,
        case.weights().float(),
        max_iter=50,
        tol=0.0,
        n_iter_no_change=10,
        decrement_tol=1e-8,
        generator=generator(0),
    )
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
    trajectory = newton_cg(
        case.log_posterior,
        start,
        max_iter=5,
        tol=0.0,
        n_iter_no_change=10,
        decrement_tol=1e-8,
        generator=generator(0),
    )
    assert trajectory.n_iter == 0
    assert_close(trajectory.weights, start, rtol=0, atol=0)


@st.composite
def systems(draw):
    """B with chosen eigenvalues, b, and a preconditioner that is B's diagonal."""
    n, seed = draw(st.integers(1, 10)), draw(st.integers(0, 10**6))
    eigenvalues = draw(st.lists(st.floats(0.1, 100), min_size=n, max_size=n))
    Q = torch.linalg.qr(randn(n, n, seed=seed))[0]
    return (Q * torch.tensor(eigenvalues, dtype=F64)) @ Q.mT, randn(n, seed=seed + 1)


def solve(B, b, diagonal, rtol=1e-10, max_iter=100):
    return conjugate_gradients(B.matmul, b, lambda v: v / diagonal, rtol=rtol, max_iter=max_iter)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(systems(), st.booleans())
def test_conjugate_gradients_solve(system, preconditioned):
    B, b = system
    diagonal = B.diagonal() if preconditioned else torch.ones_like(b)
    x, n_products, indefinite = solve(B, b, diagonal)
    assert not indefinite
    assert n_products <= 3 * len(b)
    assert_close(x, torch.linalg.solve(B, b), rtol=1e-6, atol=1e-6)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(systems(), st.sampled_from([0.5, 1e-2, 1e-4]))
def test_conjugate_gradients_end_when_the_residual_has_fallen(system, rtol):
    B, b = system
    diagonal = B.diagonal()

    def left(x):
        return ((b - B @ x).square() / diagonal).sum().sqrt()

    enough = rtol * left(torch.zeros_like(b))
    x, n_products, _ = solve(B, b, diagonal, rtol=rtol)
    before, _, _ = solve(B, b, diagonal, rtol=rtol, max_iter=n_products - 1)
    assert left(x) <= enough * (1 + 1e-6) < left(before)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(systems())
def test_conjugate_gradients_flag_negative_curvature(system):
    B, b = system
    B = B - 2 * torch.linalg.matrix_norm(B, 2) * torch.eye(len(b), dtype=F64)
    x, n_products, indefinite = solve(B, b, torch.ones_like(b))
    assert indefinite
    assert n_products == 1
    assert_close(x, b, rtol=0, atol=0)


def test_conjugate_gradients_keep_what_they_have_at_negative_curvature():
    B = torch.diag(torch.tensor([4.0, 2.0, -1.0], dtype=F64))
    b = torch.tensor([1.0, 1.0, 0.1], dtype=F64)
    x, n_products, indefinite = solve(B, b, torch.ones_like(b))
    before, _, _ = solve(B, b, torch.ones_like(b), max_iter=n_products - 1)
    assert indefinite
    assert n_products > 1
    assert_close(x, before, rtol=0, atol=0)


def test_conjugate_gradients_of_nothing_are_nothing():
    x, n_products, indefinite = solve(torch.eye(3), torch.zeros(3), torch.ones(3))
    assert (n_products, indefinite) == (0, False)
    assert not x.any()


def test_conjugate_gradients_stop_at_max_iter():
    B = torch.diag(torch.logspace(0, 4, 8, dtype=F64))
    _, n_products, indefinite = solve(B, torch.ones(8, dtype=F64), torch.ones(8), max_iter=3)
    assert (n_products, indefinite) == (3, False)

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from sklearn_hfl.optim.lbfgs import lbfgs
from sklearn_hfl.optim.objective import Objective
from sklearn_hfl.optim.solution import Status
from tests.cases import F64, LANDSCAPES, Landscape

N, TOL = 5, 1e-8


@pytest.fixture(params=LANDSCAPES)
def landscape(request):
    return LANDSCAPES[request.param]


def minimize(objective, start, tol=TOL, max_iter=200, **options):
    tol = torch.full((len(start),), tol, dtype=F64)
    return lbfgs(objective, start, tol=tol, max_iter=max_iter, **options)


@dataclass(frozen=True)
class Only:
    """Some of an objective's problems, numbered from 0."""

    objective: Objective
    members: Tensor

    def value_and_gradient(self, U, index):
        return self.objective.value_and_gradient(U, self.members[index])

    def precondition(self, G):
        return self.objective.precondition(G)


@dataclass(frozen=True)
class Broken:
    """A valley whose gradient is multiplied by ``factor[b]`` in problem b."""

    factor: tuple[float, ...]

    def value_and_gradient(self, U, index):
        value, gradient = LANDSCAPES["valley"].value_and_gradient(U, index)
        return value, torch.tensor(self.factor, dtype=F64)[index, None] * gradient

    def precondition(self, G):
        return G


@pytest.mark.parametrize("memory", [1, 3, 10])
def test_minima_are_reached(landscape, memory):
    solution = minimize(landscape, landscape.starts(N), max_iter=2000, memory=memory)
    assert solution.converged.all()
    assert (solution.residual <= TOL).all()
    assert_close(solution.weights, landscape.minima(N), rtol=1e-6, atol=1e-6)


def test_solution_describes_its_weights(landscape):
    solution = minimize(landscape, landscape.starts(N))
    value, gradient = landscape.value_and_gradient(solution.weights, torch.arange(N))
    assert_close(solution.value, value, rtol=0, atol=0)
    assert_close(solution.residual, torch.linalg.vector_norm(gradient, dim=1))


@pytest.mark.parametrize("rows", [[3], [1, 4], [4, 2, 0, 1, 3]], ids=str)
def test_rows_do_not_depend_on_each_other(landscape, rows):
    rows, start = torch.tensor(rows), landscape.starts(N)
    together, alone = minimize(landscape, start), minimize(Only(landscape, rows), start[rows])
    assert_close(alone.weights, together.weights[rows], rtol=1e-12, atol=1e-12)
    assert torch.equal(alone.status, together.status[rows])


def test_each_row_ends_by_its_own_tolerance():
    landscape = LANDSCAPES["rosenbrock"]
    tol = torch.tensor([1e-1, 1e-4, 1e-8], dtype=F64)
    start = landscape.starts(1).expand(3, 2) + torch.arange(3)[:, None] / 10
    solution = lbfgs(landscape, start, tol=tol, max_iter=200)
    assert (solution.residual <= tol).all()
    assert (solution.residual[:-1] > tol[1:]).all()  # no further than it had to go


def test_a_minimum_takes_no_iteration(landscape):
    assert minimize(landscape, landscape.minima(N), tol=1e-6, max_iter=0).converged.all()


def test_an_exact_preconditioner_takes_one_iteration():
    @dataclass(frozen=True)
    class Newton(Landscape):
        def precondition(self, G):
            return G / (2 * torch.logspace(0, 4, 5, dtype=F64))

    valley = LANDSCAPES["valley"]
    newton = Newton(valley.function, valley.start, valley.minimum)
    solution = minimize(newton, newton.starts(N), max_iter=1)
    assert solution.converged.all()
    assert_close(solution.weights, newton.minima(N))


def test_start_is_left_alone(landscape):
    start = landscape.starts(N)
    minimize(landscape, start)
    assert_close(start, landscape.starts(N), rtol=0, atol=0)


@pytest.mark.parametrize("max_iter", [0, 1, 3])
def test_status_of_rows_that_run_out_of_iterations(max_iter):
    landscape = LANDSCAPES["rosenbrock"]
    solution = minimize(landscape, landscape.starts(N), max_iter=max_iter)
    assert solution.status.tolist() == [Status.MAX_ITER] * N
    assert not solution.converged.any()


@pytest.mark.parametrize(
    ("factor", "status"),
    [
        (1.0, Status.CONVERGED),
        (-1.0, Status.NO_STEP),
        (torch.nan, Status.NOT_FINITE),
        (torch.inf, Status.NOT_FINITE),
    ],
)
def test_status_of_one_row_leaves_the_others_alone(factor, status):
    landscape = LANDSCAPES["valley"]
    solution = minimize(Broken((1.0, factor, 1.0)), landscape.starts(3))
    assert solution.status.tolist() == [Status.CONVERGED, status, Status.CONVERGED]
    assert_close(solution.weights[::2], landscape.minima(3)[::2], rtol=1e-6, atol=1e-6)


def test_a_row_that_finds_no_step_stays_at_its_start():
    start = LANDSCAPES["valley"].starts(1)
    assert_close(minimize(Broken((-1.0,)), start).weights, start, rtol=0, atol=0)


def test_values_that_are_not_finite_end_a_row():
    nowhere = replace(LANDSCAPES["valley"], function=lambda u: u.square().sum(1) * torch.nan)
    assert minimize(nowhere, nowhere.starts(2)).status.tolist() == [Status.NOT_FINITE] * 2


def test_a_stall_ends_all_rows_and_is_told_falling_values():
    landscape, seen = LANDSCAPES["rosenbrock"], []

    def stalled(value):
        seen.append(value)
        return len(seen) == 4

    solution = minimize(landscape, landscape.starts(N), stalled=stalled)
    assert len(seen) == 4
    assert solution.status.tolist() == [Status.STALLED] * N
    assert (torch.stack(seen).diff(dim=0) < 0).all()
    assert_close(solution.value, seen[-1], rtol=0, atol=0)


def test_steps_where_the_function_bends_down_are_those_of_gradient_descent():
    solution = minimize(LANDSCAPES["cauchy"], torch.full((1, 1), 4.0, dtype=F64), max_iter=3)
    u = 4.0
    for _ in range(3):
        u -= 2 * u / (1 + u**2)
    assert u > 1  # below which it bends up
    assert solution.weights.item() == pytest.approx(u, rel=1e-12)


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_the_size_of_a_preconditioner_hardly_matters(factor):
    @dataclass(frozen=True)
    class Scaled(Landscape):
        def precondition(self, G):
            inverse = 1 / (2 * torch.logspace(0, 4, 5, dtype=F64))
            return factor * torch.linspace(0.8, 1.2, 5, dtype=F64) * inverse * G

    valley = LANDSCAPES["valley"]
    scaled = Scaled(valley.function, valley.start, valley.minimum)
    solution = minimize(scaled, scaled.starts(N), max_iter=15)
    assert solution.converged.all()
    assert_close(solution.weights, scaled.minima(N), rtol=1e-6, atol=1e-6)


def test_a_problem_without_a_minimum_ends_at_its_smallest_gradient():
    # Minima at 0 of the first coordinate; along the second, a slope that gets steeper.
    slide = Landscape(lambda u: u[:, 0] ** 2 - 0.01 * u[:, 1].exp(), (3.0, 0.0), (0.0, 0.0))
    start = slide.starts(N)
    best = minimize(slide, start, max_iter=60, patience=4)
    last = minimize(slide, start, max_iter=60)
    assert (best.status == Status.STALLED).all()
    assert (best.residual < 0.1).all()
    assert (best.weights[:, 0] - torch.arange(N) / 10).abs().max() < 0.05
    assert not (last.residual <= best.residual).any()


def test_patience_changes_nothing_where_problems_converge(landscape):
    start = landscape.starts(N)
    patient = minimize(landscape, start, patience=200)
    assert_close(patient.weights, minimize(landscape, start).weights, rtol=1e-6, atol=1e-6)
    assert patient.converged.all()

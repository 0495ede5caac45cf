import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.optim.line_search import SUFFICIENT_DECREASE, backtracking
from tests.cases import F64, LANDSCAPES, Landscape

N = 6


def search(landscape, scale=1.0, rounding=0.0):
    """Search along −scale ∇f from N starts."""
    U, index = landscape.starts(N), torch.arange(N)
    value, gradient = landscape.value_and_gradient(U, index)
    direction = -scale * gradient
    rounding = torch.full_like(value, rounding)
    step = backtracking(landscape, U, value, gradient, direction, index, rounding)
    return U, value, gradient, direction, step


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("landscape", LANDSCAPES.values(), ids=LANDSCAPES)
def test_every_step_decreases_sufficiently(landscape, scale):
    U, value, gradient, direction, step = search(landscape, scale)
    length = ((step.weights - U) * direction).sum(1) / direction.square().sum(1)
    slope = (gradient * direction).sum(1)
    assert step.accepted.all()
    assert ((length > 0) & (length <= 1 + 1e-12)).all()
    assert (step.value <= value + SUFFICIENT_DECREASE * length * slope * (1 - 1e-9)).all()


@pytest.mark.parametrize("landscape", LANDSCAPES.values(), ids=LANDSCAPES)
def test_value_and_gradient_are_those_of_the_weights(landscape):
    step = search(landscape)[-1]
    expected = landscape.value_and_gradient(step.weights, torch.arange(N))
    assert_close((step.value, step.gradient), expected, rtol=0, atol=0)


@pytest.mark.parametrize("landscape", LANDSCAPES.values(), ids=LANDSCAPES)
def test_rows_do_not_depend_on_each_other(landscape):
    U, value, gradient, direction, step = search(landscape)
    for b in torch.arange(N).split(1):
        alone = backtracking(landscape, U[b], value[b], gradient[b], direction[b], b, 0 * value[b])
        assert_close(alone.weights, step.weights[b], rtol=0, atol=0)


def test_uphill_rows_stay_where_they_were():
    U, value, gradient, _, step = search(LANDSCAPES["rosenbrock"], scale=-1.0)
    assert not step.accepted.any()
    assert_close((step.weights, step.value, step.gradient), (U, value, gradient), rtol=0, atol=0)


@pytest.mark.parametrize(("rounding", "accepted"), [(0.0, False), (1e-8, True)])
def test_slope_decides_where_rounding_hides_the_decrease(rounding, accepted):
    flat = Landscape(lambda u: 1e6 + u.square().sum(1), (1e-6,), (0.0,))
    U, index = torch.full((1, 1), 1e-6, dtype=F64), torch.zeros(1, dtype=torch.int64)
    value, gradient = flat.value_and_gradient(U, index)
    # The value is recorded 1e-9 too low, as rounding may.
    step = backtracking(
        flat, U, value - 1e-9, gradient, -0.5 * gradient, index, value.new_full((1,), rounding)
    )
    assert step.accepted.item() is accepted
    assert_close(step.weights, 0 * U if accepted else U, rtol=0, atol=0)


def test_a_barrier_is_not_crossed():
    barrier, index = LANDSCAPES["barrier"], torch.zeros(1, dtype=torch.int64)
    U = torch.full((1, 1), -0.9, dtype=F64)
    value, gradient = barrier.value_and_gradient(U, index)
    step = backtracking(barrier, U, value, gradient, -100 * U, index, 0 * value)
    assert step.accepted.all()
    assert -0.9 < step.weights.item() < 1
    assert step.value < value


def test_a_gradient_that_is_not_finite_is_not_accepted():
    cusp, index = Landscape(lambda u: u.abs().sqrt().sum(1), (1.0,), (0.0,)), torch.zeros(1).long()
    U = torch.ones(1, 1, dtype=F64)
    value, gradient = cusp.value_and_gradient(U, index)
    step = backtracking(cusp, U, value, gradient, -U, index, 0 * value)
    assert step.accepted.all()
    assert step.gradient.isfinite().all()


@pytest.mark.parametrize("steepness", [1.0, 100.0])
def test_a_step_to_the_other_side_that_gains_little_is_shortened(steepness):
    bowl = Landscape(lambda u: steepness * u.square().sum(1), (1.0,), (0.0,))
    U, index = torch.ones(1, 1, dtype=F64), torch.zeros(1).long()
    value, gradient = bowl.value_and_gradient(U, index)
    step = backtracking(bowl, U, value, gradient, -1.99999 * U, index, 0 * value)
    assert_close(step.weights, 0 * U, rtol=0, atol=1e-4)


@pytest.mark.parametrize("factor", [3.0, 30.0, 300.0])
def test_an_overlong_step_is_shortened_to_the_minimum_of_the_parabola(factor):
    bowl, index = Landscape(lambda u: u.square().sum(1), (1.0,), (0.0,)), torch.zeros(1).long()
    U = torch.ones(1, 1, dtype=F64)
    value, gradient = bowl.value_and_gradient(U, index)
    step = backtracking(bowl, U, value, gradient, -factor * U, index, 0 * value)
    assert_close(step.weights, 0 * U, rtol=0, atol=1e-12)


def test_a_step_that_is_not_finite_is_shortened_tenfold():
    wall = Landscape(lambda u: torch.where(u < 1, -u, torch.inf).sum(1), (0.0,), (1.0,))
    U, index = torch.zeros(1, 1, dtype=F64), torch.zeros(1).long()
    value, gradient = wall.value_and_gradient(U, index)
    step = backtracking(wall, U, value, gradient, U + 500, index, 0 * value)
    assert_close(step.weights, U + 0.5)


def test_a_slope_as_steep_as_before_is_not_taken_for_flat():
    flat = Landscape(lambda u: 1e6 + u.square().sum(1), (1e-6,), (0.0,))
    U, index = torch.full((1, 1), 1e-6, dtype=F64), torch.zeros(1, dtype=torch.int64)
    value, gradient = flat.value_and_gradient(U, index)
    # The full step leads to the other side, where the slope is the same.
    step = backtracking(flat, U, value - 1e-9, gradient, -gradient, index, 0 * value + 1e-8)
    assert step.accepted.all()
    assert step.weights.abs().item() < 0.9e-6


def test_the_search_ends_when_every_row_has_its_step():
    seen = []

    def bowl(u):
        seen.append(len(u))
        return u.square().sum(1)

    landscape, index = Landscape(bowl, (1.0,), (0.0,)), torch.zeros(3).long()
    U = torch.ones(3, 1, dtype=F64)
    value, gradient = landscape.value_and_gradient(U, index)
    direction = -torch.tensor([[1.0], [1.0], [3.0]], dtype=F64)
    backtracking(landscape, U, value, gradient, direction, index, 0 * value)
    assert seen == [3, 3, 1]

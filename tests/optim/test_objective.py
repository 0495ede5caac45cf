import pytest
import torch
from torch.func import grad, vmap
from torch.testing import assert_close

from sklearn_hfl.optim.objective import (
    MapObjective,
    PenalizedObjective,
    PerturbedObjective,
)
from sklearn_hfl.posterior.curvature import GaussNewton
from tests import reference
from tests.cases import F64, PROBLEMS, estimate_at, problem

MEMBER = torch.tensor([1, 3, 1, 0])
STRENGTH = torch.tensor([0.3, -2.0, -0.3, 0.0], dtype=F64)
ORIGIN = torch.tensor([0.5, -1.0, 0.2, 0.0], dtype=F64)
PENALTY = torch.tensor([2.0, 0.3, 1.0, 4.0], dtype=F64)


@pytest.fixture(params=PROBLEMS)
def case(request):
    return problem(request.param)


def perturbed(case):
    """The perturbed objective around weights that are no optimum."""
    lp, center = case.log_posterior, case.weights(seed=9)
    scale = lp.prior.scale
    value, gradient = lp.value_and_gradient(center[None])
    return PerturbedObjective(
        lp,
        center=center / scale,
        center_value=float(value[0]),
        center_gradient=scale * gradient[0],
        functional=case.prediction,
        member=MEMBER,
        strength=STRENGTH,
        subspace=estimate_at(lp, center).subspace,
    )


def test_map_objective_is_the_log_posterior_in_whitened_weights(case):
    lp, U = case.log_posterior, case.weights(3)

    def loss(u):
        return reference.negative_log_posterior(lp, lp.prior.scale * u)

    expected = torch.stack([loss(u) for u in U]), vmap(grad(loss))(U)
    assert_close(MapObjective(lp).value_and_gradient(U, torch.arange(3)), expected)


def formula(case, tilt):
    """Values and gradients of L(θ) − L(θ̂) − ∇L(θ̂)ᵀ(θ − θ̂) + tilt(g_b, b) at rows u of U."""
    lp, scale = case.log_posterior, case.log_posterior.prior.scale
    center = case.weights(seed=9)
    residual = grad(lambda w: reference.negative_log_posterior(lp, w))(center)

    def one(u, b):
        change = reference.negative_log_posterior(lp, scale * u)
        change = change - reference.negative_log_posterior(lp, center)
        g = case.prediction.value((scale * u)[None])[0, MEMBER[b]]
        return change - residual @ (scale * u - center) + tilt(g, b)

    def rows(U, index):
        pairs = list(zip(U, index, strict=True))
        values, gradients = ([f(u, b) for u, b in pairs] for f in (one, grad(one)))
        return torch.stack(values), torch.stack(gradients)

    return rows


def test_perturbed_objective_equals_its_formula(case):
    U, index = case.weights(3), torch.tensor([3, 0, 1])
    expected = formula(case, lambda g, b: -STRENGTH[b] * g)(U, index)
    assert_close(perturbed(case).value_and_gradient(U, index), expected)


def test_penalized_objective_equals_its_formula(case):
    U, index = case.weights(3), torch.tensor([3, 0, 1])
    estimate = estimate_at(case.log_posterior, case.weights(seed=9))
    objective = PenalizedObjective.around(
        estimate, case.prediction, MEMBER, STRENGTH, origin=ORIGIN, penalty=PENALTY
    )

    def tilt(g, b):
        d = g - ORIGIN[b]
        return 0.5 * PENALTY[b] * d**2 - STRENGTH[b] * d

    assert_close(objective.value_and_gradient(U, index), formula(case, tilt)(U, index))


def test_the_center_is_stationary_without_perturbation(case):
    objective = perturbed(case)
    value, gradient = objective.value_and_gradient(objective.center[None], torch.tensor([3]))
    assert_close(value, torch.zeros(1, dtype=F64), rtol=0, atol=1e-12)
    assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-10)


def test_preconditioner_inverts_the_curvature_along_the_subspace(case):
    objective = perturbed(case)
    curvature = GaussNewton(case.log_posterior, case.weights(seed=9))
    V = objective.subspace.basis
    inside = V.mT @ objective.precondition(curvature.product(V).mT).mT
    assert_close(inside, torch.eye(V.shape[1], dtype=F64), rtol=0, atol=1e-8)
    assert_close(MapObjective(case.log_posterior).precondition(V.mT), V.mT)

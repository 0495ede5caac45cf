"""Profile intervals against closed forms, and against constrained optima by SciPy."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.testing import assert_close

from sklearn_hfl.optim.perturbed_optima import perturbed_optima
from sklearn_hfl.posterior.functional import Prediction, PredictionFunction, WeightedSum
from sklearn_hfl.uncertainty.exact import dense_ggn, dense_hessian, exact_covariance
from sklearn_hfl.uncertainty.profile import profile_interval
from sklearn_hfl.uncertainty.variance import variance
from tests import reference
from tests.cases import CURVED, LINEAR, estimate_at, map_estimate, problem, randn

Z = 1.96


def one(name, which):
    """The prediction of a single query and output: number ``which`` of the problem's."""
    case = problem(name)
    k = case.log_posterior.network.n_outputs
    query = case.queries[which // k : which // k + 1]
    if k == 1:
        return Prediction(case.log_posterior.network, query)
    return PredictionFunction(case.log_posterior.network, query, lambda f: f[0, which % k])


def linear_std(estimate, functional):
    optima = perturbed_optima(estimate, functional, "linearized", rtol=1e-8)
    return variance(optima, 1e-8).value.sqrt()


def constrained_end(estimate, functional, which, sign, z):
    """The farthest g among weights whose loss has risen by z²/2 at most, by SLSQP.

    Its coordinates are those in which the Gauss-Newton matrix is the identity. The bound
    rises in steps, so that it is the end of the profile through θ̂; at the last one SLSQP begins
    twice, since it may end a little beyond it.
    """
    lp, center = estimate.log_posterior, estimate.weights
    root = torch.linalg.cholesky(torch.linalg.inv(dense_ggn(lp, center)))
    value, gradient = lp.value_and_gradient(center[None])

    def rise(v):
        w = center + root @ torch.tensor(v)
        loss, slope = lp.value_and_gradient(w[None])
        tilted = loss[0] - value[0] - gradient[0] @ (w - center)
        return float(tilted), (root.mT @ (slope - gradient)[0]).numpy()

    def negative(v):
        w = center + root @ torch.tensor(v)
        slope = root.mT @ functional.gradient(w)[:, which]
        return -sign * float(functional.value(w[None])[0, which]), -sign * slope.numpy()

    v = np.zeros(len(center))
    for height in 0.5 * np.append(np.linspace(0, z, 4)[1:], z) ** 2:
        room = {
            "type": "ineq",
            "fun": lambda v, height=height: height - rise(v)[0],
            "jac": lambda v: -rise(v)[1],
        }
        options = {"ftol": 1e-11, "maxiter": 300}
        result = minimize(negative, v, jac=True, method="SLSQP", constraints=room, options=options)
        v = result.x
    # Lagrange: at the end, both gradients point the same way.
    risen, slope = rise(v)
    pull = -negative(v)[1]
    assert abs(risen - height) < 1e-6
    assert pull @ slope > (1 - 1e-5) * np.linalg.norm(pull) * np.linalg.norm(slope)
    return -sign * result.fun


@pytest.mark.parametrize("z", [0.5, Z, 4.0])
@pytest.mark.parametrize("name", LINEAR)
def test_linear_network_has_the_gaussian_interval(name, z):
    estimate, functional = map_estimate(name), problem(name).prediction
    interval = profile_interval(estimate, functional, z, rtol=1e-8)
    exact = reference.BayesianLinearRegression(estimate.log_posterior)
    half = z * exact.variance(functional.X).flatten().sqrt()
    center = functional.value(estimate.weights[None])[0]
    assert interval.converged.all()
    assert_close(interval.upper - center, half, rtol=1e-6, atol=0)
    assert_close(center - interval.lower, half, rtol=1e-6, atol=0)


ENDS = [
    *((name, 1, 1.0, rtol) for name in CURVED for rtol in (1e-6, 1e-2)),
    *((name, which, Z, 1e-2) for name in ("sine with gap", "quadratic") for which in (3, 10)),
]


@pytest.mark.parametrize(("name", "which", "z", "rtol"), ENDS)
def test_ends_are_those_of_constrained_optima(name, which, z, rtol):
    estimate, functional = map_estimate(name), one(name, which)
    center = functional.value(estimate.weights[None])[0]
    interval = profile_interval(estimate, functional, z, rtol=rtol)
    assert interval.converged.all()
    for sign, side in ((-1, "lower"), (1, "upper")):
        expected = float(constrained_end(estimate, functional, 0, sign, z) - center)
        half = float(getattr(interval, side) - center)
        assert half == pytest.approx(expected, rel=max(1e-5, rtol))


def test_the_interval_of_a_gap_is_asymmetric():
    estimate, functional = map_estimate("sine with gap"), one("sine with gap", 10)
    interval = profile_interval(estimate, functional, Z, rtol=1e-2)
    center = functional.value(estimate.weights[None])[0]
    half = Z * linear_std(estimate, functional)
    # The truth is sin(0.3) = 0.30; the linearisation is symmetric, and wider on both sides.
    assert 0.5 * half < center - interval.lower < 0.7 * half
    assert interval.upper - center > 1.1 * (center - interval.lower)


@pytest.mark.parametrize("name", CURVED)
def test_narrow_intervals_are_gaussian(name):
    estimate, functional = map_estimate(name), problem(name).prediction
    center = functional.value(estimate.weights[None])[0]
    hessian = dense_hessian(estimate.log_posterior, estimate.weights)
    gradient = functional.gradient(estimate.weights)
    half = 0.01 * exact_covariance(hessian, gradient).diagonal().sqrt()
    interval = profile_interval(estimate, functional, 0.01, rtol=1e-4)
    assert interval.converged.all()
    assert_close(interval.upper - center, half, rtol=2e-2, atol=0)
    assert_close(center - interval.lower, half, rtol=2e-2, atol=0)


@pytest.mark.parametrize("name", ["one layer", "weighted"])
def test_a_gradient_that_is_left_is_subtracted(name):
    optimum = map_estimate(name)
    values, vectors = torch.linalg.eigh(dense_hessian(optimum.log_posterior, optimum.weights))
    shift = 0.02 * vectors[:, -1] / values[-1].sqrt()
    estimate, functional = estimate_at(optimum.log_posterior, optimum.weights + shift), one(name, 1)
    center = functional.value(estimate.weights[None])[0]
    interval = profile_interval(estimate, functional, 1.0, rtol=1e-6)
    for sign, end in ((-1, interval.lower), (1, interval.upper)):
        expected = constrained_end(estimate, functional, 0, sign, 1.0) - center
        assert_close(end - center, expected, rtol=1e-5, atol=0)


def test_ends_that_were_not_found_are_flagged_and_linearized():
    estimate, case = map_estimate("sine with gap"), problem("sine with gap")
    functional = Prediction(case.log_posterior.network, case.queries[[3, 10, 17]])
    interval = profile_interval(estimate, functional, Z, rtol=1e-2, max_refits=1)
    center = functional.value(estimate.weights[None])[0]
    half = Z * linear_std(estimate, functional)
    lower, upper = (~interval.converged).T
    assert lower.any()
    assert upper.any()
    assert_close((center - half)[lower], interval.lower[lower], rtol=1e-2, atol=0)
    assert_close((center + half)[upper], interval.upper[upper], rtol=1e-2, atol=0)
    assert profile_interval(estimate, functional, Z, rtol=1e-2).converged.all()


def test_rows_do_not_depend_on_each_other():
    estimate, functional = map_estimate("quadratic"), problem("quadratic").prediction
    together = profile_interval(estimate, functional, Z, rtol=1e-2)
    for which in (0, 10):
        alone = profile_interval(estimate, one("quadratic", which), Z, rtol=1e-2)
        for side in ("lower", "upper"):
            first, second = getattr(alone, side)[0], getattr(together, side)[which]
            assert_close(first, second, rtol=1e-3, atol=0)


def test_a_functional_turned_around_swaps_its_ends():
    estimate, case = map_estimate("two layers"), problem("two layers")
    # Seed 3 has an end with two branches, 0.34 and 0.36, between which rounding decides.
    W = randn(2, len(case.queries), seed=10)
    first, second = (
        profile_interval(
            estimate, WeightedSum(case.log_posterior.network, case.queries, w), 1.0, rtol=1e-4
        )
        for w in (W, -W)
    )
    assert_close(first.lower, -second.upper, rtol=1e-6, atol=1e-8)
    assert_close(first.upper, -second.lower, rtol=1e-6, atol=1e-8)
    assert torch.equal(first.converged, second.converged.flip(1))


def test_ends_have_the_unit_of_the_functional():
    unit = 2.0**10  # a power of two changes no digit
    estimate, case = map_estimate("sine with gap"), problem("sine with gap")
    plain, scaled = (
        profile_interval(
            estimate,
            PredictionFunction(
                case.log_posterior.network, case.queries[10:11], lambda f, u=u: u * f[0]
            ),
            Z,
            rtol=1e-2,
        )
        for u in (1.0, unit)
    )
    assert_close(scaled.lower, unit * plain.lower, rtol=1e-9, atol=0)
    assert_close(scaled.upper, unit * plain.upper, rtol=1e-9, atol=0)


def test_a_functional_without_gradient_has_no_width():
    estimate, case = map_estimate("two layers"), problem("two layers")
    functional = PredictionFunction(
        case.log_posterior.network, case.queries, lambda f: torch.stack([0 * f.sum(), f[0, 0]])
    )
    interval = profile_interval(estimate, functional, 1.0, rtol=1e-2)
    assert interval.converged.all()
    assert interval.lower[0] == interval.upper[0] == 0
    assert interval.lower[1] < interval.upper[1]


def test_no_functionals_have_no_intervals():
    estimate, case = map_estimate("two layers"), problem("two layers")
    nothing = Prediction(case.log_posterior.network, case.queries[:0])
    interval = profile_interval(estimate, nothing, 1.0, rtol=1e-2)
    assert interval.lower.shape == interval.upper.shape == (0,)
    assert interval.converged.shape == (0, 2)

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.func import grad
from torch.testing import assert_close

from sklearn_hfl.optim.krylov import krylov_subspace
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.newton_cg import NewtonCG
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.likelihood import CategoricalLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import MLP
from sklearn_hfl.posterior.prior import GaussianPrior
from sklearn_hfl.uncertainty.exact import dense_ggn
from sklearn_hfl.uncertainty.posterior_mean import posterior_mean_shift
from tests.cases import F64, generator, randn


def estimate(X, y, sizes, alpha):
    network = MLP(sizes)
    groups = network.weight_groups()
    prior = GaussianPrior(torch.full((len(groups),), alpha, dtype=F64), groups)
    weight = torch.ones(len(X), dtype=F64)
    lp = LogPosterior(network, CategoricalLikelihood(), prior, X, y, weight)
    start = 0.3 * randn(network.n_weights, seed=4)
    trainer = NewtonCG(200, tol=0.0, n_iter_no_change=10, decrement_tol=1e-9)
    weights = trainer.train(lp, start, generator(0)).weights
    subspace = krylov_subspace(GaussNewton(lp, weights), generator(0))
    return MapEstimate(lp, weights, subspace)


@pytest.mark.parametrize("sizes", [(2, 1), (2, 3), (2, 4, 1), (2, 4, 3)], ids=str)
def test_shift_equals_the_dense_formula(sizes):
    X, k = randn(30, 2), sizes[-1]
    labels = (X[:, 0] > 0.3).long() + (X[:, 1] > 0.5).long() * (k > 1)
    map_ = estimate(X, torch.eye(max(k, 2), dtype=F64)[labels][:, -k:], sizes, 0.7)
    lp, weights = map_.log_posterior, map_.weights
    inverse = torch.linalg.inv(dense_ggn(lp, weights))
    outputs, jacobian = lp.network.jacobian(weights, lp.X)
    covariance = jacobian @ inverse @ jacobian.mT

    def trace(delta):
        f = outputs + jacobian @ delta
        p = f.softmax(1) if k > 1 else f.sigmoid()
        blocks = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        return 0.5 * (covariance * blocks).sum()

    expected = -inverse @ grad(trace)(torch.zeros_like(weights))
    shift = posterior_mean_shift(map_, generator(1))
    error = shift - expected
    # In the metric of the posterior: what the shift may miss is a tenth of its own length.
    distance = lambda v: float(v @ torch.linalg.solve(inverse, v)) ** 0.5  # noqa: E731
    assert distance(error) <= 0.15 * distance(expected)
    assert distance(expected) > 0.05


def test_shift_leads_to_the_mean_of_a_skewed_posterior():
    # One weight, no bias in effect: its prior is narrow. Separable rows, by quadrature.
    X = torch.tensor([[-2.0], [-1.0], [1.0], [1.5], [2.0]], dtype=F64)
    y = (X > 0).to(F64)
    map_ = estimate(X, y, (1, 1), 0.5)
    shifted = map_.weights + posterior_mean_shift(map_, generator(0))
    w, b = np.meshgrid(np.linspace(-4, 12, 401), np.linspace(-8, 8, 401), indexing="ij")
    points = torch.tensor(np.stack([w.ravel(), b.ravel()], axis=1))
    log_density = -map_.log_posterior.value(points)
    density = (log_density - log_density.max()).exp()
    mean = (density[:, None] * points).sum(0) / density.sum()
    assert abs(mean[0] - shifted[0]) < 0.4 * abs(mean[0] - map_.weights[0])


def test_equal_generators_give_equal_shifts():
    X = randn(20, 2)
    map_ = estimate(X, (X[:, :1] > 0).to(F64), (2, 3, 1), 1.0)
    first, second = (posterior_mean_shift(map_, generator(3)) for _ in range(2))
    assert_close(first, second, rtol=0, atol=0)


def test_probes_stand_for_what_the_basis_does_not_hold():
    X = randn(20, 2)
    map_ = estimate(X, (X[:, :1] > 0).to(F64), (2, 1), 50.0)
    expected = posterior_mean_shift(map_, generator(0))
    A = map_.curvature()
    only = Subspace.empty(A.excess_diagonal()).extended((expected / map_.scale)[:, None], A.product)
    shifts = [
        posterior_mean_shift(replace(map_, subspace=only), generator(seed)) for seed in range(5)
    ]
    error = torch.stack(shifts).mean(0) - expected
    assert error.norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("alpha", [50.0, 500.0])
def test_what_lies_beyond_the_basis_is_not_lost(alpha):
    """With a strong prior no direction is known, and none is needed."""
    X = randn(20, 2)
    map_ = estimate(X, (X[:, :1] > 0).to(F64), (2, 1), alpha)
    expected = posterior_mean_shift(map_, generator(0))
    nothing = replace(map_, subspace=Subspace.empty(map_.curvature().excess_diagonal()))
    shifts = [posterior_mean_shift(nothing, generator(seed)) for seed in range(5)]
    error = torch.stack(shifts).mean(0) - expected
    assert error.norm() < 0.2 * expected.norm()

"""Output covariance: what gradients and solutions within the subspace give, from products."""

from dataclasses import replace

import pytest
from torch.testing import assert_close

from sklearn_hfl.optim import output_covariance as module
from sklearn_hfl.optim.output_covariance import output_covariance
from sklearn_hfl.optim.ritz import RitzPairs
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.posterior.link import CENTRED
from sklearn_hfl.uncertainty.exact import dense_ggn, exact_covariance
from tests.cases import PROBLEMS, map_estimate, problem, randn, without_subspace

NAMES = [*PROBLEMS]
DIRECTIONS = [1, 3, 100]


def partly_known(name, n_directions):
    """The estimate with so many directions at random, or all, and queries."""
    estimate = without_subspace(map_estimate(name))
    directions = randn(len(estimate.weights), n_directions, seed=5)
    subspace = estimate.subspace.extended(directions, estimate.curvature().product)
    return replace(estimate, subspace=subspace), problem(name).queries


def gradients(estimate, X):
    return Prediction(estimate.log_posterior.network, X, CENTRED).gradient(estimate.weights)


def blocks(columns, k):
    parts = columns.mT.unflatten(0, (-1, k))
    return parts @ parts.mT


@pytest.mark.parametrize("n_directions", DIRECTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_gradients_give(name, n_directions, monkeypatch):
    monkeypatch.setattr(module, "MIN_ROWS", 3)
    monkeypatch.setattr(module, "MAX_BLOCK_NUMBERS", 1)
    estimate, X = partly_known(name, n_directions)
    k = estimate.log_posterior.network.n_outputs
    found = output_covariance(estimate, RitzPairs.from_subspace(estimate.subspace, 0.0), X)
    galerkin = estimate.subspace.solve(estimate.scale[:, None] * gradients(estimate, X))
    close = {"rtol": 1e-6, "atol": 1e-9}
    assert_close(found.bounds.inside, galerkin.bounds.inside, **close)
    assert_close(found.bounds.outside, galerkin.bounds.outside, **close)
    residual = blocks(galerkin.residual, k)
    expected = blocks(galerkin.coefficients, k) + galerkin.bounds.share * residual
    assert_close(found.covariance, expected, **close)
    assert_close(found.bounds.variance, expected.diagonal(dim1=1, dim2=2).flatten(), **close)


@pytest.mark.parametrize("rtol", [0.0, 1.0])
@pytest.mark.parametrize("n_directions", DIRECTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_bounds_hold_the_dense_variances(name, n_directions, rtol):
    estimate, X = partly_known(name, n_directions)
    pairs = RitzPairs.from_subspace(estimate.subspace, rtol)
    bounds = output_covariance(estimate, pairs, X).bounds
    matrix = dense_ggn(estimate.log_posterior, estimate.weights)
    exact = exact_covariance(matrix, gradients(estimate, X)).diagonal()
    slack = 1e-9 * exact + 1e-12
    assert (bounds.lower <= exact + slack).all()
    assert (exact <= bounds.upper + slack).all()
    error = (bounds.variance.sqrt() / exact.sqrt() - 1).abs()
    visible = exact > 1e-12
    assert (error <= bounds.rel_error + 1e-7)[visible].all()

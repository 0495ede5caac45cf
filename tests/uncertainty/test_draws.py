"""Draws of weights: their covariance is the posterior's, from a basis or from Ritz pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.optim.perturbed_optima import perturbed_optima
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.uncertainty.covariance import covariance
from sklearn_hfl.uncertainty.draws import n_normals, weight_draws
from sklearn_hfl.uncertainty.exact import dense_ggn
from tests.cases import CURVED, LINEAR, map_estimate, problem


def root_of(known):
    """The matrix (P, m + P) that turns normal numbers into draws."""
    return weight_draws(known, torch.eye(n_normals(known), dtype=torch.float64))


@pytest.mark.parametrize("name", [*LINEAR, *CURVED])
def test_the_covariance_of_draws_is_the_inverse_of_the_dense_curvature(name):
    known = map_estimate(name)
    root = root_of(known)
    exact = torch.linalg.inv(dense_ggn(known.log_posterior, known.weights))
    assert_close(root @ root.mT, exact, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("amortized", [False, True])
@pytest.mark.parametrize("n_directions", [0, 1, 3])
def test_draws_agree_with_the_covariance_of_a_poor_subspace(amortized, n_directions):
    known, prediction = map_estimate("two layers"), problem("two layers").prediction
    small = Subspace.empty(known.subspace.excess)
    if n_directions:
        small = small.extended(known.subspace.basis[:, :n_directions], known.curvature().product)
    known = replace(known, subspace=small)
    mode = "linearized"
    if amortized:
        known, mode = known.without_data(1e-9), "amortized"
    optima = perturbed_optima(known, prediction, mode, rtol=1e9)
    expected = covariance(prediction, optima, 1e9)
    values = prediction.gradient(known.weights).mT @ root_of(known)
    assert_close(values @ values.mT, expected, rtol=1e-6, atol=1e-9)

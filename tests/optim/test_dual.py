"""Dual: inverse, trace and determinant are those of the dense curvature."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.optim.dual import Dual, inverse_curvature
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.linearization import PerceptronLinearization
from tests.cases import (
    F64,
    PROBLEMS,
    as_module_network,
    generator,
    in_precision,
    problem,
    randn,
)


def curvature(name):
    case = problem(name)
    return GaussNewton(case.log_posterior, case.weights())


def dense(A):
    return A.product(torch.eye(A.n_weights, dtype=F64))


@pytest.mark.parametrize("damping", [0.0, 3.0])
@pytest.mark.parametrize("name", PROBLEMS)
def test_dual_solves_with_the_dense_curvature(name, damping):
    A = curvature(name)
    matrix = dense(A) + damping * torch.eye(A.n_weights, dtype=F64)
    G = randn(A.n_weights, 3, seed=1)
    solve = Dual(A).preconditioner(damping)
    assert_close(solve(G), torch.linalg.solve(matrix, G), rtol=1e-7, atol=1e-9)
    assert_close(solve(G[:, 0]), solve(G)[:, 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PROBLEMS)
def test_dual_has_the_trace_and_the_determinant_of_the_dense_curvature(name):
    A = curvature(name)
    matrix = dense(A)
    shares = 1 - torch.linalg.inv(matrix).diagonal()
    dual = Dual(A)
    assert_close(dual.effective_parameters(), shares, rtol=1e-6, atol=1e-9)
    assert dual.n_effective == pytest.approx(float(shares.sum()), rel=1e-6)
    assert dual.log_det == pytest.approx(float(torch.logdet(matrix)), rel=1e-8)


def test_dual_of_a_perceptron_is_that_of_the_same_network_as_a_module():
    case = problem("two layers")
    lp = case.log_posterior
    module = replace(lp, network=as_module_network(lp.network))
    first, second = (Dual(GaussNewton(p, case.weights())) for p in (lp, module))
    assert_close(first.gram, second.gram, rtol=1e-9, atol=1e-9)


def test_dual_of_a_prior_that_differs_between_the_weights_of_a_layer():
    lp = problem("two layers").log_posterior
    weights = problem("two layers").weights()
    labels = torch.arange(lp.n_weights) % len(lp.prior.group_precision)
    lp = replace(lp, prior=replace(lp.prior, groups=replace(lp.prior.groups, labels=labels)))
    A = GaussNewton(lp, weights)
    assert Dual(A).log_det == pytest.approx(float(torch.logdet(dense(A))), rel=1e-8)


def test_dual_of_several_precisions_in_single_precision_goes_layer_by_layer(monkeypatch):
    """Variances of a layer are outer products to rounding, which is that of the dtype."""
    case = problem("two layers")
    prior = case.log_posterior.prior
    alpha = randn(len(prior.group_precision), seed=16).exp()  # products of quotients are inexact
    lp = replace(case.log_posterior, prior=prior.with_precision(alpha))
    exact = Dual(GaussNewton(lp, case.weights())).gram
    monkeypatch.setattr(PerceptronLinearization, "dense", None)
    single = Dual(GaussNewton(in_precision(lp, torch.float32), case.weights().float())).gram
    assert_close(single.double(), exact, rtol=1e-4, atol=1e-4)


def test_a_jacobian_that_exceeds_the_memory_limit_is_no_dual():
    """Of a module, all rows of it would be held at once."""
    case = problem("one layer")
    lp = replace(case.log_posterior, network=as_module_network(case.log_posterior.network))
    assert Dual.suits(lp)
    numbers = lp.n_residuals * lp.n_weights
    assert not Dual.suits(replace(lp, memory_limit=16 * 8 * numbers - 1))
    assert Dual.suits(replace(case.log_posterior, memory_limit=1.0))  # layer by layer


def test_fewer_residuals_than_weights_take_the_dual():
    case = problem("one layer")
    lp, weights = case.log_posterior, case.weights()
    assert len(lp.X) < lp.n_weights
    twice = lp.select(torch.arange(2 * len(lp.X)) % len(lp.X))
    assert lp.n_weights <= len(twice.X)
    for rows, form in ((lp, Dual), (twice, Subspace)):
        assert isinstance(inverse_curvature(GaussNewton(rows, weights), generator(0)), form)

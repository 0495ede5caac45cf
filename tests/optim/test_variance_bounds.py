import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.optim.variance_bounds import VarianceBounds, middle_share
from tests.cases import F64, randn


def of_random_matrix(beyond, seed=0, n=8, m=3, n_queries=20):
    """Exact variances and their bounds for a matrix between I and (1 + beyond) I off its basis."""
    V, W = torch.linalg.qr(randn(n, n, seed=seed))[0].split([m, n - m], dim=1)
    eigenvalues = 1 + beyond * torch.rand(n - m, generator=torch.Generator().manual_seed(seed))
    A = V @ torch.diag(torch.tensor([1e3, 10.0, 2.0], dtype=F64)) @ V.mT
    A += W @ torch.diag(eigenvalues.to(F64)) @ W.mT
    G = randn(n, n_queries, seed=seed + 1)
    residual = W.mT @ G
    inside = (V.mT @ G).square().div(torch.tensor([[1e3], [10.0], [2.0]], dtype=F64)).sum(0)
    exact = (G * torch.linalg.solve(A, G)).sum(0)
    return exact, inside, residual.square().sum(0), G.square().sum(0)


@pytest.mark.parametrize("beyond", [0.0, 0.1, 10.0, torch.inf])
def test_the_value_is_in_the_middle_of_its_bounds(beyond):
    _, inside, outside, _ = of_random_matrix(1.0)
    bounds = VarianceBounds.from_residual(inside, outside, beyond, 1e3)
    assert_close(bounds.variance, 0.5 * (bounds.lower + bounds.upper))
    assert_close(bounds.variance, inside + middle_share(beyond) * outside)


@pytest.mark.parametrize("beyond", [0.0, 0.1, 10.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_bound_covers_the_error(beyond, seed):
    exact, inside, outside, squares = of_random_matrix(beyond, seed)
    for bounds in (
        VarianceBounds.from_residual(inside, outside, beyond, 1e3),
        VarianceBounds.from_norms(inside, outside, squares, 0.0, beyond, 1e3),
    ):
        assert (bounds.lower <= exact * (1 + 1e-12)).all()
        assert (exact <= bounds.upper * (1 + 1e-12)).all()
        assert ((bounds.variance / exact).sqrt() - 1).abs().le(bounds.rel_error).all()


def test_neglected_coupling_and_rounding_widen_the_bounds():
    _, inside, outside, squares = of_random_matrix(1.0)
    exact = VarianceBounds.from_residual(inside, outside, 1.0, 1e3)
    rounded = VarianceBounds.from_norms(inside, outside, squares, 0.0, 1.0, 1e3)
    neglected = VarianceBounds.from_norms(inside, outside, squares, 0.1, 1.0, 1e3)
    for wider, narrower in ((neglected, rounded), (rounded, exact)):
        assert (wider.lower < narrower.lower).all()
        assert (wider.upper > narrower.upper).all()


def test_no_gradient_is_no_variance():
    zero = torch.zeros(2, dtype=F64)
    for bounds in (
        VarianceBounds.from_residual(zero, zero, 1.0, 1.0),
        VarianceBounds.from_norms(zero, zero, zero, 0.1, 1.0, 1.0),
    ):
        assert not bounds.variance.any()
        assert (bounds.rel_error < 1e-14).all()

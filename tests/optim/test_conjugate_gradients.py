import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from sklearn_hfl.optim.conjugate_gradients import conjugate_gradients
from tests.cases import F64, randn


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

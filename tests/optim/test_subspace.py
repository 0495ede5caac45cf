from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from sklearn_hfl.optim.subspace import Subspace, stationary_radius
from tests.cases import F64, randn


@dataclass(frozen=True)
class Case:
    """A = I + RᵀR, a subspace made of a few blocks of directions, and queries G."""

    A: Tensor
    subspace: Subspace
    G: Tensor


@st.composite
def cases(draw):
    n, rank, m = draw(st.integers(1, 12)), draw(st.integers(0, 12)), draw(st.integers(0, 14))
    scale, seed = 10.0 ** draw(st.integers(-3, 3)), draw(st.integers(0, 10**6))
    R = scale * randn(rank, n, seed=seed)
    A = torch.eye(n, dtype=F64) + R.mT @ R
    subspace = Subspace.empty(A.diagonal() - 1)
    for block in randn(n, m, seed=seed + 1).split(3, dim=1):
        subspace = subspace.extended(block, A.matmul)
    return Case(A, subspace, randn(n, 5, seed=seed + 2))


every = settings(
    derandomize=True,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)


@every
@given(cases())
def test_basis_is_orthonormal_and_the_rest_follows(case):
    V, s = case.subspace.basis, case.subspace
    size = torch.linalg.matrix_norm(case.A, 2)
    assert_close(V.mT @ V, torch.eye(s.rank, dtype=F64), rtol=0, atol=1e-12)
    assert_close(s.image, case.A @ V, rtol=0, atol=1e-13 * size)
    assert_close(s.gram, V.mT @ case.A @ V, rtol=0, atol=1e-13 * size)
    assert_close(s.factor @ s.factor.mT, s.gram, rtol=0, atol=1e-13 * size)


@every
@given(cases())
def test_bounds_hold_for_every_query(case):
    bounds = case.subspace.solve(case.G).bounds
    exact = (case.G * torch.linalg.solve(case.A, case.G)).sum(0)
    # What the bounds allow for, of a condition number that is at most ‖A‖.
    rounding = 20 * torch.finfo(F64).eps * torch.linalg.matrix_norm(case.A, 2) * exact
    assert (bounds.lower <= exact + rounding).all()
    assert (exact <= bounds.upper + rounding).all()


@every
@given(cases())
def test_galerkin_is_consistent(case):
    galerkin = case.subspace.solve(case.G)
    rounding = 1e-13 * torch.linalg.matrix_norm(case.A, 2)
    assert_close(galerkin.residual, case.G - case.A @ galerkin.step, rtol=0, atol=10 * rounding)
    assert_close(galerkin.bounds.inside, (case.G * galerkin.step).sum(0), rtol=1e-7, atol=1e-9)
    orthogonal = case.subspace.basis.mT @ galerkin.residual
    assert_close(orthogonal, torch.zeros_like(orthogonal), rtol=0, atol=10 * rounding)


@every
@given(cases())
def test_unseen_is_the_diagonal_that_the_basis_misses(case):
    V = case.subspace.basis
    eye = torch.eye(len(case.A), dtype=F64)
    off = eye - V @ V.mT
    expected = (off @ (case.A - eye) @ off).diagonal()
    size = float(torch.linalg.matrix_norm(case.A, 2))
    assert_close(case.subspace.unseen(), expected, rtol=0, atol=1e-12 * size)
    assert case.subspace.missing == pytest.approx(float(expected.sum()), abs=1e-11 * size)


@every
@given(cases())
def test_no_eigenvalue_beyond_the_basis_passes_the_bound(case):
    V, eye = case.subspace.basis, torch.eye(len(case.A), dtype=F64)
    off = eye - V @ V.mT
    largest = float(torch.linalg.eigvalsh(off @ (case.A - eye) @ off)[-1])
    size = float(torch.linalg.matrix_norm(case.A, 2))
    assert largest <= case.subspace.beyond + 1e-12 * size


@every
@given(cases(), st.floats(0.0, 100.0))
def test_all_directions_give_the_inverse(case, damping):
    n = len(case.A)
    eye = torch.eye(n, dtype=F64)
    full = case.subspace.extended(eye, case.A.matmul)
    assert full.rank == n
    assert_close(full.solve(case.G).step, torch.linalg.solve(case.A, case.G), rtol=1e-6, atol=1e-8)
    expected = torch.linalg.solve(case.A + damping * eye, case.G)
    assert_close(full.preconditioner(damping)(case.G), expected, rtol=1e-6, atol=1e-8)


@every
@given(cases(), st.sampled_from([0.0, 0.5]))
def test_preconditioner_is_the_inverse_inside_and_the_prior_outside(case, damping):
    V, T = case.subspace.basis, case.subspace.gram
    eye = torch.eye(len(T), dtype=F64)
    inside = V @ torch.linalg.solve(T + damping * eye, V.mT @ case.G)
    expected = inside + case.subspace.complement(case.G) / (1 + damping)
    assert_close(case.subspace.preconditioner(damping)(case.G), expected, rtol=1e-7, atol=1e-9)


@every
@given(cases(), st.floats(0.0, 10.0))
def test_preconditioner_takes_vectors_and_columns(case, damping):
    apply = case.subspace.preconditioner(damping)
    columns = torch.stack([apply(g) for g in case.G.mT], dim=1)
    assert_close(apply(case.G), columns)


@every
@given(cases())
def test_known_directions_are_dropped(case):
    known = case.subspace.basis @ randn(case.subspace.rank, 4)
    zero = torch.zeros(len(case.A), 2, dtype=F64)
    repeated = torch.cat([known, zero, known[:, :1]], dim=1)
    assert case.subspace.extended(repeated, case.A.matmul) is case.subspace


@every
@given(cases())
def test_repeated_directions_count_once(case):
    new = randn(len(case.A), 1, seed=99)
    larger = case.subspace.extended(new.expand(-1, 3) * 1e-5, case.A.matmul)
    assert larger.rank == min(case.subspace.rank + 1, len(case.A))


@every
@given(cases())
def test_more_directions_never_loosen_the_lower_bound(case):
    larger = case.subspace.extended(randn(len(case.A), 2, seed=98), case.A.matmul)
    before, after = (s.solve(case.G).bounds.inside for s in (case.subspace, larger))
    assert (after >= before * (1 - 1e-9)).all()


@every
@given(cases())
def test_a_solution_goes_on_in_a_larger_subspace(case):
    larger = case.subspace.extended(randn(len(case.A), 2, seed=98), case.A.matmul)
    grown, direct = case.subspace.solve(case.G).within(larger), larger.solve(case.G)
    size = float(torch.linalg.matrix_norm(case.A, 2))
    assert_close(grown.coefficients, direct.coefficients, rtol=0, atol=1e-13 * size)
    assert_close(grown.residual, direct.residual, rtol=0, atol=1e-12 * size)


@every
@given(cases(), st.floats(-14, -3))
def test_directions_close_to_the_basis_stay_orthogonal(case, exponent):
    V = case.subspace.basis
    close = V @ randn(V.shape[1], 2) + 10**exponent * randn(len(case.A), 2, seed=97)
    V = case.subspace.extended(close, case.A.matmul).basis
    assert_close(V.mT @ V, torch.eye(V.shape[1], dtype=F64), rtol=0, atol=1e-12)


@every
@given(cases())
def test_effective_parameters_are_the_trace(case):
    expected = float((1 - 1 / torch.linalg.eigvalsh(case.subspace.gram)).sum())
    # What the largest number leaves of the least, on both sides.
    rounding = 10 * torch.finfo(F64).eps * case.subspace.largest
    assert case.subspace.n_effective == pytest.approx(expected, rel=1e-9, abs=1e-9 + rounding)


@pytest.mark.parametrize(("gamma", "times"), [(0.0, 1), (1.0, 1), (4.0, 2), (100.0, 10)])
def test_stationary_radius_grows_as_the_root(gamma, times):
    assert stationary_radius(gamma) == pytest.approx(times * stationary_radius(1.0))


def test_the_empty_subspace_knows_the_prior_alone():
    empty, G = Subspace.empty(torch.zeros(4, dtype=F64)), randn(4, 3)
    assert (empty.n_weights, empty.rank, empty.largest) == (4, 0, 1.0)
    assert_close(empty.preconditioner(1.0)(G), G / 2)
    bounds = empty.solve(G).bounds
    assert not bounds.inside.any()
    for bound in (bounds.lower, bounds.upper):
        assert_close(bound, G.square().sum(0))


def test_curvature_beyond_rounding_has_a_factor():
    direction = randn(6, 1)
    A = torch.eye(6, dtype=F64) + 1e22 * direction @ direction.mT
    full = Subspace.empty(A.diagonal() - 1).extended(torch.eye(6, dtype=F64), A.matmul)
    assert torch.isfinite(full.solve(randn(6, 2)).step).all()


def test_unseen_does_not_depend_on_the_blocks_that_it_is_made_in(monkeypatch):
    R = randn(30, 50)
    A = torch.eye(50, dtype=F64) + R.mT @ R
    subspace = Subspace.empty(A.diagonal() - 1).extended(randn(50, 8), A.matmul)
    whole = subspace.unseen()
    monkeypatch.setattr("sklearn_hfl.optim.subspace.MAX_BLOCK_NUMBERS", 100)
    assert_close(subspace.unseen(), whole)


def test_a_product_that_underflows_ends_with_a_finite_factor():
    """A ⪰ I in exact arithmetic, but numbers of 1e-200 beside 1e200 can leave nothing of it."""
    empty = Subspace.empty(torch.zeros(4, dtype=torch.float64))
    subspace = empty.extended(randn(4, 2), torch.zeros_like)
    assert subspace.factor.isfinite().all()

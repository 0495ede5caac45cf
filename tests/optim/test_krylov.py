"""Krylov: the basis finds what the data determine, and says how much it leaves."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.optim.krylov import krylov_subspace, max_directions
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.network import MLP
from tests.cases import F64, PROBLEMS, TASKS, Kind, generator, in_precision, problem, randn

KRYLOV = [*PROBLEMS, "sine with gap"]


def curvature(name):
    case = problem(name)
    return GaussNewton(case.log_posterior, case.weights())


@pytest.mark.parametrize("name", KRYLOV)
def test_krylov_basis_is_reproduced_by_the_generator(name):
    first, second = (krylov_subspace(curvature(name), generator(7)) for _ in range(2))
    assert_close(first.basis, second.basis, rtol=0, atol=0)


@pytest.mark.parametrize("trace_rtol", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("block_size", [2, 64])
@pytest.mark.parametrize("name", KRYLOV)
def test_krylov_basis_counts_the_effective_parameters(name, block_size, trace_rtol):
    A = curvature(name)
    dense = A.product(torch.eye(A.n_weights, dtype=F64))
    exact = float((1 - 1 / torch.linalg.eigvalsh(dense)).sum())
    s = krylov_subspace(A, generator(0), trace_rtol=trace_rtol, block_size=block_size)
    counted = s.n_effective + float(s.unseen().sum())
    assert counted == pytest.approx(exact, rel=2 * trace_rtol + 1e-9)


@pytest.mark.parametrize("name", TASKS)
def test_krylov_basis_holds_the_effective_parameters(name):
    A = curvature(name)
    eigenvalues = torch.linalg.eigvalsh(A.product(torch.eye(A.n_weights, dtype=F64)))
    subspace = krylov_subspace(A, generator(0), block_size=8)
    assert subspace.n_effective == pytest.approx(float((1 - 1 / eigenvalues).sum()), rel=1e-3)
    assert subspace.rank < A.n_weights


def test_krylov_basis_does_not_depend_on_order_or_repetition():
    lp, weights = problem("two layers").log_posterior, problem("two layers").weights()
    n = len(lp.X)
    twice = lp.select(torch.arange(2 * n).flip(0) % n)
    halves = replace(twice, sample_weight=0.5 * twice.sample_weight)
    first, second = (krylov_subspace(GaussNewton(p, weights), generator(0)) for p in (lp, halves))
    projector, other = (s.basis @ s.basis.mT for s in (first, second))
    assert_close(projector, other, rtol=0, atol=1e-6)


def largest_beyond(A, subspace):
    """Largest eigenvalue of A − I beyond the basis, dense, but for its rounding."""
    eye = torch.eye(A.n_weights, dtype=F64)
    off, excess = subspace.complement(eye), A.product(eye) - eye
    return float(torch.linalg.eigvalsh(off @ excess @ off)[-1] - 1e-12 * excess.abs().max())


@pytest.mark.parametrize("beyond", [1.0, 1e-2, 1e-5])
@pytest.mark.parametrize("name", KRYLOV)
def test_nothing_beyond_the_basis_passes_the_tolerance(name, beyond):
    A = curvature(name)
    subspace = krylov_subspace(A, generator(1), beyond=beyond, block_size=2)
    assert subspace.beyond <= beyond
    assert largest_beyond(A, subspace) <= subspace.beyond


@pytest.mark.parametrize("seed", range(5))
def test_many_small_eigenvalues_are_bounded_by_the_largest_not_by_their_sum(seed):
    lp = in_precision(Kind(MLP((80, 1)), 80).problem(seed, n_rows=60).log_posterior, F64, 1e-3)
    A = GaussNewton(lp, randn(lp.n_weights))
    subspace = krylov_subspace(A, generator(seed), trace_rtol=1.0, beyond=1.0, block_size=4)
    assert subspace.beyond <= 1.0 < subspace.missing
    assert largest_beyond(A, subspace) <= subspace.beyond


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_of_the_norm_is_sharp(seed):
    lp = in_precision(Kind(MLP((80, 1)), 80).problem(seed, n_rows=60).log_posterior, F64, 1e-3)
    A = GaussNewton(lp, randn(lp.n_weights))
    subspace = krylov_subspace(A, generator(seed), trace_rtol=1.0, beyond=1.0, block_size=4)
    assert subspace.norm_bound < 3 * largest_beyond(A, subspace)


@pytest.mark.parametrize("name", KRYLOV)
def test_there_are_no_more_directions_than_residuals(name):
    lp = problem(name).log_posterior
    subspace = krylov_subspace(curvature(name), generator(0))
    assert subspace.rank <= len(lp.X) * lp.network.n_outputs


@pytest.mark.parametrize("tolerance", ["trace_rtol", "beyond"])
@pytest.mark.parametrize("name", TASKS)
def test_a_looser_tolerance_takes_fewer_directions(name, tolerance):
    A = curvature(name)
    loose, tight = (
        krylov_subspace(A, generator(0), block_size=2, **{tolerance: value}).rank
        for value in (0.1, 1e-6)
    )
    assert loose < tight < A.n_weights


def limited(directions):
    """Curvature of 151 weights with memory for so many directions."""
    lp = problem("sine").log_posterior
    return GaussNewton(
        replace(lp, memory_limit=4.0 * 8 * lp.n_weights * directions), problem("sine").weights()
    )


@pytest.mark.parametrize("tolerance", [{"trace_rtol": 0.0}, {"beyond": 1e-9}])
def test_memory_ends_the_search(tolerance):
    A = limited(70)
    assert max_directions(A.log_posterior) == 70
    subspace = krylov_subspace(A, generator(0), block_size=3, **tolerance)
    assert subspace.rank <= 70
    assert largest_beyond(A, subspace) <= subspace.beyond


def test_too_little_memory_for_one_block_says_so():
    expected = r"curvature of 151 weights needs 309,248 bytes or more, but .* 299,584 bytes"
    with pytest.raises(ValueError, match=expected):
        krylov_subspace(limited(62), generator(0))

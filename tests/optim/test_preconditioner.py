import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.optim import dual, krylov, preconditioner
from sklearn_hfl.optim.krylov import determined_subspace
from sklearn_hfl.optim.preconditioner import Preconditioner
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.curvature import GaussNewton
from tests.cases import F64, PROBLEMS, generator, problem, randn

ALL_ROWS_OF_A_SAMPLE = (
    (preconditioner, "MAX_EXACT_WORK", 0.0),
    (preconditioner, "RESIDUALS_PER_WEIGHT", 100),
)
REGIMES = {
    "the dual of the curvature, of as many dimensions as residuals": (
        (dual, "MAX_RESIDUALS", 2000),
    ),
    "the curvature matrix of all rows": (),
    "the curvature matrix of a sample of the rows": ALL_ROWS_OF_A_SAMPLE,
    "a Krylov subspace of the curvature": ((krylov, "MAX_MATRIX_WEIGHTS", 0),),
}


@pytest.fixture(autouse=True)
def few_residuals(monkeypatch):
    """The matrix also of problems that have a handful of rows."""
    monkeypatch.setattr(krylov, "MIN_RESIDUALS_PER_WEIGHT", 0.0)
    monkeypatch.setattr(dual, "MAX_RESIDUALS", 0)


def curvature_of(name):
    return GaussNewton(problem(name).log_posterior, problem(name).weights())


def dense(curvature):
    return curvature.product(torch.eye(curvature.n_weights, dtype=F64))


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_each_regime_names_itself_and_solves(monkeypatch, name, regime):
    for module, constant, value in REGIMES[regime]:
        monkeypatch.setattr(module, constant, value)
    curvature = curvature_of(name)
    lp = curvature.log_posterior
    if "dual" in regime and lp.n_residuals >= lp.n_weights:
        assert "dual" not in Preconditioner.described(lp)
        return
    # A sample of more rows than there are is all of them.
    assert Preconditioner.described(lp) == regime.replace("a sample of the rows", "all rows")
    known = Preconditioner.build(curvature, generator(0), None)
    # Eigenvalues of the preconditioned curvature: 1, and 1 + δ in directions that are missed.
    found = torch.linalg.eigvals(known.inverse.preconditioner()(dense(curvature))).real
    rough = krylov.ROUGH_TRACE_RTOL if "Krylov" in regime else 0.01  # single precision
    missed = rough * known.n_effective if "Krylov" in regime else 0.0
    assert float(found.min()) > 1 - rough
    assert float(found.max()) < 1 + missed + rough


def test_rows_of_which_a_sample_is_taken(monkeypatch):
    monkeypatch.setattr(preconditioner, "MAX_EXACT_WORK", 0.0)
    lp = problem("linear").log_posterior
    assert 4 * lp.n_weights == 12 < lp.n_residuals
    assert Preconditioner.described(lp) == "the curvature matrix of a sample of the rows"
    few = lp.select(torch.arange(12))
    assert Preconditioner.described(few) == "the curvature matrix of all rows"


@pytest.mark.parametrize("damping", [0.0, 0.3, 1e3])
def test_a_complete_subspace_solves_with_any_damping(damping):
    A = dense(curvature_of("two layers"))
    G = randn(len(A), 3)
    expected = torch.linalg.solve(A + damping * torch.eye(len(A), dtype=F64), G)
    solve = Subspace.complete(A).preconditioner(damping)
    assert_close(solve(G), expected)
    assert_close(solve(G[:, 0]), expected[:, 0])


def test_precision_follows_the_largest_eigenvalue(monkeypatch):
    curvature = curvature_of("two layers")
    G = randn(curvature.n_weights, 3)
    small = Preconditioner.build(curvature, generator(0), None).inverse
    assert small.gram.dtype == F64
    for module, constant, value in ALL_ROWS_OF_A_SAMPLE:
        monkeypatch.setattr(module, constant, value)
    single = Preconditioner.build(curvature, generator(0), None).inverse
    assert single.gram.dtype == torch.float32
    monkeypatch.setattr(preconditioner, "MAX_SINGLE_EIGENVALUE", 1.0)
    double = Preconditioner.build(curvature, generator(0), None).inverse
    assert double.gram.dtype == F64
    rounded, exact = single.preconditioner()(G), double.preconditioner()(G)
    assert rounded.dtype == F64
    assert_close(rounded, exact, rtol=1e-3, atol=1e-4)
    assert_close(single.n_effective, double.n_effective, rtol=1e-4, atol=1e-3)


def test_the_matrix_is_computed_again_where_the_weights_have_moved(monkeypatch):
    curvature, elsewhere = (
        GaussNewton(problem("two layers").log_posterior, problem("two layers").weights(seed=seed))
        for seed in (0, 1)
    )
    known = Preconditioner.build(curvature, generator(0), None)
    assert known.after(1, elsewhere, generator(0), moved=False).inverse is known.inverse
    moved = known.after(1, elsewhere, generator(0), moved=True)
    assert_close(moved.inverse.gram.double(), dense(elsewhere), rtol=1e-4, atol=1e-3)
    # Of a sample, only after products that have cost as much.
    monkeypatch.setattr(preconditioner, "MAX_EXACT_WORK", 0.0)
    kept = Preconditioner.build(curvature, generator(0), None)
    due = int(preconditioner._cost(curvature.log_posterior)) + 1
    assert kept.after(0, elsewhere, generator(0), moved=True).inverse is kept.inverse
    assert kept.after(due, elsewhere, generator(0), moved=True).inverse is not kept.inverse
    # And at once where an outdated one is known to be slow.
    outdated = kept.after(0, elsewhere, generator(0), moved=True)
    assert outdated.outdated
    slow = outdated.after(due, elsewhere, generator(0), moved=True)
    assert not slow.outdated
    assert slow.after(0, curvature, generator(0), moved=True).inverse is not slow.inverse


def test_few_residuals_determine_few_directions(monkeypatch):
    curvature = curvature_of("two layers")
    lp = curvature.log_posterior
    monkeypatch.setattr(krylov, "SMALL", lp.n_weights + 1)
    monkeypatch.setattr(krylov, "MIN_RESIDUALS_PER_WEIGHT", 1e9)
    assert determined_subspace(curvature, generator(0)).is_complete
    monkeypatch.setattr(krylov, "SMALL", 0)
    ratio = float(lp.sample_weight.sum()) * lp.network.n_outputs / lp.n_weights
    for least, rank in ((ratio, lp.n_weights), (1.01 * ratio, len(lp.X) * lp.network.n_outputs)):
        monkeypatch.setattr(krylov, "MIN_RESIDUALS_PER_WEIGHT", least)
        assert determined_subspace(curvature, generator(0)).rank == rank


@pytest.mark.parametrize("name", PROBLEMS)
def test_few_weights_have_a_complete_subspace(monkeypatch, name):
    curvature = curvature_of(name)
    complete = determined_subspace(curvature, generator(0))
    assert complete.is_complete
    assert_close(complete.gram, dense(curvature))
    assert complete.beyond == 0
    monkeypatch.setattr(krylov, "MAX_MATRIX_WEIGHTS", curvature.n_weights - 1)
    krylov_like = determined_subspace(curvature, generator(0))
    assert complete.n_effective == pytest.approx(krylov_like.n_effective, rel=2e-3)

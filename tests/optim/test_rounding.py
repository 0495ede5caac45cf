"""Rounding: bounds hold up to condition numbers of 1e14, against 50 digits."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch

from sklearn_hfl.optim.ritz import RitzPairs
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.optim.variance_bounds import rounding_error

# P, rank of R, columns of a block.
SHAPES = [(3, 1, 2), (12, 5, 3), (30, 16, 10), (30, 30, 8)]
SPECTRA = {
    "even in logs": lambda r, largest: np.geomspace(largest, 1, r),
    "one large": lambda r, largest: np.append(largest, np.full(r - 1, 1e-2)),
    "all large": lambda r, largest: np.full(r, largest),
    # After the large ones, Krylov blocks find little but rounding.
    "steep": lambda r, largest: np.where(np.arange(r) <= r // 3, largest, np.geomspace(1e-6, 1, r)),
}
CONDITIONS = [
    *[(torch.float64, 10.0**k) for k in (2, 8, 12, 14)],
    *[(torch.float32, 10.0**k) for k in (2, 6)],
]


def problem(shape, spectrum, largest, dtype):
    """R of A = I + RᵀR, queries along and across its eigenvectors, and signs to start from."""
    n, rank, columns = shape
    rng = np.random.default_rng(0)
    V = np.linalg.qr(rng.standard_normal((n, n)))[0]
    U = np.linalg.qr(rng.standard_normal((rank, rank)))[0]
    values = spectrum(rank, largest)
    R = (U * np.sqrt(values)) @ V[:, :rank].T
    root = np.sqrt(np.append(values, np.zeros(n - rank)) + 1)
    G = [
        rng.standard_normal((n, 3)),
        V[:, [0, rank - 1, n - 1]],  # the largest curvature, the least in the range, and beyond
        V[:, [0]] + 1e-6 * rng.standard_normal((n, 1)),
        (V * root) @ rng.standard_normal((n, 2)),
        (V * root**2) @ rng.standard_normal((n, 2)),
    ]
    signs = rng.choice([-1.0, 1.0], size=(n, min(columns, n)))
    return (torch.tensor(a, dtype=dtype) for a in (R, np.hstack(G), signs))


def exact_std(R, G):
    """sqrt(gᵀ(I + RᵀR)⁻¹g) by Cholesky in 50 digits, of the very numbers in R and G."""
    with mpmath.workdps(50):
        R, G = (np.vectorize(mpmath.mpf, otypes=[object])(a.double().numpy()) for a in (R, G))
        A = R.T @ R + np.eye(R.shape[1], dtype=int)
        for k in range(len(A)):
            pivot = mpmath.sqrt(A[k, k])
            G[k] = G[k] / pivot
            column = A[k + 1 :, k] / pivot
            G[k + 1 :] -= np.outer(column, G[k])
            A[k + 1 :, k + 1 :] -= np.outer(column, column)
        return np.vectorize(mpmath.sqrt, otypes=[object])((G**2).sum(0))


def all_bounds(R, G, signs):
    """The bounds by each way to solve within Krylov subspaces of growing rank."""

    def product(block):
        return block + R.mT @ (R @ block)

    subspace, grown = Subspace.empty(R.square().sum(0)), None
    block = product(signs) - signs
    while subspace.rank < len(G):
        larger = subspace.extended(block, product)
        if larger.rank == subspace.rank:
            return
        block = larger.complement(larger.image[:, subspace.rank :])
        subspace = larger
        grown = subspace.solve(G) if grown is None else grown.within(subspace)
        pairs = RitzPairs.from_subspace(subspace, 0.01)
        yield "within", grown.bounds
        yield "solve", subspace.solve(G).bounds
        yield "Ritz", pairs.solve(G).bounds


@pytest.mark.parametrize(("dtype", "largest"), CONDITIONS)
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_std_is_further_off_than_its_bound(shape, name, dtype, largest):
    R, G, signs = problem(shape, SPECTRA[name], largest, dtype)
    exact = exact_std(R, G)
    for way, bounds in all_bounds(R, G, signs):
        std = bounds.variance.double().sqrt().numpy()
        error = np.array([abs(float(s / e - 1)) for s, e in zip(std, exact, strict=True)])
        bound = bounds.rel_error.double().numpy()
        allowance = rounding_error(bounds.largest, dtype)
        # A third of the allowance is enough: no bound is kept by luck.
        assert (error <= bound - 0.67 * allowance).all(), (way, (error / bound).max())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ritz_vectors_stay_orthonormal_where_only_rounding_is_left_of_the_coupling(dtype):
    largest = {torch.float64: 1e14, torch.float32: 1e6}[dtype]
    for shape in SHAPES:
        R, _, signs = problem(shape, SPECTRA["steep"], largest, dtype)
        subspace = Subspace.empty(R.square().sum(0))
        block = signs
        while True:
            larger = subspace.extended(block, lambda v, R=R: v + R.mT @ (R @ v))
            if larger.rank == subspace.rank:
                break
            block = larger.complement(larger.image[:, subspace.rank :])
            subspace = larger
            vectors = RitzPairs.from_subspace(subspace, 0.01).vectors
            gram = vectors.mT @ vectors
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(gram, torch.eye(len(gram)).to(gram), rtol=0, atol=1e3 * eps)
            if subspace.rank == subspace.n_weights:
                break

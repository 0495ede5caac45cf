"""Krylov: the subspace of directions that the data determine, built block by block."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Generator

from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = [
    "BLOCK_SIZE",
    "determined_subspace",
    "forms_matrix",
    "krylov_subspace",
    "max_directions",
    "rough_subspace",
]

# Columns by which the basis grows: matrix products run at full speed from about here
# (docs/design/subspace.md).
BLOCK_SIZE = 64
# Networks of so many weights at most, with half as many residuals or more, have A formed and
# factorised. Their data determine most directions, so that a basis costs as much, and then each
# step has an exact solution (docs/design/training.md). With fewer weights than SMALL, A is cheap
# whatever the data determine.
MAX_MATRIX_WEIGHTS = 2000
MIN_RESIDUALS_PER_WEIGHT = 0.5
SMALL = 300
# Where no result depends on it, a subspace may miss this share of γ, and is computed in single
# precision unless the trace of A − I is so large that its rounding would be of the order of γ
# (docs/design/training.md).
ROUGH_TRACE_RTOL = 0.05
MAX_SINGLE_TRACE = 1e6
# The norm of E, A − I beyond the basis, is at most NORM_FACTOR times the longest image of N_VECTORS
# random vectors. The bound fails with probability 1/10 for one vector, 1e-10 for ten (N. Halko,
# P. G. Martinsson, J. A. Tropp, SIAM Review 53, 2011, Lemma 4.1). Applied to E⁴, it is within
# about twice the norm (docs/design/amortized.md).
N_VECTORS = 10
N_POWERS = 4
NORM_FACTOR = 10 * math.sqrt(2 / math.pi)


def max_directions(log_posterior: LogPosterior) -> int:
    """Maximum rank of a subspace within the memory limit.

    Parameters
    ----------
    log_posterior : LogPosterior
        Holds the limit.

    Returns
    -------
    int
        As many directions as fit with their images, twice: a basis is copied when it grows.

    Raises
    ------
    ValueError
        If not even one block fits.
    """
    limit, n = log_posterior.memory_limit, log_posterior.n_weights
    per_direction = 4 * n * log_posterior.X.element_size()
    rank = min(n, int(limit / per_direction))
    min_rank = min(BLOCK_SIZE, n)
    if rank < min_rank:
        raise ValueError(
            f"The curvature of {n} weights needs {min_rank * per_direction:,} bytes or more, but "
            f"memory_limit is {limit:,.0f} bytes. Use a smaller network, or raise memory_limit."
        )
    return rank


def determined_subspace(
    curvature: GaussNewton,
    generator: Generator,
    *,
    trace_rtol: float = 1e-3,
    beyond: float = math.inf,
) -> Subspace:
    """Find the directions that the data determine: all of them where there are few weights.

    Parameters
    ----------
    curvature : GaussNewton
        A.
    generator : torch.Generator
        Source of randomness.
    trace_rtol : float
        Share of γ that may be missed.
    beyond : float
        Maximum of ``Subspace.beyond``.

    Returns
    -------
    Subspace
        Complete where A can be formed, otherwise a ``krylov_subspace``.
    """
    if forms_matrix(curvature.log_posterior):
        return Subspace.complete(curvature.matrix())
    return krylov_subspace(curvature, generator, trace_rtol=trace_rtol, beyond=beyond)


def forms_matrix(log_posterior: LogPosterior) -> bool:
    """Whether A is formed, (P, P).

    Parameters
    ----------
    log_posterior : LogPosterior
        Holds the memory limit.

    Returns
    -------
    bool
    """
    # A row of weight 2 counts as two, so that equal data in either form are taken the same way.
    n_residuals = float(log_posterior.total_weight) * log_posterior.network.n_outputs
    n_weights = log_posterior.n_weights
    cheap = n_weights < SMALL or n_residuals >= MIN_RESIDUALS_PER_WEIGHT * n_weights
    return cheap and n_weights <= min(MAX_MATRIX_WEIGHTS, max_directions(log_posterior))


def rough_subspace(curvature: GaussNewton, generator: Generator) -> Subspace:
    """Find most of the directions that the data determine, for training and its precisions.

    Parameters
    ----------
    curvature : GaussNewton
        A.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    Subspace
        Of a share ``ROUGH_TRACE_RTOL`` less of γ, in single precision where that is enough.
    """
    if float(curvature.excess_diagonal().sum()) < MAX_SINGLE_TRACE:
        curvature = curvature.to(torch.float32)
    return krylov_subspace(curvature, generator, trace_rtol=ROUGH_TRACE_RTOL)


def krylov_subspace(
    curvature: GaussNewton,
    generator: Generator,
    *,
    trace_rtol: float = 1e-3,
    beyond: float = math.inf,
    block_size: int = BLOCK_SIZE,
) -> Subspace:
    """Find the directions that the data determine, by block Krylov iteration.

    The first block is (A − I) S for random signs S in weight space. Random combinations of
    training rows would do as well, but would depend on how rows are ordered, repeated or
    weighted. Each further block is A times the last, orthogonalised.

    Parameters
    ----------
    curvature : GaussNewton
        A.
    generator : torch.Generator
        Source of the signs.
    trace_rtol : float
        Stop when the error in the effective number of parameters is below this share of it.
        Eigenvalues 1 + δ beyond the basis contribute Σ δ / (1 + δ), for which their known sum
        Σ δ is taken. That is wrong by at most δ Σ δ for the largest δ, estimated by the
        largest of the last block.
    beyond : float
        Maximum of ``Subspace.beyond``, to be reached as well.
    block_size : int
        Columns per block.

    Returns
    -------
    Subspace
        Of rank ``max_directions`` at most, even if the tolerances are then not met.
    """
    max_rank = max_directions(curvature.log_posterior)
    subspace = Subspace.empty(curvature.excess_diagonal())
    lp = curvature.log_posterior
    columns = min(block_size, max_rank, lp.n_residuals)
    signs = torch.randint(0, 2, (curvature.n_weights, columns), generator=generator)
    signs = (2.0 * signs - 1.0).to(subspace.excess)
    block = curvature.product(signs) - signs
    while True:
        before = subspace.rank
        subspace = subspace.extended(block, curvature.product)
        if subspace.rank in (before, subspace.n_weights):
            return subspace
        full = subspace.rank >= max_rank
        excess = subspace.gram[before:, before:] - torch.eye(subspace.rank - before).to(block)
        largest = float(torch.linalg.eigvalsh(excess)[-1])
        error = subspace.missing * min(largest, 1.0)
        known = error <= trace_rtol * max(subspace.n_effective, 1.0)
        # The trace bounds the norm too, but loosely where it sums many small eigenvalues.
        ready = full or (known and largest <= beyond)
        if ready and beyond < subspace.beyond:
            subspace = replace(subspace, norm_bound=_norm_bound(curvature, subspace, generator))
        if full or (known and subspace.beyond <= beyond):
            return subspace
        block = subspace.complement(subspace.image[:, before:])[:, : max_rank - subspace.rank]


def _norm_bound(curvature: GaussNewton, subspace: Subspace, generator: Generator) -> float:
    """Upper bound, with probability 1 − 1e-10, of the eigenvalues of A − I beyond the basis."""
    shape = curvature.n_weights, N_VECTORS
    vectors = torch.randn(shape, generator=generator, dtype=torch.float64).to(curvature.scale)
    vectors = subspace.complement(vectors)
    for _ in range(N_POWERS):
        vectors = subspace.complement(curvature.product(vectors) - vectors)
    longest = float(torch.linalg.vector_norm(vectors, dim=0).max())
    return (NORM_FACTOR * longest) ** (1 / N_POWERS)

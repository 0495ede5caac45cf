"""Krylov: the subspace of the directions that the data determine, block by block."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Generator, Tensor

from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["BLOCK_SIZE", "krylov_subspace", "max_directions"]

# Columns that the basis grows by: matrix products run at full speed from about here.
BLOCK_SIZE = 64
# A norm is bounded by ten random vectors, each of which falls short with a probability
# of a tenth: all of them do so once in 1e10 (N. Halko, P. G. Martinsson, J. A. Tropp,
# SIAM Review 53, 2011, Lemma 4.1). Four powers sharpen the bound to about twice the norm.
N_VECTORS = 10
N_POWERS = 4


def max_directions(log_posterior: LogPosterior) -> int:
    """Directions that a subspace may have, for memory to follow the limit.

    Parameters
    ----------
    log_posterior : LogPosterior
        Knows the limit.

    Returns
    -------
    int
        As many as fit with their images, twice: a basis is copied when it grows.

    Raises
    ------
    ValueError
        If not even one block fits.
    """
    limit, n = log_posterior.memory_limit, log_posterior.n_weights
    per_direction = 4 * n * log_posterior.X.element_size()
    most = min(n, int(limit / per_direction))
    if most < min(BLOCK_SIZE, n):
        raise ValueError(
            f"The curvature of {n} weights needs {BLOCK_SIZE * per_direction:.2g} bytes or more, "
            f"but the memory limit is {limit:.2g} bytes. Use a smaller network, or raise "
            "memory_limit."
        )
    return most


def krylov_subspace(
    curvature: GaussNewton,
    generator: Generator,
    *,
    trace_rtol: float = 1e-3,
    beyond: float = math.inf,
    block_size: int = BLOCK_SIZE,
) -> Subspace:
    """Collect the directions that the data determine, by block Krylov iteration.

    The first block is (A − I) S for random signs S in weight space: combinations
    of training predictions whose coefficients R S are random, but do not depend
    on how the rows are ordered, repeated or weighted. Each further block is what
    A made of the last.

    Parameters
    ----------
    curvature : GaussNewton
        A.
    generator : torch.Generator
        Source of the signs.
    trace_rtol : float
        Stop when what the effective parameters still lack is below this share of
        them. Eigenvalues 1 + δ that the basis has not seen make up Σ δ, which is
        known, and count Σ δ / (1 + δ), so that Σ δ itself is wrong by at most
        δ Σ δ with the largest δ, for which the last block's stands in.
    beyond : float
        Go on until no δ beyond the basis is larger, by ``Subspace.beyond``.
    block_size : int
        Columns a step.

    Returns
    -------
    Subspace
        Of no more than ``max_directions``, whatever the tolerances ask for.
    """
    most = max_directions(curvature.log_posterior)
    subspace = Subspace.empty(curvature.excess_diagonal())
    lp = curvature.log_posterior
    columns = min(block_size, most, len(lp.X) * lp.network.n_outputs)
    signs = torch.randint(0, 2, (curvature.n_weights, columns), generator=generator)
    signs = (2.0 * signs - 1.0).to(curvature.weights)
    block = curvature.product(signs) - signs
    while True:
        before = subspace.rank
        subspace = subspace.extended(block, curvature.product)
        if subspace.rank in (before, subspace.n_weights):
            return subspace
        full = subspace.rank >= most
        excess = subspace.gram[before:, before:] - torch.eye(subspace.rank - before).to(block)
        largest = float(torch.linalg.eigvalsh(excess)[-1])
        lacking = subspace.missing * min(largest, 1.0)
        known = lacking <= trace_rtol * max(subspace.n_effective, 1.0)
        # The trace bounds the norm too, but from far above where many small numbers are left.
        ready = full or (known and largest <= beyond)
        if ready and beyond < subspace.beyond:
            subspace = replace(subspace, norm_bound=_norm_bound(curvature, subspace, generator))
        if full or (known and subspace.beyond <= beyond):
            return subspace
        block = subspace.complement(subspace.image[:, before:])[:, : most - subspace.rank]


def _norm_bound(curvature: GaussNewton, subspace: Subspace, generator: Generator) -> float:
    """Bound, with probability 1 − 1e-10, of the largest eigenvalue of A − I beyond the basis."""
    shape = curvature.n_weights, N_VECTORS
    vectors = subspace.complement(_normal(shape, generator).to(curvature.weights))
    for _ in range(N_POWERS):
        vectors = subspace.complement(curvature.product(vectors) - vectors)
    longest = float(torch.linalg.vector_norm(vectors, dim=0).max())
    return (10 * math.sqrt(2 / math.pi) * longest) ** (1 / N_POWERS)


def _normal(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)

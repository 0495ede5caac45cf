"""Chunks: queries in blocks that the memory limit allows, answered in parallel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TypeVar

import torch
from sklearn.utils.parallel import Parallel, delayed
from torch import Tensor
from tqdm import tqdm

from sklearn_hfl._ensemble.member import Member
from sklearn_hfl._ensemble.route import Route
from sklearn_hfl.optim.perturbed_optima import scouted
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.uncertainty.moderation import Moderation
from sklearn_hfl.uncertainty.profile import ProfileInterval
from sklearn_hfl.uncertainty.variance import Variance

__all__ = ["chunk_size", "concatenated", "in_chunks"]

# Queries of a chunk: larger blocks gain nothing in matrix products.
MAX_QUERIES = 1024
# With more chunks than this, pilot queries spread over all of them first extend the subspace that
# every chunk starts from: 10 000 queries of 6001 weights, each with a direction of its own, take
# 34 s instead of 53 s (benchmarks/growth.py; 39 s where the pilot queries stop at rtol instead of
# half of it).
MAX_CHUNKS_WITHOUT_PILOT = 4
# Vectors of P numbers that a query holds at its peak: gradient, step and residual; the network
# route adds a pair of optima and their L-BFGS histories of ten steps each.
VECTORS_PER_QUERY = {"linearized": 8, "amortized": 8, "network": 60}

_Answer = TypeVar("_Answer")
_Tensors = TypeVar("_Tensors", Moderation, ProfileInterval, Variance)


def chunk_size(log_posterior: LogPosterior, mode: str) -> int:
    """Queries of a chunk, for its peak to stay within a quarter of the memory limit."""
    outputs = log_posterior.network.n_outputs
    numbers = VECTORS_PER_QUERY[mode] * log_posterior.n_weights * outputs
    per_query = numbers * log_posterior.X.element_size()
    return max(1, min(MAX_QUERIES, int(log_posterior.memory_limit / (4 * per_query))))


def in_chunks(
    answer: Callable[[Member, Tensor], _Answer],
    members: Sequence[Member],
    X: Tensor,
    route: Route,
    n_jobs: int | None,
    verbose: bool,
    size: int | None = None,
) -> list[list[_Answer]]:
    """Answer queries X (Q, D) chunk by chunk, for each member.

    Chunks of a given ``size`` are those that need no gradients, and no pilot queries.
    """
    gradients = size is None
    size = size or chunk_size(members[0].estimate.log_posterior, route.mode)
    chunks = torch.split(X, min(size, MAX_QUERIES))
    if len(chunks) > MAX_CHUNKS_WITHOUT_PILOT and route.needs_data and gradients:
        pilot = X[torch.linspace(0, len(X) - 1, len(chunks[0])).long()]
        members = [_after_pilot(member, pilot, route.rtol) for member in members]
    tasks = [(member, chunk) for member in members for chunk in chunks]
    progress = tqdm(tasks, desc="standard deviations", disable=not verbose)
    parts = Parallel(n_jobs=n_jobs)(delayed(answer)(*task) for task in progress)
    n = len(chunks)
    return [list(parts[i : i + n]) for i in range(0, len(parts), n)]


def _after_pilot(member: Member, pilot: Tensor, rtol: float) -> Member:
    functional = Prediction(member.estimate.log_posterior.network, pilot)
    return replace(member, estimate=scouted(member.estimate, functional, 0.5 * rtol))


def concatenated(parts: Sequence[_Tensors]) -> _Tensors:
    """One dataclass of tensors from those of the chunks."""
    names = [field.name for field in fields(parts[0])]
    return type(parts[0])(*(torch.cat([getattr(p, name) for p in parts]) for name in names))

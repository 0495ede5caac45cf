"""Subsample: some of very many rows, where these say nearly as much as all."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Generator

from sklearn_hfl.optim.preconditioner import is_small
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["growing_subsamples", "scaled_subsample", "subsample_size"]

# Of twice as many residuals, N K, as these or more, Hessians are those of about so many: they give
# nearly the same step at the cost of a sample (R. H. Byrd, G. M. Chin, W. Neveitt, J. Nocedal, SIAM
# J. Optim. 21, 2011; docs/design/training.md).
MIN_RESIDUALS = 32_000
RESIDUALS_PER_WEIGHT = 64


def subsample_size(log_posterior: LogPosterior) -> int | None:
    """Residuals that say enough about the curvature.

    Parameters
    ----------
    log_posterior : LogPosterior
        L of all rows.

    Returns
    -------
    int or None
        None where there are not twice as many, or a copy of so many does not fit into a part of
        the memory limit, so that all rows are taken.
    """
    size = max(MIN_RESIDUALS, RESIDUALS_PER_WEIGHT * log_posterior.n_weights)
    if is_small(log_posterior) or not log_posterior.fits_sample(size):
        return None
    # A sample may lack the few rows that have most of the weight, or are of the rarest class.
    return size if log_posterior.says_as_much_as(2 * size) else None


def scaled_subsample(log_posterior: LogPosterior, generator: Generator) -> LogPosterior:
    """Draw the rows of ``subsample_size``, scaled to count as all.

    Parameters
    ----------
    log_posterior : LogPosterior
        L of all rows.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    LogPosterior
        L itself where all rows are taken.
    """
    size = subsample_size(log_posterior)
    return log_posterior if size is None else log_posterior.scaled_sample(size, generator)


def growing_subsamples(log_posterior: LogPosterior, generator: Generator) -> Iterator[LogPosterior]:
    """Draw more and more of very many rows: each time twice as many, half of all at the end.

    Parameters
    ----------
    log_posterior : LogPosterior
        L of all rows.
    generator : torch.Generator
        Source of randomness.

    Yields
    ------
    LogPosterior
        Of more than ``subsample_size`` residuals, as many as fit into a part of the memory limit.
    """
    lp, least = log_posterior, subsample_size(log_posterior)
    if least is None:
        return
    sizes, size = [], lp.n_rows // 2
    while size * lp.network.n_outputs > least:
        sizes.append(size)
        size //= 2
    for size in reversed(sizes):
        if lp.fits_sample(size * lp.network.n_outputs):
            yield lp.sample(size, generator)

"""Held-out rows: those that early stopping watches."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

__all__ = ["held_out_rows"]

# What fit needs in all, and MLPRegressor of the held-out rows.
MIN_ROWS_OF_A_PART = 2


def held_out_rows(owner: str, n: int, fraction: float, generator: torch.Generator) -> Tensor:
    """Choose rows at random.

    Parameters
    ----------
    owner : str
        Name of the estimator, for the message.
    n : int
        Rows.
    fraction : float
        Share that is held out.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    Tensor of shape (n,)
        Mask of the rows.

    Raises
    ------
    ValueError
        If either part has too few rows.
    """
    count = ceil(fraction * n)  # as scikit-learn's train_test_split
    if min(count, n - count) < MIN_ROWS_OF_A_PART:
        raise ValueError(
            f"{owner}: early_stopping=True with validation_fraction="
            f"{fraction:g} would train on {n - count} of {n} rows and "
            f"hold out {count}, but each part needs {MIN_ROWS_OF_A_PART} rows or more. "
            "Change validation_fraction, give more rows, or set early_stopping=False."
        )
    mask = torch.zeros(n, dtype=torch.bool)
    mask[torch.randperm(n, generator=generator)[:count]] = True
    return mask

"""Fingerprints: which rows were trained on, in little memory however many they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

__all__ = ["Fingerprints"]

Array = NDArray[np.float64]

# Two numbers are taken for one where they agree to so many decimals, in standard deviations.
DECIMALS = 6
# Fingerprints kept, of 8 bytes each.
MOST = 4096


@dataclass(frozen=True)
class Fingerprints:
    """Hashes of rows, or the smallest of them where there are many.

    Which rows are kept then depends on their values alone (a bottom-k sketch: E. Cohen,
    H. Kaplan, PODC 2007), so that other rows can be told to be among them or not
    wherever their own hash is small enough.

    Parameters
    ----------
    hashes : ndarray of uint64, of shape (k,)
        Ascending, k ≤ ``MOST``.
    """

    hashes: NDArray[np.uint64]

    @classmethod
    def of_rows(cls, blocks: Iterable[Array]) -> Fingerprints:
        """Take those of blocks of rows (n, n_columns), standardised."""
        kept = np.empty(0, dtype=np.uint64)
        for rows in blocks:
            kept = np.unique(np.concatenate([kept, _hashes(rows)]))[:MOST]
        return cls(kept)

    @property
    def complete(self) -> bool:
        """Whether no row was left out."""
        return len(self.hashes) < MOST

    def count(self, rows: Array) -> int:
        """Count the rows (n, n_columns) that are among those fingerprinted.

        Where not all are kept this is an estimate, from a share of the rows about as
        large as that of the fingerprints kept.
        """
        hashes = _hashes(rows)
        told = hashes if self.complete else hashes[hashes <= self.hashes[-1]]
        found = int(np.isin(told, self.hashes).sum())
        return round(found * len(rows) / len(told)) if found else 0


def _hashes(rows: Array) -> NDArray[np.uint64]:
    rounded = np.round(rows, DECIMALS) + 0.0  # no negative zeros
    # Python's own hash differs from process to process, and models are pickled.
    digests = b"".join(blake2b(row.tobytes(), digest_size=8).digest() for row in rounded)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)

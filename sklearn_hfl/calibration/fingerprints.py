"""Fingerprints of training rows: membership in constant memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

__all__ = ["Fingerprints"]

Array = NDArray[np.float64]

# Two values count as equal if they agree to this many decimals, in standard deviations.
DECIMALS = 6
# Fingerprints kept, of 8 bytes each.
MAX_HASHES = 4096


@dataclass(frozen=True)
class Fingerprints:
    """Hashes of rows, or the smallest of them if there are many.

    Which hashes are kept depends only on the values of the rows (a bottom-k sketch: E. Cohen,
    H. Kaplan, PODC 2007), so membership of another row can be decided if its own hash is
    small enough.

    Parameters
    ----------
    hashes : ndarray of uint64, of shape (k,)
        Ascending, k ≤ ``MAX_HASHES``.
    """

    hashes: NDArray[np.uint64]

    @classmethod
    def of_rows(cls, blocks: Iterable[Array]) -> Fingerprints:
        """Hash blocks of standardised rows (n, n_columns)."""
        kept = np.empty(0, dtype=np.uint64)
        for rows in blocks:
            kept = np.unique(np.concatenate([kept, _hashes(rows)]))[:MAX_HASHES]
        return cls(kept)

    @classmethod
    def merged(cls, parts: Iterable[Fingerprints]) -> Fingerprints:
        """Those of the rows of all parts together."""
        return cls(np.unique(np.concatenate([part.hashes for part in parts]))[:MAX_HASHES])

    @property
    def complete(self) -> bool:
        """Whether the hashes of all rows are kept."""
        return len(self.hashes) < MAX_HASHES

    def count(self, rows: Array) -> int:
        """Count the rows (n, n_columns) that are among the fingerprinted ones.

        If not all hashes are kept this is an estimate, from about the share of the rows
        whose hashes would have been kept.
        """
        hashes = _hashes(rows)
        known = hashes if self.complete else hashes[hashes <= self.hashes[-1]]
        found = int(np.isin(known, self.hashes).sum())
        return round(found * len(rows) / len(known)) if found else 0


def _hashes(rows: Array) -> NDArray[np.uint64]:
    rounded = np.round(rows, DECIMALS) + 0.0  # no negative zeros
    # Python's own hash differs from process to process, and models are pickled.
    digests = b"".join(blake2b(row.tobytes(), digest_size=8).digest() for row in rounded)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)

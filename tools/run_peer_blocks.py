"""Run the documents' blocks for one peer, in the environment of its benchmark.

python tools/run_peer_blocks.py ngboost
"""

from __future__ import annotations

import sys

import numpy as np
from blocks import blocks, execute, pages

X = np.random.default_rng(0).standard_normal((80, 3))
GIVEN = {"X": X[:60], "y": np.sin(X[:60, 0]), "X_new": X[60:]}


def main(peer: str) -> None:
    found = [block for page in pages() for block in blocks(page) if block.needs == {peer}]
    if not found:
        raise SystemExit(f'Expected a block that begins with "# pip install {peer}", found none.')
    for block in found:
        execute([block], GIVEN)
    print(f"{peer}: {', '.join(block.name for block in found)}, run")


if __name__ == "__main__":
    main(sys.argv[1])

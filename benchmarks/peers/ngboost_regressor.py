"""Peer: NGBoost with its defaults.

Runs in the environment that `make .venv-ngboost/.installed` builds, apart from the package;
reads X, y, Q and seed from job.npz, writes mean and std of Q.
"""

from __future__ import annotations

import sys

import numpy as np
from ngboost import NGBRegressor


def main() -> None:
    job = np.load(sys.argv[1])
    model = NGBRegressor(random_state=int(job["seed"]), verbose=False).fit(job["X"], job["y"])
    found = model.pred_dist(job["Q"]).params
    np.savez(sys.argv[2], mean=found["loc"], std=found["scale"])


if __name__ == "__main__":
    main()

"""Peers in another environment: laplace-torch and curvlinops, called through files."""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sklearn_hfl import HFLClassifier, HFLRegressor

BATCH_SIZE = 256


def laplace_torch(
    peer: Path, model: HFLClassifier | HFLRegressor, Q: np.ndarray, **job: object
) -> dict[str, np.ndarray]:
    """laplace-torch's result at Q for the same weights and data, once.

    ``job`` has the other inputs of laplace_torch.py in this folder.
    """
    return _run("laplace_torch.py", peer, model, Q, **job)


def curvlinops_cg(
    peer: Path, model: HFLRegressor, Q: np.ndarray, **job: object
) -> dict[str, np.ndarray]:
    """Standard deviations at Q by conjugate gradients, query by query, with the seconds of each."""
    return _run("curvlinops_cg.py", peer, model, Q, **job)


def _run(
    script: str, peer: Path, model: HFLClassifier | HFLRegressor, Q: np.ndarray, **job: object
) -> dict[str, np.ndarray]:
    weights = {}
    for i, (W, b) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        weights |= {f"W{i}": W.T, f"b{i}": b}
    X = model.members_[0].estimate.log_posterior.X
    with TemporaryDirectory() as folder:
        question, answer = Path(folder, "job.npz"), Path(folder, "answer.npz")
        np.savez(
            question, **weights, X=X, Q=model._queries(Q), batch_size=BATCH_SIZE, repeats=1, **job
        )
        path = Path(__file__).parent / script
        subprocess.run([peer, "-W", "ignore", path, question, answer], check=True)
        return dict(np.load(answer))

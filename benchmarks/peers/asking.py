"""Asking a peer: laplace-torch answers in an environment of its own, by files."""

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
    """laplace-torch's answer at Q for the same weights and data, once.

    ``job`` holds the rest of what laplace_torch.py beside this file reads.
    """
    weights = {}
    for i, (W, b) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        weights |= {f"W{i}": W.T, f"b{i}": b}
    X = model.estimators_[0].estimate.log_posterior.X
    with TemporaryDirectory() as folder:
        question, answer = Path(folder, "job.npz"), Path(folder, "answer.npz")
        np.savez(
            question, **weights, X=X, Q=model._queries(Q), batch_size=BATCH_SIZE, repeats=1, **job
        )
        script = Path(__file__).parent / "laplace_torch.py"
        subprocess.run([peer, "-W", "ignore", script, question, answer], check=True)
        return dict(np.load(answer))

"""Write small fitted models of this version, and their answers, for tests/reliability.

Run once for each release, in the environment of the oldest supported versions, whose files all
newer ones can read.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import skops.io

from sklearn_hfl import HFLClassifier, HFLRegressor, __version__

FOLDER = Path("tests/reliability/files") / __version__
X = np.random.default_rng(0).uniform(-1, 1, (12, 2))
PARAMS = {"hidden_layer_sizes": (2,), "max_iter": 10, "random_state": 0}
MODELS = {
    "linearized": HFLRegressor(**PARAMS),
    "amortized": HFLRegressor(**PARAMS, variance="amortized"),
    "classifier": HFLClassifier(**PARAMS),
}


def main() -> None:
    warnings.simplefilter("ignore")
    FOLDER.mkdir(parents=True, exist_ok=True)
    answers = {"X": X}
    for name, model in MODELS.items():
        regression = isinstance(model, HFLRegressor)
        model.fit(X, X[:, 0] if regression else X[:, 0] > 0)
        ask = model.predict if regression else model.predict_proba
        answers[name] = np.stack(ask(X, return_std=True))
        (FOLDER / f"{name}.pickle").write_bytes(pickle.dumps(model, protocol=4))
        skops.io.dump(model, FOLDER / f"{name}.skops", compression=zipfile.ZIP_DEFLATED)
    np.savez(FOLDER / "answers.npz", **answers)


if __name__ == "__main__":
    main()

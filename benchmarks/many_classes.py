"""Many classes: the cost of predictions.

    OMP_NUM_THREADS=1 python benchmarks/many_classes.py

Digits (10 classes, 50 hidden units) and Gaussian clouds (100 classes, 20 features, 10 hidden
units), with a fixed prior and few training steps: the cost of a query depends on how many
directions the data determine, not on how good the fit is. CPU seconds, which other work on the
machine hardly changes.
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings

import numpy as np
import torch
from reporting import heading, machine
from sklearn.datasets import load_digits, make_blobs

from sklearn_hfl import HFLClassifier


def problems() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(X, y, queries) by name."""
    X, y = load_digits(return_X_y=True)
    clouds, labels = make_blobs(7000, n_features=20, centers=100, cluster_std=2.0, random_state=0)
    return {
        "digits, 10 classes": (X[:1200], y[:1200], X),
        "clouds, 100 classes": (clouds[:2000], labels[:2000], clouds[2000:]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 100, 1000, 5000])
    parser.add_argument("--names", nargs="+", default=list(problems()))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(machine(), f"{torch.get_num_threads()} thread(s)")
    for name in arguments.names:
        X, y, queries = problems()[name]
        heading(f"{name}: processor seconds of a call, best of three")
        began = time.perf_counter()
        hidden = 10 if "clouds" in name else 50
        model = HFLClassifier(
            hidden_layer_sizes=hidden,
            prior_precision=1.0,
            max_iter=20,
            n_estimators=1,
            random_state=0,
        ).fit(X, y)
        facts = model.diagnostics_["members"][0]
        print(
            f"fit {time.perf_counter() - began:.0f} s  weights {model.diagnostics_['n_weights']}  "
            f"directions {facts['rank']}"
        )
        for n in arguments.rows:
            if n <= len(queries):
                report(model, queries[:n])


def report(model: HFLClassifier, queries: np.ndarray) -> None:
    calls = {
        "predict": lambda: model.predict(queries),
        "predict_proba with std": lambda: model.predict_proba(queries, return_std=True),
    }
    parts = []
    for call, predict in calls.items():
        seconds = []
        for _ in range(3):
            began = time.process_time()
            predict()
            seconds.append(time.process_time() - began)
        parts.append(f"{call} {min(seconds):8.3f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{len(queries):5d} rows  {'  '.join(parts)}  peak so far {peak:.2f} GB", flush=True)


if __name__ == "__main__":
    main()

"""Classifier: agreement with dense matrices, the choices behind its defaults, quality.

    python benchmarks/classifier.py agreement
    python benchmarks/classifier.py choices --data ../shared/data/uci
    python benchmarks/classifier.py quality --sets iris wine breast_cancer digits --repeats 5
    python benchmarks/classifier.py novelty
    python benchmarks/classifier.py speed --peer .venv-laplace/bin/python

``agreement`` compares standard deviations with the dense GGN. ``choices`` fits variants
of the defaults to data that ``quality`` does not use: synthetic classes, and regression
targets cut at their quantiles. ``quality`` runs repeated stratified folds of scikit-learn's
data sets, next to scikit-learn's own classifiers. ``novelty`` trains on eight of the ten digits
and ranks test samples by how likely they are one of the other two. ``speed`` compares with
laplace-torch: the same posterior of the same network, in alternation.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from class_problems import other_data
from joblib import Parallel, delayed
from peers.asking import laplace_torch
from problems import Problem
from reporting import heading, machine
from sklearn import datasets
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, RepeatedStratifiedKFold, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_hfl import HFLClassifier, _classifier
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.posterior.link import CENTRED, IDENTITY, SOFTMAX, Link
from sklearn_hfl.uncertainty.exact import dense_ggn

SETS = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
}
N_BINS = 15
# GaussianProcessClassifier, one-vs-rest and cubic in N, takes many minutes a fold beyond
# this and is left out.
MAX_GPC_ROWS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("agreement", "choices", "quality", "novelty", "speed"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci"))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--peer", type=Path, default=Path(".venv-laplace/bin/python"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(machine())
    began = time.perf_counter()
    if arguments.part == "agreement":
        agreement(arguments.sets)
    elif arguments.part == "choices":
        choices(arguments.data, arguments.jobs)
    elif arguments.part == "quality":
        quality(arguments.sets, arguments.repeats, arguments.jobs)
    elif arguments.part == "novelty":
        novelty(arguments.jobs)
    else:
        speed(arguments.peer)
    print(f"\n{time.perf_counter() - began:.0f} s in all")


# -------------------------------------------------------------- agreement


def agreement(names: list[str]) -> None:
    heading("Defaults, four fifths for training: std of logits and of probabilities, dense GGN")
    for name in names:
        X, y = SETS[name](return_X_y=True)
        folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=1, random_state=0)
        train, test = next(folds.split(X, y))
        began = time.perf_counter()
        model = HFLClassifier(n_estimators=1, random_state=0).fit(X[train], y[train])
        fitted = time.perf_counter()
        result = model.predict_uncertainty(X[test])
        answered = time.perf_counter()
        _, variance = model.latent_mean_and_variance(X[test])
        estimate = model.members_[0].estimate
        matrix = dense_ggn(estimate.log_posterior, estimate.weights)
        logits = dense_std(model, X[test], IDENTITY, matrix)
        probabilities = dense_std(model, X[test], SOFTMAX, matrix)
        of_logits = np.abs(np.sqrt(variance).reshape(logits.shape) / logits - 1).max()
        first_order = model.predict_proba(X[test], return_std="delta")[1]
        error = np.abs(first_order / np.maximum(probabilities, 1e-300) - 1)
        error[probabilities < 1e-12] = 0.0
        # The bound is that of the logits less their mean, which alone decide the probabilities.
        centred = dense_std(model, X[test], CENTRED, matrix)
        _, _, (own,) = model._moderated(model._queries(X[test]))
        of_rows = np.abs(own.value.sqrt().numpy().reshape(centred.shape) / centred - 1)
        holds = (of_rows.max(1) <= result.rel_error + 1e-7).mean()
        print(
            f"{name:14s} P {len(estimate.weights):5d}  queries {len(test)}  worst of logits "
            f"{of_logits:.1e}  worst of probabilities {error.max():.1e}  bound holds {holds:.0%}  "
            f"fit {fitted - began:.1f} s  predict {answered - fitted:.2f} s",
            flush=True,
        )


def dense_std(model: HFLClassifier, X: np.ndarray, link: Link, matrix: torch.Tensor) -> np.ndarray:
    """Std of the link's values at X by a dense solve, one row for each query."""
    estimate = model.members_[0].estimate
    functional = Prediction(estimate.log_posterior.network, model._queries(X), link)
    gradient = functional.gradient(estimate.weights)
    variance = (gradient * torch.linalg.solve(matrix, gradient)).sum(0)
    return variance.sqrt().numpy().reshape(len(X), -1)


# ---------------------------------------------------------------- choices


def from_priors(*multiples: float) -> dict[str, object]:
    """Start from these prior precisions, in multiples of the fan-in."""
    return {"STARTS": tuple((multiple, 1.0) for multiple in multiples)}


VARIANTS: dict[str, dict[str, object]] = {
    "defaults": {},
    "min prior 0": {"MIN_PRIOR": 0.0},
    "min prior 0.1": {"MIN_PRIOR": 0.1},
    "start 0.01": from_priors(0.01),
    "start 0.1": from_priors(0.1),
    "start 1": from_priors(1.0),
    "start 10": from_priors(10.0),
    "starts 0.03, 1": from_priors(0.03, 1.0),
    "starts 0.1, 1, 10": from_priors(0.1, 1.0, 10.0),
}


def choices(folder: Path, jobs: int) -> None:
    problems = list(other_data(folder))
    heading(f"Choices: mean log loss (calibration error) of {len(problems)} other data sets")
    cells = Parallel(n_jobs=jobs)(
        delayed(variant)(name, problem) for name in VARIANTS for problem in problems
    )
    rows = iter(cells)
    for name in VARIANTS:
        each = [next(rows) for _ in problems]
        columns = [
            f"{link} {np.mean([r[link][0] for r, _ in each]):.4f} "
            f"({np.mean([r[link][1] for r, _ in each]):.3f})"
            for link in each[0][0]
        ]
        seconds = sum(seconds for _, seconds in each)
        print(f"{name:18s}" + "  ".join(columns) + f"  fits {seconds:.0f} s", flush=True)


def variant(name: str, problem: Problem) -> tuple[dict[str, tuple[float, float]], float]:
    """Scores by averaging, and CPU seconds of the fit."""
    warnings.simplefilter("ignore")
    with ExitStack() as stack, threads(1):
        for constant, value in VARIANTS[name].items():
            stack.enter_context(patch.object(_classifier, constant, value))
        began = time.process_time()
        model = problem.model().fit(problem.X, problem.y)
        seconds = time.process_time() - began
        scores = {}
        for link in ("mc", "probit", "none"):
            proba = model.set_params(link_approx=link).predict_proba(problem.X_test)
            scores[link] = score(problem.y_test, proba, model.classes_)
        # The same without the shift to the posterior mean.
        model.members_ = tuple(replace(m, shift=None) for m in model.members_)
        for link in ("mc", "probit"):
            proba = model.set_params(link_approx=link).predict_proba(problem.X_test)
            scores[f"{link} at the MAP"] = score(problem.y_test, proba, model.classes_)
    return scores, seconds


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Set torch's number of threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    yield
    torch.set_num_threads(before)


def score(y: np.ndarray, proba: np.ndarray, classes: np.ndarray) -> tuple[float, float]:
    """Log loss, and calibration error: mean |confidence − accuracy| over bins of confidence."""
    confidence, right = proba.max(1), classes[proba.argmax(1)] == y
    index = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    gaps = np.abs(np.bincount(index, confidence - right, N_BINS)) / len(y)
    return log_loss(y, proba, labels=classes), gaps.sum()


# ---------------------------------------------------------------- quality


def estimators() -> dict[str, object]:
    mlp = MLPClassifier((50,), max_iter=1000)
    grid = {
        "mlpclassifier__alpha": [1e-4, 1e-2, 1.0],
        "mlpclassifier__hidden_layer_sizes": [(20,), (50,)],
    }
    five = [(f"mlp{i}", clone(mlp).set_params(random_state=i)) for i in range(5)]
    return {
        "HFLClassifier": HFLClassifier(),
        "one member": HFLClassifier(n_estimators=1),
        "LogisticRegression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000)),
        "MLP, tuned": GridSearchCV(
            make_pipeline(StandardScaler(), mlp), grid, scoring="neg_log_loss", cv=3
        ),
        "five MLPs": make_pipeline(StandardScaler(), VotingClassifier(five, voting="soft")),
        "MLP, calibrated": make_pipeline(StandardScaler(), CalibratedClassifierCV(mlp, cv=5)),
        "GPC": make_pipeline(StandardScaler(), GaussianProcessClassifier(1.0 * RBF())),
    }


def fold(name: str, X: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int):
    warnings.simplefilter("ignore")
    estimator = clone(estimators()[name])
    seeds = {k: seed for k in estimator.get_params() if k.split("__")[-1] == "random_state"}
    with threads(1):
        began = time.perf_counter()
        model = estimator.set_params(**seeds).fit(X[train], y[train])
        seconds = time.perf_counter() - began
        probabilities = {"": model.predict_proba(X[test])}
        if hasattr(model, "link_approx"):
            for link in ("probit", "none"):
                model.set_params(link_approx=link)
                probabilities[f", {link}"] = model.predict_proba(X[test])
    return probabilities, model.classes_, seconds


def quality(names: list[str], repeats: int, jobs: int) -> None:
    for name in names:
        X, y = SETS[name](return_X_y=True)
        folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=repeats, random_state=0)
        splits = list(folds.split(X, y))
        heading(f"Quality on {name}: {repeats} times 5 stratified folds")
        for peer in estimators():
            if peer == "GPC" and len(y) > MAX_GPC_ROWS:
                print(f"{peer:22s} left out: more than {MAX_GPC_ROWS} rows")
                continue
            parts = Parallel(n_jobs=jobs)(
                delayed(fold)(peer, X, y, *split, seed) for seed, split in enumerate(splits)
            )
            for link in parts[0][0]:
                report(f"{peer}{link}", y, splits, parts, link)


def report(name: str, y: np.ndarray, splits: list, parts: list, link: str) -> None:
    # Calibration error over all rows of a repeat: a fold of 30 rows is too small for one.
    scores, accuracy, classes = [], [], parts[0][1]
    for start in range(0, len(splits), 5):
        chosen = slice(start, start + 5)
        proba = np.concatenate([p[link] for p, _, _ in parts[chosen]])
        truth = np.concatenate([y[test] for _, test in splits[chosen]])
        scores.append(score(truth, proba, classes))
        accuracy.append(np.mean(classes[proba.argmax(1)] == truth))
    loss, error = np.mean(scores, axis=0)
    print(
        f"{name:22s} log loss {loss:.4f}  calibration error {error:.4f}  "
        f"accuracy {np.mean(accuracy):.4f}  fit {np.median([s for *_, s in parts]):.2f} s",
        flush=True,
    )


# ---------------------------------------------------------------- novelty


def novelty(jobs: int) -> None:
    heading("Novelty: AUROC of two digits held out of training, of five disjoint pairs")
    pairs = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    rows = Parallel(n_jobs=jobs)(delayed(held_out)(pair) for pair in pairs)
    for pair, row in zip([*map(str, pairs), "mean"], [*rows, np.mean(rows, 0)], strict=True):
        of_information, of_entropy, of_probability, of_mlp = row
        print(
            f"{pair:7s} mutual information {of_information:.4f}  entropy {of_entropy:.4f}  "
            f"max probability {of_probability:.4f}  MLPClassifier's {of_mlp:.4f}"
        )


def held_out(pair: tuple[int, int]) -> list[float]:
    warnings.simplefilter("ignore")
    X, y = datasets.load_digits(return_X_y=True)
    new = np.isin(y, pair)
    X_train, X_test, y_train, _ = train_test_split(
        X[~new], y[~new], test_size=0.2, stratify=y[~new], random_state=0
    )
    queries = np.concatenate([X_test, X[new]])
    is_new = np.repeat([False, True], [len(X_test), new.sum()])
    with threads(1):
        result = HFLClassifier(random_state=0).fit(X_train, y_train).predict_uncertainty(queries)
        mlp = make_pipeline(StandardScaler(), MLPClassifier((50,), max_iter=1000, random_state=0))
        proba = mlp.fit(X_train, y_train).predict_proba(queries)
    scores = (result.mutual_information, result.entropy, -result.proba.max(1), -proba.max(1))
    return [float(roc_auc_score(is_new, each)) for each in scores]


# ------------------------------------------------------------------ speed


def speed(peer: Path, repeats: int = 5) -> None:
    heading("Speed: digits, 360 test rows, probabilities with their std, full GGN on both sides")
    X, y = datasets.load_digits(return_X_y=True)
    X_train, X_test, y_train, _ = train_test_split(X, y, test_size=360, stratify=y, random_state=0)
    model = HFLClassifier(link_approx="probit", n_estimators=1, random_state=0).fit(
        X_train, y_train
    )
    ours, fits, predictions = [], [], []
    for _ in range(repeats):
        began = time.perf_counter()
        model.predict_proba(X_test, return_std=True)
        ours.append(time.perf_counter() - began)
        prior = model.members_[0].estimate.log_posterior.prior.precision
        answer = laplace_torch(
            peer, model, X_test, y=y_train, prior=prior, subset="all", structure="full"
        )
        fits.append(answer["fit"][0])
        predictions.append(answer["predict"][0])
    _, variance = model.latent_mean_and_variance(X_test)
    theirs = np.asarray(answer["latent_variance"])
    total = np.array(fits) + np.array(predictions)
    difference = np.abs(np.sqrt(variance / theirs) - 1).max()
    print(
        f"ours {np.median(ours):.2f} s  laplace-torch fit {np.median(fits):.2f} s + predict "
        f"{np.median(predictions):.2f} s  {np.median(total / ours):.1f} times as long "
        f"(medians of {repeats})"
    )
    print(f"worst relative difference of the logits' std {difference:.1e}")


if __name__ == "__main__":
    main()

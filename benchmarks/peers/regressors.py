"""Peers in regression: each fits (X, y) and returns a predictor of mean and std, noise included."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import BayesianRidge
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler

from sklearn_hfl import HFLRegressor

__all__ = [
    "METHODS", "MLP", "N_MEMBERS", "Predict", "Prediction", "bayesian_ridge", "boosting",
    "deep_ensemble", "gaussian_process", "standardized",
]  # fmt: skip

Prediction = tuple[np.ndarray, np.ndarray]
Predict = Callable[[np.ndarray], Prediction]

# A GP costs O(N³).
MAX_GP_ROWS = 2000
N_MEMBERS = 5
HELD_OUT = 0.1
# The best on inner splits of concrete, energy and yacht among adam with 1000 to 3000 passes and
# lbfgs, tanh and relu, and alpha from 1e-4 to 1.
MLP = {"hidden_layer_sizes": (50,), "solver": "lbfgs", "alpha": 0.1, "max_iter": 2000}


def hfl(X: np.ndarray, y: np.ndarray, seed: int, **params: object) -> Predict:
    """Fit HFLRegressor: with the defaults and the given parameters."""
    model = HFLRegressor(random_state=seed, **params).fit(X, y)
    return partial(model.predict, return_std=True)


def standardized(fit: Callable[..., Predict]) -> Callable[..., Predict]:
    """Fit on standardised data; predict in units of y."""

    def fitted(X: np.ndarray, y: np.ndarray, seed: int, **params: object) -> Predict:
        scaler, centre, unit = StandardScaler().fit(X), y.mean(), y.std()
        inner = fit(scaler.transform(X), (y - centre) / unit, seed, **params)

        def predict(X_new: np.ndarray) -> Prediction:
            mean, std = inner(scaler.transform(X_new))
            return centre + unit * mean, unit * std

        return predict

    return fitted


@standardized
def deep_ensemble(
    X: np.ndarray, y: np.ndarray, seed: int, n_members: int = N_MEMBERS, **params: object
) -> Predict:
    """Five MLPRegressors; the noise of each is fitted on a held-out tenth of the rows."""
    members, squares = [], []
    for member in range(n_members):
        order = np.random.default_rng([seed, member]).permutation(len(y))
        out, rows = np.split(order, [int(HELD_OUT * len(y))])
        mlp = MLPRegressor(random_state=1000 * seed + member, **{**MLP, **params})
        members.append(mlp.fit(X[rows], y[rows]))
        squares.append((y[out] - members[-1].predict(X[out])) ** 2)
    noise = np.concatenate(squares).mean()

    def predict(X_new: np.ndarray) -> Prediction:
        each = np.array([member.predict(X_new) for member in members])
        return each.mean(0), np.sqrt(each.var(0) + noise)

    return predict


@standardized
def gaussian_process(
    X: np.ndarray, y: np.ndarray, seed: int, max_rows: int = MAX_GP_ROWS, isotropic: bool = False
) -> Predict:
    """A length scale for each feature, or one for all, white noise; large data are subsampled."""
    rows = np.random.default_rng(seed).permutation(len(y))[:max_rows]
    length_scale = X.shape[1] ** 0.5 if isotropic else np.ones(X.shape[1])
    kernel = ConstantKernel() * RBF(length_scale) + WhiteKernel(0.1)
    model = GaussianProcessRegressor(kernel, random_state=seed).fit(X[rows], y[rows])
    return partial(model.predict, return_std=True)


@standardized
def bayesian_ridge(X: np.ndarray, y: np.ndarray, seed: int) -> Predict:
    """Fit a linear model."""
    return partial(BayesianRidge().fit(X, y).predict, return_std=True)


def boosting(X: np.ndarray, y: np.ndarray, seed: int) -> Predict:
    """Histogram boosting with the defaults, which has no std."""
    model = HistGradientBoostingRegressor(random_state=seed).fit(X, y)
    return lambda X_new: (model.predict(X_new), np.full(len(X_new), np.nan))


def elsewhere(script: str, environment: str, **job: np.ndarray) -> Prediction:
    """Mean and std from a script in another environment."""
    with TemporaryDirectory() as folder:
        question, answer = Path(folder, "job.npz"), Path(folder, "answer.npz")
        np.savez(question, **job)
        command = [Path(environment, "bin", "python"), "-W", "ignore"]
        path = Path(__file__).parent / script
        done = subprocess.run([*command, path, question, answer], capture_output=True, text=True)
        if done.returncode:
            *_, last = ["no message", *done.stderr.splitlines()]
            raise RuntimeError(f"{script} ended with status {done.returncode}: {last}")
        found = np.load(answer)
        return found["mean"], found["std"]


def ngboost(X: np.ndarray, y: np.ndarray, seed: int) -> Predict:
    """NGBRegressor's defaults; fit and prediction are timed together."""
    return lambda X_new: elsewhere(
        "ngboost_regressor.py", ".venv-ngboost", X=X, y=y, Q=X_new, seed=seed
    )


@standardized
def laplace_torch(X: np.ndarray, y: np.ndarray, seed: int) -> Predict:
    """Laplace of an MLPRegressor: full Gauss-Newton matrix, precisions tuned by its evidence."""
    mlp = MLPRegressor(activation="tanh", random_state=seed, **MLP).fit(X, y)
    weights = {}
    for i, (W, b) in enumerate(zip(mlp.coefs_, mlp.intercepts_, strict=True)):
        weights |= {f"W{i}": W.T, f"b{i}": b}
    job = weights | {"X": X, "y": y[:, None], "prior": 1.0, "noise_std": 1.0, "tune": True}
    job |= {"batch_size": 1000, "subset": "all", "structure": "full", "repeats": 1}
    return lambda X_new: elsewhere("laplace_torch.py", ".venv-laplace", Q=X_new, **job)


METHODS: dict[str, Callable[[np.ndarray, np.ndarray, int], Predict]] = {
    "HFLRegressor": hfl,
    "HFLRegressor, one member": partial(hfl, n_estimators=1),
    "5 MLPRegressors": deep_ensemble,
    "GaussianProcessRegressor": gaussian_process,
    "BayesianRidge": bayesian_ridge,
    "NGBoost": ngboost,
    "laplace-torch, full": laplace_torch,
}

"""Peers that separate the parts: each predicts mean, and (epistemic, aleatoric) std."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from peers.regressors import MLP, standardized
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.neural_network import MLPRegressor
from torch import nn

__all__ = ["OTHERS"]

N_MEMBERS = 5
DROPOUT = 0.05


@standardized
def deep_ensemble(X: np.ndarray, y: np.ndarray, seed: int) -> Callable[..., object]:
    """Five MLPRegressors; the noise is that of their residuals on held-out rows."""
    members, squares = [], []
    for member in range(N_MEMBERS):
        order = np.random.default_rng([seed, member]).permutation(len(y))
        out, rows = np.split(order, [max(1, len(y) // 10)])
        mlp = MLPRegressor(activation="tanh", random_state=1000 * seed + member, **MLP)
        members.append(mlp.fit(X[rows], y[rows]))
        squares.append((y[out] - members[-1].predict(X[out])) ** 2)
    noise = np.concatenate(squares).mean() ** 0.5

    def predict(Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        each = np.array([member.predict(Q) for member in members])
        return each.mean(0), np.stack([each.std(0, ddof=1), np.full(len(Q), noise)])

    return predict


@standardized
def mc_dropout(X: np.ndarray, y: np.ndarray, seed: int) -> Callable[..., object]:
    """One relu network, 200 passes with dropout; noise from a tenth of the rows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        order, n_out = torch.randperm(len(y)), max(1, len(y) // 10)
        out, rows = order[:n_out], order[n_out:]
        inputs, targets = torch.as_tensor(X).float(), torch.as_tensor(y).float()[:, None]
        net = nn.Sequential(
            nn.Linear(X.shape[1], 50), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(50, 1)
        )
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=1e-5)
        for _ in range(2000):
            optimizer.zero_grad()
            nn.functional.mse_loss(net(inputs[rows]), targets[rows]).backward()
            optimizer.step()

        def passes(Q: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return torch.stack([net(Q)[:, 0] for _ in range(200)])

        held_out = passes(inputs[out]).mean(0)
        noise = float((held_out - targets[out, 0]).square().mean().sqrt())

    def predict(Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            each = passes(torch.as_tensor(Q).float()).double().numpy()
        return each.mean(0), np.stack([each.std(0, ddof=1), np.full(len(Q), noise)])

    return predict


@standardized
def gaussian_process(X: np.ndarray, y: np.ndarray, seed: int) -> Callable[..., object]:
    """Matérn 5/2 with a length scale for each feature, and white noise."""
    kernel = ConstantKernel() * Matern(np.ones(X.shape[1]), nu=2.5) + WhiteKernel(0.1)
    model = GaussianProcessRegressor(kernel, random_state=seed).fit(X, y)
    noise = model.kernel_.k2.noise_level

    def predict(Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, std = model.predict(Q, return_std=True)
        epistemic = np.sqrt(np.maximum(std**2 - noise, 0))
        return mean, np.stack([epistemic, np.full(len(Q), noise**0.5)])

    return predict


OTHERS = {
    "5 MLPRegressors": deep_ensemble, "MC dropout": mc_dropout, "Matérn GP": gaussian_process,
}  # fmt: skip

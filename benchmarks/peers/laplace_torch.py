"""Peer: the Laplace posterior of laplace-torch around a trained network.

Runs in the environment that `make .venv-laplace/.installed` builds:

    .venv-laplace/bin/python benchmarks/peers/laplace_torch.py job.npz answer.npz

The job holds the layers W0, b0, W1, b1, ... of a tanh network, its data X, y, the queries
Q, the prior precision of each weight (or one number, which hessian_structure="kron" needs),
and noise_std for regression; with ``tune`` both are found by the evidence, as laplace-torch's
own regression example does it. The answer holds the seconds of each repetition of fit and of
prediction, and what was predicted.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from laplace import Laplace
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

TUNING_STEPS = 100
# Its memory grows with their square: 10 000 at once needed 40 GB.
MAX_QUERIES = 1000


def network(job: dict[str, np.ndarray]) -> nn.Sequential:
    n_layers = sum(name[0] == "W" for name in job)
    modules: list[nn.Module] = []
    for layer in range(n_layers):
        W, b = torch.tensor(job[f"W{layer}"]), torch.tensor(job[f"b{layer}"])
        linear = nn.Linear(W.shape[1], W.shape[0], dtype=W.dtype)
        with torch.no_grad():
            linear.weight.copy_(W)
            linear.bias.copy_(b)
        modules += [linear, nn.Tanh()]
    return nn.Sequential(*modules[:-1])


def tune(laplace: Laplace) -> None:
    """Maximise the evidence by a hundred steps of adam in log prior precision and log noise."""
    logs = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([logs], lr=0.1)
    for _ in range(TUNING_STEPS):
        optimizer.zero_grad()
        (-laplace.log_marginal_likelihood(logs[0].exp(), logs[1].exp())).backward()
        optimizer.step()


def main() -> None:
    job = dict(np.load(sys.argv[1]))
    model, regression = network(job), "noise_std" in job
    y = torch.tensor(job["y"])
    loader = DataLoader(
        TensorDataset(torch.tensor(job["X"]), y if regression else y.long()),
        batch_size=int(job["batch_size"]),
    )
    queries, fits, predictions = torch.tensor(job["Q"]), [], []
    for _ in range(int(job["repeats"])):
        began = time.perf_counter()
        extra = {"sigma_noise": float(job["noise_std"])} if regression else {}
        laplace = Laplace(
            model,
            "regression" if regression else "classification",
            subset_of_weights=str(job["subset"]),
            hessian_structure=str(job["structure"]),
            prior_precision=torch.tensor(job["prior"]),
            **extra,
        )
        laplace.fit(loader)
        if job.get("tune", False):
            tune(laplace)
        fitted = time.perf_counter()
        if regression:
            parts = [laplace(part) for part in queries.split(MAX_QUERIES)]
            mean, variance = (torch.cat(part).detach() for part in zip(*parts, strict=True))
            if job.get("tune", False):  # the predictive's, not the function's
                mean, variance = mean[:, 0], variance + laplace.sigma_noise.detach() ** 2
            answer = {"mean": mean.numpy(), "std": variance[..., 0, 0].sqrt().numpy()}
        else:
            answer = {"proba": laplace(queries, link_approx="probit").numpy()}
        predictions.append(time.perf_counter() - fitted)
        fits.append(fitted - began)
    if not regression:  # not timed: it shows that both sides have the same posterior
        variance = laplace.functional_variance(laplace.backend.jacobians(queries)[0].detach())
        answer["latent_variance"] = variance.diagonal(dim1=1, dim2=2).numpy()
    answer = {name: np.asarray(value) for name, value in answer.items()}
    np.savez(sys.argv[2], fit=fits, predict=predictions, **answer)


if __name__ == "__main__":
    main()

"""Peer: Laplace variances by conjugate gradients on curvlinops' Gauss-Newton operator.

Runs in the environment that `make .venv-laplace/.installed` builds, which has curvlinops:

    .venv-laplace/bin/python benchmarks/peers/curvlinops_cg.py job.npz answer.npz

The job is that of laplace_torch.py in this folder, with ``rtol`` for the error of each standard
deviation. Prior precisions whiten the system, I + S β JᵀJ S, and a query stops when the squared
residual, which bounds the missing variance, is small enough: the error bound of
``variance="linearized"``, without preconditioner.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from curvlinops import GGNLinearOperator
from laplace_torch import network
from torch import Tensor, nn

MAX_ITERATIONS = 10_000


def main() -> None:
    job = dict(np.load(sys.argv[1]))
    model = network(job)
    params = list(model.parameters())
    X, y = torch.tensor(job["X"]), torch.tensor(job["y"]).reshape(-1, 1)
    size = int(job["batch_size"])
    data = list(zip(X.split(size), y.split(size), strict=True))
    scale = torch.tensor(job["prior"]) ** -0.5
    # The mean of squared errors has curvature 2 JᵀJ / N.
    share = 0.5 * len(X) / float(job["noise_std"]) ** 2
    ggn = GGNLinearOperator(model, nn.MSELoss(), params, data, check_deterministic=False)

    def product(v: Tensor) -> Tensor:
        return v + scale * (share * (ggn @ (scale * v)))

    variances, iterations, seconds = [], [], []
    for query in torch.tensor(job["Q"]):
        began = time.perf_counter()
        gradient = torch.autograd.grad(model(query[None]).squeeze(), params)
        whitened = scale * torch.cat([g.flatten() for g in gradient])
        variance, n_iter = solve(product, whitened, float(job["rtol"]))
        seconds.append(time.perf_counter() - began)
        variances.append(variance)
        iterations.append(n_iter)
    np.savez(sys.argv[2], std=np.sqrt(variances), iterations=iterations, seconds=seconds)


def solve(product: Callable[[Tensor], Tensor], b: Tensor, rtol: float) -> tuple[float, int]:
    """Return bᵀA⁻¹b, to a relative error of ``rtol`` in its root, and the iterations it took."""
    x, r, p = torch.zeros_like(b), b.clone(), b.clone()
    squared, n_iter = float(r @ r), 0
    while squared > 2 * rtol * float(b @ x) and n_iter < MAX_ITERATIONS:
        Ap = product(p)
        step = squared / float(p @ Ap)
        x, r = x + step * p, r - step * Ap
        before, squared = squared, float(r @ r)
        p = r + squared / before * p
        n_iter += 1
    return float(b @ x), n_iter


if __name__ == "__main__":
    main()

"""Modules: drawn layers, tied and frozen, fitted in threads, and seeds that stay the caller's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from sklearn_hfl import HFLClassifier, HFLRegressor
from tests import reference

from .contract import battery, fitted
from .data import seeds

THREADS = 8
NOISE = 0.2
RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (25, 3))
Y = np.sin(3 * X[:, 0]) + X[:, 1]
PLAIN = {"normalize_X": False, "normalize_y": False, "prior_precision": 1.0, "noise_std": NOISE}
PLAIN |= {"n_estimators": 1}


class Drawn(nn.Module):
    """Layers of one width, some of them the same, some of one matrix, some frozen.

    Layer i repeats an earlier one where ``shares[i]`` says so.
    """

    def __init__(self, d, k, shares, frozen):
        super().__init__()
        self.first = nn.Linear(d, 4)
        self.hidden = nn.ModuleList()
        for i, how in enumerate(shares):
            layer = nn.Linear(4, 4)
            if i and how == "layer":
                layer = self.hidden[i - 1]
            elif i and how == "weight":
                layer.weight = self.hidden[i - 1].weight
            self.hidden.append(layer)
        self.last = nn.Linear(4, k)
        for parameter, stays in zip(self.parameters(), frozen, strict=False):
            parameter.requires_grad_(not stays)
        self.last.bias.requires_grad_(True)  # a module that is all frozen is refused

    def forward(self, x):
        x = self.first(x).tanh()
        for layer in self.hidden:
            x = layer(x).tanh()
        return self.last(x)


modules = st.builds(
    lambda shares, frozen: lambda d, k: Drawn(d, k, shares, frozen),
    st.lists(st.sampled_from(["nothing", "layer", "weight"]), max_size=4),
    st.lists(st.booleans(), max_size=10),
)


@battery
@given(modules, seeds)
def test_weights_are_what_may_move_each_once(module, seed):
    model = fitted(HFLRegressor(**PLAIN, module=module, max_iter=15, random_state=seed), X, Y)
    start = fitted(HFLRegressor(**PLAIN, module=module, max_iter=1, random_state=seed), X, Y)
    pairs = zip(model.module_.parameters(), start.module_.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs if not p.requires_grad)
    J = reference.module_jacobian(model.module_, torch.tensor(X))
    assert model.diagnostics_["n_weights"] == J.shape[1]
    posterior = torch.linalg.inv(J.mT @ J / NOISE**2 + torch.eye(J.shape[1]))
    std = model.predict(X, return_std="epistemic")[1]
    assert_allclose(std, ((J @ posterior) * J).sum(1).sqrt(), rtol=model.std_rtol)


# Of the process, since catch_warnings is not safe in threads.
@pytest.mark.filterwarnings("ignore::sklearn_hfl.HFLWarning")
@battery
@given(modules, seeds, st.sampled_from([HFLRegressor, HFLClassifier]))
def test_threads_fit_what_one_after_the_other_fits(module, seed, estimator):
    y = Y if estimator is HFLRegressor else Y > 0
    torch.manual_seed(seed)
    before = torch.get_rng_state()

    def fit(i):
        params = {"module": module, "max_iter": 1, "prior_precision": 1.0, "n_estimators": 1}
        model = estimator(**params, random_state=i).fit(X, y)
        return [p.detach().numpy() for p in model.module_.parameters()]

    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(fit, range(THREADS)))
    assert torch.equal(torch.get_rng_state(), before)
    for i, ours in enumerate(together):
        for one, other in zip(ours, fit(i), strict=True):
            assert_array_equal(one, other)

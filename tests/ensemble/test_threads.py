"""Threads: one for little work, never more than there are cores, and the caller's afterwards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
import torch
from sklearn.neural_network import MLPRegressor

from sklearn_hfl import HFLRegressor
from sklearn_hfl._ensemble import route, threads, trained
from sklearn_hfl._ensemble.threads import few_threads
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.log_posterior import LogPosterior

RNG = np.random.default_rng(0)
X = RNG.uniform(-2, 2, (40, 2))
Y = np.sin(2 * X[:, 0]) + 0.1 * RNG.standard_normal(40)


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("n_rows", "cores", "expected"), [(100, 8, 1), (10**6, 8, 3), (10**6, 2, 2)]
)
def test_threads_are_those_that_pay_and_that_there_are(monkeypatch, n_rows, cores, expected):
    monkeypatch.setattr(threads, "cpu_count", lambda: cores)
    with few_threads(n_rows, 100):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 3


def test_they_are_given_back_after_an_error():
    with pytest.raises(ValueError, match="stopped"), few_threads(100, 100):
        raise ValueError("stopped")
    assert torch.get_num_threads() == 3


def test_threads_of_the_process_keep_theirs():
    """Those that start within a block too, and those that come after blocks that overlap."""
    inside, first_is_done, found = Event(), Event(), []

    def first():
        with few_threads(100, 100):
            inside.set()
            first_is_done.wait(10)

    def second():
        inside.wait(10)
        found.append(torch.get_num_threads())
        with few_threads(100, 100):
            found.append(torch.get_num_threads())
            first_is_done.set()
        found.append(torch.get_num_threads())

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(first), pool.submit(second)]:
            done.result()
    with ThreadPoolExecutor(1) as later:
        found.append(later.submit(torch.get_num_threads).result())
    assert found == [3, 1, 3, 3]


@pytest.fixture
def seen(monkeypatch):
    """Numbers of threads under which L, a Gauss-Newton product or an optimum was computed."""
    numbers = set()

    def counted(call):
        def counting(*arguments, **keywords):
            numbers.add(torch.get_num_threads())
            return call(*arguments, **keywords)

        return counting

    for owner, name in [
        (LogPosterior, "value_and_gradient"),
        (GaussNewton, "product"),
        (route, "perturbed_optima"),
        (trained, "with_precisions"),
    ]:
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    return numbers


@pytest.mark.parametrize("variance", ["linearized", "network"])
def test_passes_over_little_data_take_one(seen, variance):
    small = {"hidden_layer_sizes": (3,), "prior_precision": 1.0, "noise_std": 0.1}
    model = HFLRegressor(**small, variance=variance, n_estimators=1).fit(X, Y)
    assert seen == {1}
    seen.clear()
    model.predict(X[:3], return_cov=True)
    assert seen == {1}
    assert torch.get_num_threads() == 3


@pytest.mark.filterwarnings("ignore::sklearn_hfl.HFLConvergenceWarning")
def test_adoption_takes_one(seen):
    mlp = MLPRegressor(hidden_layer_sizes=(3,), solver="lbfgs", max_iter=5000, random_state=0)
    mlp.fit(X, Y)
    HFLRegressor.from_mlp(mlp, X, Y, prior_precision="evidence")
    assert seen == {1}
    assert torch.get_num_threads() == 3

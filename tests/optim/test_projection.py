from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from sklearn_hfl.optim import projection
from sklearn_hfl.optim.projection import can_project, projected
from sklearn_hfl.posterior.likelihood import HeteroscedasticLikelihood
from sklearn_hfl.posterior.network import MLP
from sklearn_hfl.posterior.prior import GaussianPrior
from tests.cases import F64, PROBLEMS, generator, in_precision, problem, randn


def gradients(log_posterior, weights):
    _, gradient = log_posterior.value_and_gradient(weights[None])
    return log_posterior.network.packing.unpack(gradient[0])


def varying(log_posterior):
    """The same data with noise that varies, and so twice the outputs."""
    n_targets = log_posterior.y.shape[1]
    network = MLP((log_posterior.X.shape[1], 6, 2 * n_targets), n_noise=n_targets)
    groups = network.weight_groups()
    prior = GaussianPrior(1 + torch.arange(len(groups), dtype=F64), groups)
    beta = 1 + torch.arange(n_targets, dtype=F64)
    return replace(
        log_posterior, network=network, prior=prior, likelihood=HeteroscedasticLikelihood(beta)
    )


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_output_layer_is_at_its_optimum(name):
    case = problem(name)
    lp, weights = case.log_posterior, case.weights()
    if not can_project(lp):
        return
    optimum = projected(lp, weights)
    *_, W, b = gradients(lp, optimum)
    k = lp.y.shape[1]  # what is left are log noises
    scale = max(float(h.abs().max()) for h in gradients(lp, weights))
    assert float(W[:k].abs().max()) < 1e-10 * scale
    assert float(b[:k].abs().max()) < 1e-10 * scale
    *kept, _, _ = lp.network.packing.unpack(optimum)
    *before, _, _ = lp.network.packing.unpack(weights)
    assert all(torch.equal(a, c) for a, c in zip(kept, before, strict=True))
    assert float(lp.value(optimum[None])) < float(lp.value(weights[None]))
    assert_close(projected(lp, optimum), optimum)


def test_some_problem_can_be_projected_and_some_cannot():
    found = {can_project(problem(name).log_posterior) for name in PROBLEMS}
    assert found == {True, False}


def test_the_mean_alone_where_the_noise_varies():
    lp = varying(problem("two layers").log_posterior)
    weights = 0.5 * randn(lp.n_weights)
    k = lp.y.shape[1]
    assert can_project(lp)
    optimum = projected(lp, weights)
    *_, W, b = gradients(lp, optimum)
    assert_close(W[:k], torch.zeros_like(W[:k]), rtol=0, atol=1e-9)
    assert_close(b[:k], torch.zeros_like(b[:k]), rtol=0, atol=1e-9)
    *_, W, b = lp.network.packing.unpack(optimum)
    *_, W_before, b_before = lp.network.packing.unpack(weights)
    assert torch.equal(W[k:], W_before[k:])
    assert torch.equal(b[k:], b_before[k:])


def test_blocks_of_rows_make_no_difference():
    case = problem("two layers")
    lp, weights = case.log_posterior, case.weights()
    in_blocks = replace(lp, memory_limit=10_000.0)
    assert len(list(in_blocks.blocks(in_blocks.network.width + 30))) > 1
    assert_close(projected(in_blocks, weights), projected(lp, weights))


def test_wide_layers_are_left_to_the_steps(monkeypatch):
    lp = problem("two layers").log_posterior
    monkeypatch.setattr(projection, "MAX_UNITS", 1)
    assert not can_project(lp)


def test_equal_data_in_another_form_give_equal_weights():
    case = problem("two layers")
    lp, weights = case.log_posterior, case.weights()
    rows = torch.randperm(len(lp.X), generator=generator(0))
    assert_close(projected(lp.select(rows), weights), projected(lp, weights))


def test_single_precision_loses_nothing_where_the_noise_is_small():
    case = problem("two layers")
    lp, weights = case.log_posterior, case.weights()
    lp = replace(lp, likelihood=lp.likelihood.with_precision(1e7 * torch.ones(1, dtype=F64)))
    single = in_precision(lp, torch.float32)
    optimum = projected(single, weights.float())
    assert optimum.dtype == torch.float32
    exact = projected(lp, weights)
    assert_close(lp.value(optimum.double()[None]), lp.value(exact[None]), rtol=1e-4, atol=1.0)
    assert float(single.value(optimum[None])) <= float(single.value(weights.float()[None]))

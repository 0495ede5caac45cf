from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal
from torch.testing import assert_close

from sklearn_hfl import HFLClassifier, HFLRegressor
from sklearn_hfl.exceptions import HFLWarning
from sklearn_hfl.optim.newton_cg import NewtonCG
from sklearn_hfl.posterior.likelihood import CategoricalLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import MLP
from sklearn_hfl.posterior.prior import GaussianPrior
from sklearn_hfl.uncertainty.leave_one_out import leave_one_out
from tests import reference
from tests.cases import F64, LINEAR, estimate_at, generator, map_estimate, randn


def others(lp, row):
    """Without the row, or without one of those that it counts as."""
    if lp.sample_weight[row] <= 1:
        return lp.select(torch.arange(len(lp.X)) != row)
    weight = lp.sample_weight.clone()
    weight[row] -= 1
    return replace(lp, sample_weight=weight)


def fitted(lp, start):
    trainer = NewtonCG(200, tol=0.0, n_iter_no_change=10, decrement_tol=1e-10)
    return trainer.train(lp, start, generator(0)).weights


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_network_predicts_a_row_as_the_fit_without_it(name):
    estimate = map_estimate(name)
    lp = estimate.log_posterior
    expected = []
    for row in range(len(lp.X)):
        exact = reference.BayesianLinearRegression(others(lp, row))
        x = lp.X[row : row + 1]
        mean = lp.network.forward(exact.mean[None], x)[0]
        variance = exact.variance(x) + 1 / lp.likelihood.noise_precision
        expected.append(Normal(mean, variance.sqrt()).log_prob(lp.y[row]).sum())
    rows = leave_one_out(estimate)
    assert_close(rows.left_out, torch.stack(expected), rtol=1e-6, atol=1e-6)
    outputs = lp.network.forward(estimate.weights[None], lp.X)[0]
    at_map = reference.log_density(lp.likelihood, outputs, lp.y).sum(-1)
    assert_close(rows.fitted, at_map, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_classes_are_predicted_nearly_as_by_the_fit_without_the_row(n_classes):
    X = randn(60, 3)
    index = (2 * X @ randn(3, n_classes, seed=1) + randn(60, n_classes, seed=2)).argmax(1)
    y = torch.nn.functional.one_hot(index).to(F64)
    y = y[:, 1:] if n_classes == 2 else y
    network = MLP((3, y.shape[1]))
    groups = network.weight_groups()
    prior = GaussianPrior(torch.ones(len(groups), dtype=F64), groups)
    lp = LogPosterior(network, CategoricalLikelihood(), prior, X, y, torch.ones(60, dtype=F64))
    weights = fitted(lp, torch.zeros(lp.n_weights, dtype=F64))
    rows = leave_one_out(estimate_at(lp, weights))
    expected = []
    for row in range(len(X)):
        without = fitted(others(lp, row), weights)
        outputs = network.forward(without[None], X[row : row + 1])[0]
        expected.append(reference.log_density(lp.likelihood, outputs, y[row : row + 1]).sum())
    expected = torch.stack(expected)
    # One Newton step is off by the second order of what a row moves.
    moved = (expected - rows.fitted).abs()
    assert ((rows.left_out - expected).abs() <= 0.25 * moved + 1e-6).all()
    guessed = []
    for row in range(len(X)):
        counts = torch.bincount(index[torch.arange(60) != row], minlength=n_classes) + 1
        guessed.append((counts / counts.sum()).log()[index[row]])
    assert_close(rows.guessed, torch.stack(guessed).to(F64), rtol=1e-6, atol=1e-6)


def test_a_guess_knows_mean_and_variance_of_the_other_rows():
    estimate = map_estimate("linear")
    y = estimate.log_posterior.y[:, 0]
    rows = leave_one_out(estimate)
    for row in range(len(y)):
        rest = y[torch.arange(len(y)) != row]
        expected = Normal(rest.mean(), rest.std(correction=0)).log_prob(y[row])
        assert rows.guessed[row].item() == pytest.approx(expected.item())


def test_noise_that_is_fitted_is_reported():
    X, y = randn(60, 10).numpy(), randn(60, seed=1).numpy()
    model = HFLRegressor(prior_precision=0.01, noise_std=0.1, random_state=0).fit(X, y)
    (facts,) = model.diagnostics_["members"]
    assert facts["over_fitted"]
    assert facts["log_density_left_out"] < facts["log_density"] - 1
    assert facts["n_residuals"] == 60
    assert facts["n_effective_parameters"] > 50
    with pytest.warns(HFLWarning, match="Over-fitted"):
        HFLClassifier(prior_precision=0.001, random_state=0).fit(X, y > 0)


def test_what_is_learned_is_not_reported():
    X = randn(60, 3).numpy()
    for model, y in ((HFLRegressor, X[:, 0] + X[:, 1]), (HFLClassifier, X[:, 0] > 0)):
        (facts,) = model(random_state=0).fit(X, y).diagnostics_["members"]
        assert not facts["over_fitted"]


@pytest.mark.parametrize("name", ["linear", "one layer", "log noise"])
def test_a_row_of_weight_two_counts_as_two_rows(name):
    estimate = map_estimate(name)
    lp, weights = estimate.log_posterior, estimate.weights
    index = torch.arange(len(lp.X))
    weight = torch.ones_like(lp.sample_weight)
    weight[0] = 2
    single = replace(lp, sample_weight=torch.ones_like(weight))
    weighted = leave_one_out(estimate_at(replace(lp, sample_weight=weight), weights))
    repeated = leave_one_out(estimate_at(single.select(torch.cat([index[:1], index])), weights))
    assert_close(weighted.left_out, repeated.left_out[1:], rtol=1e-6, atol=1e-6)
    assert weighted.gain(weighted.guessed) == pytest.approx(
        repeated.gain(repeated.guessed), rel=1e-6
    )


@pytest.mark.parametrize("seed", range(4))
def test_noise_that_is_left_alone_is_not_reported(seed):
    X, y = randn(30, 2, seed=seed).numpy(), randn(30, seed=seed + 10).numpy()
    for model, target in ((HFLRegressor, y), (HFLClassifier, y > 0)):
        model(hidden_layer_sizes=(), random_state=0).fit(X, target)  # warnings are errors


@pytest.mark.parametrize("name", ["linear", "two outputs", "log noise"])
def test_rows_are_taken_in_blocks_that_the_memory_limit_allows(name):
    estimate = map_estimate(name)
    small = replace(estimate.log_posterior, memory_limit=1.0)
    whole, blocks = leave_one_out(estimate), leave_one_out(replace(estimate, log_posterior=small))
    assert_close(blocks.left_out, whole.left_out)
    assert_close(blocks.fitted, whole.fitted)

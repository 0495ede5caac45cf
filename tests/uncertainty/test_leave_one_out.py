from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Normal
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close

from sklearn_hfl import HFLClassifier, HFLRegressor
from sklearn_hfl.exceptions import HFLWarning
from sklearn_hfl.optim.newton_cg import NewtonCG
from sklearn_hfl.posterior.likelihood import (
    CategoricalLikelihood,
    GaussianLikelihood,
    HeteroscedasticLikelihood,
)
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import MLP
from sklearn_hfl.posterior.prior import GaussianPrior
from sklearn_hfl.uncertainty.deletion import deletion
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
    model = HFLRegressor(prior_precision=0.01, noise_std=0.1, n_estimators=1, random_state=0).fit(
        X, y
    )
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


class CountNumbers(TorchFunctionMode):
    """Adds up the sizes of what torch's functions return."""

    total = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.total += result.numel()
        return result


def test_a_block_takes_no_memory_for_the_other_rows():
    """Memory of all blocks would otherwise grow with the square of the rows."""

    estimate = map_estimate("linear")
    lp = replace(estimate.log_posterior, memory_limit=1.0)  # blocks of one row

    def allocated(n):
        many = replace(estimate, log_posterior=lp.select(torch.arange(n) % len(lp.X)))
        with CountNumbers() as counted:
            leave_one_out(many)
        return counted.total

    assert allocated(400) < 2.2 * allocated(200)


LIKELIHOODS = {
    "normal": (GaussianLikelihood(torch.tensor([2.0, 3e4], dtype=F64)), 2),
    "log noise": (HeteroscedasticLikelihood(torch.tensor([3.0], dtype=F64)), 2),
    "two classes": (CategoricalLikelihood(), 1),
    "three classes": (CategoricalLikelihood(), 3),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("size", [1.0, 1e2])
def test_a_deletion_is_the_inverse_of_what_remains(name, size):
    likelihood, k = LIKELIHOODS[name]
    outputs, one = randn(6, k), torch.full((6,), 0.7, dtype=F64)
    eye = torch.eye(k, dtype=F64).expand(6, k, k)
    curvature = likelihood.curvature(outputs, one, eye)
    # S = (Q + Λ)⁻¹ with a precision Q from prior and other rows, which is then that of S'.
    root = randn(6, k, k, seed=1)
    precision = (root @ root.mT + 0.1 * eye) / size
    S = torch.linalg.inv(precision + curvature)
    y = torch.nn.functional.one_hot(torch.arange(6) % k, k).to(F64)
    targets = y[:, :1] if name == "log noise" else y
    left = deletion(likelihood, outputs, S, targets, one)
    expected = torch.linalg.inv(precision)
    assert_close(left.covariance, expected, rtol=1e-6, atol=1e-8 * size)
    hat = S @ curvature
    assert_close(left.leverage, hat.diagonal(dim1=1, dim2=2), rtol=1e-9, atol=1e-12)
    assert_close(left.remaining, 1 - torch.linalg.eigvals(hat).real.amax(1), rtol=1e-6, atol=1e-12)
    score = likelihood.score(outputs, targets, one)[..., None]
    assert_close(left.moved, outputs + (expected @ score)[..., 0], rtol=1e-6, atol=1e-8 * size)
    pull = torch.linalg.solve(eye - hat.mT, score)[..., 0]
    assert_close(left.pull, pull, rtol=1e-6, atol=1e-8 * size)


@pytest.mark.parametrize("name", ["two classes", "three classes"])
def test_the_posterior_mean_without_a_row_lacks_its_part_of_the_shift(name):
    # Row n of weight 1 beside others, whose parts of the shift reach it by their covariance.
    likelihood, k = LIKELIHOODS[name]
    outputs, one = randn(1, k), torch.ones(1, dtype=F64)
    eye = torch.eye(k, dtype=F64)
    curvature = likelihood.curvature(outputs, one, eye[None])[0]
    root = randn(k, k, seed=1)
    without = torch.linalg.inv(root @ root.mT + eye)
    S = torch.linalg.inv(root @ root.mT + eye + curvature)
    others = randn(k, seed=2)

    def half_trace(f):
        return 0.5 * torch.trace(S @ likelihood.curvature(f[None], one, eye[None])[0])

    own = torch.autograd.functional.jacobian(half_trace, outputs[0])
    y = torch.zeros_like(outputs)
    left = deletion(likelihood, outputs, S[None], y, one, -(S @ (others + own))[None])
    assert_close(left.mean - left.moved, -(without @ others)[None])
    assert_close(deletion(likelihood, outputs, S[None], y, one).mean, left.moved)


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("excess", [1.0, 1.02, 5.0])
def test_a_covariance_above_that_of_the_row_alone_is_moved_below_it(name, excess):
    # Rounding, or the tolerance of S, may leave an eigenvalue of S Λ at 1, or above.
    likelihood, k = LIKELIHOODS[name]
    outputs, one = 0.1 * randn(6, k), torch.ones(6, dtype=F64)
    curvature = likelihood.curvature(outputs, one, torch.eye(k, dtype=F64).expand(6, k, k))
    S = excess * torch.linalg.pinv(curvature)
    targets = outputs[:, :1] if name == "log noise" else outputs
    left = deletion(likelihood, outputs, S, targets, one)
    for values in (left.covariance, left.moved, left.pull, left.leverage):
        assert values.isfinite().all()
    eps = torch.finfo(F64).eps
    assert ((left.remaining > 0) & (left.remaining <= 10 * eps)).all()
    values = torch.linalg.eigvalsh(left.covariance)
    assert (values >= -10 * eps * values.amax()).all()
    rank = 2 if k == 3 else k
    assert (left.leverage.sum(1) <= rank + 1e-12).all()


@pytest.mark.parametrize(
    ("dtype", "prior", "noise"), [("float32", 1.0, 1e-3), ("float64", 1e-6, 1e-6)]
)
def test_rows_that_are_interpolated_to_rounding_are_reported(dtype, prior, noise):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(8, 12))
    y = X[:, 0] + rng.normal(size=8)
    params = {"hidden_layer_sizes": (), "n_estimators": 1, "prior_precision": prior, "dtype": dtype}
    model = HFLRegressor(noise_std=noise, random_state=0, **params).fit(X, y)
    assert np.isfinite(model.diagnostics_["members"][0]["log_density_left_out"])
    with pytest.warns(HFLWarning, match="8 of 8 left-out rows"):
        left = model.loo_predict()
    assert not left.converged.any()
    assert (left.leverage <= 1).all()
    assert (left.leverage > 1 - 1e-5).all()
    for name in ("mean", "std", "log_density"):
        assert np.isfinite(left[name]).all()

import pytest
import torch
from torch.distributions import Bernoulli, Categorical
from torch.func import grad, hessian
from torch.testing import assert_close

from sklearn_hfl.posterior.likelihood import (
    MAX_LOG_CONTRAST,
    CategoricalLikelihood,
    GaussianLikelihood,
    HeteroscedasticLikelihood,
)
from tests import reference
from tests.cases import F64, randn

N, P = 6, 5
WEIGHT = torch.linspace(0.3, 2.0, N, dtype=F64)


KINDS = ["gaussian", "gaussian, three", "two classes", "three classes"]
NOISY = ["log noise", "log noise, three", "constant log noise"]


@pytest.fixture(params=[*KINDS, *NOISY])
def case(request):
    """Likelihood, outputs (N, K) and targets (N, K), (N, K/2) with log noise."""
    k = 3 if "three" in request.param else 1
    outputs = randn(N, k, seed=1)
    if "log noise" in request.param:
        precision, constant = torch.linspace(0.5, 30.0, k, dtype=F64), "constant" in request.param
        likelihood = HeteroscedasticLikelihood(precision, constant=constant)
        return likelihood, randn(N, 2 * k, seed=1), randn(N, k, seed=2)
    if "gaussian" in request.param:
        likelihood = GaussianLikelihood(torch.linspace(0.5, 30.0, k, dtype=F64))
        return likelihood, outputs, randn(N, k, seed=2)
    labels = torch.arange(N) % max(k, 2)
    one_hot = torch.eye(max(k, 2), dtype=F64)[labels]
    return CategoricalLikelihood(), outputs, one_hot[:, -k:]


def log_density(likelihood, outputs, y):
    """log p(y | f) of each row, by torch's distributions."""
    if isinstance(likelihood, GaussianLikelihood):
        if getattr(likelihood, "constant", False):
            likelihood, outputs = GaussianLikelihood(likelihood.noise_precision), outputs[:, :1]
        return reference.log_density(likelihood, outputs, y).sum(1)
    if outputs.shape[1] == 1:
        return Bernoulli(logits=outputs).log_prob(y)[:, 0]
    return Categorical(logits=outputs).log_prob(y.argmax(1))


def test_loss_equals_torch_distributions(case):
    likelihood, outputs, y = case
    expected = -(WEIGHT * log_density(likelihood, outputs, y)).sum()
    assert_close(likelihood.loss(outputs[None], y, WEIGHT), expected[None])


def test_loss_takes_a_batch_of_outputs(case):
    likelihood, outputs, y = case
    batch = torch.stack([outputs, 2 * outputs])
    rows = torch.cat([likelihood.loss(f[None], y, WEIGHT) for f in batch])
    assert_close(likelihood.loss(batch, y, WEIGHT), rows)


def test_score_is_the_derivative_of_the_loss(case):
    likelihood, outputs, y = case
    expected = grad(lambda f: likelihood.loss(f[None], y, WEIGHT)[0])(outputs)
    assert_close(likelihood.score(outputs, y, WEIGHT), expected)


def test_curvature_is_the_second_derivative_of_the_loss_expected_of_y(case):
    likelihood, outputs, y = case
    U = randn(N, P, outputs.shape[1], seed=3)
    nodes = (y,)
    if isinstance(likelihood, HeteroscedasticLikelihood):
        # Two points with the mean and variance of y: the loss has no higher powers of it.
        mean, std = outputs.chunk(2, -1)[0], likelihood.noise_variance(outputs).sqrt()
        nodes = (mean - std, mean + std)
    second = [
        hessian(lambda f, y=y: likelihood.loss(f[None], y, WEIGHT)[0])(outputs) for y in nodes
    ]
    expected = torch.einsum("nkml,mpl->npk", sum(second) / len(second), U)
    assert_close(likelihood.curvature(outputs, WEIGHT, U), expected)


@pytest.mark.parametrize("k", [1, 2])
def test_information_of_mean_and_log_noise(k):
    likelihood = HeteroscedasticLikelihood(torch.full((k,), 4.0, dtype=F64))
    outputs = torch.cat([randn(N, k), torch.full((N, k), 0.5, dtype=F64)], 1)
    blocks = likelihood.curvature(outputs, torch.ones(N, dtype=F64), torch.eye(2 * k).to(outputs))
    variance = likelihood.noise_variance(outputs)
    expected = torch.cat([1 / variance, torch.full_like(variance, 2)], 1)
    relative = blocks.diagonal(dim1=1, dim2=2) / expected - 1
    assert (relative.abs() <= likelihood.guard).all()
    assert_close(blocks, torch.diag_embed(blocks.diagonal(dim1=1, dim2=2)), rtol=0, atol=0)


@pytest.mark.parametrize("constant", [False, True])
def test_without_log_noise_it_is_the_gaussian_likelihood(constant):
    beta, w = torch.tensor([0.5, 9.0], dtype=F64), WEIGHT
    mean, y, zero = randn(N, 2), randn(N, 2, seed=1), torch.zeros(N, 2, dtype=F64)
    outputs = torch.cat([mean, zero + 1 if constant else zero], 1)
    noisy, gaussian = HeteroscedasticLikelihood(beta, constant=constant), GaussianLikelihood(beta)
    assert_close(noisy.loss(outputs[None], y, w), gaussian.loss(mean[None], y, w))
    assert_close(noisy.score(outputs, y, w)[:, :2], gaussian.score(mean, y, w))
    assert_close(noisy.noise_variance(outputs), gaussian.noise_variance(mean))
    assert_close(noisy.squares(outputs, y), gaussian.squares(mean, y))


def test_the_noise_of_an_interpolated_row_does_not_collapse():
    likelihood, w = HeteroscedasticLikelihood(torch.ones(1, dtype=F64)), torch.ones(1, dtype=F64)
    s = torch.linspace(-8, 2, 2001, dtype=F64)
    losses = torch.stack(
        [likelihood.loss(torch.tensor([[[0.0, v]]]).to(s), s.new_zeros(1, 1), w)[0] for v in s]
    )
    assert losses.isfinite().all()
    assert s[losses.argmin()].exp().item() == pytest.approx(likelihood.guard**0.5, rel=0.01)


def test_the_loss_with_a_variance_is_the_mean_over_it():
    likelihood = HeteroscedasticLikelihood(torch.tensor([2.0, 9.0], dtype=F64))
    outputs, y, spread = randn(N, 4), randn(N, 2, seed=1), randn(N, 2, seed=2) ** 2
    # Two points with that variance: the loss has no higher powers of the mean.
    shift = torch.cat([spread.sqrt(), 0 * spread], 1)
    expected = likelihood.loss(torch.stack([outputs + shift, outputs - shift]), y, WEIGHT).mean()
    both = torch.cat([y, spread], 1)
    assert_close(likelihood.loss(outputs[None], both, WEIGHT)[0], expected)
    score = grad(lambda f: likelihood.loss(f[None], both, WEIGHT)[0])(outputs)
    assert_close(likelihood.score(outputs, both, WEIGHT), score)


def test_noise_far_from_the_data_is_finite():
    likelihood = HeteroscedasticLikelihood(torch.ones(1, dtype=F64))
    variance = likelihood.noise_variance(torch.tensor([[0.0, 1e4], [0.0, -1e4]], dtype=F64))
    assert_close(
        variance[:, 0].log(), torch.tensor([1.0, -1.0]).to(variance) * 2 * MAX_LOG_CONTRAST
    )


def test_with_precision_replaces_the_noise():
    likelihood, outputs = GaussianLikelihood(torch.full((2,), 9.0, dtype=F64)), randn(N, 2)
    other = likelihood.with_precision(torch.ones(2, dtype=F64))
    assert_close(other.score(outputs, 0 * outputs, torch.ones(N, dtype=F64)), outputs)


@pytest.mark.parametrize("k", [1, 3])
def test_saturated_classes_stay_finite(k):
    likelihood, w = CategoricalLikelihood(), torch.ones(2, dtype=F64)
    outputs = 1e4 * torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.5]], dtype=F64)[:, :k]
    y = torch.eye(3, dtype=F64)[:2, :k]
    assert likelihood.loss(outputs[None], y, w).isfinite().all()
    assert likelihood.score(outputs, y, w).abs().max() <= 1
    assert_close(likelihood.curvature(outputs, w, randn(2, P, k)), torch.zeros(2, P, k, dtype=F64))

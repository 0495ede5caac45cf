import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Normal
from torch.func import grad, hessian
from torch.testing import assert_close

from sklearn_hfl.posterior.likelihood import CategoricalLikelihood, GaussianLikelihood
from tests.cases import F64, randn

N, P = 6, 5
WEIGHT = torch.linspace(0.3, 2.0, N, dtype=F64)


@pytest.fixture(params=["gaussian", "gaussian, three", "two classes", "three classes"])
def case(request):
    """Likelihood, outputs (N, K) and targets (N, K)."""
    k = 3 if "three" in request.param else 1
    outputs = randn(N, k, seed=1)
    if "gaussian" in request.param:
        likelihood = GaussianLikelihood(torch.linspace(0.5, 30.0, k, dtype=F64))
        return likelihood, outputs, randn(N, k, seed=2)
    labels = torch.arange(N) % max(k, 2)
    one_hot = torch.eye(max(k, 2), dtype=F64)[labels]
    return CategoricalLikelihood(), outputs, one_hot[:, -k:]


def log_density(likelihood, outputs, y):
    """log p(y | f) of each row, by torch's distributions."""
    if isinstance(likelihood, GaussianLikelihood):
        return Normal(outputs, likelihood.noise_precision**-0.5).log_prob(y).sum(1)
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


def test_curvature_is_the_second_derivative_of_the_loss(case):
    likelihood, outputs, y = case
    U = randn(N, P, outputs.shape[1], seed=3)
    second = hessian(lambda f: likelihood.loss(f[None], y, WEIGHT)[0])(outputs)
    expected = torch.einsum("nkml,mpl->npk", second, U)
    assert_close(likelihood.curvature(outputs, WEIGHT, U), expected)


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

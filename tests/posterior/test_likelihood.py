import pytest
import torch
from torch.distributions import Normal
from torch.func import grad, hessian
from torch.testing import assert_close

from sklearn_hfl.posterior.likelihood import GaussianLikelihood
from tests.cases import F64, randn

N, P = 6, 5
WEIGHT = torch.linspace(0.3, 2.0, N, dtype=F64)


@pytest.fixture(params=[1, 3], ids=["one output", "three outputs"])
def case(request):
    """Likelihood, outputs (N, K) and targets (N, K)."""
    k = request.param
    likelihood = GaussianLikelihood(torch.linspace(0.5, 30.0, k, dtype=F64))
    return likelihood, randn(N, k, seed=1), randn(N, k, seed=2)


def test_loss_equals_torch_distributions(case):
    likelihood, outputs, y = case
    density = Normal(outputs, likelihood.noise_precision**-0.5)
    expected = -(WEIGHT[:, None] * density.log_prob(y)).sum()
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


def test_whitened_jacobian_squares_to_the_gauss_newton_matrix(case):
    likelihood, outputs, y = case
    jacobian = randn(*outputs.shape, P, seed=3)
    R = likelihood.whiten(outputs, WEIGHT, jacobian)
    second = hessian(lambda f: likelihood.loss(f[None], y, WEIGHT)[0])(outputs)
    expected = torch.einsum("nkp,nkml,mlq->pq", jacobian, second, jacobian)
    assert_close(torch.einsum("nkp,nkq->pq", R, R), expected)


def test_with_precision_replaces_the_noise(case):
    likelihood, outputs, _ = case
    other = likelihood.with_precision(torch.ones(outputs.shape[1], dtype=F64))
    assert_close(other.score(outputs, 0 * outputs, torch.ones(N, dtype=F64)), outputs)

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from sklearn_hfl.posterior.link import log_probabilities
from sklearn_hfl.uncertainty.moderation import LogitPosterior, entropy, normal_draws
from tests.cases import F64, generator, randn

DRAWS = {k: normal_draws(1024, k, seed=0) for k in (2, 3, 5)}


def posterior(k, size=1.0, n=6):
    root = size * randn(n, k, k, seed=2)
    return LogitPosterior(2 * randn(n, k, seed=1), root @ root.mT)


def test_two_classes_follow_mackay():
    post = posterior(1)
    kappa = (1 + math.pi / 8 * post.covariance[:, 0]).rsqrt()
    expected = torch.sigmoid(kappa * post.mean)
    assert_close(post.probit().exp()[:, 1:], expected)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_no_variance_gives_softmax(k):
    post = posterior(k, size=0.0)
    expected = log_probabilities(post.mean)
    assert_close(post.probit(), expected)
    assert_close(post.sampled(DRAWS[max(k, 2)])[0], expected)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_what_all_logits_share_does_not_matter(k):
    post = posterior(k)
    other = LogitPosterior(post.mean + 3.0, post.covariance + 7.0)
    assert_close(other.probit(), post.probit())


def test_two_outputs_are_one_output_of_their_difference():
    post = posterior(2)
    contrast = torch.tensor([[-1.0, 1.0]], dtype=F64)
    single = LogitPosterior(post.mean @ contrast.mT, contrast @ post.covariance @ contrast.mT)
    assert_close(single.probit(), post.probit())


def quadrature(mean, sd):
    inside = lambda f: expit(f) * norm.pdf(f, mean, sd)  # noqa: E731
    return quad(inside, mean - 10 * sd, mean + 10 * sd, limit=200)[0]


@pytest.mark.parametrize("size", [0.3, 1.0, 3.0])
def test_binary_means_are_near_the_integral(size):
    post = posterior(1, size)
    sds = post.covariance[:, 0, 0].sqrt()
    exact = [quadrature(float(m), float(s)) for m, s in zip(post.mean[:, 0], sds, strict=True)]
    exact = torch.tensor(exact, dtype=F64)
    assert_close(post.sampled(DRAWS[2])[0].exp()[:, 1], exact, rtol=0, atol=2e-3)
    # MacKay's approximation is known to be good to about 0.02.
    assert_close(post.probit().exp()[:, 1], exact, rtol=0, atol=0.02)


@pytest.mark.parametrize(("size", "tolerance"), [(0.3, 0.025), (0.5, 0.05), (1.0, 0.1)])
@pytest.mark.parametrize("k", [3, 5])
def test_multi_class_means_are_near_monte_carlo(k, size, tolerance):
    post = posterior(k, size)
    root = torch.linalg.cholesky(post.covariance)
    z = torch.randn(200_000, k, generator=generator(0), dtype=F64)
    exact = (post.mean[:, None] + z @ root.mT).softmax(-1).mean(1)
    assert_close(post.sampled(DRAWS[k])[0].exp(), exact, rtol=0, atol=5e-3)
    assert_close(post.probit().exp(), exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("k", [1, 3])
def test_extremes_stay_finite_and_sum_to_one(k, size):
    post = posterior(k, size)
    post = LogitPosterior(5e3 * post.mean, post.covariance)
    for log_p in (post.probit(), post.sampled(DRAWS[max(k, 2)])[0]):
        assert log_p.isfinite().all()
        assert_close(log_p.exp().sum(1), torch.ones(6, dtype=F64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [1, 3])
def test_information_is_never_negative_and_grows_with_the_variance(k):
    informations = []
    for size in (0.0, 0.5, 2.0):
        log_mean, mean_entropy = posterior(k, size).sampled(DRAWS[max(k, 2)])
        informations.append(entropy(log_mean) - mean_entropy)
    assert min(float(i.min()) for i in informations) > -1e-12
    assert (informations[1] > informations[0]).all()
    assert float(informations[2].max()) < math.log(max(k, 2))


def test_blocks_of_queries_hold_no_more_than_they_may(monkeypatch):
    post, draws = posterior(3), DRAWS[3]
    expected = post.sampled(draws)
    monkeypatch.setattr("sklearn_hfl.uncertainty.moderation.MOST_NUMBERS", 2 * draws.numel())
    with Largest() as made:
        found = post.sampled(draws)
    assert_close(found, expected)
    assert made.n_numbers <= 2 * draws.numel()


class Largest(TorchDispatchMode):
    """Counts the numbers of the largest tensor that is made."""

    n_numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        if isinstance(result, torch.Tensor):
            self.n_numbers = max(self.n_numbers, result.numel())
        return result


def test_entropy_of_even_classes():
    assert float(entropy(torch.full((4,), -math.log(4.0)))) == pytest.approx(math.log(4))


def test_draws_are_normal_reproducible_and_touch_no_global_state():
    before = torch.random.get_rng_state()
    draws = normal_draws(1024, 3, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(draws, normal_draws(1024, 3, seed=5))
    assert not torch.equal(draws, normal_draws(1024, 3, seed=6))
    assert draws.isfinite().all()
    assert np.abs(draws.mean(0).numpy()).max() < 0.01
    assert np.abs(draws.std(0).numpy() - 1).max() < 0.02


def test_points_on_the_faces_of_the_cube_are_moved_inside_alike(monkeypatch):
    faces = torch.tensor([[0.0], [1.0]], dtype=F64)
    monkeypatch.setattr(torch.quasirandom.SobolEngine, "draw", lambda *_, **__: faces)
    low, high = normal_draws(2, 1, seed=0)[:, 0].tolist()
    # The density outside is that of half a step of the grid.
    assert low == -high == pytest.approx(norm.ppf(2.0**-31))

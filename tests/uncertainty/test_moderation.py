import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from sklearn_hfl.posterior.link import log_probabilities
from sklearn_hfl.uncertainty.moderation import (
    LogitPosterior,
    entropy,
    mixed,
    n_draws,
    normal_draws,
)
from tests.cases import F64, generator, randn

DRAWS = {k: normal_draws(n_draws(k), k, seed=0) for k in (2, 3, 5, 10, 100)}


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
    averages = post.averaged(DRAWS[max(k, 2)])
    assert_close(averages.log_mean, expected)
    assert_close(averages.variance, torch.zeros_like(expected))
    assert_close(averages.mean_entropy, entropy(expected))


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
    for ours, theirs in zip(averages(single), averages(post), strict=True):
        assert_close(ours, theirs)


def averages(post, probit=False):
    """log E p, Var p and E H(p)."""
    found = post.averaged(DRAWS[max(post.mean.shape[1], 2)], probit)
    return found.log_mean, found.variance, found.mean_entropy


def quadrature(mean, sd):
    inside = lambda f: expit(f) * norm.pdf(f, mean, sd)  # noqa: E731
    return quad(inside, mean - 10 * sd, mean + 10 * sd, limit=200)[0]


@pytest.mark.parametrize("size", [0.3, 1.0, 3.0])
def test_binary_means_are_near_the_integral(size):
    post = posterior(1, size)
    sds = post.covariance[:, 0, 0].sqrt()
    exact = [quadrature(float(m), float(s)) for m, s in zip(post.mean[:, 0], sds, strict=True)]
    exact = torch.tensor(exact, dtype=F64)
    assert_close(averages(post)[0].exp()[:, 1], exact, rtol=0, atol=1e-7)
    # MacKay's approximation is known to be good to about 0.02.
    assert_close(post.probit().exp()[:, 1], exact, rtol=0, atol=0.02)


def brute_force(post, n=400_000):
    """E p, std p and E H(p) over many plain draws."""
    root = torch.linalg.cholesky(post.covariance)
    total = 0
    for seed in range(10):
        z = torch.randn(n // 10, post.mean.shape[1], generator=generator(seed), dtype=F64)
        log_p = (post.mean[:, None] + z @ root.mT).log_softmax(-1)
        p = log_p.exp()
        total = total + torch.cat([p.sum(1), p.square().sum(1), entropy(log_p).sum(1)[:, None]], 1)
    k = post.mean.shape[1]
    mean, square, entropies = (total / n).split([k, k, 1], dim=1)
    return mean, (square - mean.square()).sqrt(), entropies[:, 0]


# What docs/design/classifier.md says of the draws: (std of the logits, error of a mean, of a std).
OF_DRAWS = [(0.3, 0.001, 0.002), (1.0, 0.002, 0.008), (3.0, 0.004, 0.015)]


@pytest.mark.parametrize(("size", "of_mean", "of_std"), OF_DRAWS)
@pytest.mark.parametrize("k", [3, 5, 10])
def test_multi_class_averages_are_near_monte_carlo(k, size, of_mean, of_std):
    post = posterior(k, size / k**0.5)
    mean, std, entropies = brute_force(post)
    log_mean, variance, mean_entropy = averages(post)
    assert_close(log_mean.exp(), mean, rtol=0, atol=of_mean)
    assert_close(variance.sqrt(), std, rtol=0, atol=of_std)
    assert_close(mean_entropy, entropies, rtol=0, atol=5 * of_mean)


@pytest.mark.parametrize("size", [0.3, 3.0])
def test_many_classes_need_fewer_draws(size):
    rng = generator(3)
    factors = size / 12**0.5 * torch.randn(6, 100, 12, generator=rng, dtype=F64)
    covariance = factors @ factors.mT + 0.05 * size**2 * torch.eye(100, dtype=F64)
    post = LogitPosterior(3 * torch.randn(6, 100, generator=rng, dtype=F64), covariance)
    mean, std, _ = brute_force(post, 100_000)
    log_mean, variance, _ = averages(post)
    assert len(DRAWS[100]) < len(DRAWS[10])
    assert_close(log_mean.exp(), mean, rtol=0, atol=0.02 if size > 1 else 0.001)
    assert_close(variance.sqrt(), std, rtol=0, atol=0.06 if size > 1 else 0.003)


@pytest.mark.parametrize(("size", "tolerance"), [(0.3, 0.025), (0.5, 0.05), (1.0, 0.1)])
@pytest.mark.parametrize("k", [3, 5])
def test_multi_class_probit_is_near_monte_carlo(k, size, tolerance):
    post = posterior(k, size)
    assert_close(post.probit().exp(), brute_force(post)[0], rtol=0, atol=tolerance)
    found = post.averaged(DRAWS[k], probit=True)
    assert_close(found.log_proba, post.probit())
    assert_close(found.log_mean, averages(post)[0])


@pytest.mark.parametrize("k", [3, 10])
def test_singular_covariances_have_roots(k):
    post = posterior(k)
    flat = torch.zeros_like(post.covariance)
    flat[:, 0, 0] = 1e-8  # one class alone is uncertain
    shared = torch.full_like(flat, 4.0)  # of rank one, and of no effect
    for covariance in (flat, shared, flat + shared):
        log_mean, variance, _ = averages(LogitPosterior(post.mean, covariance))
        assert_close(log_mean, post.mean.log_softmax(1), rtol=0, atol=1e-5)
        assert float(variance.max()) < 1e-8
    p = post.mean.softmax(1)
    expected = p * (torch.eye(k, dtype=F64)[0] - p[:, :1])
    std = averages(LogitPosterior(post.mean, flat))[1].sqrt()
    assert_close(std, 1e-4 * expected.abs(), rtol=0.01, atol=1e-12)


@given(st.integers(1, 6), st.integers(-4, 4), st.integers(-4, 8), st.integers(0, 2**20))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_no_std_is_above_what_a_probability_can_vary(k, of_mean, of_covariance, seed):
    post = posterior(k, n=4)
    post = LogitPosterior(
        10.0**of_mean * randn(4, k, seed=seed), 10.0**of_covariance * post.covariance
    )
    draws = normal_draws(64, max(k, 2), seed)
    found = mixed(
        [post.averaged(draws), LogitPosterior(-post.mean, post.covariance).averaged(draws)]
    )
    p = found.log_mean.exp()
    assert found.log_mean.isfinite().all()
    assert (found.variance >= 0).all()
    assert (found.variance <= p * (1 - p) + 1e-12).all()
    assert (found.mean_entropy <= entropy(found.log_mean) + 1e-9).all()


def test_members_are_mixed_by_the_law_of_total_variance():
    parts = [posterior(3, size) for size in (0.5, 2.0)]
    found = mixed([part.averaged(DRAWS[3]) for part in parts])
    p = []
    for part in parts:
        root = torch.linalg.cholesky(part.covariance)
        z = torch.randn(200_000, 3, generator=generator(1), dtype=F64)
        p.append((part.mean[:, None] + z @ root.mT).softmax(-1))
    p = torch.cat(p, dim=1)
    assert_close(found.log_mean.exp(), p.mean(1), rtol=0, atol=5e-3)
    assert_close(found.variance.sqrt(), p.std(1), rtol=0, atol=5e-3)


@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("k", [1, 3])
def test_extremes_stay_finite_and_sum_to_one(k, size):
    post = posterior(k, size)
    post = LogitPosterior(5e3 * post.mean, post.covariance)
    for log_p in (post.probit(), averages(post)[0]):
        assert log_p.isfinite().all()
        assert_close(log_p.exp().sum(1), torch.ones(6, dtype=F64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [1, 3])
def test_information_is_never_negative_and_grows_with_the_variance(k):
    informations = []
    for size in (0.0, 0.5, 2.0):
        log_mean, _, mean_entropy = averages(posterior(k, size))
        informations.append(entropy(log_mean) - mean_entropy)
    assert min(float(i.min()) for i in informations) > -1e-12
    assert (informations[1] > informations[0]).all()
    assert float(informations[2].max()) < math.log(max(k, 2))


def test_blocks_of_queries_hold_no_more_than_they_may(monkeypatch):
    post, draws = posterior(3), DRAWS[3]
    expected = averages(post)
    monkeypatch.setattr("sklearn_hfl.uncertainty.moderation.MAX_BLOCK_NUMBERS", 2 * draws.numel())
    with Largest() as made:
        found = averages(post)
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

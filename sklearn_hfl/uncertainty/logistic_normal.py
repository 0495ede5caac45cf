"""Logistic-normal: the distribution of a probability σ(f) whose logit f is normal."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

__all__ = ["logistic_normal"]

# Beyond these logits σ is e^f or 1 to the last bit of float64: e^-37 < eps/2.
MAX_LOGIT = 37.0
# Standard deviations beyond which a normal distribution has 1e-19 of its mass.
MAX_STDS = 9.0
# Gauss-Legendre nodes. The poles of σ at ±iπ and an interval of ±MAX_LOGIT leave
# (1 + π / MAX_LOGIT)^-2n of the integrand: 1e-14 (tests/uncertainty/test_logistic_normal.py).
N_NODES = 200


def logistic_normal(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of the two probabilities whose log odds are normal, by quadrature.

    The interval of integration is the overlap of the logits that have density and of those
    where σ is neither e^f nor 1. Beyond it both tails are known in closed form, so that small
    probabilities keep their digits.

    Parameters
    ----------
    mean : Tensor of shape (Q,)
        Of the log odds of the second class.
    variance : Tensor of shape (Q,)
        Of the same, ≥ 0.

    Returns
    -------
    log_mean : Tensor of shape (Q, 2)
        Logarithms of E p for both classes.
    variance : Tensor of shape (Q,)
        Of either probability.
    mean_entropy : Tensor of shape (Q,)
        E H(p), in nats.
    """
    # The less probable class has small numbers, which keep their digits; 1 − p would not.
    mu, sd = -mean.double().abs(), variance.double().clamp(min=0.0).sqrt()
    visible = _visible(mu, sd)
    low = (-MAX_LOGIT - mu).div(visible).clamp(min=-MAX_STDS)
    # e^{2f} shifts the density by two of its variances.
    high = torch.minimum((MAX_LOGIT - mu) / visible, MAX_STDS + 2 * sd).maximum(low)
    nodes, weights = (each.to(mu.device) for each in _gauss_legendre())
    half = (0.5 * (high - low))[:, None]
    z = 0.5 * (high + low)[:, None] + half * nodes
    log_weight = (half * weights).log() - 0.5 * z.square() - 0.5 * math.log(2 * math.pi)
    f = mu[:, None] + sd[:, None] * z
    log_p, log_q = -torch.nn.functional.softplus(-f), -torch.nn.functional.softplus(f)
    below, above = (
        _log_exponential_tail(mu, sd, 1),
        torch.special.log_ndtr((mu - MAX_LOGIT) / visible),
    )
    parts = torch.cat([log_weight + log_p, below[:, None], above[:, None]], dim=1)
    log_mean = parts.logsumexp(1).clamp(max=-math.log(2))
    # Around the mean itself, so that small variances are no difference of large numbers.
    p, center, weight = log_p.exp(), log_mean.exp(), log_weight.exp()
    of_p = (weight * (p - center[:, None]).square()).sum(1)
    of_p = of_p + above.exp() * (1 - center).square()
    share = torch.special.ndtr((-MAX_LOGIT - mu) / visible)
    squares = _log_exponential_tail(mu, sd, 2).exp()
    of_p = of_p + (squares - 2 * center * below.exp() + share * center.square()).clamp(min=0.0)
    entropy = -(weight * (p * log_p + log_q.exp() * log_q)).sum(1)
    both = torch.stack([torch.log1p(-center), log_mean], dim=1)
    log_means = torch.where(mean[:, None] > 0, both.flip(1), both)
    return log_means.to(mean), of_p.to(mean), entropy.to(mean)


def _visible(mean: Tensor, sd: Tensor) -> Tensor:
    """Standard deviations that may be divided by: far less than the digits of the mean."""
    return torch.maximum(sd, 1e-20 * (1 + mean.abs()))


def _log_exponential_tail(mean: Tensor, sd: Tensor, order: int) -> Tensor:
    """Log of E e^{order f} where f < −MAX_LOGIT."""
    visible = _visible(mean, sd)
    x = (MAX_LOGIT + mean) / visible + order * sd
    # Φ(−x) e^{order mean + order² sd² / 2}; far out in the tail the exponents nearly cancel.
    inside = (
        -order * MAX_LOGIT
        - 0.5 * ((MAX_LOGIT + mean) / visible).square()
        + (0.5 * torch.special.erfcx(x.clamp(min=0.0) / math.sqrt(2))).log()
    )
    outside = order * mean + 0.5 * (order * sd).square() + torch.special.log_ndtr(-x)
    return torch.where(x > 0, inside, outside)


@cache
def _gauss_legendre() -> tuple[Tensor, Tensor]:
    """Nodes and weights on (−1, 1), by the eigenvalues of the Jacobi matrix (Golub & Welsch)."""
    i = torch.arange(1, N_NODES, dtype=torch.float64)
    off = i / (4 * i.square() - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return nodes, 2 * vectors[0].square()

"""Moderation: class probabilities that average over the posterior of the logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_hfl.uncertainty.logistic_normal import logistic_normal

__all__ = [
    "LogitPosterior",
    "Moderation",
    "entropy",
    "mean_log",
    "mixed",
    "n_draws",
    "normal_draws",
]

# Numbers in one block of draws: 8 MB in float64, about what a processor's cache holds.
MAX_BLOCK_NUMBERS = 10**6
# Added to the diagonal of a correlation matrix, in units of eps and classes, so that its Cholesky
# factor exists: rounding leaves singular ones with eigenvalues of a few eps below 0. Larger
# multiples follow if that is not enough.
JITTER = 100
# Draws times classes, to which the time is proportional; the errors that so many leave are in
# the table of docs/design/classifier.md.
DRAWN_NUMBERS = 2**15


@dataclass(frozen=True)
class LogitPosterior:
    """Gaussian posterior of the logits at Q queries; a single logit is that of two classes.

    Parameters
    ----------
    mean : Tensor of shape (Q, K)
        Of the posterior.
    covariance : Tensor of shape (Q, K, K)
        Of the K logits at a query. What all logits share does not matter.
    """

    mean: Tensor
    covariance: Tensor

    def probit(self) -> Tensor:
        """Log of the mean probabilities, by MacKay's probit approximation of each pair.

        For two classes E σ(f) ≈ σ(f / sqrt(1 + π v / 8)) (MacKay, Neural Computation
        4, 1992). For more, softmax_k = 1 / Σ_j exp(f_j − f_k) is moderated
        pair by pair, with the variance of each difference (Daunizeau,
        arXiv:1703.00091), and the result normalised. The means are off by up to 0.02
        for two classes, and for more by 0.05 where the logits' variance is about 1, by
        0.1 where it is about 4 (tests/uncertainty/test_moderation.py).

        Returns
        -------
        Tensor of shape (Q, C)
        """
        mean, covariance = self._of_classes()
        variance = covariance.diagonal(dim1=1, dim2=2)
        of_pair = variance[:, :, None] + variance[:, None, :] - 2 * covariance
        pairs = (mean[:, None, :] - mean[:, :, None]) / (
            1 + math.pi / 8 * of_pair.clamp(min=0.0)
        ).sqrt()
        return (-pairs.logsumexp(-1)).log_softmax(-1)

    def averaged(self, draws: Tensor, probit: bool = False) -> Moderation:
        """Average over the posterior: two classes by quadrature, more over draws of the logits.

        Parameters
        ----------
        draws : Tensor of shape (S, C)
            Standard normal numbers, the same for every query. The first columns, which Sobol
            points fill best, go to the classes of the largest logits.
        probit : bool
            Whether ``log_proba`` is to be that of ``probit``.

        Returns
        -------
        Moderation
        """
        if self.mean.shape[1] <= 2:
            log_mean, variance, entropies = logistic_normal(*self._log_odds())
            log_proba = self.probit() if probit else log_mean
            return Moderation(log_proba, log_mean, variance[:, None].expand(-1, 2), entropies)
        mean, order = self.mean.sort(dim=1, descending=True, stable=True)
        rows = torch.arange(len(mean), device=mean.device)[:, None, None]
        root = _root(self.covariance[rows, order[:, :, None], order[:, None, :]])
        size = max(1, MAX_BLOCK_NUMBERS // draws.numel())
        parts = [
            _averages(m, r, draws) for m, r in zip(mean.split(size), root.split(size), strict=True)
        ]
        log_means, variances, entropies = (torch.cat(each) for each in zip(*parts, strict=True))
        back = order.argsort(dim=1)
        log_mean = log_means.log_softmax(-1).gather(1, back)
        log_proba = self.probit() if probit else log_mean
        return Moderation(log_proba, log_mean, variances.gather(1, back), entropies)

    def _log_odds(self) -> tuple[Tensor, Tensor]:
        """Mean and variance (Q,) of the log odds of the second of two classes."""
        if self.mean.shape[1] == 1:
            return self.mean[:, 0], self.covariance[:, 0, 0]
        contrast = self.mean.new_tensor([-1.0, 1.0])
        return self.mean @ contrast, self.covariance @ contrast @ contrast

    def _of_classes(self) -> tuple[Tensor, Tensor]:
        """Mean (Q, C) and covariance (Q, C, C), with a zero logit for the first of two classes."""
        if self.mean.shape[1] > 1:
            return self.mean, self.covariance
        pad = torch.nn.functional.pad
        return pad(self.mean, (1, 0)), pad(self.covariance, (1, 0, 1, 0))


@dataclass(frozen=True)
class Moderation:
    """The probabilities of C classes under the posterior of the logits at Q queries.

    Attributes
    ----------
    log_proba : Tensor of shape (Q, C)
        log E p, or the approximation of it that was asked for.
    log_mean : Tensor of shape (Q, C)
        log E p.
    variance : Tensor of shape (Q, C)
        Of each p.
    mean_entropy : Tensor of shape (Q,)
        E H(p), in nats.
    """

    log_proba: Tensor
    log_mean: Tensor
    variance: Tensor
    mean_entropy: Tensor


def mixed(parts: Sequence[Moderation]) -> Moderation:
    """Moments of the equal mixture of the members' posteriors, by the law of total variance.

    Parameters
    ----------
    parts : sequence of Moderation
        Of each member.

    Returns
    -------
    Moderation
    """
    means = torch.stack([part.log_mean.exp() for part in parts])
    return Moderation(
        mean_log([part.log_proba for part in parts]),
        mean_log([part.log_mean for part in parts]),
        torch.stack([part.variance for part in parts]).mean(0) + means.var(0, correction=0),
        torch.stack([part.mean_entropy for part in parts]).mean(0),
    )


def mean_log(log_probabilities: Sequence[Tensor]) -> Tensor:
    """Log of the members' mean probabilities.

    Parameters
    ----------
    log_probabilities : sequence of Tensor of shape (Q, C)
        Of each member.

    Returns
    -------
    Tensor of shape (Q, C)
    """
    stacked = torch.stack(list(log_probabilities))
    return (stacked.logsumexp(0) - math.log(len(stacked))).log_softmax(-1)


def _averages(mean: Tensor, root: Tensor, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Averages over draws: log E p (q, C), Var p (q, C) and E H(p) (q,)."""
    log_p = (draws @ root.mT).add_(mean[:, None, :]).log_softmax(-1)
    log_mean = log_p.logsumexp(1) - math.log(len(draws))
    p = log_p.exp()
    mean_entropy = -(p * log_p).sum((1, 2)) / len(draws)
    # Around the mean, so that small variances are no difference of large numbers.
    variance = p.sub_(log_mean.exp()[:, None, :]).square_().mean(1)
    return log_mean, variance, mean_entropy


def _root(covariance: Tensor) -> Tensor:
    """Lower roots (Q, C, C) of covariances that may be singular, up to rounding."""
    std = covariance.diagonal(dim1=1, dim2=2).clamp(min=0.0).sqrt()
    unit = torch.where(std > 0, std, 1.0)
    matrix = covariance / (unit[:, :, None] * unit[:, None, :])
    eye = torch.eye(matrix.shape[1]).to(matrix)
    jitter = JITTER * torch.finfo(matrix.dtype).eps * matrix.shape[1]
    factor, info = torch.linalg.cholesky_ex(matrix + jitter * eye)
    while (info > 0).any() and jitter < 1:  # what is not finite never has a root
        jitter *= 10
        failed = info > 0
        factor[failed], info[failed] = torch.linalg.cholesky_ex(matrix[failed] + jitter * eye)
    return std[:, :, None] * factor


def entropy(log_p: Tensor) -> Tensor:
    """−Σ p log p over the last axis, in nats.

    Parameters
    ----------
    log_p : Tensor of shape (..., C)
        Finite log probabilities.

    Returns
    -------
    Tensor of shape (...)
    """
    return -(log_p.exp() * log_p).sum(-1)


def n_draws(n_classes: int) -> int:
    """Number of draws: fewer for more classes, of which few are probable at a query.

    Parameters
    ----------
    n_classes : int
        C.

    Returns
    -------
    int
        A power of two.
    """
    return 2 ** max(8, int(math.log2(DRAWN_NUMBERS / n_classes)))


def normal_draws(n_draws: int, n_classes: int, seed: int) -> Tensor:
    """Standard normal numbers from scrambled Sobol points, which fill space evenly.

    Parameters
    ----------
    n_draws : int
        S; a power of two keeps the points balanced.
    n_classes : int
        C.
    seed : int
        Of the scrambling.

    Returns
    -------
    Tensor of shape (S, C)
        float64, on the CPU.
    """
    engine = torch.quasirandom.SobolEngine(n_classes, scramble=True, seed=seed)
    points = engine.draw(n_draws, dtype=torch.float64)
    # Points lie on a grid of 2⁻³⁰ and may touch 0: half a step moves them inside.
    return torch.special.ndtri(points.clamp(2.0**-31, 1 - 2.0**-31))

"""Moderation: class probabilities that average over the posterior of the logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LogitPosterior", "entropy", "normal_draws"]

# Numbers that one block of draws may hold.
MOST_NUMBERS = 10**7


@dataclass(frozen=True)
class LogitPosterior:
    """Gaussian posterior of the logits at Q queries; a single logit is that of two classes.

    Parameters
    ----------
    mean : Tensor of shape (Q, K)
        At the MAP.
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

    def sampled(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Log of the mean probabilities and the mean entropy, over draws of the logits.

        Parameters
        ----------
        draws : Tensor of shape (S, C)
            Standard normal numbers, the same for every query.

        Returns
        -------
        log_mean : Tensor of shape (Q, C)
            log E p.
        mean_entropy : Tensor of shape (Q,)
            E H(p), in nats.
        """
        mean, covariance = self._of_classes()
        values, vectors = torch.linalg.eigh(covariance)
        root = vectors * values.clamp(min=0.0).sqrt()[:, None, :]
        size = max(1, MOST_NUMBERS // draws.numel())
        parts = []
        for m, r in zip(mean.split(size), root.split(size), strict=True):
            log_p = (m[:, None, :] + draws @ r.mT).log_softmax(-1)
            log_mean = log_p.logsumexp(1) - math.log(len(draws))
            parts.append((log_mean, entropy(log_p).mean(1)))
        log_means, entropies = zip(*parts, strict=True)
        return torch.cat(log_means).log_softmax(-1), torch.cat(entropies)

    def _of_classes(self) -> tuple[Tensor, Tensor]:
        """Mean (Q, C) and covariance (Q, C, C), with a zero logit for the first of two classes."""
        if self.mean.shape[1] > 1:
            return self.mean, self.covariance
        pad = torch.nn.functional.pad
        return pad(self.mean, (1, 0)), pad(self.covariance, (1, 0, 1, 0))


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


def normal_draws(n_draws: int, n_classes: int, seed: int) -> Tensor:
    """Standard normal numbers that fill the space evenly (scrambled Sobol points).

    Parameters
    ----------
    n_draws : int
        S, best a power of two.
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

"""Deletion: training rows taken out of a posterior, without another fit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Normal

from sklearn_hfl.posterior.likelihood import GaussianLikelihood, Likelihood, curvature_slope

__all__ = ["Deletion", "deletion", "left_out_weight", "log_density_of_labels", "normal_log_density"]


@dataclass(frozen=True)
class Deletion:
    """Each of n rows, and what the others predict for it: K outputs.

    Attributes
    ----------
    fitted, moved : Tensor of shape (n, K)
        Outputs f at the MAP, and f' at that of the other rows.
    mean : Tensor of shape (n, K)
        Outputs at the mean of the posterior of the other rows, which is f' where its shift is
        not known.
    covariance : Tensor of shape (n, K, K)
        S' of the outputs, given the other rows.
    pull : Tensor of shape (n, K)
        (I − Λ S)⁻¹ s. Without the row any other output moves by its covariance with the
        outputs of this row, given all rows, times this.
    leverage : Tensor of shape (n, K)
        Diagonal of S Λ: how much each output follows the row's own target. The sum over all
        rows, by weight, and outputs is γ.
    remaining : Tensor of shape (n,)
        Smallest eigenvalue of I − S Λ, > 0: 1 − leverage, where there is one output. A relative
        error of S is larger by the inverse of this in S'.
    """

    fitted: Tensor
    moved: Tensor
    mean: Tensor
    covariance: Tensor
    pull: Tensor
    leverage: Tensor
    remaining: Tensor

    def log_density(self, likelihood: Likelihood, y: Tensor) -> Tensor:
        """Log density (n,) of targets y: of a Gaussian with the variance of f added."""
        if not isinstance(likelihood, GaussianLikelihood):
            return log_density_of_labels(likelihood, self.moved, y)
        return normal_log_density(y, *self._moments(likelihood))

    def standardized(self, likelihood: Likelihood, y: Tensor) -> Tensor:
        """Residuals (n, K) in standard deviations of such Gaussians; (n, 0) for classes."""
        if not isinstance(likelihood, GaussianLikelihood):
            return y[:, :0]
        mean, variance = self._moments(likelihood)
        return (y - mean) / variance.sqrt()

    def _moments(self, likelihood: GaussianLikelihood) -> tuple[Tensor, Tensor]:
        """Mean and variance (n, K) of the targets of new rows like these."""
        mean = likelihood.mean_link.value(self.moved)
        of_mean = self.covariance.diagonal(dim1=1, dim2=2)[:, : mean.shape[1]].clamp(min=0.0)
        return mean, likelihood.noise_variance(self.moved) + of_mean


def deletion(
    likelihood: Likelihood,
    outputs: Tensor,
    covariance: Tensor,
    targets: Tensor,
    one: Tensor,
    shift: Tensor | None = None,
) -> Deletion:
    """Take each row out of a posterior that is linear in the weights.

    Let S be the posterior covariance of a row's outputs f, Λ its curvature and s its score.
    Without the row the covariance is S' = (I − S Λ)⁻¹ S, and the MAP moves the outputs to
    f' = f + S' s: residual / (1 − leverage) for a Gaussian likelihood, which is exact for
    linear networks, and one Newton step for others.

    With S = F Fᵀ, S' = F (I − Fᵀ Λ F)⁻¹ Fᵀ. The eigenvalues of the symmetric FᵀΛF are those of
    S Λ, less than 1; one that rounding, or the tolerance of S, takes to 1 or above is moved just
    below it, and S with it.

    Parameters
    ----------
    likelihood : Likelihood
        Of the rows.
    outputs : Tensor of shape (n, K)
        f.
    covariance : Tensor of shape (n, K, K)
        S.
    targets : Tensor of shape (n, ...)
        As the likelihood takes them.
    one : Tensor of shape (n,)
        Weight that is left out of each row.
    shift : Tensor of shape (n, K), default=None
        Of the outputs, from the MAP to the posterior mean (``posterior_mean_shift``). That of
        the fit without the row lacks the row's own part, −S ∇½tr(S Λ), and the response to
        the other rows' parts is larger by (I − S Λ)⁻¹. These parts themselves stay as they are.

    Returns
    -------
    Deletion
    """
    root = _root(covariance)
    shares, turn = _eigh(likelihood.curvature(outputs, one, root.mT) @ root)
    most = 1 - torch.finfo(shares.dtype).eps
    root = root @ turn * (most / shares.clamp(min=most)).sqrt()[:, None]
    shares = shares.clamp(min=0.0, max=most)
    without = (root / (1 - shares)[:, None]) @ root.mT
    score = likelihood.score(outputs, targets, one)
    change = (without @ score[..., None])[..., 0]
    # (I − Λ S)⁻¹ = I + Λ S'.
    pull = score + likelihood.curvature(outputs, one, change[:, None])[:, 0]
    moved = mean = outputs + change
    if shift is not None:
        # (I − S Λ)⁻¹ (shift + S ∇½tr) = shift + S' (Λ shift + ∇½tr).
        slope = likelihood.curvature(outputs, one, shift[:, None])[:, 0]
        slope += curvature_slope(likelihood, outputs, one, root @ root.mT)
        mean = moved + shift + (without @ slope[..., None])[..., 0]
    curved = likelihood.curvature(outputs, one, root.mT).mT
    leverage = (root * curved).sum(2)
    return Deletion(outputs, moved, mean, without, pull, leverage, 1 - shares.amax(1))


def _root(S: Tensor) -> Tensor:
    """F (n, K, K) of S = F Fᵀ, from correlations: outputs may differ in scale."""
    scale = S.diagonal(dim1=1, dim2=2).clamp(min=0.0).sqrt()
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    values, vectors = _eigh(inverse[:, :, None] * S * inverse[:, None, :])
    return scale[:, :, None] * vectors * values.clamp(min=0.0).sqrt()[:, None, :]


def left_out_weight(sample_weight: Tensor) -> Tensor:
    """Weight that is left out of each row: one row of those that it counts as.

    Parameters
    ----------
    sample_weight : Tensor of shape (n,)
        Of the rows.

    Returns
    -------
    Tensor of shape (n,)
    """
    return sample_weight.clamp(max=1.0)


def log_density_of_labels(likelihood: Likelihood, outputs: Tensor, y: Tensor) -> Tensor:
    """Log density of labels, at given outputs.

    Parameters
    ----------
    likelihood : Likelihood
        Of classes.
    outputs : Tensor of shape (n, K)
        Where.
    y : Tensor of shape (n, K)
        Labels.

    Returns
    -------
    Tensor of shape (n,)
    """
    # Each row is a problem of its own, since the loss is a sum.
    return -likelihood.loss(outputs[:, None], y[:, None], torch.ones_like(outputs[:, :1]))


def normal_log_density(y: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Log density of independent normal columns.

    Parameters
    ----------
    y, mean, variance : Tensor of shape (n, K)
        Values, and moments.

    Returns
    -------
    Tensor of shape (n,)
    """
    return Normal(mean, variance.sqrt(), validate_args=False).log_prob(y).sum(-1)


def _eigh(A: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors of symmetric matrices; NaN for those that are not finite."""
    finite = A.isfinite().all(2).all(1)[:, None]
    values, vectors = torch.linalg.eigh(torch.where(finite[:, :, None], A, 0.0))
    return torch.where(finite, values, torch.nan), vectors

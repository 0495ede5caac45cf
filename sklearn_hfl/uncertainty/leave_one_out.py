"""Leave-one-out: how well the other rows predict each row, without another fit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.posterior.likelihood import GaussianLikelihood

__all__ = ["LeaveOneOut", "leave_one_out"]


# Standard errors by which a fit has to fall short of guessing.
SURE = 3.0


@dataclass(frozen=True)
class LeaveOneOut:
    """Log densities of the training rows, in nats, and how many rows each counts as.

    Attributes
    ----------
    weight : Tensor of shape (N,)
        Rows that each row counts as.
    fitted : Tensor of shape (N,)
        At the MAP, which has seen the row.
    left_out : Tensor of shape (N,)
        At the MAP of the other rows.
    guessed : Tensor of shape (N,)
        Without the features: by class frequencies, or by mean and standard deviation of y.
    """

    weight: Tensor
    fitted: Tensor
    left_out: Tensor
    guessed: Tensor

    def mean(self, values: Tensor) -> float:
        """Weighted mean of a value (N,) of each row."""
        return float(self.weight @ values / self.weight.sum())

    @property
    def worse_than_guessing(self) -> bool:  # numpydoc ignore=RT01
        """Whether the other rows predict a row worse than a guess does, beyond chance."""
        gain = self.left_out - self.guessed
        mean, total = self.mean(gain), float(self.weight.sum())
        error = (self.mean((gain - mean).square()) / total) ** 0.5
        return mean + SURE * error < 0


def leave_one_out(estimate: MapEstimate) -> LeaveOneOut:
    """Take each row out of the linearised posterior in turn.

    Let S be the posterior covariance of a row's outputs f, Λ its curvature and s its score.
    Without the row the covariance is S' = (I − S Λ)⁻¹ S, and the MAP moves the outputs to
    f + S' s: residual / (1 − leverage) for a Gaussian likelihood, which is exact for linear
    networks, and one Newton step for others.

    Parameters
    ----------
    estimate : MapEstimate
        With its data.

    Returns
    -------
    LeaveOneOut
        Of regression with the variance of f beside that of the noise, and of classes with the
        probabilities at the moved outputs.
    """
    lp = estimate.log_posterior
    outputs, covariance = estimate.curvature().output_posterior(estimate.subspace.root())
    weight, likelihood = lp.sample_weight, lp.likelihood
    units = torch.eye(outputs.shape[1]).to(outputs).expand_as(covariance)
    curved = likelihood.curvature(outputs, weight, units)
    without = torch.linalg.solve(units - covariance @ curved, covariance)
    score = likelihood.score(outputs, lp.targets(slice(None)), weight)
    moved = outputs + (without @ score[..., None])[..., 0]
    if isinstance(likelihood, GaussianLikelihood):
        spread = without.diagonal(dim1=1, dim2=2)[:, : lp.y.shape[1]].clamp(min=0.0)
        link = likelihood.mean_link.value
        fitted = _normal(lp.y, link(outputs), likelihood.noise_variance(outputs))
        left_out = _normal(lp.y, link(moved), likelihood.noise_variance(moved) + spread)
        centre = weight @ lp.y / weight.sum()
        variance = weight @ (lp.y - centre).square() / weight.sum()
        guessed = _normal(lp.y, centre, torch.where(variance > 0, variance, 1.0))
    else:
        frequency = weight @ lp.y / weight.sum()
        guess = frequency.log() if len(frequency) > 1 else frequency.logit()
        fitted, left_out, guessed = (
            # Each row is a problem of its own, since the loss is a sum.
            -likelihood.loss(f[:, None], lp.y[:, None], torch.ones_like(weight)[:, None])
            for f in (outputs, moved, guess.expand_as(outputs))
        )
    return LeaveOneOut(weight, fitted, left_out, guessed)


def _normal(y: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Log density (N,) of y (N, K), of independent columns."""
    density = (y - mean).square() / variance + variance.log() + math.log(2 * math.pi)
    return -0.5 * density.sum(-1)

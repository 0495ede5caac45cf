"""Leave-one-out: how well the other rows predict each row, without another fit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.posterior.likelihood import GaussianLikelihood

__all__ = ["LeaveOneOut", "leave_one_out"]

# Standard errors, and nats, by which a fit has to fall short of guessing.
SURE = 3.0
MATERIAL = 0.03


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
        Without the features: by class frequencies, or mean and standard deviation of y, of the
        other rows.
    """

    weight: Tensor
    fitted: Tensor
    left_out: Tensor
    guessed: Tensor

    @property
    def n_rows(self) -> float:  # numpydoc ignore=RT01
        """Rows, each counted by its weight."""
        return float(self.weight.sum())

    def mean(self, values: Tensor) -> float:
        """Weighted mean of a value (N,) of each row."""
        return float(self.weight @ values) / self.n_rows

    def gain(self, other: Tensor) -> tuple[float, float]:
        """Mean, with its standard error, of the log density left out above ``other`` (N,)."""
        gain = self.left_out - other
        mean = self.mean(gain)
        return mean, (self.mean((gain - mean).square()) / max(self.n_rows - 1.0, 1.0)) ** 0.5

    @property
    def over_fitted(self) -> bool:  # numpydoc ignore=RT01
        """Whether rows left out are less probable than guessed, beyond chance, and fitted more."""
        mean, error = self.gain(self.guessed)
        worse = mean + max(SURE * error, MATERIAL) < 0
        return worse and self.mean(self.fitted - self.guessed) > 0


def leave_one_out(estimate: MapEstimate) -> LeaveOneOut:
    """Take each row out of the linearised posterior in turn.

    Let S be the posterior covariance of a row's outputs f, Λ its curvature and s its score.
    Without the row the covariance is S' = (I − S Λ)⁻¹ S, and the MAP moves the outputs to
    f + S' s: residual / (1 − leverage) for a Gaussian likelihood, which is exact for linear
    networks, and one Newton step for others. A row of weight w counts as w rows, of which one
    is left out.

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
    one = weight.clamp(max=1.0)
    curved = likelihood.curvature(outputs, one, units)
    without = torch.linalg.solve(units - covariance @ curved, covariance)
    score = likelihood.score(outputs, lp.targets(slice(None)), one)
    moved = outputs + (without @ score[..., None])[..., 0]
    if isinstance(likelihood, GaussianLikelihood):
        spread = without.diagonal(dim1=1, dim2=2)[:, : lp.y.shape[1]].clamp(min=0.0)
        link = likelihood.mean_link.value
        fitted = _normal(lp.y, link(outputs), likelihood.noise_variance(outputs))
        left_out = _normal(lp.y, link(moved), likelihood.noise_variance(moved) + spread)
        guessed = _normal_guess(lp.y, weight, one)
    else:
        guess = _frequencies(lp.y, weight, one)
        fitted, left_out, guessed = (
            # Each row is a problem of its own, since the loss is a sum.
            -likelihood.loss(f[:, None], lp.y[:, None], torch.ones_like(weight)[:, None])
            for f in (outputs, moved, guess.log() if guess.shape[1] > 1 else guess.logit())
        )
    return LeaveOneOut(weight, fitted, left_out, guessed)


def _normal_guess(y: Tensor, weight: Tensor, one: Tensor) -> Tensor:
    """Log density (N,) by mean and variance of the other rows; of all, where those are equal."""
    y = y - weight @ y / weight.sum()
    others = (weight.sum() - one).clamp(min=1.0)[:, None]
    mean = -one[:, None] * y / others
    variance = (weight @ y.square() - one[:, None] * y.square()) / others - mean.square()
    whole = weight @ y.square() / weight.sum()
    variance = torch.where(variance > 1e-6 * whole, variance, whole)
    return _normal(y, mean, torch.where(variance > 0, variance, 1.0))


def _frequencies(y: Tensor, weight: Tensor, one: Tensor) -> Tensor:
    """Frequencies (N, K) of the classes among the other rows, and one more of each class."""
    classes = max(2, y.shape[1])
    counts = weight @ y + 1 - one[:, None] * y
    return counts / (weight.sum() + classes - one)[:, None]


def _normal(y: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Log density (N,) of y (N, K), of independent columns."""
    density = (y - mean).square() / variance + variance.log() + math.log(2 * math.pi)
    return -0.5 * density.sum(-1)

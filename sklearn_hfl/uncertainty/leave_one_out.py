"""Leave-one-out: how well the other rows predict each row, without another fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, Self

import torch
from torch import Tensor

from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.likelihood import GaussianLikelihood, Likelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.uncertainty.deletion import (
    deletion,
    left_out_weight,
    log_density_of_labels,
    normal_log_density,
)
from sklearn_hfl.uncertainty.tails import Tails, power_sums, rescaling_gain, tails

__all__ = ["LeaveOneOut", "leave_one_out"]

# A fit is over-fitted if it predicts left-out rows worse than a model without features, by more
# than both of these (standard errors; nats per row). With these values the tests' linear fits to
# pure noise are not reported, and networks that fit noise are (docs/design/reliable_fits.md).
MIN_STANDARD_ERRORS = 3.0
MIN_SHORTFALL = 0.03


class LeaveOneOut(Protocol):
    """Log densities of the training rows, in nats."""

    @property
    def n_rows(self) -> float:  # numpydoc ignore=RT01
        """Rows, each counted by its weight."""

    @property
    def log_density(self) -> float:  # numpydoc ignore=RT01
        """Mean at the MAP, to which the rows were fitted."""

    @property
    def log_density_left_out(self) -> float:  # numpydoc ignore=RT01
        """Mean of each row at the MAP of the others."""

    def gain_over(self, other: Self) -> tuple[float, float]:
        """Mean, with its standard error, of the log density left out above that of another fit."""

    @property
    def over_fitted(self) -> bool:  # numpydoc ignore=RT01
        """Whether rows have less density than guessed when left out, and more when fitted."""

    @property
    def powers(self) -> Tensor:  # numpydoc ignore=RT01
        """Of the residuals left out, in their standard deviations: see ``power_sums``."""

    @property
    def tails(self) -> Tails | None:  # numpydoc ignore=RT01
        """Of the residuals left out; None for classes."""
        return tails(self.powers)

    @property
    def rescaling_gain(self) -> float:  # numpydoc ignore=RT01
        """Nats a row that noise of the right size would add to the density left out."""
        return rescaling_gain(self.powers)


@dataclass(frozen=True)
class RowDensities(LeaveOneOut):
    """Log densities of rows that this process holds, and their weights.

    Attributes
    ----------
    weight : Tensor of shape (N,)
        Number of rows that each row counts as.
    fitted : Tensor of shape (N,)
        At the MAP, to which the row was fitted.
    left_out : Tensor of shape (N,)
        At the MAP of the other rows.
    guessed : Tensor of shape (N,)
        Without the features: by class frequencies, or mean and standard deviation of y, of the
        other rows.
    residuals : Tensor of shape (N, K)
        At the MAP of the other rows, in standard deviations; (N, 0) for classes.
    """

    weight: Tensor
    fitted: Tensor
    left_out: Tensor
    guessed: Tensor
    residuals: Tensor

    @property
    def n_rows(self) -> float:  # numpydoc ignore=RT01
        """Rows, each counted by its weight."""
        return float(self.weight.sum())

    def mean(self, values: Tensor) -> float:
        """Weighted mean of a value (N,) of each row."""
        return float(self.weight @ values) / self.n_rows

    @property
    def log_density(self) -> float:  # numpydoc ignore=RT01
        """Mean at the MAP."""
        return self.mean(self.fitted)

    @property
    def log_density_left_out(self) -> float:  # numpydoc ignore=RT01
        """Mean at the MAP of the other rows."""
        return self.mean(self.left_out)

    def gain_over(self, other: Self) -> tuple[float, float]:
        """Mean, with its standard error, of the log density left out above that of another fit."""
        return self.gain(other.left_out)

    def gain(self, other: Tensor) -> tuple[float, float]:
        """Mean, with its standard error, of the log density left out above ``other`` (N,)."""
        gain = self.left_out - other
        mean = self.mean(gain)
        return mean, (self.mean((gain - mean).square()) / max(self.n_rows - 1.0, 1.0)) ** 0.5

    @property
    def over_fitted(self) -> bool:  # numpydoc ignore=RT01
        """Whether rows have less density than guessed when left out, and more when fitted."""
        return _over_fitted(*self.gain(self.guessed), self.mean(self.fitted - self.guessed))

    @cached_property
    def powers(self) -> Tensor:
        """Of the residuals left out."""
        return power_sums(self.residuals, self.weight)


@dataclass(frozen=True)
class ChunkDensities(LeaveOneOut):
    """The same of rows in chunks, of which only sums are known.

    Attributes
    ----------
    estimate : MapEstimate
        Whose rows these are.
    """

    estimate: MapEstimate

    @cached_property
    def _sums(self) -> Tensor:
        """Of 1, fitted, left out, left out − guessed and its square, fitted − guessed; powers."""
        lp, weights = self.estimate.log_posterior, self.estimate.weights
        return lp.over_chunks(_sums, weights, self.estimate.subspace.root(), target_sums(lp))

    def _mean(self, number: int) -> float:
        return float(self._sums[number]) / self.n_rows

    @property
    def n_rows(self) -> float:  # numpydoc ignore=RT01
        """Rows, each counted by its weight."""
        return float(self._sums[0])

    @property
    def log_density(self) -> float:  # numpydoc ignore=RT01
        """Mean at the MAP."""
        return self._mean(1)

    @property
    def log_density_left_out(self) -> float:  # numpydoc ignore=RT01
        """Mean at the MAP of the other rows."""
        return self._mean(2)

    def gain_over(self, other: Self) -> tuple[float, float]:
        """Mean, with its standard error, of the log density left out above that of another fit."""
        own, theirs = self.estimate, other.estimate
        simpler = theirs.log_posterior.without_data(), theirs.weights, theirs.subspace.root()
        sums = own.log_posterior.over_chunks(_gain_sums, own.weights, own.subspace.root(), simpler)
        return _mean_and_error(*sums)

    @property
    def over_fitted(self) -> bool:  # numpydoc ignore=RT01
        """Whether rows have less density than guessed when left out, and more when fitted."""
        return _over_fitted(*_mean_and_error(*self._sums[[0, 3, 4]]), self._mean(5))

    @property
    def powers(self) -> Tensor:  # numpydoc ignore=RT01
        """Of the residuals left out."""
        return self._sums[6:].view(6, -1)


def _over_fitted(gain: float, error: float, of_fitted: float) -> bool:
    """Gain over a guess when left out, with its standard error, and gain when fitted."""
    return gain + max(MIN_STANDARD_ERRORS * error, MIN_SHORTFALL) < 0 < of_fitted


def _mean_and_error(weight: Tensor, total: Tensor, squares: Tensor) -> tuple[float, float]:
    """Weighted mean and its standard error, from Σ w, Σ w g and Σ w g²."""
    n, mean = float(weight), float(total / weight)
    variance = max(float(squares / weight) - mean**2, 0.0)
    return mean, (variance / max(n - 1.0, 1.0)) ** 0.5


def _sums(lp: LogPosterior, weights: Tensor, root: Tensor, targets: TargetSums) -> Tensor:
    fitted, left_out, residuals = _densities(lp, weights, root)
    guessed = _guessed(lp, targets)
    gain = left_out - guessed
    ones = torch.ones_like(gain)
    values = [ones, fitted, left_out, gain, gain.square(), fitted - guessed]
    powers = power_sums(residuals, lp.sample_weight)
    return torch.cat([torch.stack(values) @ lp.sample_weight, powers.flatten()])


def _gain_sums(
    lp: LogPosterior,
    weights: Tensor,
    root: Tensor,
    simpler: tuple[LogPosterior, Tensor, Tensor],
) -> Tensor:
    """Sums of 1, the gain over the ``simpler`` fit when left out, and its square."""
    theirs = replace(simpler[0], X=lp.X, y=lp.y, sample_weight=lp.sample_weight)
    gain = _densities(lp, weights, root)[1] - _densities(theirs, *simpler[1:])[1]
    return torch.stack([torch.ones_like(gain), gain, gain.square()]) @ lp.sample_weight


def leave_one_out(estimate: MapEstimate) -> LeaveOneOut:
    """Take each row out of the linearised posterior in turn, see ``deletion``.

    A row of weight w counts as w rows, of which one is left out. What the subspace of the
    estimate does not hold is neglected.

    Parameters
    ----------
    estimate : MapEstimate
        With its data.

    Returns
    -------
    LeaveOneOut
        For regression with the variance of f added to that of the noise; for classes by the
        probabilities at the moved outputs.
    """
    lp = estimate.log_posterior
    if lp.chunks is not None:
        return ChunkDensities(estimate)
    fitted, left_out, residuals = _densities(lp, estimate.weights, estimate.subspace.root())
    guessed = _guessed(lp, target_sums(lp))
    return RowDensities(lp.sample_weight, fitted, left_out, guessed, residuals)


def _densities(lp: LogPosterior, weights: Tensor, root: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log densities (N,), fitted and left out, and residuals (N, K), for a ``root`` of A⁻¹."""
    blocks = GaussNewton(lp, weights).output_posteriors(root)
    parts = zip(*(_block(lp, *block) for block in blocks), strict=True)
    fitted, left_out, residuals = map(torch.cat, parts)
    return fitted, left_out, residuals


def _block(
    lp: LogPosterior, rows: slice, outputs: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Log densities (n,) of some rows, fitted and left out, and residuals (n, K) left out."""
    y, likelihood = lp.y[rows], lp.likelihood
    one = left_out_weight(lp.sample_weight[rows])
    left = deletion(likelihood, outputs, covariance, lp.targets(rows), one)
    fitted = _fitted_log_density(likelihood, outputs, y)
    return fitted, left.log_density(likelihood, y), left.standardized(likelihood, y)


def _fitted_log_density(likelihood: Likelihood, outputs: Tensor, y: Tensor) -> Tensor:
    if not isinstance(likelihood, GaussianLikelihood):
        return log_density_of_labels(likelihood, outputs, y)
    return normal_log_density(
        y, likelihood.mean_link.value(outputs), likelihood.noise_variance(outputs)
    )


@dataclass(frozen=True)
class TargetSums:
    """Sums over all rows, from which targets are guessed without features.

    Attributes
    ----------
    weight : Tensor of shape ()
        Σ w.
    total : Tensor of shape (K,)
        Σ w y.
    squares : Tensor of shape (K,)
        Σ w (y − mean)².
    """

    weight: Tensor
    total: Tensor
    squares: Tensor


def target_sums(lp: LogPosterior) -> TargetSums:
    """Add up targets and squares.

    Parameters
    ----------
    lp : LogPosterior
        With its rows.

    Returns
    -------
    TargetSums
    """
    weight, total = lp.total_weight, lp.over_rows(_total)
    return TargetSums(weight, total, lp.over_rows(_squares, total / weight))


def _total(lp: LogPosterior) -> Tensor:
    return lp.sample_weight @ lp.y


def _squares(lp: LogPosterior, mean: Tensor) -> Tensor:
    return lp.sample_weight @ (lp.y - mean).square()


def _guessed(lp: LogPosterior, targets: TargetSums) -> Tensor:
    one = left_out_weight(lp.sample_weight)
    if isinstance(lp.likelihood, GaussianLikelihood):
        return _normal_guess(lp.y, targets, one)
    guess = _frequencies(lp.y, targets, one)
    logits = guess.log() if guess.shape[1] > 1 else guess.logit()
    return log_density_of_labels(lp.likelihood, logits, lp.y)


def _normal_guess(y: Tensor, targets: TargetSums, one: Tensor) -> Tensor:
    """Log density (N,) by mean and variance of the other rows; of all, where those are equal."""
    y = y - targets.total / targets.weight
    others = (targets.weight - one).clamp(min=1.0)[:, None]
    mean = -one[:, None] * y / others
    variance = (targets.squares - one[:, None] * y.square()) / others - mean.square()
    whole = targets.squares / targets.weight
    variance = torch.where(variance > 1e-6 * whole, variance, whole)
    return normal_log_density(y, mean, torch.where(variance > 0, variance, 1.0))


def _frequencies(y: Tensor, targets: TargetSums, one: Tensor) -> Tensor:
    """Frequencies (N, K) of the classes among the other rows, and one more of each class."""
    classes = max(2, y.shape[1])
    counts = targets.total + 1 - one[:, None] * y
    return counts / (targets.weight + classes - one)[:, None]

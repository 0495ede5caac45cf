"""Leave-one-out: how well the other rows predict each row, without another fit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Normal

from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.posterior.likelihood import GaussianLikelihood, Likelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["Deletion", "LeaveOneOut", "deletion", "leave_one_out", "left_out_weight"]

# A fit is over-fitted if it predicts left-out rows worse than a model without features, by more
# than both of these (standard errors; nats per row). With these values the tests' linear fits to
# pure noise are not reported, and networks that fit noise are (docs/design/reliable_fits.md).
MIN_STANDARD_ERRORS = 3.0
MIN_SHORTFALL = 0.03


@dataclass(frozen=True)
class Deletion:
    """Each of n rows, and what the others predict for it: K outputs.

    Attributes
    ----------
    fitted, moved : Tensor of shape (n, K)
        Outputs f at the MAP, and f' at that of the other rows.
    covariance : Tensor of shape (n, K, K)
        S' of the outputs, given the other rows.
    pull : Tensor of shape (n, K)
        (I − Λ S)⁻¹ s. Without the row any other output moves by its covariance with the
        outputs of this row, given all rows, times this.
    hat : Tensor of shape (n, K, K)
        S Λ.
    """

    fitted: Tensor
    moved: Tensor
    covariance: Tensor
    pull: Tensor
    hat: Tensor

    @property
    def leverage(self) -> Tensor:  # numpydoc ignore=RT01
        """Diagonal (n, K) of S Λ: how much each output follows the row's own target.

        The sum over all rows, by weight, and outputs is γ.
        """
        return self.hat.diagonal(dim1=1, dim2=2)

    @property
    def remaining(self) -> Tensor:  # numpydoc ignore=RT01
        """Smallest eigenvalue (n,) of I − S Λ: 1 − leverage, where there is one output.

        A relative error of S is larger by the inverse of this in S'.
        """
        return 1 - torch.linalg.eigvals(self.hat).real.amax(1)

    def log_density(self, likelihood: Likelihood, y: Tensor) -> Tensor:
        """Log density (n,) of targets y: of a Gaussian with the variance of f added."""
        if not isinstance(likelihood, GaussianLikelihood):
            return _of_labels(likelihood, self.moved, y)
        noise = likelihood.noise_variance(self.moved)
        variance = self.covariance.diagonal(dim1=1, dim2=2)[:, : y.shape[1]].clamp(min=0.0)
        return _normal(y, likelihood.mean_link.value(self.moved), noise + variance)


def deletion(
    likelihood: Likelihood, outputs: Tensor, covariance: Tensor, targets: Tensor, one: Tensor
) -> Deletion:
    """Take each row out of a posterior that is linear in the weights.

    Let S be the posterior covariance of a row's outputs f, Λ its curvature and s its score.
    Without the row the covariance is S' = (I − S Λ)⁻¹ S, and the MAP moves the outputs to
    f' = f + S' s: residual / (1 − leverage) for a Gaussian likelihood, which is exact for
    linear networks, and one Newton step for others.

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

    Returns
    -------
    Deletion
    """
    units = torch.eye(outputs.shape[1]).to(outputs).expand_as(covariance)
    hat = covariance @ likelihood.curvature(outputs, one, units)
    without = torch.linalg.solve(units - hat, covariance)
    score = likelihood.score(outputs, targets, one)
    change = (without @ score[..., None])[..., 0]
    # (I − Λ S)⁻¹ = I + Λ S'.
    pull = score + likelihood.curvature(outputs, one, change[:, None])[:, 0]
    return Deletion(outputs, outputs + change, without, pull, hat)


@dataclass(frozen=True)
class LeaveOneOut:
    """Log densities of the training rows, in nats, and their weights.

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
        """Whether rows have less density than guessed when left out, and more when fitted."""
        mean, error = self.gain(self.guessed)
        worse = mean + max(MIN_STANDARD_ERRORS * error, MIN_SHORTFALL) < 0
        return worse and self.mean(self.fitted - self.guessed) > 0


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
    blocks = estimate.curvature().output_posteriors(estimate.subspace.root())
    fitted, left_out = map(torch.cat, zip(*(_block(lp, *block) for block in blocks), strict=True))
    return LeaveOneOut(lp.sample_weight, fitted, left_out, _guessed(lp))


def _block(
    lp: LogPosterior, rows: slice, outputs: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor]:
    """Log densities (n,) of some rows, fitted and left out."""
    y, likelihood = lp.y[rows], lp.likelihood
    left = deletion(likelihood, outputs, covariance, lp.targets(rows), left_out_weight(lp)[rows])
    return _fitted_log_density(likelihood, outputs, y), left.log_density(likelihood, y)


def _fitted_log_density(likelihood: Likelihood, outputs: Tensor, y: Tensor) -> Tensor:
    if not isinstance(likelihood, GaussianLikelihood):
        return _of_labels(likelihood, outputs, y)
    return _normal(y, likelihood.mean_link.value(outputs), likelihood.noise_variance(outputs))


def left_out_weight(lp: LogPosterior) -> Tensor:
    """Weight that is left out of each row: one row of those that it counts as.

    Parameters
    ----------
    lp : LogPosterior
        With the rows' weights.

    Returns
    -------
    Tensor of shape (N,)
    """
    return lp.sample_weight.clamp(max=1.0)


def _guessed(lp: LogPosterior) -> Tensor:
    if isinstance(lp.likelihood, GaussianLikelihood):
        return _normal_guess(lp.y, lp.sample_weight, left_out_weight(lp))
    guess = _frequencies(lp.y, lp.sample_weight, left_out_weight(lp))
    logits = guess.log() if guess.shape[1] > 1 else guess.logit()
    return _of_labels(lp.likelihood, logits, lp.y)


def _of_labels(likelihood: Likelihood, outputs: Tensor, y: Tensor) -> Tensor:
    """Log density (n,) of labels y; each row is a problem of its own, since the loss is a sum."""
    return -likelihood.loss(outputs[:, None], y[:, None], torch.ones_like(outputs[:, :1]))


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
    return Normal(mean, variance.sqrt(), validate_args=False).log_prob(y).sum(-1)

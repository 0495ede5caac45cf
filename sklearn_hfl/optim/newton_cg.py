"""Newton-CG: damped Gauss-Newton far from the MAP, Newton near it, products only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from sklearn_hfl.optim.conjugate_gradients import conjugate_gradients
from sklearn_hfl.optim.damping import Damping
from sklearn_hfl.optim.preconditioner import Preconditioner
from sklearn_hfl.optim.projection import can_project, projected
from sklearn_hfl.optim.solution import Status
from sklearn_hfl.optim.subsample import scaled_subsample, subsample_size
from sklearn_hfl.optim.subspace import Subspace, stationary_radius
from sklearn_hfl.optim.training import (
    Callback,
    Trainer,
    Trajectory,
    no_callback,
    recent_decrease,
)
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["NewtonCG"]

# Newton decrements are in posterior standard deviations. Below this one the output layer is set to
# its optimum after each step. Farther from the MAP it would be fitted to hidden units that are not
# (docs/design/training.md).
PROJECTION_REGION = 10.0
# Below the first, and below the second where Gauss-Newton steps lower the loss by less than
# SLOW sqrt(γ) nats, the true Hessian replaces Gauss-Newton, which converges linearly, and slowly
# in the flat valley around a MAP (docs/design/training.md).
NEWTON_REGION = 1.0
SLOW_REGION = 10.0
SLOW = 0.01
# Solves are truncated: the forcing term min(0.1, sqrt(decrement)) gives superlinear convergence
# (Nocedal & Wright, Numerical Optimization, section 7.1, with 0.5 for 0.1). More accurate solves
# take fewer steps, and more time (docs/design/training.md). A solve that takes more products than
# the maximum is cut off, and costs steps, not accuracy.
MAX_FORCING = 0.1
MAX_CG_ITER = 100
# Of very many rows, products are those of a subsample. Loss and gradient are of all, and so is the
# Hessian within this decrement, where steps of the subsample converge linearly, and after a step
# that was rejected: near the MAP, and where Gauss-Newton of all rows has more than so many times as
# much curvature along it. Otherwise the step was too long, and no outlier of large leverage is
# missing (docs/design/training.md).
ALL_ROWS_REGION = 0.01
MAX_CURVATURE_RATIO = 2.0
# Share of ``tol`` below which training ends wherever it is: relu and other activations with kinks
# have minima at kinks, where the gradient, and so the decrement, does not vanish.
STANDSTILL = 1e-3
# Gain ratio above which a step is accepted: η of Nocedal & Wright, algorithm 4.1.
MIN_GAIN_RATIO = 1e-4
# Allowance for rounding in L, relative: a smaller decrease is not visible.
LOSS_ROUNDING = 1e-12


@dataclass(frozen=True)
class NewtonCG(Trainer):
    """Levenberg-Marquardt steps in whitened weights.

    Each step solves (B + μI) d = −∇L by conjugate gradients, preconditioned by the curvature of
    this or an earlier step; B is the Gauss-Newton matrix or, near the optimum, the
    Hessian of a network that has one. In the valley around the optimum the output layer is
    then set to its own optimum, where L is quadratic in it.

    Training has converged when the Newton decrement, sqrt(∇Lᵀ A⁻¹ ∇L), is at most
    ``decrement_tol``. It stalls when L fell by at most ``tol`` sqrt(γ) nats per step, once the
    decrement is below half of what counts as stationary; draws from the posterior differ in L
    by sqrt(γ / 2). Far from stationary it stalls at a thousandth of that.
    """

    name: ClassVar[str] = "newton-cg"

    def described(self, log_posterior: LogPosterior) -> str:
        """Name the solver and its curvature: see ``Trainer.described``."""
        described = f"{self.name}, preconditioned by {Preconditioner.described(log_posterior)}"
        few = subsample_size(log_posterior) is None
        return described if few else f"{described}; Hessians of a larger sample"

    def train(
        self,
        log_posterior: LogPosterior,
        weights: Tensor,
        generator: Generator,
        callback: Callback = no_callback,
        preconditioner: Subspace | None = None,
    ) -> Trajectory:
        """Lower L: see ``Trainer.train``."""
        scale = log_posterior.prior.scale
        twice_differentiable = log_posterior.network.twice_differentiable
        projects = can_project(log_posterior)
        loss = float(log_posterior.value(weights[None])[0])
        curvature = GaussNewton(log_posterior, weights)
        gradient = curvature.gradient()
        sample = scaled_subsample(log_posterior, generator)
        of_sample = curvature.on(sample)
        known = Preconditioner.build(of_sample, generator, preconditioner)
        damping, newton, indefinite, trusted = Damping(), False, False, True
        curve = [loss]
        while True:
            precondition = known.inverse.preconditioner(damping.value)
            decrement = _decrement(gradient, precondition, damping.value)
            if len(curve) > 1:
                callback(loss=loss, distance=decrement)
            if (status := self._status(curve, decrement, known)) is not None:
                return Trajectory(weights, tuple(curve), status)
            near = decrement < SLOW_REGION and (
                newton or self._needs_hessian(curve, decrement, known)
            )
            newton = twice_differentiable and near and not indefinite
            model = of_sample if trusted and decrement > ALL_ROWS_REGION else curvature
            product = _hessian(model) if newton else model.product
            direction, n_products, indefinite = conjugate_gradients(
                _shifted(product, damping.value),
                -gradient,
                precondition,
                rtol=min(MAX_FORCING, decrement**0.5),
                max_iter=MAX_CG_ITER,
            )
            trial = weights + scale * direction
            if projects and decrement < PROJECTION_REGION:
                trial = projected(log_posterior, trial)
            trial_loss = float(log_posterior.value(trial[None])[0])
            predicted = -float(gradient @ direction + 0.5 * direction @ product(direction))
            ratio = _gain_ratio(loss, trial_loss, predicted)
            moved = predicted > 0 and ratio > MIN_GAIN_RATIO
            if moved:
                weights, loss = trial, trial_loss
                curvature = GaussNewton(log_posterior, weights)
                gradient = curvature.gradient()
                of_sample, trusted = curvature.on(sample), True
                # After negative curvature, longer steps would amplify rounding: see
                # docs/design/training.md.
                steady = known.exact and indefinite
                damping = damping.kept() if steady else damping.lowered(ratio)
            else:
                damping = damping.raised()
                trusted = not near and _agree(of_sample, curvature, direction)
            known = known.after(n_products, of_sample, generator, moved=moved)
            curve.append(loss)

    def _status(
        self, curve: Sequence[float], decrement: float, known: Preconditioner
    ) -> Status | None:
        """Why training ends at this point, or None if it goes on."""
        if not math.isfinite(decrement):
            return Status.NOT_FINITE
        if decrement <= self.decrement_tol:
            return Status.CONVERGED
        if self._stalled(recent_decrease(curve, self.n_iter_no_change), decrement, known):
            return Status.STALLED
        return Status.MAX_ITER if len(curve) > self.max_iter else None

    def _stalled(self, decrease: float, decrement: float, known: Preconditioner) -> bool:
        per_root = self.tol * self.n_iter_no_change
        if not _slower(decrease, per_root, known):
            return False
        near = decrement <= 0.5 * stationary_radius(known.n_effective)
        return near or _slower(decrease, STANDSTILL * per_root, known)

    def _needs_hessian(
        self, curve: Sequence[float], decrement: float, known: Preconditioner
    ) -> bool:
        """Whether Gauss-Newton steps would be slow from here."""
        if decrement < NEWTON_REGION:
            return True
        decrease = recent_decrease(curve, self.n_iter_no_change)
        return _slower(decrease, SLOW * self.n_iter_no_change, known)


def _decrement(gradient: Tensor, inverse: Callable[[Tensor], Tensor], damping: float) -> float:
    """Upper bound of the Newton decrement sqrt(∇Lᵀ A⁻¹ ∇L), by the inverse of A + μI.

    A ⪰ I, so that A⁻¹ ⪯ (1 + μ) (A + μI)⁻¹. Without damping the bound is the decrement, and with
    it no other factor of A is needed.
    """
    squared = (1 + damping) * float(gradient @ inverse(gradient))
    # Where rounding makes it negative, the norm of the gradient bounds it from above.
    return (squared if squared > 0 else float(gradient @ gradient)) ** 0.5


def _slower(decrease: float, per_root: float, known: Preconditioner) -> bool:
    """Whether a decrease is at most ``per_root`` sqrt(γ)."""
    # γ takes time, and is at most P.
    at_most = per_root * known.n_weights**0.5
    return decrease <= at_most and decrease <= per_root * known.n_effective**0.5


def _gain_ratio(loss: float, trial_loss: float, predicted: float) -> float:
    """Actual decrease of the loss relative to the predicted one."""
    actual = loss - trial_loss
    # Near the optimum the decrease is lost in the rounding of L; the model is then trusted.
    rounding = LOSS_ROUNDING * max(abs(loss), 1.0)
    return 1.0 if max(abs(actual), predicted) < rounding else actual / predicted


def _agree(of_sample: GaussNewton, curvature: GaussNewton, direction: Tensor) -> bool:
    """Whether all rows have about as much curvature along a direction as a sample has."""
    if of_sample is curvature:
        return True
    along, of_all = (float(direction @ A.product(direction)) for A in (of_sample, curvature))
    return of_all <= MAX_CURVATURE_RATIO * along


def _shifted(product: Callable[[Tensor], Tensor], shift: float) -> Callable[[Tensor], Tensor]:
    return lambda v: product(v) + shift * v


def _hessian(curvature: GaussNewton) -> Callable[[Tensor], Tensor]:
    scale, hessian = curvature.scale, curvature.log_posterior.hessian(curvature.weights)
    return lambda v: scale * hessian(scale * v)

"""Line search: a step length for each row of a batch, rows independent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_hfl.optim.objective import Objective

__all__ = ["Step", "backtracking"]

# Sufficient decrease (Nocedal & Wright, Numerical Optimization, eq. 3.4) and the
# slope condition of Hager & Zhang's approximate Wolfe test (SIAM J. Optim. 16, 2005),
# which is used where the decrease is lost in the rounding of the value.
SUFFICIENT_DECREASE = 1e-4
MAX_SLOPE_RATIO = 0.9
# A shorter step is between these shares of the one before (Dennis & Schnabel, Numerical Methods
# for Unconstrained Optimization, algorithm A6.3.1).
MIN_SHORTENING, MAX_SHORTENING = 0.1, 0.5
# Halved so often, a step is a millionth of its length.
MAX_TRIALS = 20


@dataclass(frozen=True)
class Step:
    """Where the search ended; rows that are not accepted are where they were."""

    weights: Tensor
    value: Tensor
    gradient: Tensor
    accepted: Tensor


def backtracking(
    objective: Objective,
    U: Tensor,
    value: Tensor,
    gradient: Tensor,
    direction: Tensor,
    index: Tensor,
    rounding: Tensor,
) -> Step:
    """Search from step 1 downwards along ``direction`` (b, P), by quadratic interpolation.

    Parameters
    ----------
    objective : Objective
        The problems.
    U, value, gradient : Tensor
        Current rows (b, P), their values (b,) and gradients (b, P).
    direction : Tensor of shape (b, P)
        Descent directions.
    index : Tensor of shape (b,)
        Which problems the rows belong to.
    rounding : Tensor of shape (b,)
        Size of rounding errors in the values.

    Returns
    -------
    Step
    """
    slope = (gradient * direction).sum(1)
    new_U, new_value, new_gradient = U.clone(), value.clone(), gradient.clone()
    accepted = torch.zeros_like(value, dtype=torch.bool)
    t = torch.ones_like(value)
    left = torch.arange(len(value), device=value.device)
    for _ in range(MAX_TRIALS):
        trial = U[left] + t[left, None] * direction[left]
        f, g = objective.value_and_gradient(trial, index[left])
        change = f - value[left]
        descent = change <= SUFFICIENT_DECREASE * t[left] * slope[left]
        flat = (change <= rounding[left]) & (
            ((g * direction[left]).sum(1)).abs() <= MAX_SLOPE_RATIO * slope[left].abs()
        )
        finite = torch.isfinite(f) & torch.isfinite(g).all(1)
        good = finite & (descent | flat)
        rows = left[good]
        new_U[rows], new_value[rows], new_gradient[rows] = trial[good], f[good], g[good]
        accepted[rows] = True
        bad = ~good
        left, change, finite = left[bad], change[bad], finite[bad]
        if len(left) == 0:
            break
        # Minimum of the parabola through value, slope and the trial.
        old = t[left]
        parabola = -slope[left] * old.square() / (2 * (change - slope[left] * old))
        shortest, longest = MIN_SHORTENING * old, MAX_SHORTENING * old
        parabola = torch.where(finite & torch.isfinite(parabola), parabola, shortest)
        t[left] = torch.minimum(torch.maximum(parabola, shortest), longest)
    return Step(new_U, new_value, new_gradient, accepted)

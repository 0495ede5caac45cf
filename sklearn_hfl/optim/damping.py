"""Damping: the multiple of the identity that keeps Newton steps short where the model errs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Damping"]

# In whitened weights the prior has curvature 1, so that the first step is 1/101 of Newton's
# along directions that the data leave open.
INITIAL_DAMPING = 1e2
# Nielsen's rule divides by 3 at most. With 5, a linear network, whose loss is its own quadratic
# model, reaches the MAP within ten steps (tests/optim/test_newton_cg.py).
MIN_FACTOR = 0.2
# A millionth of the prior's curvature: as good as undamped.
MIN_DAMPING = 1e-6
# A rejected step raises a smaller damping from here, so that a few rejections reach 1.
MIN_REJECTED_DAMPING = 1e-3


@dataclass(frozen=True)
class Damping:
    """μ of the Levenberg-Marquardt system (B + μI) d = −∇L.

    It follows the gain ratio of actual to predicted decrease (H. B. Nielsen, Damping Parameter
    in Marquardt's Method, IMM-REP-1999-05, 1999).

    Parameters
    ----------
    value : float
        μ.
    growth : float
        Factor by which the next rejected step raises it.
    """

    value: float = INITIAL_DAMPING
    growth: float = 2.0

    def kept(self) -> Damping:
        """Return μ as it is, after an accepted step."""
        return Damping(self.value)

    def lowered(self, gain_ratio: float) -> Damping:
        """Return the μ that follows an accepted step; it rises where the ratio is below ½."""
        factor = max(MIN_FACTOR, 1 - (2 * min(gain_ratio, 1.0) - 1) ** 3)
        return Damping(max(self.value * factor, MIN_DAMPING))

    def raised(self) -> Damping:
        """Return the μ that follows a rejected step."""
        return Damping(max(self.value, MIN_REJECTED_DAMPING) * self.growth, 2 * self.growth)

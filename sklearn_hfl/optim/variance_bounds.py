"""Variance bounds: the certified interval of a variance that is known within a subspace.

All vectors are whitened, so that A = I + RᵀR. Δ = V T⁻¹ Vᵀ g, with an orthonormal basis V and
T = VᵀAV, solves A Δ = g within the basis, and leaves the residual r = g − A Δ, orthogonal to V.
With the Schur complement S of A beyond the basis,

    gᵀA⁻¹g = gᵀΔ + rᵀS⁻¹r,   I ⪯ S ⪯ (1 + ε) I,

where no eigenvalue of A − I beyond the basis is above ε. So the variance lies between
gᵀΔ + ‖r‖² / (1 + ε) and gᵀΔ + ‖r‖².
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

__all__ = ["VarianceBounds", "middle_share", "rounding_error"]

# A Cholesky solve gives the answer for a matrix that is off by some eps ‖A‖ (N. Higham, Accuracy
# and Stability of Numerical Algorithms, theorem 10.4), which changes gᵀA⁻¹g = gᵀΔ by about
# eps ‖A‖ ‖Δ‖² ≤ eps ‖A‖ gᵀΔ, since A ⪰ I, and its root by half of that share. The theorem's
# factor grows with the rank, as m², for errors that all add up. Measured, they do not: for
# ranks 1 to 200, conditions 1e2 to 1e14 (float32: to 1e6) and four spectra, no std was further
# off than its bound in exact arithmetic by more than 0.3 eps · largest (Ritz pairs: 1.8), without
# a trend in the rank. tests/optim/test_rounding.py repeats this in 50 digits.
SOLVE_ROUNDING = 10
# Error of ‖r‖² relative to ‖g‖², in units of eps, where it is a difference of squared norms: that
# of inner products, and of how far the basis is from orthonormal (docs/design/amortized.md).
NORM_ROUNDING = 100


@dataclass(frozen=True)
class VarianceBounds:
    """Lower and upper bounds of gᵀA⁻¹g, for G right-hand sides g.

    Parameters
    ----------
    inside : Tensor of shape (G,)
        gᵀΔ, the part of the variance inside the subspace.
    outside : Tensor of shape (G,)
        ‖r‖², as computed.
    min_outside, max_outside : Tensor of shape (G,)
        Bounds of ‖r‖².
    beyond : float
        ε.
    largest : float
        Largest curvature inside the subspace.
    """

    inside: Tensor
    outside: Tensor
    min_outside: Tensor
    max_outside: Tensor
    beyond: float
    largest: float

    @classmethod
    def from_residual(cls, inside: Tensor, outside: Tensor, beyond: float, largest: float) -> Self:
        """Bounds where the residual itself is known."""
        return cls(inside, outside, outside, outside, beyond, largest)

    @classmethod
    def from_norms(
        cls,
        inside: Tensor,
        outside: Tensor,
        squared_norm: Tensor,
        neglected: float,
        beyond: float,
        largest: float,
    ) -> Self:
        """Bounds where ‖r‖² is a difference of squared norms.

        Parameters
        ----------
        inside, outside : Tensor of shape (G,)
            See the class.
        squared_norm : Tensor of shape (G,)
            ‖g‖², of which ``outside`` is a part.
        neglected : float
            Norm of the coupling M z of ``RitzPairs`` that ``outside`` leaves out, per ‖z‖.
        beyond, largest : float
            See the class.

        Returns
        -------
        VarianceBounds
        """
        rounding = NORM_ROUNDING * torch.finfo(inside.dtype).eps * squared_norm
        missed = neglected * inside.sqrt()  # ‖z‖² is ``inside``
        least = (outside - rounding).clamp(min=0.0).sqrt() - missed
        most = (outside + rounding).sqrt() + missed
        return cls(inside, outside, least.clamp(min=0.0).square(), most.square(), beyond, largest)

    @property
    def lower(self) -> Tensor:
        """Lower bound (G,)."""
        return self.inside + self.min_outside / (1 + self.beyond)

    @property
    def upper(self) -> Tensor:
        """Upper bound (G,)."""
        return self.inside + self.max_outside

    @property
    def share(self) -> float:
        """Share of ‖r‖² in ``variance``: see ``middle_share``."""
        return middle_share(self.beyond)

    @cached_property
    def variance(self) -> Tensor:
        """The value (G,) in the middle of the bounds."""
        return self.inside + self.share * self.outside

    @cached_property
    def rel_error(self) -> Tensor:
        """Bound (G,) of the relative error of sqrt(variance), with an allowance for rounding."""
        value, lower, upper = self.variance, self.lower, self.upper
        error = torch.maximum((value / lower).sqrt() - 1, 1 - (value / upper).sqrt())
        return torch.where(upper > 0, error, 0.0) + self.rounding

    @property
    def rounding(self) -> float:
        """The part of ``rel_error`` that no larger subspace lowers."""
        return rounding_error(self.largest, self.inside.dtype)


def middle_share(beyond: float) -> float:
    """Share s of ‖r‖² for which gᵀΔ + s ‖r‖² is in the middle of its bounds.

    The same s puts a covariance CᵀC + s RᵀR in the middle of its bounds in the Loewner order.

    Parameters
    ----------
    beyond : float
        ε.

    Returns
    -------
    float
    """
    return 0.5 + 0.5 / (1 + beyond)


def rounding_error(largest: float, dtype: torch.dtype) -> float:
    """Allowance for rounding in the relative error of a standard deviation.

    Parameters
    ----------
    largest : float
        Largest curvature inside the subspace.
    dtype : torch.dtype
        Precision of the solve.

    Returns
    -------
    float
    """
    return SOLVE_ROUNDING * torch.finfo(dtype).eps * largest

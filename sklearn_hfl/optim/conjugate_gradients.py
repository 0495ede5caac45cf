"""Conjugate gradients: a linear system by products alone, up to negative curvature."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["conjugate_gradients"]


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    precondition: Callable[[Tensor], Tensor],
    *,
    rtol: float,
    max_iter: int,
) -> tuple[Tensor, int, bool]:
    """Solve B x = b, and stop at negative curvature.

    Parameters
    ----------
    product : callable
        v ↦ B v.
    b : Tensor of shape (P,)
        Right-hand side.
    precondition : callable
        v ↦ M⁻¹ v.
    rtol : float
        Stop when sqrt(rᵀM⁻¹r) has fallen by this factor.
    max_iter : int
        Maximum number of products.

    Returns
    -------
    x : Tensor of shape (P,)
        The last iterate; the first direction if B is not positive along it.
    n_products : int
        Products by B.
    indefinite : bool
        Whether a direction of curvature ≤ 0 ended the iteration.
    """
    x, r = torch.zeros_like(b), b
    p = z = precondition(r)
    rz = start = float(r @ z)
    for n in range(max_iter):
        if rz <= rtol**2 * start or rz == 0.0:
            return x, n, False
        Bp = product(p)
        curvature = float(p @ Bp)
        if curvature <= 0.0:
            return (x if n else p), n + 1, True
        step = rz / curvature
        x, r = x + step * p, r - step * Bp
        z = precondition(r)
        rz, previous = float(r @ z), rz
        p = z + (rz / previous) * p
    return x, max_iter, False

"""Subspace: weight directions in which A is known, shared by all queries.

All vectors are whitened (u = α^½ θ), so that A = I + RᵀR has no eigenvalue
below 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sklearn_hfl.optim.variance_bounds import VarianceBounds

__all__ = ["Galerkin", "Subspace", "positive_factor", "solved_by", "stationary_radius"]

# Decrement at which weights count as stationary, relative to the typical distance of posterior
# draws from the MAP (docs/design/training.md).
STATIONARY_SHARE = 0.1
# Numbers that a product over blocks of the basis' rows holds at a time. Work memory only: no
# result depends on it.
MAX_BLOCK_NUMBERS = 10**7
# Allowance for rounding in tr(A − I), in units of eps: a larger one only loosens bounds.
TRACE_ROUNDING = 100
# A unit vector is dropped if its part beyond the basis is shorter than this, in units of eps: that
# part is then rounding.
MIN_LENGTH_BEYOND = 1e3


@dataclass(frozen=True)
class Galerkin:
    """The solution of A Δ = G within a subspace, with its residual.

    Attributes
    ----------
    subspace : Subspace
        Where Δ lies.
    coefficients : Tensor of shape (m, G)
        T^-½ Vᵀ G for the Cholesky root of T: the part of the variance inside the
        subspace is their squared norm.
    residual : Tensor of shape (P, G)
        G − A Δ.
    """

    subspace: Subspace
    coefficients: Tensor
    residual: Tensor

    @property
    def step(self) -> Tensor:
        """Δ, (P, G)."""
        factor, basis = self.subspace.factor, self.subspace.basis
        return basis @ torch.linalg.solve_triangular(factor.mT, self.coefficients, upper=True)

    @cached_property
    def bounds(self) -> VarianceBounds:
        """Bounds of gᵀA⁻¹g (G,)."""
        return VarianceBounds.from_residual(
            self.coefficients.square().sum(0),
            self.residual.square().sum(0),
            self.subspace.beyond,
            self.subspace.largest,
        )

    def within(self, larger: Subspace) -> Galerkin:
        """Solve within a subspace that extends this one, at the cost of its new directions.

        These are made conjugate to the old ones; the old coefficients stay as they are.
        """
        m, old = len(self.coefficients), self.subspace
        L21, L22 = larger.factor[m:, :m], larger.factor[m:, m:]
        back = torch.linalg.solve_triangular(old.factor.mT, L21.mT, upper=True)
        new, image = (
            torch.linalg.solve_triangular(L22.mT, n - o @ back, upper=True, left=False)
            for n, o in ((larger.basis[:, m:], old.basis), (larger.image[:, m:], old.image))
        )
        more = new.mT @ self.residual
        return Galerkin(larger, torch.cat([self.coefficients, more]), self.residual - image @ more)


@dataclass(frozen=True)
class Subspace:
    """An orthonormal basis V with its image A V.

    Keeping the image costs as much memory as the basis; the residual of any query then
    needs no pass over the data.

    Parameters
    ----------
    basis : Tensor of shape (P, m)
        V.
    image : Tensor of shape (P, m)
        A V.
    gram : Tensor of shape (m, m)
        T = VᵀAV.
    excess : Tensor of shape (P,)
        Diagonal of A − I.
    norm_bound : float
        Upper bound of the eigenvalues of A − I beyond the basis, if one is known.
    grown : Tensor of shape (m, m) or None
        The factor of T, where it was grown from that of a smaller basis.
    """

    basis: Tensor
    image: Tensor
    gram: Tensor
    excess: Tensor
    norm_bound: float = math.inf
    grown: Tensor | None = None

    @classmethod
    def empty(cls, excess: Tensor) -> Subspace:
        """Return the subspace without directions, for A − I of the diagonal ``excess`` (P,)."""
        none, small = excess.new_zeros(excess.shape[0], 0), excess.new_zeros(0, 0)
        return cls(none, none, small, excess)

    @classmethod
    def complete(cls, matrix: Tensor) -> Subspace:
        """Return all directions, for A itself (P, P): the identity is their basis."""
        return cls(torch.eye(len(matrix)).to(matrix), matrix, matrix, matrix.diagonal() - 1)

    @cached_property
    def factor(self) -> Tensor:
        """Lower Cholesky factor (m, m) of T, made when it is needed."""
        return positive_factor(self.gram, self.largest) if self.grown is None else self.grown

    @property
    def n_weights(self) -> int:
        """P."""
        return self.basis.shape[0]

    @property
    def rank(self) -> int:
        """Number m of directions."""
        return self.basis.shape[1]

    @property
    def largest(self) -> float:
        """Largest curvature inside the basis: the largest number on the diagonal of T, ≥ 1."""
        return float(self.gram.diagonal().max()) if self.rank else 1.0

    @property
    def is_complete(self) -> bool:
        """Whether the basis spans all weights."""
        return self.rank == self.n_weights

    @cached_property
    def _is_identity(self) -> bool:
        return self.is_complete and torch.equal(self.basis, torch.eye(self.rank).to(self.basis))

    @cached_property
    def n_effective(self) -> float:
        """γ = tr(I − T⁻¹), the effective number of parameters inside the basis."""
        return self.rank - float(torch.trace(torch.cholesky_inverse(self.factor)))

    @property
    def log_det(self) -> float:
        """Log det A: log det T and, to second order, the trace of A − I beyond the basis."""
        return 2 * float(self.factor.diagonal().log().sum()) + self.missing

    def effective_parameters(self) -> Tensor:
        """Diagonal (P,) of I − A⁻¹, the share of each weight that the data determine.

        That is V (I − T⁻¹) Vᵀ in the basis, and beyond it, where A is near I, A − I to second
        order.
        """
        size = max(1, MAX_BLOCK_NUMBERS // max(1, self.rank))
        seen = [
            basis.square().sum(1)
            - torch.linalg.solve_triangular(self.factor, basis.mT, upper=False).square().sum(0)
            for basis in self.basis.split(size)
        ]
        return torch.cat(seen).clamp(min=0.0) + self.unseen()

    def root(self) -> Tensor:
        """V T^-½ (P, m), a root of A⁻¹ inside the basis."""
        return torch.linalg.solve_triangular(self.factor, self.basis.mT, upper=False).mT

    @property
    def missing(self) -> float:
        """Trace of (I − VVᵀ)(A − I)(I − VVᵀ), the curvature beyond the basis."""
        inside = self.gram.diagonal().double() - 1
        return max(0.0, float(self.excess.double().sum() - inside.sum()))

    @property
    def beyond(self) -> float:
        """ε, an upper bound of the eigenvalues of A − I beyond the basis.

        They are at most their sum, ``missing``, since A − I ⪰ 0. A complete basis leaves none.
        """
        if self.is_complete:
            return 0.0
        eps = torch.finfo(self.excess.dtype).eps
        rounding = TRACE_ROUNDING * eps * float(self.excess.sum())
        return min(self.missing + rounding, self.norm_bound)

    def unseen(self) -> Tensor:
        """Diagonal (P,) of (I − VVᵀ)(A − I)(I − VVᵀ)."""
        if self.is_complete:
            return torch.zeros_like(self.excess)
        size = max(1, MAX_BLOCK_NUMBERS // max(1, self.rank))
        inside = [
            ((2 * image - basis @ self.gram - basis) * basis).sum(1)
            for basis, image in zip(self.basis.split(size), self.image.split(size), strict=True)
        ]
        return (self.excess - torch.cat(inside)).clamp(min=0.0)

    def complement(self, G: Tensor) -> Tensor:
        """G − V Vᵀ G, the part of G (P, G) beyond the basis."""
        return G - self.basis @ (self.basis.mT @ G)

    def solve(self, G: Tensor) -> Galerkin:
        """Solve A Δ = G (P, G) within the subspace."""
        root = torch.linalg.solve_triangular(self.factor, self.basis.mT @ G, upper=False)
        c = torch.linalg.solve_triangular(self.factor.mT, root, upper=True)
        return Galerkin(self, root, G - self.image @ c)

    def correlated(self, z: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """V T^-½ z and (I − V T⁻¹ Vᵀ A) e, for z (m, S) and e (P, S).

        For standard normal z and e, the first has covariance V T⁻¹ Vᵀ, and gᵀ times the second
        has the variance ‖r‖² of the residual r of g.
        """
        inside = self.basis @ torch.linalg.solve_triangular(self.factor.mT, z, upper=True)
        return inside, e - self.basis @ solved_by(self.factor, self.image.mT @ e)

    def preconditioner(self, damping: float = 0.0) -> Callable[[Tensor], Tensor]:
        """Return v ↦ (A + damping·I)⁻¹ v, v (P,) or (P, G), with A taken as I beyond the basis.

        It computes in the precision of the basis, whatever that of v.
        """
        factor = self.factor
        if damping:
            damped = self.gram.clone()
            damped.diagonal().add_(damping)
            factor = positive_factor(damped, self.largest)

        def apply(G: Tensor) -> Tensor:
            columns = G.reshape(self.n_weights, -1).to(self.gram.dtype)
            if self._is_identity:
                solved = solved_by(factor, columns)
            else:
                projected = self.basis.mT @ columns
                inside = solved_by(factor, projected) - projected / (1 + damping)
                solved = columns / (1 + damping) + self.basis @ inside
            return solved.to(G.dtype).reshape(G.shape)

        return apply

    def extended(self, directions: Tensor, product: Callable[[Tensor], Tensor]) -> Subspace:
        """Add directions (P, b) to the basis, with one product by A.

        Directions that lie in the basis, to rounding, are dropped.
        """
        new = self.orthonormalized(directions)
        if new.shape[1] == 0:
            return self
        image = product(new)
        basis = torch.cat([self.basis, new], dim=1)
        cross, corner = self.basis.mT @ image, new.mT @ image
        gram = torch.cat(
            [
                torch.cat([self.gram, cross], dim=1),
                torch.cat([cross.mT, 0.5 * (corner + corner.mT)], dim=1),
            ]
        )
        # The factor grows by its new rows; the old ones stay to the last bit.
        L21 = torch.linalg.solve_triangular(self.factor, cross, upper=False).mT
        L22 = positive_factor(
            gram[self.rank :, self.rank :] - L21 @ L21.mT, float(corner.abs().max())
        )
        factor = torch.cat(
            [torch.cat([self.factor, torch.zeros_like(cross)], dim=1), torch.cat([L21, L22], dim=1)]
        )
        images = torch.cat([self.image, image], dim=1)
        # Beyond a larger basis no eigenvalue is larger, so that the bound still holds.
        return Subspace(basis, images, gram, self.excess, self.norm_bound, factor)

    def of_another(self, product: Callable[[Tensor], Tensor], excess: Tensor) -> Subspace:
        """Return the same basis for another A, with one product by it."""
        if self.rank == 0:
            return Subspace.empty(excess)
        image = product(self.basis)
        gram = self.basis.mT @ image
        gram = 0.5 * (gram + gram.mT)
        return Subspace(self.basis, image, gram, excess)

    def orthonormalized(self, directions: Tensor) -> Tensor:
        """Orthonormal directions (P, k) that extend the basis to hold ``directions`` (P, b)."""
        scale = torch.linalg.vector_norm(directions, dim=0)
        new = directions[:, scale > 0] / scale[scale > 0]
        room = self.n_weights - self.rank
        # Twice is enough (Giraud, Langou & Rozložník, Comput. Math. Appl. 50, 2005): where a
        # direction nearly lies in V, one pass of Gram-Schmidt leaves rounding along V.
        for _ in range(2):
            new = self.complement(new)
            U, S, _ = torch.linalg.svd(new, full_matrices=False)
            smallest = MIN_LENGTH_BEYOND * torch.finfo(new.dtype).eps
            new = U[:, smallest < S][:, :room]
        return new


def stationary_radius(n_effective: float) -> float:
    """Newton decrement below which weights count as stationary, given γ.

    Draws from the posterior lie about sqrt(γ) standard deviations from the MAP: in the metric
    of A, along directions that the data determine, their squared distance has mean γ. A tenth
    of that is negligible. No prediction moves by more than the decrement times its own std.
    """
    return STATIONARY_SHARE * max(n_effective, 1.0) ** 0.5


def positive_factor(matrix: Tensor, size: float) -> Tensor:
    """Lower Cholesky factor of a matrix with rounding errors of numbers of that size.

    T and its Schur complements are ⪰ I in exact arithmetic. Where the condition number exceeds
    1/eps, a multiple of the identity is added until there is a factor; the allowance for
    rounding in each standard deviation then says that no digit is certain.
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    jitter = torch.finfo(matrix.dtype).eps * max(size, 1.0)
    while int(info) and jitter < torch.inf:
        factor, info = torch.linalg.cholesky_ex(matrix + jitter * torch.eye(len(matrix)).to(matrix))
        jitter *= 10
    return factor


def solved_by(factor: Tensor, B: Tensor) -> Tensor:
    """Return (L Lᵀ)⁻¹ B for a lower factor L (m, m) and B (m, G).

    For a single column ``torch.cholesky_solve`` takes up to five times as long as two triangular
    solves (docs/design/subspace.md).
    """
    half = torch.linalg.solve_triangular(factor, B, upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True)

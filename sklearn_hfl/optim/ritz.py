"""Ritz pairs: a subspace in its eigenbasis, where a query costs one product and no data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_hfl.optim.subspace import MAX_BLOCK_NUMBERS, Subspace
from sklearn_hfl.optim.variance_bounds import VarianceBounds

__all__ = ["RitzPairs", "RitzSolution"]

# Share of the tolerated error that neglected coupling may cause (docs/design/amortized.md).
COUPLING_SHARE = 0.1
# Rounding of images A V, in units of eps of the largest curvature: coupling below it is neglected,
# and widens the bounds. Generous: tests/optim/test_rounding.py finds no bound violated.
IMAGE_ROUNDING = 100


@dataclass(frozen=True)
class RitzPairs:
    """Eigenvectors of A within a subspace, and how A couples them to the rest.

    With Ritz vectors U and values t, gᵀA⁻¹g = Σ aᵢ² / tᵢ + rᵀS⁻¹r, where a = Uᵀg, and S is as
    in ``variance_bounds``. A U t^-½ = U t^½ + M, and the residual is r = g − U a − M z for
    z = a / t^½. In a Krylov subspace M is small and of low rank; its singular values above
    ``neglected`` are kept. ‖r‖ then needs only inner products with g, half the cost of r.

    Parameters
    ----------
    vectors : Tensor of shape (P, m + k)
        U, and the left singular vectors of M, orthogonal to U.
    values : Tensor of shape (m,)
        t ≥ 1.
    coupling : Tensor of shape (k, m)
        M in terms of its left singular vectors.
    neglected : float
        Largest neglected singular value of M.
    beyond : float
        ε, an upper bound of the eigenvalues of A − I beyond the subspace.
    """

    vectors: Tensor
    values: Tensor
    coupling: Tensor
    neglected: float
    beyond: float

    @classmethod
    def from_subspace(cls, subspace: Subspace, rtol: float) -> RitzPairs:
        """Convert a subspace; ``rtol`` is the tolerated relative error of each std."""
        values, rotation = torch.linalg.eigh(subspace.gram)
        values = values.clamp(min=1.0)
        n, m = subspace.basis.shape
        roots = rotation / values.sqrt()
        # Row block by row block: V itself may be as large as memory allows.
        size = max(1, MAX_BLOCK_NUMBERS // max(1, m))
        blocks = [slice(start, start + size) for start in range(0, n, size)]

        def escaping(rows: slice, columns: Tensor | slice = slice(None)) -> Tensor:
            """Rows of A V − V T, the part of A V beyond the basis."""
            image, gram = subspace.image[rows, columns], subspace.gram[:, columns]
            return image - subspace.basis[rows] @ gram

        squares = torch.zeros_like(values)
        for rows in blocks if m < n else ():
            squares += escaping(rows).square().sum(0)
        # Each block's image lies in the next block, so that only the last columns escape.
        eps = torch.finfo(values.dtype).eps
        escapes = squares > eps * squares.sum() / max(1, m)
        missed = float(squares[~escapes].sum()) ** 0.5
        columns = torch.nonzero(escapes)[:, 0]
        beyond = torch.cat([escaping(rows, columns) for rows in blocks])
        left, triangle = torch.linalg.qr(beyond)
        turn, singular, _ = torch.linalg.svd(triangle @ roots[columns], full_matrices=False)
        rounding = IMAGE_ROUNDING * eps * float(values.amax() if m else 1.0)
        kept = singular > max(COUPLING_SHARE * rtol, rounding)
        neglected = missed + float(singular[~kept].amax() if not kept.all() else 0.0)
        # Orthogonal to V up to rounding only. Where the coupling is all rounding, more columns
        # can be kept than there are directions beyond V; those in V would count as residual.
        left = subspace.orthonormalized(left @ turn[:, kept])
        coupling = left.mT @ beyond @ roots[columns]
        vectors = subspace.basis.new_empty(n, m + left.shape[1])
        for rows in blocks:
            vectors[rows, :m] = subspace.basis[rows] @ rotation
        vectors[:, m:] = left
        return cls(vectors, values, coupling, neglected, subspace.beyond)

    @property
    def rank(self) -> int:
        """Number m of Ritz pairs."""
        return len(self.values)

    @property
    def largest(self) -> float:
        """Largest Ritz value, 1 or more."""
        return float(self.values.max()) if len(self.values) else 1.0

    def solve(self, G: Tensor) -> RitzSolution:
        """Solve A Δ = G (P, G) within the subspace."""
        m = self.rank
        products = self.vectors.mT @ G
        inner, outer = products[:m], products[m:]
        roots = inner / self.values.sqrt()[:, None]
        inside = roots.square().sum(0)
        outside = squares = torch.zeros_like(inside)
        if m < len(self.vectors):
            squares = G.square().sum(0)
            off = (squares - products.square().sum(0)).clamp(min=0.0)
            outside = off + (outer - self.coupling @ roots).square().sum(0)
        return RitzSolution(self, self.bounds(inside, outside, squares), G, inner, roots)

    def bounds(self, inside: Tensor, outside: Tensor, squared_norm: Tensor) -> VarianceBounds:
        """Bounds of gᵀA⁻¹g (G,) from its part inside, ‖r‖² outside, and ‖g‖²."""
        return VarianceBounds.from_norms(
            inside, outside, squared_norm, self.neglected, self.beyond, self.largest
        )

    def correlated(self, z: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """As ``Subspace.correlated``, for z (m, S) and e (P, S)."""
        U, L = self.vectors.tensor_split([self.rank], dim=1)
        root = self.values.sqrt()[:, None]
        # Uᵀ A e is t Uᵀ e and, by the coupling, t^½ (L · coupling)ᵀ e.
        return U @ (z / root), e - U @ (U.mT @ e + self.coupling.mT @ (L.mT @ e) / root)


@dataclass(frozen=True)
class RitzSolution:
    """The solution of A Δ = G within the subspace of Ritz pairs, as ``Galerkin`` is one.

    Attributes
    ----------
    pairs : RitzPairs
        U, t and M.
    bounds : VarianceBounds
        Of gᵀA⁻¹g (G,).
    gradient : Tensor of shape (P, G)
        G.
    inner : Tensor of shape (m, G)
        UᵀG.
    coefficients : Tensor of shape (m, G)
        t^-½ UᵀG.
    """

    pairs: RitzPairs
    bounds: VarianceBounds
    gradient: Tensor
    inner: Tensor
    coefficients: Tensor

    @property
    def residual(self) -> Tensor:
        """The residual r (P, G), but for neglected coupling; costs another product."""
        parts = torch.cat([self.inner, self.pairs.coupling @ self.coefficients])
        return self.gradient - self.pairs.vectors @ parts

    @property
    def step(self) -> Tensor:
        """Δ, (P, G)."""
        m = len(self.pairs.values)
        return self.pairs.vectors[:, :m] @ (self.inner / self.pairs.values[:, None])

"""Ritz pairs: a subspace turned so that queries cost one product, and need no data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_hfl.optim.subspace import MAX_BLOCK_NUMBERS, Subspace
from sklearn_hfl.optim.variance_bounds import VarianceBounds

__all__ = ["RitzPairs", "RitzSolution"]

# Of the tolerated error, what coupling may be left out without going beyond it.
COUPLING_SHARE = 0.1


@dataclass(frozen=True)
class RitzPairs:
    """Eigenvectors of A within a subspace, and how A couples them to the rest.

    With Ritz vectors U and values t, gᵀA⁻¹g = Σ aᵢ² / tᵢ + rᵀS⁻¹r, where a = Uᵀg, and S
    is as in ``Galerkin.lower``. A U t^-½ = U t^½ + M, and the residual is
    r = g − U a − M z for z = a / t^½. In a Krylov subspace M has few directions, and
    small numbers; of its singular values those above ``neglected`` are kept.
    ‖r‖ then needs nothing but inner products with g, at half the cost of the residual.

    Parameters
    ----------
    vectors : Tensor of shape (P, m + k)
        U, and the left singular vectors of M, orthogonal to U.
    values : Tensor of shape (m,)
        t ≥ 1.
    coupling : Tensor of shape (k, m)
        M in terms of its left singular vectors.
    neglected : float
        Largest singular value of M that is left out.
    beyond : float
        Bound of the eigenvalues of A − I beyond the subspace.
    """

    vectors: Tensor
    values: Tensor
    coupling: Tensor
    neglected: float
    beyond: float

    @classmethod
    def from_subspace(cls, subspace: Subspace, rtol: float) -> RitzPairs:
        """Turn a subspace; ``rtol`` is the error that each standard deviation may have."""
        values, rotation = torch.linalg.eigh(subspace.gram)
        values = values.clamp(min=1.0)
        n, m = subspace.basis.shape
        roots = rotation / values.sqrt()
        # Row block by row block: V itself may be as large as memory allows.
        size = max(1, MAX_BLOCK_NUMBERS // max(1, m))
        blocks = [slice(start, start + size) for start in range(0, n, size)]

        def escaping(rows: slice, columns: Tensor | slice = slice(None)) -> Tensor:
            """Rows of what A made of the basis beyond the basis, A V − V T."""
            image, gram = subspace.image[rows, columns], subspace.gram[:, columns]
            return image - subspace.basis[rows] @ gram

        squares = torch.zeros_like(values)
        for rows in blocks if m < n else ():
            squares += escaping(rows).square().sum(0)
        # Each block's image lies in the next block, so that only the last columns escape.
        eps = torch.finfo(values.dtype).eps
        seen = squares > eps * squares.sum() / max(1, m)
        missed = float(squares[~seen].sum()) ** 0.5
        columns = torch.nonzero(seen)[:, 0]
        beyond = torch.cat([escaping(rows, columns) for rows in blocks])
        left, triangle = torch.linalg.qr(beyond)
        turn, singular, _ = torch.linalg.svd(triangle @ roots[columns], full_matrices=False)
        # Images are known to eps of the largest.
        rounding = 100 * eps * float(values.amax() if m else 1.0)
        kept = singular > max(COUPLING_SHARE * rtol, rounding)
        neglected = missed + float(singular[~kept].amax() if not kept.all() else 0.0)
        # Orthogonal to V but for rounding, which is not small beside small values: where only
        # rounding is left, more columns can be kept than there are directions beyond V, and
        # those that lie in V would count as residual.
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

"""Curvature: the Gauss-Newton matrix of the log posterior, only ever as products."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sklearn_hfl.posterior.log_posterior import LogPosterior

__all__ = ["GaussNewton"]


class GaussNewton:
    """A = I + RᵀR in whitened weights u = α^½ θ, with R = Λ^½ J α^-½, (N·K, P).

    Here J is the Jacobian of the outputs and Λ the second derivative of the
    loss by them. A is the Hessian of L when the network is linear in its
    weights; every eigenvalue is at least 1, whatever the weights are.

    Parameters
    ----------
    log_posterior : LogPosterior
        L and its data.
    weights : Tensor of shape (P,)
        Where the network is linearised.
    """

    def __init__(self, log_posterior: LogPosterior, weights: Tensor) -> None:
        self.log_posterior = log_posterior
        self.weights = weights
        self.scale = log_posterior.prior.scale
        self._per_row = 2 * log_posterior.network.n_outputs * log_posterior.n_weights
        blocks = list(log_posterior.blocks(self._per_row))
        # R is kept where it fits the memory limit and recomputed block by block where not.
        self._cache = [self._block(blocks[0])] if len(blocks) == 1 else None

    @property
    def n_weights(self) -> int:
        """P."""
        return self.weights.shape[0]

    def _block(self, rows: slice) -> tuple[Tensor, Tensor]:
        lp = self.log_posterior
        outputs, jacobian = lp.network.jacobian(self.weights, lp.X[rows])
        w = lp.sample_weight[rows]
        R = lp.likelihood.whiten(outputs, w, jacobian.mul_(self.scale))
        score = lp.likelihood.score(outputs, lp.y[rows], w)
        # The score in units of R: Rᵀ e = α^-½ Jᵀ score needs only J, which is R here.
        return R.flatten(0, 1), torch.einsum("nk,nkp->p", score, jacobian)

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._cache is not None:
            yield from self._cache
        else:
            for rows in self.log_posterior.blocks(self._per_row):
                yield self._block(rows)

    def gradient(self) -> Tensor:
        """Whitened gradient α^-½ ∇L, (P,)."""
        gradient = self.weights / self.scale
        for _, part in self._blocks():
            gradient = gradient + part
        return gradient

    def product(self, V: Tensor) -> Tensor:
        """A V for V (P, m) or (P,)."""
        result = V.clone()
        for R, _ in self._blocks():
            result += R.mT @ (R @ V)
        return result

    def excess_trace(self) -> float:
        """tr(A − I) = ‖R‖², from the rows of R alone."""
        return sum(float(R.square().sum()) for R, _ in self._blocks())

"""Deletion: training rows that are left out, for regressor and classifier alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_hfl._base import HFLBase
from sklearn_hfl._data.params import any_of, integer, none, one_of, validate_arguments
from sklearn_hfl._ensemble.advice import of_left_out_rows
from sklearn_hfl.exceptions import HFLConvergenceWarning, warn
from sklearn_hfl.uncertainty.variance import Variance

__all__ = ["RowDeletion"]


class RowDeletion(HFLBase):
    """Which training rows are left out, and how well that was found."""

    def _left_out_rows(self, owner: str, rows: Any) -> tuple[Tensor, NDArray[np.intp]]:
        """Rows among those that were kept, and their numbers in the X of fit."""
        estimate = self.members_[0].estimate
        if estimate.ritz is not None:
            raise ValueError(
                f"{owner} needs the training rows, but a fit with variance='amortized' keeps none. "
                "Call fit again after set_params(variance='linearized')."
            )
        if estimate.log_posterior.chunks is not None:
            raise ValueError(
                f"{owner} needs each training row, but those of this fit are in the chunks of a "
                "dask collection, from which only sums come. Fit with arrays that this process "
                "holds; the mean over all rows left out is in diagnostics_, as "
                "log_density_left_out."
            )
        n = len(estimate.log_posterior.X)
        numbers = np.arange(n) if self._row_numbers is None else self._row_numbers
        if rows is None:
            return torch.arange(n, device=estimate.weights.device), numbers
        wanted = np.asarray(rows)
        if wanted.size == 0:
            raise ValueError(
                f"rows of {owner} is empty: pass the number of at least one training row, or None "
                "for all."
            )
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
            raise ValueError(
                f"rows of {owner} must be None or numbers of training rows, integers of shape "
                f"(n_rows,), but got {wanted.dtype} of shape {wanted.shape}. For a mask, pass "
                "numpy.flatnonzero(mask)."
            )
        place = np.minimum(np.searchsorted(numbers, wanted), n - 1)
        unknown = wanted[numbers[place] != wanted]
        if len(unknown):
            left = "" if self._row_numbers is None else " of positive sample_weight"
            raise ValueError(
                f"rows of {owner} must be numbers of the {n} training rows{left}, from "
                f"{numbers[0]} to {numbers[-1]}, but {unknown[0]} is none of them."
            )
        return torch.from_numpy(place).to(estimate.weights.device), numbers[place]

    def _check_method(self, method: str) -> bool:
        """Whether to refit."""
        rules = {"method": one_of("linearized", "refit")}
        validate_arguments("loo_predict", {"method": method}, rules)
        return method == "refit"

    def _check_top(self, top: Any, n: int) -> None:
        validate_arguments("influence", {"top": top}, {"top": any_of(none(), integer(1))})
        if top is not None and top > n:
            raise ValueError(
                f"top of influence must be at most the number of training rows that are asked "
                f"about, {n}, but got {top}."
            )

    def _left_out_converged(
        self, variances: list[Variance], n: int, refit: bool
    ) -> NDArray[np.bool_]:
        """Whether all that belongs to each row (n,) met its tolerance; a warning counts others."""
        flags = torch.stack([v.converged.view(n, -1).all(1) for v in variances]).all(0)
        if not flags.all():
            reason = of_left_out_rows(self, self.members_, refit)
            warn(f"{int((~flags).sum())} of {n} left-out rows {reason}", HFLConvergenceWarning)
        return flags.cpu().numpy()

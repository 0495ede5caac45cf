"""Warnings that the package raises."""

import sys
import warnings

from sklearn.exceptions import ConvergenceWarning

__all__ = ["HFLWarning", "warn"]


class HFLWarning(ConvergenceWarning):
    """A number is returned, but with less trust than was asked for.

    Raised for standard deviations that missed ``std_rtol``, for a MAP that is
    not stationary, and for data that leave a quantity undetermined. The text
    says how many rows are concerned and what to try.

    Examples
    --------
    >>> import warnings
    >>> from sklearn_hfl import HFLWarning
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", HFLWarning)
    """


def warn(message: str) -> None:
    """Raise an HFLWarning at the line outside the package that led here.

    Parameters
    ----------
    message : str
        How many rows are concerned, and what to try.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(f"{__package__}."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, HFLWarning, stacklevel=level)

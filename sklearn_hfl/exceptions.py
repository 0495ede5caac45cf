"""Warnings that the package raises."""

import sys
import warnings

from sklearn.exceptions import ConvergenceWarning

__all__ = ["HFLConvergenceWarning", "HFLDataWarning", "HFLWarning", "warn"]


class HFLWarning(UserWarning):
    """A result is returned, but it is less reliable than requested.

    The base class of all warnings of the package. The text says how many rows are
    concerned and what to try.

    Examples
    --------
    >>> import warnings
    >>> from sklearn_hfl import HFLWarning
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", HFLWarning)
    """


class HFLConvergenceWarning(HFLWarning, ConvergenceWarning):
    """An optimisation stopped before it met its tolerance.

    Raised for standard deviations that missed ``std_rtol``, and for a MAP that is not
    stationary.

    Examples
    --------
    >>> from sklearn.exceptions import ConvergenceWarning
    >>> from sklearn_hfl import HFLConvergenceWarning
    >>> issubclass(HFLConvergenceWarning, ConvergenceWarning)
    True
    """


class HFLDataWarning(HFLWarning):
    """The data do not determine what they are used for.

    Raised for constant targets, over-fitted rows, sample weights on a scale that is not that
    of counts, and calibration rows that were trained on.

    Examples
    --------
    >>> import warnings
    >>> from sklearn_hfl import HFLDataWarning
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", HFLDataWarning)
    """


def warn(message: str, category: type[HFLWarning]) -> None:
    """Raise a warning at the line outside the package that led here.

    Parameters
    ----------
    message : str
        How many rows are concerned, and what to try.
    category : type
        Which of the warnings above.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(f"{__package__}."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)

"""Warnings that the package raises."""

import sys
import warnings

from sklearn.exceptions import ConvergenceWarning

__all__ = ["HFLConvergenceWarning", "HFLDataWarning", "HFLWarning", "warn"]


class HFLWarning(UserWarning):
    """A result is returned, but it is less reliable than requested.

    The base class of all warnings of the package. The text says what fell short and what to try.

    Examples
    --------
    >>> import warnings
    >>> from sklearn_hfl import HFLWarning
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", HFLWarning)
    """


class HFLConvergenceWarning(HFLWarning, ConvergenceWarning):
    """An optimisation stopped before it met its tolerance.

    Raised for standard deviations, profile ends and left-out rows that missed their tolerance,
    for a MAP that is not stationary, and for a fit that ``max_iter`` or ``memory_limit`` ended.

    Examples
    --------
    >>> from sklearn.exceptions import ConvergenceWarning
    >>> from sklearn_hfl import HFLConvergenceWarning
    >>> issubclass(HFLConvergenceWarning, ConvergenceWarning)
    True
    """


class HFLDataWarning(HFLWarning):
    """The data do not determine what they are used for.

    Raised for constant targets, over-fitting, heavy-tailed residuals, sample weights that cannot
    be counts, labels that look like numbers to be predicted, and calibration rows that were
    trained on.

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
        What fell short, and what to try.
    category : type
        Which of the warnings above.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(f"{__package__}."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)

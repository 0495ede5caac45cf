"""Warnings that the package raises."""

from sklearn.exceptions import ConvergenceWarning

__all__ = ["HFLWarning"]


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

"""Parameters: the values that each may have, and errors that name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Integral, Real
from types import FunctionType
from typing import Any, TypeVar

import numpy as np

__all__ = [
    "Rule",
    "any_of",
    "boolean",
    "factory",
    "integer",
    "integers",
    "mapping",
    "named_as_public",
    "none",
    "one_of",
    "random_state",
    "real",
    "reals",
    "validate",
    "validate_arguments",
]


class Rule:
    """One condition on a parameter.

    Parameters
    ----------
    expected : str
        What is allowed, in words that finish "must be ...".
    accepts : callable
        Whether a value meets the condition.
    """

    def __init__(self, expected: str, accepts: Callable[[Any], bool]) -> None:
        self.expected = expected
        self.accepts = accepts


def one_of(*allowed: str) -> Rule:
    """Allow some words.

    Parameters
    ----------
    *allowed : str
        The words.

    Returns
    -------
    Rule
    """
    words = ", ".join(repr(word) for word in allowed)
    expected = f"one of {words}" if len(allowed) > 1 else words
    return Rule(expected, lambda value: isinstance(value, str) and value in allowed)


def boolean() -> Rule:
    """Allow True and False.

    Returns
    -------
    Rule
    """
    return Rule("True or False", lambda value: isinstance(value, (bool, np.bool_)))


def integer(least: int) -> Rule:
    """Allow integers from ``least``.

    Parameters
    ----------
    least : int
        Smallest allowed.

    Returns
    -------
    Rule
    """
    return Rule(
        f"an integer ≥ {least}",
        lambda value: _is(value, Integral) and bool(value >= least),
    )


def integers(least: int) -> Rule:
    """Allow a sequence of integers, which may be empty.

    Parameters
    ----------
    least : int
        Smallest allowed.

    Returns
    -------
    Rule
    """
    return Rule(f"a sequence of integers ≥ {least}", _all_of(integer(least)))


def real(above: float, below: float = np.inf, *, or_equal: bool = False) -> Rule:
    """Allow finite numbers in an interval.

    Parameters
    ----------
    above, below : float
        Its ends, which do not belong to it.
    or_equal : bool
        Whether ``above`` does.

    Returns
    -------
    Rule
    """
    sign = "≥" if or_equal else ">"
    upper = "" if np.isinf(below) else f" and < {below:g}"

    def accepts(value: Any) -> bool:
        if not _is(value, Real):
            return False
        try:
            value = float(value)
        except OverflowError:  # an integer beyond all floats
            return False
        return bool(above < value < below) or (or_equal and value == above)

    return Rule(f"a finite number {sign} {above:g}{upper}", accepts)


def reals(above: float) -> Rule:
    """Allow a sequence of finite numbers.

    Parameters
    ----------
    above : float
        Each is larger than this.

    Returns
    -------
    Rule
    """
    return Rule(f"a sequence of finite numbers > {above:g}", _all_of(real(above)))


def mapping(above: float) -> Rule:
    """Allow a dict of finite numbers.

    Parameters
    ----------
    above : float
        Each is larger than this.

    Returns
    -------
    Rule
    """
    each = real(above)
    return Rule(
        f"a dict of finite numbers > {above:g}",
        lambda value: isinstance(value, dict) and all(map(each.accepts, value.values())),
    )


def none() -> Rule:
    """Allow None.

    Returns
    -------
    Rule
    """
    return Rule("None", lambda value: value is None)


def random_state() -> Rule:
    """Allow what scikit-learn seeds generators with.

    Returns
    -------
    Rule
    """
    seed = integer(0)
    return Rule(
        "None, an integer from 0 to 2**32 - 1 or a numpy RandomState",
        lambda value: (
            value is None
            or value is np.random
            or isinstance(value, np.random.RandomState)
            or (seed.accepts(value) and value < 2**32)
        ),
    )


def factory() -> Rule:
    """Allow None and callables, but no modules: their classes are factories, they are not.

    Returns
    -------
    Rule
    """
    expected = "a callable (n_features, n_outputs) -> torch.nn.Module (from_torch takes modules)"
    return any_of(none(), Rule(expected, _makes_modules))


def _makes_modules(value: Any) -> bool:
    is_module = hasattr(value, "named_parameters") and not isinstance(value, type)
    return callable(value) and not is_module


def any_of(*rules: Rule) -> Rule:
    """Allow what any of several rules allows.

    Parameters
    ----------
    *rules : Rule
        The rules.

    Returns
    -------
    Rule
    """
    return Rule(
        " or ".join(rule.expected for rule in rules),
        lambda value: any(rule.accepts(value) for rule in rules),
    )


def validate(owner: str, params: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Check every parameter that has a rule.

    Parameters
    ----------
    owner : str
        Name of the estimator, for the message.
    params : mapping of str to object
        Values by name.
    rules : mapping of str to Rule
        Rules by name.

    Raises
    ------
    ValueError
        At the first parameter that breaks its rule: what was expected, what came.
    """
    for name, rule in rules.items():
        if not rule.accepts(params[name]):
            raise ValueError(
                f"{_refusal(owner, name, rule, params[name])} "
                f"Set it with {owner}({name}=...) or set_params."
            )


def validate_arguments(
    method: str, arguments: Mapping[str, Any], rules: Mapping[str, Rule]
) -> None:
    """Check every argument of a call that has a rule.

    Parameters
    ----------
    method : str
        Name of the method or function, for the message.
    arguments : mapping of str to object
        Values by name.
    rules : mapping of str to Rule
        Rules by name.

    Raises
    ------
    ValueError
        At the first argument that breaks its rule: what was expected, what came.
    """
    for name, rule in rules.items():
        if not rule.accepts(arguments[name]):
            raise ValueError(_refusal(method, name, rule, arguments[name]))


def _refusal(owner: str, name: str, rule: Rule, value: Any) -> str:
    return f"{owner}: {name} must be {rule.expected}, but got {value!r}."


Class = TypeVar("Class", bound=type)


def named_as_public(cls: Class) -> Class:
    """Have the methods that a public class inherits here carry its name.

    Python names a function by the class that it was written in: a keyword that does not
    exist would be reported as one of a class that no user has met.

    Parameters
    ----------
    cls : type
        The public class; no two share such a method.

    Returns
    -------
    type
        The same.
    """
    package = __name__.partition(".")[0]
    for base in cls.__mro__[1:]:
        if not base.__module__.startswith(f"{package}."):
            continue
        for name, method in vars(base).items():
            function = getattr(method, "__func__", method)
            if not name.startswith("_") and isinstance(function, FunctionType):
                # Both, so that the method is found where pickles look for it.
                function.__module__ = cls.__module__
                function.__qualname__ = f"{cls.__name__}.{name}"
    return cls


def _all_of(each: Rule) -> Callable[[Any], bool]:
    """Accept lists, tuples and one-dimensional arrays of what a rule accepts."""

    def accepts(value: Any) -> bool:
        if isinstance(value, np.ndarray) and value.ndim != 1:
            return False
        return isinstance(value, (list, tuple, np.ndarray)) and all(map(each.accepts, value))

    return accepts


def _is(value: Any, kind: type) -> bool:
    """Whether a number is of a kind; booleans are not numbers here."""
    return isinstance(value, kind) and not isinstance(value, (bool, np.bool_))

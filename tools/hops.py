"""How many functions a prediction and a fit pass through on their way to the primitive.

    python tools/hops.py

Prints, for a query and for a fit, each function of the package on the stack when the perturbed
optima, or the steps of a trainer, are first reached. tests/test_architecture.py compares the page
docs/design/architecture.md with these stacks.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np

import sklearn_hfl
from sklearn_hfl import HFLRegressor

PACKAGE = Path(sklearn_hfl.__file__).parent
PRIMITIVE = "optim/perturbed_optima.py:perturbed_optima"
X = np.linspace(-1, 1, 12)[:, None]
Y = np.sin(3 * X[:, 0])


def stack_at(target: str, action: Callable[[], object]) -> list[str]:
    """Functions "file:name" of the package that lead from ``action`` to the first ``target``."""
    found: list[str] = []

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and not found and frame.f_code.co_name == target.split(":")[1]:
            functions = _functions(frame)
            found.extend(functions if functions[-1:] == [target] else [])

    sys.setprofile(watch)
    try:
        action()
    finally:
        sys.setprofile(None)
    return found


def _functions(frame: FrameType | None) -> list[str]:
    names = []
    while frame is not None:
        path, name = Path(frame.f_code.co_filename), frame.f_code.co_name
        # Comprehensions are frames before Python 3.12, and no hop for a reader.
        if path.is_relative_to(PACKAGE) and not name.startswith("<"):
            names.append(f"{path.relative_to(PACKAGE).as_posix()}:{name}")
        frame = frame.f_back
    return names[::-1]


def stacks() -> dict[str, list[str]]:
    """For a query of the regressor, and for a fit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = HFLRegressor(hidden_layer_sizes=(3,), max_iter=30, random_state=0)
        fit = stack_at("optim/newton_cg.py:train", lambda: model.fit(X, Y))
        predict = stack_at(PRIMITIVE, lambda: model.predict(X, return_std=True))
    return {"predict": predict, "fit": fit}


if __name__ == "__main__":
    for name, functions in stacks().items():
        print(f"{name}: {len(functions) - 1} hops")
        print("\n".join(f"  {function}" for function in functions))

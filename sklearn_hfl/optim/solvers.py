"""Solvers: the trainers by the names that users give them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from sklearn_hfl.optim.adam import Adam
from sklearn_hfl.optim.lbfgs_trainer import LBFGS
from sklearn_hfl.optim.newton_cg import NewtonCG
from sklearn_hfl.optim.training import Trainer

__all__ = ["SOLVERS", "make_trainer"]

SOLVERS: dict[str, type[Trainer]] = {"newton-cg": NewtonCG, "lbfgs": LBFGS, "adam": Adam}


def make_trainer(solver: str, **settings: Any) -> Trainer:
    """Make the trainer of that name from those of the settings that it takes.

    Parameters
    ----------
    solver : {"newton-cg", "lbfgs", "adam"}
        Key of ``SOLVERS``.
    **settings
        Parameters of any of the trainers.

    Returns
    -------
    Trainer
    """
    taken = {name: {field.name for field in fields(cls)} for name, cls in SOLVERS.items()}
    if unknown := settings.keys() - set().union(*taken.values()):
        raise TypeError(f"No trainer takes {sorted(unknown)}; they take {taken}.")
    own = {name: value for name, value in settings.items() if name in taken[solver]}
    return SOLVERS[solver](**own)

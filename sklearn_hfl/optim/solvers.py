"""Solvers: the trainers by the names that users give them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from sklearn_hfl.optim.adam import Adam
from sklearn_hfl.optim.lbfgs_trainer import LBFGS
from sklearn_hfl.optim.newton_cg import NewtonCG
from sklearn_hfl.optim.training import Trainer

__all__ = ["SOLVERS", "chosen_solver", "make_trainer"]

SOLVERS: dict[str, type[Trainer]] = {"newton-cg": NewtonCG, "lbfgs": LBFGS, "adam": Adam}


def chosen_solver(solver: str, early_stopping: bool) -> str:
    """Name the solver that runs.

    Parameters
    ----------
    solver : {"auto", "newton-cg", "lbfgs", "adam"}
        As users name it.
    early_stopping : bool
        Whether rows are held out to decide when to stop.

    Returns
    -------
    str
        Key of ``SOLVERS``. "auto" is "adam" where rows are held out, and otherwise "newton-cg",
        which ends sooner at every size that was tried (docs/design/training.md).
    """
    if solver != "auto":
        return solver
    return "adam" if early_stopping else "newton-cg"


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

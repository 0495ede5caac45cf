"""Phases: where the time of a fit goes, for most tasks of fit.py.

    python benchmarks/phases.py --data ../shared/data/uci

What a fit reports for its progress bar says which phase it is in.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from fit_tasks import FITS, mapped
from problems import Problem
from reporting import heading, machine

from sklearn_hfl._ensemble import fit

SAMPLE, ALL, GROWING, NOISE, MAP, REST = "sample", "all rows", "growing", "noise", "MAP", "rest"
OF_FITS = (
    "iris, 120 × 4", "yacht, 277 × 6", "concrete, 927 × 8", "kin8nm, 7 373 × 8",
    "Friedman 1, 20 000 × 20", "waves, 41 000 × 9", "Friedman 1, 100 000 × 10",
    "linear, 500 × 1000", "digits, 1 437 × 64", "5 classes, 2 000 × 20", "5 classes, 20 000 × 30",
)  # fmt: skip
# An eighth of the rows that fit.py takes.
TASKS = {name: FITS[name].make for name in OF_FITS} | {
    "250 000 × 10, memory map": partial(mapped, 250_000)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(machine())
    heading("Phases: CPU seconds of a fit, one member, and steps")
    print(
        "sample, all rows: rounds on a sample of the rows, on all; growing: to the MAPs of ever "
        "larger\nsamples; noise: to the MAP of the best round, whose residuals give the noise; "
        "MAP: to the MAP with\nthat noise; rest: curvature, error bars and rows left out, after "
        "the last step; linear models are\nin each"
    )
    phases = SAMPLE, ALL, GROWING, NOISE, MAP, REST
    print(f"{'':26s}{'total':>8s}" + "".join(f"{phase:>18s}" for phase in phases))
    of_task(OF_FITS[0], arguments.data)  # the first fit of a process loads what later ones have
    for name in arguments.tasks:
        clock = of_task(name, arguments.data)
        cells = (f"{clock.seconds[p]:.2f} ({clock.steps[p]})" for p in phases)
        total = sum(clock.seconds.values())
        print(f"{name:26s}{total:8.2f}" + "".join(f"{cell:>18s}" for cell in cells), flush=True)


class Clock:
    """Takes what a fit reports, and adds up CPU seconds and steps of each phase.

    Parameters
    ----------
    n_rows : int
        All rows.
    """

    def __init__(self, n_rows: int) -> None:
        self.all_rows = f"search on {n_rows} rows"
        self.phase, self.since = REST, time.process_time()
        self.seconds: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()

    def __call__(self, **facts: float | str) -> None:
        self.add(self.phase)
        self.steps[self.phase] += "loss" in facts
        phase = str(facts.get("phase", ""))
        if phase.startswith("search"):
            self.phase = ALL if phase == self.all_rows else SAMPLE
        elif phase:
            growing = phase.startswith("to the MAP of")
            self.phase = GROWING if growing else NOISE if phase.startswith("noise") else MAP

    def add(self, phase: str) -> None:
        """Count the time since the last report."""
        now = time.process_time()
        self.seconds[phase] += now - self.since
        self.since = now


def of_task(name: str, folder: Path) -> Clock:
    with TemporaryDirectory() as scratch:
        return measured(TASKS[name](folder, Path(scratch)))


def measured(problem: Problem) -> Clock:
    clock = Clock(len(problem.y))
    model = problem.model(n_estimators=1, random_state=0)
    with patch.object(fit, "_progress", lambda bar: clock):
        model.fit(problem.X, problem.y)
    clock.add(REST)
    return clock


if __name__ == "__main__":
    main()

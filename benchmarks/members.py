"""Members: what they gain, one after the other, and what each costs; on training rows only.

The inner splits of benchmarks/reliable_fits.py, by three ways to find the members after the first:
each with a search of its own, annealed to the MAP of the first one's precisions (the default), and
trained to it at once:

    python benchmarks/members.py --data ../shared/data/uci
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
from joblib import Parallel, delayed
from problems import Problem, classes, inner
from reporting import heading, machine, normal_scores
from sklearn.metrics import log_loss

from sklearn_hfl._ensemble import fit
from sklearn_hfl.uncertainty import annealing

N_MEMBERS = 5
SHOWN = (1, 2, 3, N_MEMBERS)
SETS = ("yacht", "energy", "concrete", "wine standard", "wine gap", "digits")
WAYS = ("own search", "annealed", "at once")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    arguments = parser.parse_args()
    print(machine())
    heading("Members: mean log density of held-out rows, coverage of 90 % intervals, CPU seconds")
    columns = "".join(f"{f'{k} members' if k > 1 else 'one':>11s}" for k in SHOWN)
    print(f"{'':31s}{columns}  coverage{'first':>9s}{'each':>7s}  evidence of the others")
    problems = [
        problem
        for problem in [*inner(arguments.data, 4), *classes()]
        if problem.name.startswith(tuple(arguments.sets))
    ]
    for name in dict.fromkeys(problem.name for problem in problems):
        for way in arguments.ways:
            rows = Parallel(n_jobs=arguments.jobs)(
                delayed(scores)(problem, way) for problem in problems if problem.name == name
            )
            *density, covered, first, each, evidence = np.mean(rows, axis=0)
            shown = "".join(f"{value:11.3f}" for value in density)
            print(
                f"{name:18s}{way:13s}{shown}{covered:10.3f}{first:9.1f}{each:7.1f}{evidence:+8.1f}",
                flush=True,
            )


def scores(problem: Problem, way: str) -> list[float]:
    """Log density of the first 1, 2, ... members; of three: coverage; seconds; evidence gained."""
    warnings.simplefilter("ignore")
    alone, members, seconds = None, [], []
    if way == "own search":
        for member in range(N_MEMBERS):
            began = time.process_time()
            model = problem.model(n_estimators=1, random_state=member).fit(problem.X, problem.y)
            seconds.append(time.process_time() - began)
            members += model.members_
        first, each = seconds[0], float(np.mean(seconds[1:]))
    else:
        shares = annealing.SHARES if way == "annealed" else ()
        for n in (1, N_MEMBERS):
            # What trains at once keeps its bad modes too.
            loss = fit.MAX_LOSS if way == "annealed" else np.inf
            began = time.process_time()
            with patch.object(annealing, "SHARES", shares), patch.object(fit, "MAX_LOSS", loss):
                model = problem.model(n_estimators=n).fit(problem.X, problem.y)
            seconds.append(time.process_time() - began)
            # The first of several is left out where it is a bad mode.
            alone, members = alone or model.members_, list(model.members_)
        first, each = seconds[0], (seconds[1] - seconds[0]) / (N_MEMBERS - 1)
    evidence = [member.diagnostics.log_evidence for member in members]
    density, coverage = [], np.nan
    for n in SHOWN:
        model.members_ = alone if alone and n == 1 else tuple(members[:n])
        if problem.classes:
            p = model.predict_proba(problem.X_test)
            density.append(-log_loss(problem.y_test, p, labels=model.classes_))
            continue
        distribution = model.predict_distribution(problem.X_test)
        density.append(float(distribution.logpdf(problem.y_test).mean()))
        if n == 3:
            mean, std = model.predict(problem.X_test, return_std=True)
            coverage = normal_scores(problem.y_test, mean, std)[1]
    return [*density, coverage, first, each, float(np.mean(evidence[1:]) - evidence[0])]


if __name__ == "__main__":
    main()

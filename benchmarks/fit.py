"""Fits: CPU time, memory and quality, beside commit 4d3447d and scikit-learn's estimators.

    python benchmarks/fit.py run
    python benchmarks/fit.py run --task yacht concrete --who new --again
    python benchmarks/fit.py growth
    python benchmarks/fit.py teacher
    python benchmarks/fit.py print

Each fit runs in a process of its own, with one thread and a limit of CPU time, after a fit of a
few rows that loads what is loaded once. The old commit is checked out into a temporary folder
while it is needed. Fits of less than half a minute are run three times, with three seeds.
Results go to build/fit.jsonl, and what is there is not run again unless --again says so; "print"
makes the tables and the picture from what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from fit_report import WHO, Figures, print_tables
from fit_tasks import FITS, GROWTH, MAX_GP_ROWS, TEACHER, Task
from peers import classifiers, regressors
from problems import Problem
from reporting import Z90, machine, normal_scores
from sklearn.metrics import accuracy_score, log_loss, r2_score

import sklearn_hfl

OLD = "4d3447d"
ROOT = Path(__file__).resolve().parent.parent
STORE = Path("build/fit.jsonl")
PARTS = {"run": FITS, "growth": GROWTH, "teacher": TEACHER}
N_REPEATS, QUICK = 3, 30.0
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
# The optimiser that suits scikit-learn's MLPs: lbfgs on small data, adam on large.
MAX_LBFGS_ROWS = 2000
ADAM = {"solver": "adam", "alpha": 1e-4, "early_stopping": True, "max_iter": 200}

Model = object
Fit = Callable[[Problem, int], Model]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=[*PARTS, "print", "one"])
    parser.add_argument("--task", nargs="+", default=[""], help="how their names begin")
    parser.add_argument("--who", nargs="+", choices=WHO, default=list(WHO))
    parser.add_argument("--limit", type=int, default=900, help="CPU seconds of a fit, at most")
    parser.add_argument("--again", action="store_true", help="repeat what is chosen and done")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci"))
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part == "print":
        print_tables(list(read().values()))
    elif arguments.part == "one":
        print(json.dumps(one(arguments)))
    else:
        tasks = {
            name: task
            for name, task in PARTS[arguments.part].items()
            if name.startswith(tuple(arguments.task))
        }
        if not tasks:
            parser.error(f"no task begins with {arguments.task}: {[*PARTS[arguments.part]]}")
        run(tasks, arguments)


# ---------------------------------------------------------------- all fits


def run(tasks: dict[str, Task], arguments: argparse.Namespace) -> None:
    """Run the missing fits; each result is written as soon as it is known."""
    done = read()
    if arguments.again:
        chosen = {k for k in done if k[0] in tasks and k[1] in arguments.who}
        done = {k: row for k, row in done.items() if k not in chosen}
    STORE.parent.mkdir(exist_ok=True)
    with STORE.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in done.values())
    # Ended like by Ctrl-C, so that the old checkout is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as stack:
        source = dict.fromkeys(WHO, ROOT)
        for name, who, seed in missing(tasks, arguments.who, done):
            if who == "old" and source[who] == ROOT:
                source[who] = stack.enter_context(old_checkout())
            row = {"task": name, "who": who, "seed": seed}
            row |= measured(row, source[who], arguments)
            done[key(row)] = row
            with STORE.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print({k: v for k, v in row.items() if k != "machine"}, flush=True)


def missing(
    tasks: dict[str, Task], who: list[str], done: dict[tuple[str, str, int], Figures]
) -> Iterator[tuple[str, str, int]]:
    """Fits to run, those to be compared in turns; ``done`` grows meanwhile."""
    for name, task in tasks.items():
        for seed in range(N_REPEATS):
            for each in (w for w in task.who if w in who):
                before = done.get((name, each, seed - 1), {}).get("seconds", np.inf)
                row = done.get((name, each, seed), {"error": "not run yet"})
                if "error" in row and (seed == 0 or before < QUICK):
                    yield name, each, seed


def measured(row: Figures, source: Path, arguments: argparse.Namespace) -> Figures:
    """Figures of one fit in a process of its own, or why there are none."""
    with TemporaryDirectory() as scratch:
        command = [
            sys.executable, "-W", "ignore", __file__, "one",
            "--task", row["task"], "--who", row["who"], "--seed", str(row["seed"]),
            "--limit", str(arguments.limit), "--data", arguments.data, "--scratch", scratch,
        ]  # fmt: skip
        paths = [str(source), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(paths)}
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    facts = {"commit": commit(source), "machine": machine()}
    if run.returncode == -signal.SIGXCPU:
        return {"limit": arguments.limit} | facts
    if run.returncode:
        lines = run.stderr.strip().splitlines() or [f"exit code {run.returncode}"]
        return {"error": lines[-1]} | facts
    found = json.loads(run.stdout)
    if Path(found.pop("package")).parent != source:
        raise SystemExit(f"Expected sklearn_hfl of {source}, but another one was imported.")
    return found | facts


@contextmanager
def old_checkout() -> Iterator[Path]:
    """A work tree of the old commit, removed at the end."""
    with TemporaryDirectory() as folder:
        path = Path(folder).resolve() / OLD
        try:
            git("worktree", "add", "--detach", str(path), OLD)
        except subprocess.CalledProcessError as error:
            raise SystemExit(
                f"Expected commit {OLD} in the history of {ROOT}, but git says: "
                f"{error.stderr.strip()} Fetch the whole history: git fetch --unshallow."
            ) from error
        try:
            yield path
        finally:
            git("worktree", "remove", "--force", str(path))


def git(*command: str, folder: Path = ROOT) -> str:
    run = subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True, text=True)
    return run.stdout.strip()


def commit(folder: Path) -> str:
    """The commit that changed a checkout's package last, with a + if it has been changed since."""
    changed = git("status", "--porcelain", "sklearn_hfl", folder=folder)
    last = git("log", "-1", "--format=%h", "--", "sklearn_hfl", folder=folder)
    return last + "+" * bool(changed)


def key(row: Figures) -> tuple[str, str, int]:
    return row["task"], row["who"], row["seed"]


def read() -> dict[tuple[str, str, int], Figures]:
    """Results by key; of a fit that failed and was repeated, the last."""
    if not STORE.exists():
        return {}
    rows = map(json.loads, STORE.read_text(encoding="utf-8").splitlines())
    return {key(row): row for row in rows}


# ---------------------------------------------------------------- one fit


def one(arguments: argparse.Namespace) -> Figures:
    """Time and memory of a fit, and its scores on held-out rows."""
    warnings.simplefilter("ignore")
    (name,), (who,) = arguments.task, arguments.who
    task = next(tasks[name] for tasks in PARTS.values() if name in tasks)
    problem = task.make(arguments.data, arguments.scratch)
    fit = METHODS[who]
    if who == "old":
        problem = replace(problem, params={**problem.params, **task.old})
    fit(tiny(problem), 0)
    # From here on "VmHWM" is the peak of what follows, and the limit is that of the fit.
    Path("/proc/self/clear_refs").write_text("5")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    began = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (int(began) + 1 + arguments.limit, hard))
    model = fit(problem, arguments.seed)
    seconds = time.process_time() - began
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
    figures = {"seconds": seconds, "peak_gb": peak_gb(), "package": package()}
    score = class_scores if problem.classes else scores
    return figures | facts(model, problem) | score(model, problem)


def tiny(problem: Problem) -> Problem:
    X = np.random.default_rng(0).standard_normal((40, 3))
    y = np.arange(40) % 2 if problem.classes else X[:, 0]
    return replace(problem, X=X, y=y)


def peak_gb() -> float:
    """Peak memory of this process since it was last reset."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1e6


def package() -> str:
    return str(Path(sklearn_hfl.__file__).resolve().parent)


def facts(model: Model, problem: Problem) -> Figures:
    if hasattr(model, "converged_"):
        return {
            "solver": getattr(model, "solver_", model.solver),
            "steps": model.n_iter_,
            "converged": bool(model.converged_),
        }
    return {}


def scores(model: Model, problem: Problem) -> Figures:
    predict = model if callable(model) else partial(model.predict, return_std=True)
    mean, std = predict(problem.X_test)
    density, coverage = normal_scores(problem.y_test, mean, std)
    figures: Figures = {
        "rmse": float(np.sqrt(np.mean((problem.y_test - mean) ** 2))),
        "r2": r2_score(problem.y_test, mean),
    }
    if np.isfinite(std).all():
        figures |= {"density": density, "coverage": coverage}
    if problem.truth is not None and not callable(model):
        mean, std = model.predict(problem.X_test, return_std="epistemic")
        figures["truth_coverage"] = float(np.mean(np.abs(problem.truth - mean) < Z90 * std))
    return figures


def class_scores(model: Model, problem: Problem) -> Figures:
    predict = model if callable(model) else model.predict_proba
    p, labels = predict(problem.X_test), np.unique(problem.y)
    return {
        "density": -log_loss(problem.y_test, p, labels=labels),
        "accuracy": accuracy_score(problem.y_test, labels[p.argmax(1)]),
    }


# ---------------------------------------------------------------- methods


def mlp(problem: Problem, seed: int, **params: object) -> Model:
    ensemble = classifiers.ensemble if problem.classes else regressors.deep_ensemble
    by_rows = {} if len(problem.y) < MAX_LBFGS_ROWS else ADAM
    return ensemble(problem.X, problem.y, seed, **{**by_rows, **params})


def boosting(problem: Problem, seed: int) -> Model:
    peers = classifiers if problem.classes else regressors
    return peers.boosting(problem.X, problem.y, seed)


def hfl(problem: Problem, seed: int, **params: object) -> Model:
    return problem.model(random_state=seed, **params).fit(problem.X, problem.y)


def peer(fit: Callable[..., Model], **params: object) -> Fit:
    return lambda problem, seed: fit(problem.X, problem.y, seed, **params)


METHODS: dict[str, Fit] = {
    "old": partial(hfl, n_estimators=1),
    "new": partial(hfl, n_estimators=1),
    "default": partial(hfl, n_estimators=3),
    "mlp": mlp,
    "mlp-adam": partial(mlp, solver="adam", alpha=1e-4, max_iter=1000),
    "one-mlp": partial(mlp, n_members=1),
    "boosting": boosting,
    "gp": peer(regressors.gaussian_process, max_rows=MAX_GP_ROWS),
    "ridge": peer(regressors.bayesian_ridge),
}


if __name__ == "__main__":
    main()

"""Tables and picture of fit.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from fit_tasks import FEATURES, FITS, GROWTH, ROWS, TEACHER, growth_name
from reporting import heading, save, sign

__all__ = ["WHO", "Figures", "print_tables"]

Figures = dict[str, object]
PICTURE = Path("docs/images/fit.png")
WHO = {
    "old": "sklearn_hfl at 4d3447d",
    "new": "sklearn_hfl, one member",
    "default": "sklearn_hfl, defaults",
    "mlp": "five MLPs",
    "mlp-adam": "five MLPs, adam",
    "one-mlp": "one MLP",
    "boosting": "histogram boosting",
    "gp": "Gaussian process",
    "ridge": "BayesianRidge",
}
# Where time per row should no longer hide in constant costs.
MANY_ROWS = 5000
# Aims for one member: how many times as fast as the old commit it was to be, and CPU seconds, or
# whose, it was not to exceed; CPU seconds of the defaults; coverage of f by 90 % bands, at least.
TIMES_AS_FAST = {
    "iris, 120 × 4": 2, "yacht, 277 × 6": 5, "concrete, 927 × 8": 3, "kin8nm, 7 373 × 8": 6,
    "Friedman 1, 20 000 × 20": 12, "waves, 41 000 × 9": 10, "linear, 500 × 1000": 50,
    "digits, 1 437 × 64": 4, "5 classes, 2 000 × 20": 12,
}  # fmt: skip
SECONDS: dict[str, float | str] = {
    "waves, 41 000 × 9": "mlp", "digits, 1 437 × 64": "mlp-adam", "5 classes, 20 000 × 30": 60,
    "Friedman 1, 100 000 × 10": 60, "2 000 000 × 10, memory map": 300,
}  # fmt: skip
SECONDS_OF_DEFAULTS = {
    "yacht, 277 × 6": 2, "concrete, 927 × 8": 4, "kin8nm, 7 373 × 8": 20,
    "Friedman 1, 20 000 × 20": 60,
}  # fmt: skip
RELU, TANH, TIMES_TANH = "relu, 333 × 14", "tanh, 333 × 14", 2
WIDE, R2_BELOW_RIDGE = "linear, 500 × 1000", 0.02
COVERAGE = 0.85


def print_tables(rows: list[Figures]) -> None:
    if not rows:
        raise SystemExit("Expected results in build/fit.jsonl, but there are none. Run the parts.")
    for machine in sorted({row["machine"] for row in rows}):
        print(machine)
    commits = {row["commit"] for row in rows if row["who"] in ("new", "default")}
    print(f"one thread; sklearn_hfl at {', '.join(sorted(commits)) or 'no commit'}")
    print(
        "MLPs: 1×50, lbfgs below 2 000 rows, adam with early stopping from there on; "
        '"five MLPs, adam": up to 1 000 passes without early stopping'
    )
    for tasks, table in ((FITS, print_fits), (GROWTH, print_growth), (TEACHER, print_teacher)):
        found = [row for row in rows if row["task"] in tasks]
        if found:
            table(Results(found))
    print_aims(Results(rows))
    save("fit.csv", rows)


class Results:
    """Runs of each task by each method.

    Parameters
    ----------
    rows : list of dict
        One for each run.
    """

    def __init__(self, rows: list[Figures]) -> None:
        self._rows = rows

    def runs(self, task: str, who: str) -> list[Figures]:
        return [row for row in self._rows if (row["task"], row["who"]) == (task, who)]

    def middle(self, task: str, who: str, name: str) -> float:
        """Median of a figure, NaN where no run has it."""
        values = [row[name] for row in self.runs(task, who) if name in row]
        return float(np.median(values)) if values else np.nan

    def seconds(self, task: str, who: str) -> str:
        """CPU seconds, or the limit that a run exceeded."""
        runs = self.runs(task, who)
        if not runs:
            return ""
        if any("error" in row for row in runs):
            return "failed"
        limits = [row["limit"] for row in runs if "limit" in row]
        return f"> {max(limits)}" if limits else short(self.middle(task, who, "seconds"))

    def converged(self, task: str, who: str) -> str:
        flags = [row["converged"] for row in self.runs(task, who) if "converged" in row]
        return f"{sum(flags)} of {len(flags)}" if flags else ""


def short(value: float) -> str:
    """Three digits, blank for NaN."""
    if np.isnan(value):
        return ""
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}"


def fixed(value: float, digits: int) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def ratio(results: Results, task: str, who: str) -> str:
    """How many times longer the old commit took; at least, where it was stopped."""
    spent = results.middle(task, who, "seconds")
    (old, *_) = [*results.runs(task, "old"), {}]
    if who == "old" or np.isnan(spent) or not ("seconds" in old or "limit" in old):
        return ""
    if "limit" in old:
        return f"> {short(old['limit'] / spent)}"
    return short(results.middle(task, "old", "seconds") / spent)


def print_fits(results: Results) -> None:
    heading("Fits: CPU seconds, and scores on held-out rows")
    print(
        "medians of up to three runs; fits of half a minute or more were run once\n"
        "ratio: CPU seconds at 4d3447d / those of the row; peak GB: of the process, libraries "
        "included;\ndensity: mean log density; cover: 90 % intervals; cover f: 90 % epistemic "
        "bands around the\nfunction without noise"
    )
    print(
        f"{'':26s}{'runs':>5s}{'CPU s':>8s}{'ratio':>8s}{'peak GB':>9s}  {'solver':12s}"
        f"{'steps':>6s}{'converged':>11s}{'density':>9s}{'cover':>7s}{'cover f':>8s}{'RMSE':>9s}"
        f"{'R²':>8s}{'accuracy':>9s}"
    )
    print_tasks(results, FITS, line)


def print_tasks(
    results: Results, tasks: Iterable[str], line: Callable[[Results, str, str], str]
) -> None:
    """A line for each method that ran, under the name of its task."""
    for task in tasks:
        who = [who for who in WHO if results.runs(task, who)]
        if who:
            print(task)
        for each in who:
            print(line(results, task, each))


def line(results: Results, task: str, who: str) -> str:
    def figure(name: str) -> float:
        return results.middle(task, who, name)

    runs = results.runs(task, who)
    return (
        f"  {WHO[who]:24s}{len(runs):5d}{results.seconds(task, who):>8s}"
        f"{ratio(results, task, who):>8s}{fixed(figure('peak_gb'), 2):>9s}"
        f"  {runs[0].get('solver', ''):12s}{short(figure('steps')):>6s}"
        f"{results.converged(task, who):>11s}{fixed(figure('density'), 3):>9s}"
        f"{fixed(figure('coverage'), 3):>7s}{fixed(figure('truth_coverage'), 3):>8s}"
        f"{short(figure('rmse')):>9s}{fixed(figure('r2'), 3):>8s}"
        f"{fixed(figure('accuracy'), 3):>9s}"
    ).rstrip()


def print_growth(results: Results) -> None:
    heading("Rows: CPU seconds of a fit of Friedman 1 with 10 features and noise 1")
    print_axis(results, ROWS, lambda n: growth_name(n, 10), slope_from=MANY_ROWS)
    heading("Features: CPU seconds of a fit of 1000 rows of Friedman 1")
    print_axis(results, FEATURES, lambda d: growth_name(1000, d))
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for who, label in WHO.items():
        seconds = [results.middle(growth_name(n, 10), who, "seconds") for n in ROWS]
        if not np.isnan(seconds).all():
            ax.loglog(ROWS, seconds, marker="o", ms=4, label=label)
    ax.set(xlabel="rows", ylabel="CPU seconds of a fit")
    figure.legend(fontsize="small", loc="outside upper center", ncols=3)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=150)


def print_axis(
    results: Results, sizes: Iterable[int], task: Callable[[int], str], slope_from: int = 0
) -> None:
    """Seconds of each method against size, and the slope of log seconds from a size on."""
    sizes = np.array([*sizes])
    print(f"{'':26s}" + "".join(f"{n:>9,d}" for n in sizes) + f"{'slope':>8s}")
    for who, label in WHO.items():
        seconds = np.array([results.middle(task(n), who, "seconds") for n in sizes])
        cells = [results.seconds(task(n), who) for n in sizes]
        if any(cells):
            chosen = (sizes >= slope_from) & ~np.isnan(seconds)
            slope = np.nan
            if chosen.sum() > 1:
                slope = np.polyfit(np.log(sizes[chosen]), np.log(seconds[chosen]), 1)[0]
            print(f"{label:26s}" + "".join(f"{c:>9s}" for c in cells) + f"{fixed(slope, 2):>8s}")
    if slope_from:
        print(f"slope of log seconds against log rows, from {slope_from} rows on")


def print_teacher(results: Results) -> None:
    heading("Teacher: rows drawn from a network of the shape that is fitted, with noise")
    print(
        f"{'':26s}{'CPU s':>8s}  {'solver':12s}{'converged':>11s}{'cover f':>9s}{'cover y':>9s}"
        f"{'RMSE':>8s}{'peak GB':>9s}"
    )
    print_tasks(results, TEACHER, teacher_line)
    print("90 % bands; cover f: epistemic bands around the teacher; RMSE against noisy rows")


def teacher_line(results: Results, task: str, who: str) -> str:
    return (
        f"  {WHO[who]:24s}{results.seconds(task, who):>8s}"
        f"  {results.runs(task, who)[0].get('solver', ''):12s}{results.converged(task, who):>11s}"
        f"{fixed(results.middle(task, who, 'truth_coverage'), 3):>9s}"
        f"{fixed(results.middle(task, who, 'coverage'), 3):>9s}"
        f"{fixed(results.middle(task, who, 'rmse'), 3):>8s}"
        f"{fixed(results.middle(task, who, 'peak_gb'), 2):>9s}"
    )


def print_aims(results: Results) -> None:
    heading("Aims: what fits reach, ≥ or ≤ what was aimed at; < and > miss it")
    for task, what, found, signs, aim in aims(results):
        if found:
            print(f"{task:28s}{what:42s}{compared(found, aim, signs):>16s}")


def aims(results: Results) -> Iterator[tuple[str, str, str, str, float]]:
    """Task, what was to be reached there, what was, the signs for success and failure, the aim."""
    for task, times in TIMES_AS_FAST.items():
        found = ratio(results, task, "new")
        yield task, "times as fast as 4d3447d", found, "≥<", times
    for task, most in SECONDS.items():
        what, aim = "CPU s", most
        if isinstance(most, str):
            what, aim = f"CPU s, against {WHO[most]}", results.middle(task, most, "seconds")
        yield task, what, results.seconds(task, "new"), "≤>", aim
    twice = TIMES_TANH * results.middle(TANH, "new", "seconds")
    yield RELU, "CPU s, against twice those of tanh", results.seconds(RELU, "new"), "≤>", twice
    for task, most in SECONDS_OF_DEFAULTS.items():
        yield task, "CPU s of the defaults", results.seconds(task, "default"), "≤>", most
    least = results.middle(WIDE, "ridge", "r2") - R2_BELOW_RIDGE
    r2 = fixed(results.middle(WIDE, "new", "r2"), 3)
    yield WIDE, f"R², against BayesianRidge's less {R2_BELOW_RIDGE}", r2, "≥<", least
    for task in TEACHER:
        for who in ("new", "default"):
            found = fixed(results.middle(task, who, "truth_coverage"), 3)
            yield task, f"cover f{', defaults' * (who == 'default')}", found, "≥<", COVERAGE


def compared(found: str, aim: float, signs: str) -> str:
    """A printed figure, or "> x" where only that is known, the sign of success, and the aim."""
    if found == "failed":
        return found
    at_least = found.startswith("> ")
    value = np.inf if at_least and signs[0] == "≤" else float(found.removeprefix("> "))
    return f"{found} {sign(value, aim, signs)} {short(aim)}"

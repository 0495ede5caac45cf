"""Tables of tables.py: scores of each method, and where the regressor stands among the others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from forecasts import FIGURES
from reporting import heading

__all__ = ["print_half"]

OWN = "HFLRegressor"
LOG = "HFLRegressor, log y"
# What the user guide recommends: the logarithm of positive, skewed targets, else the defaults.
CHOSEN = "HFLRegressor, log y where skewed"
BASELINE = "NGBoost"
# Larger is better.
SIGNS = {"log_density": 1, "crps": -1}
NAMES = {"log_density": "log density", "crps": "CRPS"}
COVERAGE = (0.88, 0.93)


class Standing(NamedTuple):
    """One method on one table, beside the best of the others and itself."""

    best: str
    behind: float  # mean over folds, in units of the score
    error: float  # its standard error
    worst: bool

    @property
    def good(self) -> bool:
        """Best, or within one standard error of the best."""
        return self.behind <= 0 or self.behind <= self.error


def print_half(half: str, rows: pd.DataFrame, methods: list[str]) -> None:
    """Print the scores of each table, and the summary."""
    if rows.empty:
        return
    rows = rows.assign(seconds=rows["fit_s"] + rows["predict_s"])
    heading(f"Tables, {half} half: means of folds")
    print(
        f"{'':34s}{'folds':>6s}{'log density':>12s}{'± error':>9s}{'CRPS':>10s}{'± error':>9s}"
        f"{'cover 90 %':>11s}{'width':>10s}{'RMSE':>10s}{'CPU s':>9s}"
    )
    for name, table in rows.groupby("table", sort=False):
        first = table.iloc[0]
        print(f"{name}, {first['rows']:.0f} rows × {first['features']:.0f} encoded columns")
        for method in methods:
            _print_method(method, table[table["method"] == method])
    _print_summary(half, _with_chosen(rows))


def _print_method(method: str, rows: pd.DataFrame) -> None:
    scored = rows[rows["rmse"].notna()]
    if len(scored):
        mean = scored[[*FIGURES, "seconds"]].mean()
        error = scored[[*SIGNS]].sem()
        cells = [
            (mean["log_density"], "12.3f"), (error["log_density"], "9.3f"),
            (mean["crps"], "10.4g"), (error["crps"] if mean["crps"] >= 0 else np.nan, "9.2g"),
            (mean["coverage"], "11.3f"), (mean["width"], "10.4g"), (mean["rmse"], "10.4g"),
            (mean["seconds"], "9.1f"),
        ]  # fmt: skip
        text = "".join(_cell(value, form) for value, form in cells)
        print(f"  {method:32s}{len(scored):6d}{text}")
    failed = rows[rows["rmse"].isna()]
    for reason, found in failed.groupby("reason", sort=False):
        print(f"  {method:32s}{len(found):6d}  failed: {reason}")


def _cell(value: float, form: str) -> str:
    return int(form.partition(".")[0]) * " " if np.isnan(value) else f"{value:{form}}"


def _with_chosen(rows: pd.DataFrame) -> pd.DataFrame:
    """The log y fit's rows where there are some, else the defaults', once more as ``CHOSEN``."""
    through_log = set(rows["table"][rows["method"] == LOG])
    wanted = np.where(rows["table"].isin(through_log), LOG, OWN)
    return pd.concat([rows, rows[rows["method"] == wanted].assign(method=CHOSEN)])


def _print_summary(half: str, rows: pd.DataFrame) -> None:
    heading(f"Summary, {half} half")
    print(
        "each variant beside all methods but the regressor's others; within: best, or within one "
        "standard\nerror over folds, of the paired difference, of the best mean"
    )
    own = [m for m in rows["method"].unique() if m.startswith(OWN)]
    for method in own:
        print(method)
        for score in SIGNS:
            _print_standings(rows, method, score)
        _print_seconds(rows, method)
        _print_coverage(rows[rows["method"] == method])


def _print_standings(rows: pd.DataFrame, method: str, score: str) -> None:
    found = {name: standing(table, method, score) for name, table in rows.groupby("table")}
    known = {name: one for name, one in found.items() if one}
    if not known:
        return
    worst = [name for name, one in known.items() if one.worst]
    good = sum(one.good for one in known.values())
    print(
        f"  {NAMES[score]}: within on {good} of {len(known)} tables, worst on {len(worst)}"
        f"{': ' if worst else ''}{', '.join(worst)}"
    )
    for name, one in known.items():
        if not one.good:
            error = "" if np.isnan(one.error) else f" ± {one.error:.2g}"
            print(f"    {name:14s} behind {one.best} by {one.behind:.3g}{error}")


def standing(table: pd.DataFrame, method: str, score: str) -> Standing | None:
    """Where a method stands on a table; None where it has no score, or nobody else has."""
    others = ~table["method"].str.startswith(OWN)
    values = table[others | (table["method"] == method)].pivot(
        index="fold", columns="method", values=score
    )
    if method not in values or values[method].isna().all():
        return None
    # Means are compared on the same folds: whoever lacks one of them is left out.
    values = SIGNS[score] * values[values[method].notna()].dropna(axis=1)
    if values.shape[1] < 2:
        return None
    means = values.mean()
    best = str(means.idxmax())
    behind = values[best] - values[method]
    return Standing(best, behind.mean(), behind.sem(), means.idxmin() == method)


def _print_seconds(rows: pd.DataFrame, method: str) -> None:
    means = rows.pivot_table(index="table", columns="method", values="seconds")
    if BASELINE not in means or method not in means:
        return
    ratio = (means[method] / means[BASELINE]).dropna()
    if len(ratio):
        print(
            f"  CPU time / {BASELINE}'s: median {ratio.median():.2g}, from {ratio.min():.2g} "
            f"({ratio.idxmin()}) to {ratio.max():.2g} ({ratio.idxmax()})"
        )


def _print_coverage(rows: pd.DataFrame) -> None:
    low, high = COVERAGE
    means = rows.groupby("table")["coverage"].mean().dropna()
    heavy = rows.groupby("table")["heavy_tailed"].mean() >= 0.5  # most folds' fits reported it
    outside = means[~means.between(low, high)]
    cells = ", ".join(
        f"{name} {value:.3f}{' (heavy tails)' if heavy[name] else ''}"
        for name, value in outside.items()
    )
    print(
        f"  coverage of 90 % intervals: {means.min():.3f} to {means.max():.3f}; outside {low} to "
        f"{high} on {len(outside)} of {len(means)}{': ' if cells else ''}{cells}; heavy tails on "
        f"{int(heavy.sum())}"
    )

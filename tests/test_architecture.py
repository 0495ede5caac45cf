"""Architecture: the walk that docs/design/architecture.md describes is the one that calls take."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/design/architecture.md").read_text(encoding="utf-8")
MAX_HOPS = 6


@pytest.fixture(scope="module")
def stacks():
    return runpy.run_path(str(ROOT / "tools/hops.py"))["stacks"]()


def described(name):
    section = PAGE.split(f"<!-- {name}:begin -->")[1].split(f"<!-- {name}:end -->")[0]
    steps = re.findall(r"^\d+\. `([^`]+)`: `([^`]+)`", section, flags=re.MULTILINE)
    return [":".join(step) for step in steps]


@pytest.mark.parametrize("name", ["predict", "fit"])
def test_the_page_names_each_function_on_the_way(stacks, name):
    assert described(name) == stacks[name]


def test_a_prediction_reaches_the_perturbed_optima_in_a_few_hops(stacks):
    assert len(stacks["predict"]) - 1 <= MAX_HOPS

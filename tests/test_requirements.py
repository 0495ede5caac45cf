"""Requirements: files import what their make target installs, and what is claimed is so."""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path

import pytest
from check_imports import problems

from sklearn_hfl import __version__

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
OLDEST = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8")
# What users install; for developers' tools no lower bound is claimed but one that has a reason.
CLAIMED = [
    *PROJECT["dependencies"],
    *(r for e in ("dask", "pandas", "plot", "skops") for r in EXTRAS[e]),
]


def without(requirement, extra=None):
    project = copy.deepcopy(PROJECT)
    lists = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    lists.remove(requirement)
    return project


def test_each_file_imports_what_its_target_installs():
    assert problems(PROJECT) == []


@pytest.mark.parametrize(("extra", "requirement"), [(e, r) for e in EXTRAS for r in EXTRAS[e]])
def test_a_package_that_an_extra_lacks_is_missed(extra, requirement):
    assert problems(without(requirement, extra)) != []


@pytest.mark.parametrize("requirement", PROJECT["dependencies"])
def test_a_package_that_a_plain_install_lacks_is_missed(requirement):
    assert problems(without(requirement)) != []


@pytest.mark.parametrize(
    ("extra", "requirement", "file", "target"),
    [
        ("plot", "matplotlib>=3.8", "examples/quickstart.py", "quickstart"),
        ("pandas", "pandas>=2.1", "tests/data/test_columns.py", "test"),
    ],
)
def test_the_file_and_the_target_are_named(extra, requirement, file, target):
    expected = f"{file} needs {requirement.split('>')[0]}, which `make {target}` does not install"
    assert any(problem.startswith(expected) for problem in problems(without(requirement, extra)))


@pytest.mark.parametrize("requirement", CLAIMED)
def test_the_lowest_version_claimed_is_the_one_tried(requirement):
    name, claimed = re.match(r"([\w.-]+)(?:\[.*\])?>=(.+)", requirement).groups()
    tried = re.search(rf"^{name}==(.+)$", OLDEST, re.MULTILINE)[1]
    assert f"{tried}.".startswith(f"{claimed}.")


@pytest.mark.parametrize("place", ["*.md", "docs/**/*.md", "benchmarks/*.md", ".github/**/*.yml"])
def test_each_make_target_that_is_named_exists(place):
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    assert {"quickstart", "test", "docs"} <= targets
    for path in ROOT.glob(place):
        text = path.read_text(encoding="utf-8")
        for named in re.findall(r"(?:`|run: )make ([a-z -]+)(?<! )", text):
            assert set(named.split()) <= targets, path.name


def test_the_version_is_the_same_wherever_it_is_written():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE)[1] == __version__
    assert re.search(r"^## (\S+)", changes, re.MULTILINE)[1] == __version__

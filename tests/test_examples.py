"""Examples: every script runs with what the "plot" extra brings, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def packages_of(*extras):
    """Import names of what some extras ask for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [name for extra in extras for name in project["optional-dependencies"][extra]]
    return {re.split(r"[^\w-]", name)[0].replace("-", "_") for name in wanted}


# An example that needs pandas works wherever the test suite is installed, and fails where a
# newcomer runs it.
RUN_ALL = """
    import runpy, sys, warnings
    from pathlib import Path

    class Refused:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {absent}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

    sys.meta_path.insert(0, Refused())
    # There is no window to show a picture in.
    warnings.filterwarnings("ignore", message=".*non-interactive")
    for script in sorted(Path().glob("*.py")):
        print(script, flush=True)
        runpy.run_path(str(script), run_name="__main__")
"""


@pytest.mark.slow
def test_examples_run_without_what_only_developers_install(tmp_path):
    folder = shutil.copytree(ROOT / "examples", tmp_path / "examples")
    absent = packages_of("test", "docs", "lint")
    assert {"pandas", "polars", "mapie", "skops"} <= absent
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RUN_ALL.format(absent=absent))],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    assert (folder / "quickstart.png").stat().st_size > 10_000

"""Build the wheel, and try it as a new user would: in a fresh environment, without the repository.

The wheel may hold the package alone and weigh 300 kB at the most; the package may add a tenth to
the time of importing torch and scikit-learn; and the Python of README.md and docs/ has to run, but
for blocks that say what else they need.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from blocks import pages

ROOT = Path(__file__).parents[1]
# The modules are 246 kB: a data file, a picture or a second copy of them would show.
MAX_BYTES = 300_000
# Of the import of torch and scikit-learn in the same process: seconds depend on what else runs.
# It is 0.03 on a quiet machine, and 0.06 to 0.08 on a busy one.
MAX_SHARE = 0.1
IMPORT = (
    "import time; first = time.perf_counter(); "
    "import torch, sklearn.base, sklearn.metrics, sklearn.preprocessing, sklearn.utils; "
    "began = time.perf_counter(); import sklearn_hfl; "
    "print((time.perf_counter() - began) / (began - first))"
)


def main() -> None:
    with TemporaryDirectory() as folder:
        wheel = built(Path(folder, "dist"))
        python = environment(Path(folder, "environment"), wheel)
        check_import(python, Path(folder))
        check_documents(python, Path(folder, "elsewhere"))


def built(folder: Path) -> Path:
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    strangers = [n for n in names if not n.startswith(("sklearn_hfl/", "sklearn_hfl-"))]
    size = wheel.stat().st_size
    print(f"{wheel.name}: {len(names)} files, {size / 1000:.0f} kB")
    if strangers or size > MAX_BYTES or "sklearn_hfl/py.typed" not in names:
        raise SystemExit(
            f"The wheel should hold sklearn_hfl alone, but it has {strangers or names}."
        )
    return wheel


def environment(folder: Path, wheel: Path) -> Path:
    """An environment that holds the wheel and what it asks for, and not even pip."""
    python = folder / "bin" / "python"
    # Where the system's Python cannot put pip into a new environment, this one's does it.
    venv.create(folder)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile"]
    run(*pip, "--constraint", ROOT / "constraints.txt", wheel)
    return python


def check_import(python: Path, folder: Path) -> None:
    shares = [float(run(python, "-c", IMPORT, cwd=folder)) for _ in range(5)]
    median = statistics.median(shares)
    print(f"import: {median:.3f} of that of torch and scikit-learn (median of 5)")
    if median > MAX_SHARE:
        raise SystemExit(f"Importing sklearn_hfl may add {MAX_SHARE} of it.")


def check_documents(python: Path, folder: Path) -> None:
    """Run the documents' code on a copy of the documents alone."""
    for name in (*pages(), "tools/blocks.py", "tools/run_blocks.py"):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    print(run(python, "tools/run_blocks.py", cwd=folder), end="")


def run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()

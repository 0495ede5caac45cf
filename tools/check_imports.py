"""Check that every file imports only what the make target that runs it installs.

`make --dry-run --always-make TARGET` prints what a target does on a machine that has nothing yet:
what it installs, and which files it runs. A file may import what is installed there by name: not
what a dependency happens to bring, nor what another target left behind. The Python of documents and
docstrings may import what a plain install asks for, and the extra that it names.
"""

from __future__ import annotations

import argparse
import ast
import doctest
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Set
from functools import cache
from itertools import pairwise
from pathlib import Path

from blocks import blocks, pages

ROOT = Path(__file__).resolve().parents[1]
Compare = Callable[[str, Set[str], Set[str], str], None]
# Where the module is not called as the distribution.
MODULES = {
    "backpack-for-pytorch": "backpack", "curvlinops-for-pytorch": "curvlinops",
    "import-linter": "importlinter", "laplace-torch": "laplace", "pytest-xdist": "xdist",
    "scikit-learn": "sklearn",
}  # fmt: skip
# Programs and pytest's options, and the modules behind them.
PROGRAMS = {"lint-imports": "importlinter", "sphinx-build": "sphinx"}
OPTIONS = {"-n": "xdist", "--cov": "pytest_cov"}
# Other scripts start these, with the Python of another environment.
ELSEWHERE = {
    "benchmarks/peers/curvlinops_cg.py": ".venv-laplace",
    "benchmarks/peers/laplace_torch.py": ".venv-laplace",
    "benchmarks/peers/ngboost_regressor.py": ".venv-ngboost",
    "tools/run_blocks.py": "the wheel",
}
# Parts of the package that need an extra.
EXTRA_OF = {"plotting": "plot", "collections.py": "dask"}
FOLDERS = ("benchmarks", "docs", "examples", "tests", "tools")
PIP = ["-m", "pip", "install"]
NO_CHECK = {"benchmarks", "clean", "distclean", "help"}  # of nothing of their own


class Requirements:
    """Modules that the package and its extras ask for by name."""

    def __init__(self, project: dict) -> None:
        self.plain = modules(project["dependencies"]) | {"sklearn_hfl"}
        self._extras = project["optional-dependencies"]

    def extra(self, name: str) -> set[str]:
        inner = re.compile(r"sklearn_hfl\[([\w,-]+)\]")
        found = set()
        for requirement in self._extras[name]:
            own = inner.match(requirement)
            parts = [self.extra(n) for n in own[1].split(",")] if own else [modules([requirement])]
            found.update(*parts)
        return found

    def named(self, names: frozenset[str]) -> set[str]:
        """Of extras, or of other distributions."""
        parts = [self.extra(n) if n in self._extras else modules([n]) for n in names]
        return set().union(*parts)

    def having(self, module: str) -> list[str]:
        return [f'"{name}"' for name in self._extras if module in self.extra(name)]


def modules(requirements: list[str]) -> set[str]:
    names = [re.split(r"[^\w.-]", r, maxsplit=1)[0].lower() for r in requirements]
    return {MODULES.get(name, name.replace("-", "_")) for name in names}


# ------------------------------------------------------------ what a target installs and runs


@cache
def targets() -> list[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return [t for t in re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE) if t not in NO_CHECK]


@cache
def commands(target: str) -> list[list[str]]:
    """Words of each command that a target would run in a fresh clone."""
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", target],
        cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = done.stdout.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if "/bin/" in line]


def installed(words: list[str], requirements: Requirements) -> set[str]:
    """Modules that a command of pip brings, which is given by its words after "install"."""
    parser = argparse.ArgumentParser()
    for option in ("--constraint", "--requirement", "--target", "--editable"):
        parser.add_argument(option)
    parser.add_argument("packages", nargs="*")
    options = parser.parse_known_args(words)[0]
    found = modules(options.packages)
    if options.requirement:
        found |= modules((ROOT / options.requirement).read_text(encoding="utf-8").split())
    if options.editable:
        extras = re.findall(r"[\w-]+", options.editable)
        found |= requirements.plain.union(*(requirements.extra(name) for name in extras))
    return found


def program(words: list[str]) -> str:
    return next(word for word in words if "/bin/" in word)


def run_by(words: list[str]) -> tuple[set[str], list[Path]]:
    """Modules that a command asks for, and the files that it runs."""
    start = program(words)
    name, rest = start.rsplit("/", 1)[1], words[words.index(start) + 1 :]
    if name != "python":
        reads_examples = name == "sphinx-build"
        files = [ROOT / "docs/conf.py", *ROOT.glob("examples/plot_*.py")] if reads_examples else []
        return {PROGRAMS.get(name, name)}, files
    if rest[1:2] == ["pytest"]:
        folders = [ROOT / w for w in rest if w.startswith("tests")] or [ROOT / "tests"]
        options = {OPTIONS[w] for w in rest if w in OPTIONS}
        return {"pytest", *options}, [p for f in folders for p in sorted(f.rglob("*.py"))]
    asked = {rest[1]} if rest[:1] == ["-m"] else set()
    return asked, [ROOT / w for w in words if w.endswith(".py") and (ROOT / w).exists()]


# ------------------------------------------------------------ what a file imports


@cache
def imports(path: Path) -> frozenset[str]:
    """Modules that a file imports or asks for by name, dotted."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(imported(tree)) | frozenset(configured(tree) if path.name == "conf.py" else ())


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.Call(func=ast.Attribute(attr="importorskip"), args=[ast.Constant(value=name)]):
                yield name
            case ast.List(elts=words):  # of a command: [sys.executable, "-m", "mypy"]
                values = [w.value if isinstance(w, ast.Constant) else None for w in words]
                yield from (b for a, b in pairwise(values) if a == "-m" and b)


def configured(tree: ast.AST) -> Iterator[str]:
    """Sphinx's extensions and its theme, which are named by strings."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id="extensions" | "html_theme")], value=value):
                names = ast.literal_eval(value)
                yield from [names] if isinstance(names, str) else names


@cache
def closure(path: Path) -> dict[Path, frozenset[str]]:
    """What a script imports, and the files of this repository that it leads to."""
    found: dict[Path, frozenset[str]] = {}
    left = [path]
    while left:
        file = left.pop()
        if file in found:
            continue
        local = {name: here for name in imports(file) if (here := own_file(name, path.parent))}
        found[file] = frozenset(
            name.partition(".")[0] for name in imports(file) if name not in local
        )
        left += [*local.values(), *named_files(file)]
    return found


def own_file(name: str, folder: Path) -> Path | None:
    """The file of a module beside a script, from the root, or of a tool."""
    parts = name.split(".")
    if parts[0] == "sklearn_hfl":
        return None
    lengths = {len(parts), max(len(parts) - 1, 1)}  # the last may be a function
    roots = (folder, ROOT, ROOT / "tools")
    places = [root.joinpath(*parts[:n]) for root in roots for n in lengths]
    files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
    return next((file for file in files if file.is_file()), None)


@cache
def named_files(path: Path) -> list[Path]:
    """Scripts that a file runs: it has their paths from the repository's root."""
    names = re.findall(r"\"((?:tools|benchmarks)/[\w/]+\.py)\"", path.read_text(encoding="utf-8"))
    return [ROOT / name for name in names if (ROOT / name).is_file() and name not in ELSEWHERE]


@cache
def examples_of(path: Path) -> frozenset[str]:
    """Modules that the examples of a file's docstrings import."""
    parsed = doctest.DocTestParser().get_examples(path.read_text(encoding="utf-8"))
    names = (name for example in parsed for name in imported(ast.parse(example.source)))
    return frozenset(name.partition(".")[0] for name in names)


# ------------------------------------------------------------ both together


def problems(project: dict) -> list[str]:
    """Imports of modules that are not there, for the metadata of pyproject.toml."""
    requirements = Requirements(project)
    found: list[str] = []

    def compare(what: str, wanted: Set[str], there: Set[str], by: str) -> None:
        for module in sorted(wanted - there - sys.stdlib_module_names):
            having = ", ".join(requirements.having(module)) or "none"
            found.append(f"{what} needs {module}, which {by} does not install; extras that have "
                         f"it: {having}.")  # fmt: skip

    seen = compare_targets(requirements, compare)
    for path in sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")):
        if path not in seen and "gallery" not in path.parts:  # which has copies of the examples
            found.append(
                f"{path.relative_to(ROOT)}: expected a make target that runs it, found none."
            )
    compare_package(requirements, compare)
    for block in (block for page in pages() for block in blocks(page)):
        wanted = {name.partition(".")[0] for name in imported(ast.parse(block.code))}
        extra = requirements.named(block.needs)
        by = " and ".join(["a plain install", *sorted(block.needs)])
        compare(block.name, wanted, requirements.plain | extra, by)
        if block.needs and not wanted & extra:
            found.append(
                f"{block.name} names {', '.join(sorted(block.needs))}, but does not use it."
            )
    return found


def compare_targets(requirements: Requirements, compare: Compare) -> set[Path]:
    """Compare what each target runs with what it installs; the files that are run."""
    seen: set[Path] = set()

    def compare_files(files: list[Path], there: set[str], by: str) -> None:
        for file, wanted in (item for path in files for item in closure(path).items()):
            compare(str(file.relative_to(ROOT)), wanted, there, by)
            seen.add(file)

    for target in targets():
        there: dict[str, set[str]] = {}  # in each environment
        for words in commands(target):
            environment = there.setdefault(program(words).partition("/bin/")[0], {"pip"})
            if words[1:4] == PIP:
                environment |= installed(words[4:], requirements)
                continue
            asked, files = run_by(words)
            by = f"`make {target}`"
            compare(by, asked, environment, by)
            compare_files(files, environment, by)
    for script, name in ELSEWHERE.items():
        pips = [] if name == "the wheel" else commands(f"{name}/.installed")
        lists = [installed(words[4:], requirements) for words in pips if words[1:4] == PIP]
        compare_files([ROOT / script], set().union(*lists) if lists else requirements.plain, name)
    return seen


def compare_package(requirements: Requirements, compare: Compare) -> None:
    """The package and its docstrings ask for a plain install; some modules for one extra more."""
    for path in sorted((ROOT / "sklearn_hfl").rglob("*.py")):
        name = path.relative_to(ROOT)
        extra = next((e for part, e in EXTRA_OF.items() if part in name.parts), None)
        there = requirements.plain | (requirements.extra(extra) if extra else set())
        by = f'the extra "{extra}"' if extra else "a plain install"
        wanted = {module.partition(".")[0] for module in imports(path)}
        compare(str(name), wanted, there, by)
        compare(f"{name}, an example", examples_of(path), there, by)


def main() -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = problems(project)
    print(*found, sep="\n", end="\n" if found else "")
    print(f"{len(targets())} make targets, {len(found)} imports of what they do not install")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

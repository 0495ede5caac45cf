"""Blocks of Python in the documents, and what each of them needs besides a plain install.

A block that needs more than the package says in its first line what installs it, for example
``# pip install "sklearn_hfl[skops]"`` or ``# pip install ngboost``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
INSTALL = re.compile(r"# pip install (?:\"?sklearn_hfl\[([\w,-]+)\]\"?|([\w -]+))$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """Python of a page, and the extras or packages that it needs besides a plain install."""

    name: str
    code: str
    needs: frozenset[str] = frozenset()


def pages() -> list[str]:
    """Documents that have Python in them."""
    found = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    return [p.relative_to(ROOT).as_posix() for p in found if BLOCK.search(p.read_text("utf-8"))]


def blocks(page: str) -> Iterator[Block]:
    for number, code in enumerate(BLOCK.findall((ROOT / page).read_text("utf-8")), start=1):
        install = INSTALL.match(code)
        needs = re.split(r"[, ]", install[1] or install[2]) if install else []
        yield Block(f"{page}, block {number}", code, frozenset(needs))


def execute(chosen: Iterable[Block], names: dict[str, object], *expected: type[Warning]) -> None:
    """Run blocks one after the other in one session, without expected warnings.

    ``names`` is what a reader has at hand; the files that are written go to a temporary folder.
    """
    session = dict(names)
    with TemporaryDirectory() as folder, chdir(folder), warnings.catch_warnings():
        for category in expected:
            warnings.simplefilter("ignore", category)
        for block in chosen:
            try:
                exec(compile(block.code, block.name, "exec"), session)
            except ModuleNotFoundError as error:
                error.add_note(
                    f"{block.name}: expected only modules of a plain install"
                    f"{''.join(f' and of {name}' for name in sorted(block.needs))}. A block that "
                    "needs more begins with what installs it, such as "
                    '# pip install "sklearn_hfl[skops]".'
                )
                raise

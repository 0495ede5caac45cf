"""Check that links within the documentation lead to files and headings that exist."""

import re
import sys
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
FENCED_CODE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`[^`\n]+`")
TARGET = re.compile(
    r"\]\(<?([^)\s>]+)"  # [text](target), ![picture](target)
    r"|^\[[^\]]+\]: *<?([^\s>]+)"  # [label]: target
    r"|<(?:a|img)\b[^>]*?\b(?:href|src)=\"([^\"]+)",  # <a href="target">, <img src="target">
    re.MULTILINE,
)
# README.md is read on PyPI too, where links have to be absolute: what they lead to is here.
OWN = (
    (re.compile(r"https://github\.com/sklearn-hfl/sklearn-hfl/blob/main/(.+)"), r"\1"),
    (re.compile(r"https://raw\.githubusercontent\.com/sklearn-hfl/sklearn-hfl/main/(.+)"), r"\1"),
    (re.compile(r"https://sklearn-hfl\.github\.io/sklearn-hfl/(\w+)\.html(#.+)?"), r"docs/\1.md\2"),
)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
HEADING = re.compile(r"^#+ +(.+?) *#*$", re.MULTILINE)


def prose(page: Path) -> str:
    """Text of a page without its code blocks."""
    return FENCED_CODE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Names under which the headings of a page can be linked to."""
    headings = HEADING.findall(prose(page))
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def local(target: str) -> str | None:
    """Path in this repository of an absolute link to it or to its site."""
    for pattern, path in OWN:
        if pattern.fullmatch(target):
            found = pattern.sub(path, target)
            # The reference is the one page that is not Markdown.
            return found.replace("docs/api.md", "docs/api.rst")
    return None


def broken_links(page: Path) -> list[str]:
    """Link targets of a page, in this repository or on its site, that do not exist."""
    broken = []
    for groups in TARGET.findall(INLINE_CODE.sub("", prose(page))):
        target = unquote("".join(groups))
        here = local(target)
        if here is None and ELSEWHERE.match(target):
            continue
        if page == ROOT / "README.md" and not here and not target.startswith("#"):
            broken.append(f"{target} (PyPI shows this page: a link has to be absolute)")
            continue
        path, _, anchor = (here or target).partition("#")
        linked = (ROOT if here else page.parent) / path if path else page
        missing = not linked.exists()
        if missing or (anchor and linked.suffix == ".md" and anchor not in anchors(linked)):
            broken.append(target)
    return broken


def main() -> int:
    """Report the broken links of every page, and return the exit status."""
    pages = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
    broken = [(page.relative_to(ROOT), target) for page in pages for target in broken_links(page)]
    for page, target in broken:
        print(f"{page}: expected a file or heading of this repository, but found none at {target}")
    print(f"{len(pages)} pages, {len(broken)} broken links")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

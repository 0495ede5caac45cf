"""Words: package and documentation use the field's words, not our own for the same things."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = ("sklearn_hfl/**/*.py", "docs/**/*.md", "docs/*.rst", "examples/*.py", "*.md")
# What the field calls a convergence flag or error bound, converged, needs the training data, the
# error suggests, correlated, interpolated, under-confident, pilot queries, penalised, at the cost
# of, expensive, asymmetric, predicted, again, instead of, MAX_ and MIN_.
OURS = (
    r"\bverdicts?\b",
    r"\bsettle[sd]?\b",
    r"\b(asked|asks) (alone|the data)\b",
    r"\bway out\b",
    r"\bhang together\b",
    r"\bby heart\b",
    r"\bdata prove\b",
    r"\btimid\b",
    r"\bsure of (itself|the class)\b",
    r"\bscout(s|ed)?\b",
    r"\bcurb(s|ed)?\b",
    r"\bfor the price of\b",
    r"\b(dear|cheap) to\b",
    r"\blean(s|ing)? to\b",
    r"\bfore(seen|told)\b",
    r"\bafresh\b",
    r"\bin place of\b",
    r"\b(MOST|LEAST|LARGEST)_",
)


@pytest.mark.parametrize("word", OURS)
def test_a_word_of_our_own_is_nowhere(word):
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for place in PLACES
        for path in sorted(ROOT.glob(place))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(word, line, flags=re.IGNORECASE if word.islower() else re.NOFLAG)
    ]
    assert not found

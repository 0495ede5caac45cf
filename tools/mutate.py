"""Mutation testing of the numerical layers: does a test fail where an operator is wrong?

Draws mutants of sklearn_hfl/optim and sklearn_hfl/uncertainty by Cosmic Ray's operators. Each
faces the tests of its module, then, while it lives, those of both layers; see `make mutation`.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.util import spec_from_loader
from pathlib import Path

# Imported once for all mutants, each of which is a fork that has not seen sklearn_hfl yet.
import hypothesis  # noqa: F401
import parso
import pytest
import sklearn.utils.validation  # noqa: F401
import torch.func  # noqa: F401
from cosmic_ray.ast import ast_nodes
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.provider import OperatorProvider

LAYERS = "optim", "uncertainty"
PROVIDER = OperatorProvider()
# Not "<<" for "*", which fails at once.
OPERATORS = re.compile(
    r"ReplaceBinaryOperator_((Add|Sub|Mul|Div)_(Add|Sub|Mul|Div)|BitAnd_BitOr|BitOr_BitAnd"
    r"|(Pow|FloorDiv|Mod)_Mul)"
    r"|ReplaceComparisonOperator_((Eq|NotEq|LtE?|GtE?)_(Eq|NotEq|LtE?|GtE?)|Is_IsNot|IsNot_Is)"
    r"|ReplaceUnaryOperator_Delete_.*|Replace(True|False|And|Or|Break|Continue)With.*"
    r"|NumberReplacer|AddNot|ZeroIterationForLoop"
)
PYTEST = ["-x", "-q", "--assert=plain", "-pno:cacheprovider", "-pno:xdist", "-pno:cov"]


@dataclass(frozen=True)
class Mutant:
    path: Path
    line: int
    operator: str
    occurrence: int

    @cached_property
    def source(self) -> str:
        text = self.path.read_text(encoding="utf-8")
        return mutate_code(text, PROVIDER[self.operator](), self.occurrence)

    def __str__(self) -> str:
        before = self.path.read_text(encoding="utf-8").splitlines()
        lines = zip(before, self.source.splitlines(), strict=True)
        old, new = next((a.strip(), b.strip()) for a, b in lines if a != b)
        return f"{self.path}:{self.line} {self.operator}\n    {old}\n    {new}"


class Finder(MetaPathFinder, InspectLoader):
    """Gives one module a mutant's source."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant, self.name = mutant, ".".join(mutant.path.with_suffix("").parts)

    def find_spec(self, name, path=None, target=None):
        return spec_from_loader(name, self) if name == self.name else None

    def get_source(self, name: str) -> str:
        return self.mutant.source


def mutants(path: Path) -> Iterator[Mutant]:
    tree = parso.parse(path.read_text(encoding="utf-8"))
    for name in filter(OPERATORS.fullmatch, PROVIDER):
        operator = PROVIDER[name]()
        places = ((n, at) for n in ast_nodes(tree) for at, _ in operator.mutation_positions(n))
        for occurrence, (node, at) in enumerate(places):
            if is_code(node):
                yield Mutant(path, at[0], name, occurrence)


def is_code(node: parso.tree.NodeOrLeaf) -> bool:
    """Not an annotation, the text of a message, or the star between parameters."""
    if node.parent is None:
        return True
    kind, siblings = node.parent.type, node.parent.children
    index = siblings.index(node)
    annotation = (kind == "annassign" and index == 1) or siblings[index - 1] == "->"
    star = kind in ("parameters", "param") and node.type == "operator"
    return not (annotation or star or kind in ("fstring", "tfpdef")) and is_code(node.parent)


def passes(tests: list[str], seconds: float, mutant: Mutant | None = None) -> bool:
    """Run tests in a fork, with a mutant in place; an alarm ends those that hang."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(int(seconds))
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        if mutant is not None:
            sys.meta_path.insert(0, Finder(mutant))
        os._exit(int(pytest.main([*PYTEST, *tests])))
    return os.waitpid(pid, 0)[1] == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=250, help="mutants drawn")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    files = [p for layer in LAYERS for p in sorted(Path("sklearn_hfl", layer).glob("*.py"))]
    every = [mutant for path in files for mutant in mutants(path)]
    drawn = sorted(random.Random(options.seed).sample(range(len(every)), options.sample))
    seconds = {}
    for test in sorted(str(p) for layer in LAYERS for p in Path("tests", layer).glob("test_*.py")):
        began = time.perf_counter()
        if not passes([test], 600):
            raise SystemExit(f"{test} fails without a mutant.")
        seconds[test] = time.perf_counter() - began
    survivors = []
    for number in drawn:
        mutant = every[number]
        own = str(Path("tests", mutant.path.parts[1], f"test_{mutant.path.stem}.py"))
        others = sorted(set(seconds) - {own}, key=seconds.get)
        groups = [[own], others] if own in seconds else [others]
        lives = all(passes(g, 20 + 4 * sum(seconds[t] for t in g), mutant) for g in groups)
        survivors += [mutant] * lives
        print("lives " if lives else "killed", mutant, file=sys.stderr, flush=True)
    report([every[number] for number in drawn], survivors)


def report(drawn: list[Mutant], survivors: list[Mutant]) -> None:
    total, alive = (Counter(m.path for m in found) for found in (drawn, survivors))
    print(f"{'module':<42}mutants   killed  survived")
    for path in sorted(total):
        print(f"{path!s:<40}{total[path]:>9}{total[path] - alive[path]:>9}{alive[path]:>10}")
    for layer in LAYERS:
        n, left = (sum(m.path.parts[1] == layer for m in found) for found in (drawn, survivors))
        print(f"{layer}: {n - left} of {n} killed, {(n - left) / max(n, 1):.1%}")
    print(*survivors, sep="\n")


if __name__ == "__main__":
    main()

"""Documents: the Python of every page runs as it stands."""

from __future__ import annotations

import warnings

import pytest
from blocks import Block, blocks, execute, pages
from run_blocks import run

# What the tests install besides the package. Other peers have environments of their own:
# `make check-peers`.
HAVING = {"dask", "mapie", "pandas", "plot", "skops"}
WITH_EXTRAS = [page for page in pages() if any(b.needs and b.needs <= HAVING for b in blocks(page))]


# `make wheel` runs these in an environment of their own; `make test` leaves them to it.
@pytest.mark.parametrize("page", [page for page in pages() if page not in WITH_EXTRAS])
def test_the_code_of_a_plain_page_runs(page):
    run(page)


@pytest.mark.parametrize("page", WITH_EXTRAS)
def test_the_code_of_a_page_with_extras_runs(page):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="skops")
        run(page, HAVING)


def test_a_block_that_needs_more_than_it_says_is_named():
    block = Block("a page, block 1", "import no_such_package", frozenset({"skops"}))
    with pytest.raises(ModuleNotFoundError, match="no_such_package") as caught:
        execute([block], {})
    (note,) = caught.value.__notes__
    assert note.startswith("a page, block 1: expected only modules of a plain install and of skops")

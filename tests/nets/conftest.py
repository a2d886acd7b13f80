"""One bed for all tests of a process, as the usual network at the beginning of each, and notes of how long it took."""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tests.long import LONG
from tests.nets.bed import Bed, Note
from tests.nets.page import NOTES
from tests.nets.rows import ROWS

HERE = Path(__file__).parent
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and TUN devices need root")
NOTED: dict[int, dict[str, float]] = {}
NAME = re.compile(r"test_row_(\d\d)_")


def row_of(item: pytest.Item) -> int:
    """The number of the row that a test is about, 0 for none."""
    found = NAME.match(item.name)
    return int(found[1]) if found else 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the rows and the tests that take too long to the long run, and all to root."""
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker(NEEDS_ROOT)
    left = set() if LONG else {row.number for row in ROWS if not row.ordinary}
    later = [item for item in ours if row_of(item) in left or (item.get_closest_marker("long") and not LONG)]
    if later:
        config.hook.pytest_deselected(items=later)
        items[:] = [item for item in items if item not in later]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _bed_of_all(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bed]:
    async with AsyncExitStack() as stack:
        yield await Bed.up(tmp_path_factory.mktemp("bed"), stack)


@pytest_asyncio.fixture(loop_scope="session")
async def bed(_bed_of_all: Bed) -> AsyncIterator[Bed]:
    """The bed, with homes on both sides, a line without faults, and no TURN server."""
    async with _bed_of_all.test():
        yield _bed_of_all


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Of the same in many networks the longest time is kept."""
    number = row_of(request.node)

    def note(what: str, seconds: float) -> None:
        print(f"row {number}: {what}: {seconds:.1f} s")
        noted = NOTED.setdefault(number, {})
        noted[what] = max(noted.get(what, 0.0), round(seconds, 1))
        NOTES.mkdir(parents=True, exist_ok=True)
        (NOTES / f"{number:02}.json").write_text(json.dumps(noted))

    return note

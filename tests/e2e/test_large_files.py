"""A file larger than a homeserver could store goes there and back unchanged, and nobody's memory grows with it.

An ordinary run takes a smaller one; ``make test-long`` takes the 2 GiB.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from mxrtc_bridge.demo.processes import ManagedProcess
from tests.e2e.files import MIB, digest, objects, resident_bytes, sparse_file
from tests.e2e.world import World
from tests.long import LONG

pytestmark = pytest.mark.real

SIZE = 2048 * MIB if LONG else 512 * MIB
MAX_GROWTH = 32 * MIB
TIMEOUT_S = 400.0
SAMPLE_S = 0.05


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "box").mkdir()
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path, stack)
        world.services["box"] = {"files": {"dir": str(tmp_path / "box"), "direction": "both"}}
        world.grant("alice", "build/box")
        await world.add_user("alice")
        await world.start_bridge()
        yield world


class Growth:
    """How far the memory of processes has grown since the watch began."""

    def __init__(self, *processes: ManagedProcess) -> None:
        self._first = {process: resident_bytes(process) for process in processes}
        self.samples = 0
        self.most = dict.fromkeys((process.name for process in processes), 0)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()

    async def _watch(self) -> None:
        while True:
            for process, first in self._first.items():
                self.most[process.name] = max(self.most[process.name], resident_bytes(process) - first)
            self.samples += 1
            await asyncio.sleep(SAMPLE_S)


async def transfer(world: World, *args: str | Path) -> None:
    """Run a command to its end, and watch the memory of both sides from the moment when they are connected."""
    assert world.bridge is not None
    async with world.mxrtc("alice", "--json", *args) as process:
        await process.wait_for_line('"kind": "connected"', 30)
        growth = Growth(world.bridge, process)
        async with growth.watching():
            assert await process.wait(TIMEOUT_S) == 0, process.tail()
        (done,) = objects(process.output(), "transferred")
    assert done["moved"] == SIZE
    print(f"{args[0]}: {done['moved'] / done['seconds'] / 1e6:.0f} MB/s, grown by", growth.most)
    assert growth.samples >= 20
    for name, grown in growth.most.items():
        assert grown < MAX_GROWTH, f"{name} has grown by {grown / MIB:.1f} MiB"


@pytest.mark.timeout(900)
async def test_file_beyond_what_a_homeserver_stores_goes_there_and_back_in_little_memory(
    world: World, tmp_path: Path
) -> None:
    source = sparse_file(tmp_path / "large.bin", SIZE)
    expected = await asyncio.to_thread(digest, source)
    await transfer(world, "send", source, "build/box")
    assert await asyncio.to_thread(digest, tmp_path / "box" / source.name) == expected
    await transfer(world, "get", f"build/box:{source.name}", "-o", tmp_path / "back")
    assert await asyncio.to_thread(digest, tmp_path / "back") == expected

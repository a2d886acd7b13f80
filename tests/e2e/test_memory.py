"""Memory stays bounded whatever a sink does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mxrtc_bridge.demo.processes import ManagedProcess
from tests.e2e.world import World, echo, pump, stall

pytestmark = pytest.mark.real

MIB = 1 << 20


def resident_bytes(process: ManagedProcess) -> int:
    """Resident memory of a process, from the kernel."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path, stack)
        await world.serve("stall", stall)
        await world.serve("echo", echo)
        world.grant("alice", "build/stall", "build/echo")
        await world.add_user("alice")
        await world.start_bridge()
        yield world


async def test_sink_that_stops_reading_does_not_grow_either_side(world: World) -> None:
    """1 GiB is offered to a service that reads nothing: what cannot move on stays with the writer."""
    process, _ = await world.connect("alice", "build", "-L", "0=stall", "-L", "0=echo")
    ports = [int(line.rsplit(":", 1)[1].split()[0]) for line in process.lines() if "listening on 127.0.0.1:" in line]
    assert len(ports) == 2
    assert world.bridge is not None
    # Warm up: allocators, certificates and code pages are not what this test is about.
    assert len(await pump(ports[1], bytes(8 * MIB))) == 8 * MIB
    before = (resident_bytes(world.bridge), resident_bytes(process))
    accepted = 0
    _, writer = await asyncio.open_connection("127.0.0.1", ports[0])
    chunk = bytes(MIB)
    try:
        for _ in range(1024):
            writer.write(chunk)
            await asyncio.wait_for(writer.drain(), 2)
            accepted += len(chunk)
    except TimeoutError:
        pass
    after = (resident_bytes(world.bridge), resident_bytes(process))
    assert accepted < 64 * MIB, "the writer was held back"
    assert after[0] - before[0] < 32 * MIB
    assert after[1] - before[1] < 32 * MIB
    # The session is not blocked: another stream moves.
    assert len(await asyncio.wait_for(pump(ports[1], bytes(4 * MIB)), 30)) == 4 * MIB
    writer.transport.abort()

"""What may break does, while a pipe runs: the homeserver, the bridge, a right."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.e2e.world import World, echo, payload, pump

pytestmark = pytest.mark.real


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path, stack)
        await world.serve("echo", echo)
        world.grant("alice", "build/echo")
        await world.add_user("alice")
        await world.start_bridge()
        yield world


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int = 100_000) -> None:
    """Send bytes and read the same bytes back."""
    data = payload(size)
    writer.write(data)
    assert await asyncio.wait_for(reader.readexactly(size), 20) == data


async def test_pipe_goes_on_while_the_homeserver_is_away(world: World) -> None:
    _, port = await world.connect("alice", "build/echo", "-L", "0")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await exchange(reader, writer)
    async with world.homeserver.away():
        await exchange(reader, writer)
        second_reader, second_writer = await asyncio.open_connection("127.0.0.1", port)
        await exchange(second_reader, second_writer)
        second_writer.close()
    await exchange(reader, writer)
    writer.close()
    # New calls are answered soon after the homeserver is back, not after its back-off of minutes, nor after ours.
    assert world.bridge is not None
    await world.bridge.wait_for_line("messages for @rtc_build:.* come again", 20)
    code, _, err = await world.run_mxrtc("alice", "ping", "build", "-c", "1", timeout_s=60)
    assert code == 0, err


async def test_client_reconnects_after_the_bridge_was_killed(world: World) -> None:
    world.signal = "room"  # what was answered is counted by the events in it
    process, port = await world.connect("alice", "build/echo", "-L", "0")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await exchange(reader, writer)
    assert world.bridge is not None
    mark = process.mark()
    world.bridge.kill()
    await world.start_bridge()
    await process.wait_for_line(r"(?i)lost|ended", 40, after=mark)
    # A stream that was cut is reset: the local program must not take it for a complete one.
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 20)
    await process.wait_for_line(r"connected", 60, after=mark)
    data = payload(200_000)
    assert await asyncio.wait_for(pump(port, data), 20) == data
    # Nothing was acted on twice: each call id was answered once and has ended, but the one that lives.
    database = sqlite3.connect(world.folder / "bridge.db")
    try:
        calls = database.execute("SELECT call_id, ended_ms FROM call").fetchall()
    finally:
        database.close()
    assert len({call_id for call_id, _ in calls}) == len(calls)
    assert sum(ended is None for _, ended in calls) == 1
    answers = await count_events(world, "m.call.answer")
    assert answers == len(calls)


async def count_events(world: World, kind: str) -> int:
    """How many events of ``kind`` the homeserver has stored."""
    database = sqlite3.connect(f"file:{world.folder / 'synapse' / 'homeserver.db'}?mode=ro", uri=True)
    try:
        return int(database.execute("SELECT count(*) FROM events WHERE type = ?", (kind,)).fetchone()[0])
    finally:
        database.close()


def messages_for_devices(world: World) -> int:
    """How many messages for devices the homeserver keeps for whoever asks for them."""
    database = sqlite3.connect(f"file:{world.folder / 'synapse' / 'homeserver.db'}?mode=ro", uri=True)
    try:
        return int(database.execute("SELECT count(*) FROM device_inbox").fetchone()[0])
    finally:
        database.close()


async def test_withdrawn_right_ends_the_live_session_within_5_s(world: World) -> None:
    process, port = await world.connect("alice", "build/echo", "-L", "0")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await exchange(reader, writer)
    world.grants.clear()
    world.reload()
    async with asyncio.timeout(5):
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    assert await process.wait(10) == 3, process.tail()
    writer.close()


async def test_withdrawn_service_resets_its_streams_and_leaves_the_others(world: World) -> None:
    await world.serve("other", echo)
    world.grants.clear()
    world.grant("alice", "build/echo", "build/other")
    world.reload()
    assert world.bridge is not None
    await world.bridge.wait_for_line("configuration reloaded", 10)
    process, port = await world.connect("alice", "build", "-L", "0=echo")
    found = await process.wait_for_line(r"listening on", 5)
    assert found
    _, other_port = await world.connect("alice", "build/other", "-L", "0")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    other_reader, other_writer = await asyncio.open_connection("127.0.0.1", other_port)
    await exchange(reader, writer)
    await exchange(other_reader, other_writer)
    world.grants.clear()
    world.grant("alice", "build/other")
    world.reload()
    async with asyncio.timeout(5):
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    await exchange(other_reader, other_writer)
    writer.close()
    other_writer.close()


async def test_bridge_that_stops_before_it_has_answered_is_called_again(world: World) -> None:
    """A refusal would end a command that calls again, as many do at the moment of a restart."""
    assert world.bridge is not None
    assert await world.bridge.terminate(20) == 0, world.bridge.tail()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.setblocking(False)
        uri = f"turn:127.0.0.1:{silent.getsockname()[1]}"
        ice = {
            "interfaces": ["lo"],
            "remote": {"loopback": True, "private": True},
            "policy": "relay",
            "servers": [{"urls": [uri], "username": "user", "credential": "secret"}],
        }
        world.settings["ice"] = ice
        bridge = await world.start_bridge()
        async with world.mxrtc("alice", "ping", "build", "-c", "1") as process:
            await asyncio.wait_for(asyncio.get_running_loop().sock_recv(silent, 1), 40)  # it gathers for its answer
            assert await bridge.terminate(20) == 0, bridge.tail()
            assert await process.wait(30) == 1, process.tail()


async def test_bridge_that_stops_says_goodbye_and_leaves_nothing_open(world: World) -> None:
    process, port = await world.connect("alice", "build/echo", "-L", "0")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await exchange(reader, writer)
    assert world.bridge is not None
    assert await world.bridge.terminate(20) == 0, world.bridge.tail()
    await process.wait_for_line("(?i)shutting down|lost|ended", 10)
    writer.close()
    database = sqlite3.connect(world.folder / "bridge.db")
    try:
        assert database.execute("SELECT count(*) FROM call WHERE ended_ms IS NULL").fetchone() == (0,)
    finally:
        database.close()

"""How ``mxrtc`` ends: interrupted in any phase, with a closed output, with a login that is not valid any more."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from mxrtc_bridge.demo.processes import guarded_command
from tests.e2e.world import BIN, World, echo, payload
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


SOON_S = 1.5
"""A second, and what a busy machine needs to notice."""


async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send without an end."""
    while True:
        writer.write(bytes(65536))
        await writer.drain()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder: Path = tmp_path_factory.mktemp("ends")
    async with AsyncExitStack() as stack:
        world = await World.start(folder, stack)
        await world.serve("echo", echo)
        await world.serve("flood", flood)
        world.grant("alice", "build/echo", "build/flood")
        await world.add_user("alice")
        await world.start_bridge()
        yield world


async def start_nc(world: World, service: str, *, stdin: int = asyncio.subprocess.PIPE) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *guarded_command([BIN / "mxrtc", "nc", f"build/{service}"]),
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **world.env("alice")},
    )


async def rest(process: asyncio.subprocess.Process) -> tuple[int, str]:
    """Wait for the end; returns the exit code and what was said."""
    assert process.stderr is not None
    async with asyncio.timeout(20):
        said = (await process.stderr.read()).decode()
        return await process.wait(), said


async def test_nc_ends_without_a_traceback_when_nobody_reads_its_output(world: World) -> None:
    """As in ``mxrtc nc build/flood | head -c 10``: the rest was not wanted, but it is said that it did not arrive."""
    process = await start_nc(world, "flood")
    assert process.stdout is not None
    assert len(await asyncio.wait_for(process.stdout.readexactly(10), 20)) == 10
    process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
    code, said = await rest(process)
    assert code == 6, said
    assert "Traceback" not in said


async def test_nc_with_an_empty_input_receives_what_the_service_has_to_say(world: World) -> None:
    process = await start_nc(world, "echo", stdin=asyncio.subprocess.DEVNULL)
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.read(), 20) == b""
    code, said = await rest(process)
    assert code == 0, said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_nc_hangs_up_when_it_is_told_to_end(world: World, number: signal.Signals) -> None:
    process = await start_nc(world, "echo")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"hello")
    assert await asyncio.wait_for(process.stdout.readexactly(5), 20) == b"hello"
    assert world.bridge is not None
    mark = world.bridge.mark()
    began = time.monotonic()
    process.send_signal(number)
    code, said = await rest(process)
    assert time.monotonic() - began < SOON_S
    assert code == 130, said
    assert "Traceback" not in said
    await world.bridge.wait_for_line("session closed: .*(user_hangup|control_closed)", 5, after=mark)


def takes_signals(pid: int) -> bool:
    """Whether a command has come to our code; until then the interpreter does with a signal what it likes."""
    blocked = re.search(r"^SigBlk:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return blocked is not None and bool(int(blocked[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("after_s", [0, 0.2, 0.4, 0.6, 0.8, 1, 1.3, 1.7, 2.4])
async def test_interruption_in_any_phase_ends_at_once_and_in_silence(world: World, after_s: float) -> None:
    """While it loads, finds the room, gathers, waits for the answer, connects, or listens."""
    process = world.mxrtc("alice", "connect", "build/echo", "-L", "0")
    async with process:
        pid = process.pid
        assert pid is not None
        await until(lambda: takes_signals(pid))
        await asyncio.sleep(after_s)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        code = await process.wait(10)
        assert time.monotonic() - began < SOON_S
        said = process.output("stderr").decode()
        assert code == 130, said
        assert "Traceback" not in said
        assert "never retrieved" not in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_homeserver_that_hangs_does_not_hold_up_a_goodbye(world: World, number: signal.Signals) -> None:
    """What is said by a room goes through the homeserver; by a control channel it has been said already."""
    process = world.mxrtc("alice", "--signal", "room", "connect", "build/echo", "-L", "0")
    async with process:
        await process.wait_for_line("listening on", 40)
        stopped = world.homeserver.pid
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        try:
            began = time.monotonic()
            process.send_signal(number)
            assert await process.wait(10) == 130, process.tail()
            assert time.monotonic() - began < SOON_S
        finally:
            os.kill(stopped, signal.SIGCONT)


async def test_second_port_that_is_in_use_ends_the_command_with_its_own_code(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, said = await world.run_mxrtc("alice", "connect", "build/echo", "-L", "0", "-L", str(port))
    assert code == 7, said
    assert f"Cannot listen on 127.0.0.1 port {port}" in said
    assert "Traceback" not in said


async def is_lost(folder: Path, pid: int) -> bool:
    """Whether a running command has noticed that its connection is lost."""
    # One that had to be ended in the middle, as those before on a busy machine, has left its socket there.
    reader, writer = await asyncio.open_unix_connection(folder / "run" / f"{pid}.sock")
    try:
        return json.loads(await reader.read())["path"] is None
    finally:
        writer.close()


async def test_a_signal_while_a_lost_connection_is_put_away_is_not_swallowed(world: World) -> None:
    """The hang-up waits for a homeserver that hangs, and behind it the next call would begin."""
    process = world.mxrtc("alice", "--signal", "room", "connect", "build/echo", "-L", "0")
    async with process:
        await process.wait_for_line("listening on", 40)
        stopped, pid = world.homeserver.pid, process.pid
        assert stopped is not None
        assert pid is not None
        assert world.bridge is not None
        os.kill(stopped, signal.SIGSTOP)
        try:
            world.bridge.kill()
            async with asyncio.timeout(40):
                while not await is_lost(world.folder / "state-alice", pid):
                    await asyncio.sleep(0.05)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert await process.wait(10) == 130, process.tail()
            assert time.monotonic() - began < SOON_S
            assert "calling again" not in process.tail()
        finally:
            os.kill(stopped, signal.SIGCONT)
    await world.start_bridge()


async def end_login(world: World) -> None:
    """Remove the session at the homeserver, as somebody does in another client."""
    login = json.loads((world.folder / "state-alice" / "login.json").read_text())
    headers = {"Authorization": f"Bearer {login['access_token']}"}
    url = f"{world.homeserver.url}/_matrix/client/v3/logout"
    async with ClientSession(headers=headers) as http, http.post(url, json={}) as response:
        assert response.status == 200


async def test_login_that_was_ended_elsewhere_stops_new_calls_and_no_open_pipe(world: World) -> None:
    """Last in this file: afterwards alice is logged out."""
    # After a call by devices nobody asks the homeserver for anything, so nobody would notice.
    world.signal = "room"
    process, port = await world.connect("alice", "build/echo", "-L", "0")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    mark = process.mark()
    await end_login(world)
    await process.wait_for_line("M_UNKNOWN_TOKEN.*open connections are not affected", 50, after=mark)
    data = payload(100_000)
    writer.write(data)
    assert await asyncio.wait_for(reader.readexactly(len(data)), 20) == data
    writer.close()
    for command in (["nc", "build/echo"], ["status"], ["ls"], ["connect", "build/echo", "-L", "0"]):
        code, _, said = await world.run_mxrtc("alice", *command)
        assert code == 2, (command, said)
        assert "log in again with 'mxrtc login'" in said, command
        assert "Traceback" not in said, command
    # The bridge goes away: the connection is lost, and cannot be made again.
    assert world.bridge is not None
    await world.bridge.terminate(20)
    assert await process.wait(30) == 2, process.tail()
    assert "Traceback" not in process.tail(50)

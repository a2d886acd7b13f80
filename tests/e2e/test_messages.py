"""The way out of a program does not decide about the tunnel: a launcher that forgets or closes the pipe, a full disk.

A pipe is made as small as it can be, so that few messages fill it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import IO

import pytest

from tests.e2e.test_outages import exchange
from tests.e2e.world import BIN, World, echo
from tests.long import LONG

pytestmark = pytest.mark.real

FAILURES = 2500 if LONG else 200
"""Each is a line of about a hundred bytes."""
SMALL = 4096


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path, stack)
        await world.serve("echo", echo)
        world.services["dead"] = {"target": "tcp:127.0.0.1:1"}
        world.grant("alice", "build")
        await world.add_user("alice")
        yield world


async def launched(
    argv: list[str | Path], env: dict[str, str], patterns: list[str], *, by_stdout: bool = False
) -> tuple[subprocess.Popen[bytes], IO[bytes], list[str]]:
    """Start a program and read its messages until the patterns have come, as launchers do, and nothing more."""
    ways = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    ways["stdout" if by_stdout else "stderr"] = subprocess.PIPE
    process = subprocess.Popen(argv, env={**os.environ, **env}, bufsize=0, **ways)
    pipe = process.stdout if by_stdout else process.stderr
    assert pipe is not None
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, SMALL)
    found: list[str] = []
    said = ""
    async with asyncio.timeout(60):
        for pattern in patterns:
            while True:
                line = (await asyncio.to_thread(pipe.readline)).decode()
                said += line
                assert line, f"it ended without {pattern}: {said}"
                if match := re.search(pattern, line):
                    found.append(match[1] if match.groups() else match[0])
                    break
    return process, pipe, found


async def fail(port: int, times: int) -> None:
    """Use a service that is down."""

    async def once() -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await reader.read()
            writer.close()
        except ConnectionError:
            pass

    async with asyncio.timeout(120):
        for _ in range(times // 10):
            await asyncio.gather(*(once() for _ in range(10)))


@pytest.mark.parametrize("closes", [False, True], ids=["forgets", "closes"])
@pytest.mark.parametrize("as_json", [False, True], ids=["sentences", "json"])
async def test_a_tunnel_goes_on_whatever_becomes_of_its_messages(world: World, closes: bool, as_json: bool) -> None:
    await world.start_bridge()
    options = ["--json"] if as_json else []
    argv: list[str | Path] = [BIN / "mxrtc", *options, "connect", "build", "-L", "0=dead", "-L", "0=echo"]
    # The objects are messages too, and go to standard output.
    listening = r'"listening".*127\.0\.0\.1:(\d+)' if as_json else r"listening on 127\.0\.0\.1:(\d+)"
    process, pipe, found = await launched(argv, world.env("alice"), [listening, listening], by_stdout=as_json)
    ports = [int(port) for port in found]
    try:
        if closes:
            pipe.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", ports[1])
        await exchange(reader, writer)
        await fail(ports[0], 20 if closes else FAILURES)
        await exchange(reader, writer)
        assert process.poll() is None
        writer.close()
    finally:
        process.terminate()
        # It says its goodbyes and ends, whether or not somebody reads them.
        assert await asyncio.to_thread(process.wait, 20) == 130
        pipe.close()


@pytest.mark.parametrize("closes", [False, True], ids=["forgets", "closes"])
async def test_a_bridge_goes_on_whatever_becomes_of_its_log(world: World, closes: bool) -> None:
    world.settings["logging"] = {"level": "debug"}
    argv: list[str | Path] = [BIN / "mxrtc-bridge", "run", "-c", world.write_config()]
    bridge, pipe, _ = await launched(argv, {}, ["bridge ready"])
    try:
        if closes:
            pipe.close()
        _, port = await world.connect("alice", "build/dead", "-L", "0")
        await fail(port, 20 if closes else FAILURES)
        code, _, said = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
        assert code == 0, said
        assert bridge.poll() is None
    finally:
        bridge.terminate()
        assert await asyncio.to_thread(bridge.wait, 45) == 0
        pipe.close()


async def test_a_transfer_is_not_ended_by_its_messages(world: World, tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    (share / "big").write_bytes(os.urandom(5_000_000))
    world.services["share"] = {"files": {"dir": str(share), "direction": "send"}}
    await world.start_bridge()
    reading, writing = os.pipe()
    os.close(reading)
    full = os.open("/dev/full", os.O_WRONLY)
    for number, (options, output, errors) in enumerate(
        [
            ([], subprocess.DEVNULL, writing),
            ([], full, full),
            (["--json"], full, subprocess.DEVNULL),
            (["--json"], writing, writing),
        ]
    ):
        target = tmp_path / f"got{number}"
        process = await asyncio.create_subprocess_exec(
            *(BIN / "mxrtc", *options, "get", "build/share:big", "-o", target),
            env={**os.environ, **world.env("alice")},
            stdout=output,
            stderr=errors,
        )
        assert await asyncio.wait_for(process.wait(), 60) == 0, (options, number)
        assert target.read_bytes() == (share / "big").read_bytes()
    os.close(writing)
    os.close(full)

"""Streams of all endings through a real bridge: each ends at both sides as it did at one, and none is left.

300 streams in an ordinary run, 5,000 with ``make test-long``.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from tests.e2e.test_control import rows
from tests.e2e.world import World, digest, echo
from tests.long import LONG

# 5,000 streams take longer than a test may, on a machine that has other things to do.
pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]

STREAMS = 5000 if LONG else 300
AT_ONCE = 8
PROGRAM = """
import socket, sys, time
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sock.sendall(bytes(int(sys.argv[2])))
if sys.argv[3] == "half":
    sock.shutdown(socket.SHUT_WR)
print("there", flush=True)
time.sleep(60)
"""


def zap(writer: asyncio.StreamWriter) -> None:
    """Close with a reset, unless the other side was faster."""
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def answers_and_resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer at once and close without reading the rest: what a web server does that refuses a body."""
    await reader.read(1)
    writer.write(b"no" * 50)
    await writer.drain()
    zap(writer)


async def resets_at_once(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    zap(writer)


async def resets_after_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read to the end and then reset."""
    while await reader.read(65536):
        pass
    zap(writer)


async def sends_for_ever(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(bytes(65536))
        await writer.drain()


async def says_end_and_waits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"done")
    writer.write_eof()
    while await reader.read(65536):
        pass


HANDLERS = (echo, digest, answers_and_resets, resets_at_once, resets_after_the_end, sends_for_ever, says_end_and_waits)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path, stack)
        for handler in HANDLERS:
            await world.serve(handler.__name__.replace("_", "-"), handler)
        world.grant("alice", "build")
        await world.add_user("alice")
        await world.start_bridge()
        yield world


async def read_all(reader: asyncio.StreamReader) -> str:
    try:
        async with asyncio.timeout(20):
            while await reader.read(65536):
                pass
    except ConnectionError:
        return "reset"
    except TimeoutError:
        return "hangs"
    return "end"


async def one(port: int, handler: str, ending: str, size: int) -> str:
    """One stream; returns what the local side has seen."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with suppress(ConnectionError):
            writer.write(os.urandom(size))
            if ending == "orderly":
                writer.write_eof()
                return await read_all(reader)
            if ending == "reads":
                return await read_all(reader)
            if ending == "half, reset":
                writer.write_eof()
                await asyncio.wait_for(reader.read(1), 20)
            if ending in ("reset", "half, reset"):
                zap(writer)
        return "left"
    finally:
        writer.close()


async def killed(port: int, size: int, half: bool) -> str:
    """A local program that is killed in the middle."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, str(port), str(size), "half" if half else "open"), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 30) == b"there\n"
    process.send_signal(signal.SIGKILL)
    await process.wait()
    return "left"


# Which handlers end by themselves when somebody only reads.
END_THEMSELVES = {"answers-and-resets", "resets-at-once"}


async def test_no_stream_is_left_whatever_ends_it(world: World) -> None:
    names = [handler.__name__.replace("_", "-") for handler in HANDLERS]
    process, first = await world.connect("alice", "build", *(word for name in names for word in ("-L", f"0={name}")))
    ports: dict[str, int] = {}
    for name in names:
        found = await process.wait_for_line(rf"listening on 127\.0\.0\.1:(\d+) for build/{name}$", 20)
        ports[name] = int(found[1])
    assert first in ports.values()
    draw = random.Random(7)
    seen: Counter[tuple[str, str, str]] = Counter()
    places = asyncio.Semaphore(AT_ONCE)

    async def run(number: int) -> None:
        name = draw.choice(names)
        size = draw.choice([0, 1, 1000, 70_000, 300_000])
        choices = ["reset", "half, reset"]
        if name != "sends-for-ever":
            choices.append("orderly")
        if name in END_THEMSELVES:
            choices.append("reads")
        ending = draw.choice(choices)
        async with places:
            if number % 25 == 24:
                await killed(ports[name], size, half=draw.random() < 0.5)
                return
            # Something must come back for whoever waits for it.
            if ending == "half, reset" and name in ("echo", "sends-for-ever", "answers-and-resets"):
                size = max(size, 1)
            if name == "answers-and-resets" and ending in ("reads", "orderly"):
                size = max(size, 1)
            seen[name, ending, await one(ports[name], name, ending, size)] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(STREAMS):
            group.create_task(run(number))
    assert not [each for each in seen if each[2] == "hangs"], seen
    for name in ("echo", "digest", "says-end-and-waits"):
        assert {what for each, ending, what in seen if (each, ending) == (name, "orderly")} <= {"end"}, seen
    for name in ("resets-at-once", "resets-after-the-end"):
        assert {what for each, ending, what in seen if (each, ending) == (name, "orderly")} <= {"reset", "left"}, seen
    # None is left, neither here nor there.
    async with asyncio.timeout(150):
        while world.connections or any(row["streams"] for row in await rows(world, "who")):
            await asyncio.sleep(0.5)
    assert process.returncode is None
    _, out, err = await world.run_mxrtc("alice", "--json", "status")
    assert '"streams": 0' in out.decode() + err, (out, err)

"""A right that is taken away by a reload ends within seconds, whatever hangs: the homeserver, a disk, other reloads."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.e2e.test_outages import exchange
from tests.e2e.world import BIN, World, echo

pytestmark = pytest.mark.real

# A bridge whose disk below a folder "nfs" does not answer while there is a file "hangs" beside it.
PROGRAM = """
import sys, time
from pathlib import Path
from mxrtc_bridge.sinks.files.rooted_dir import RootedDirectory
make = RootedDirectory.__init__
def late(self, path, **options):
    while path.name == "nfs" and (path.parent / "hangs").exists():
        time.sleep(0.05)
    make(self, path, **options)
RootedDirectory.__init__ = late
from mxrtc_bridge.cli.bridge.main import main
sys.exit(main())
"""
CUT_S = 5.0
USERS = ("alice", "bob", "carol", "dave")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path, stack)
        world.program = [sys.executable, "-c", PROGRAM]
        await world.serve("echo", echo)
        for user in USERS:
            world.grant(user, "build/echo")
            await world.add_user(user)
        await world.start_bridge()
        yield world


async def test_rights_end_within_5_s_beside_a_share_that_hangs_and_a_homeserver_that_does_not_answer(
    world: World,
) -> None:
    assert world.bridge is not None
    pipes: dict[str, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
    for user in USERS:
        # By rooms, which the peer must leave once the right is gone.
        world.signal = "room" if user in ("alice", "bob") else "device"
        _, port = await world.connect(user, "build/echo", "-L", "0")
        pipes[user] = await asyncio.open_connection("127.0.0.1", port)
        await exchange(*pipes[user])

    async def cut(user: str) -> None:
        async with asyncio.timeout(CUT_S):
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await pipes[user][0].readexactly(1)

    def without(user: str) -> None:
        world.grants[:] = [grant for grant in world.grants if not grant["from"][0].startswith(f"@{user}:")]

    # A share hangs from now on; its reload never ends.
    (world.folder / "nfs").mkdir()
    (world.folder / "hangs").touch()
    world.services["nfs"] = {"files": {"dir": str(world.folder / "nfs"), "direction": "send"}}
    without("dave")
    world.reload()
    await cut("dave")
    without("carol")
    world.reload()
    await cut("carol")
    # Beside it the homeserver takes requests and answers none.
    pid = world.homeserver.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        without("bob")
        world.reload()
        await cut("bob")
        # Twice in a row, and asked for at the socket: the answer comes within seconds, too.
        without("alice")
        world.write_config()
        begun = time.monotonic()
        control = await asyncio.create_subprocess_exec(
            BIN / "mxrtc-bridge",
            "reload",
            "-c",
            world.folder / "config.yaml",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        world.bridge.send_signal(signal.SIGHUP)
        await cut("alice")
        out, err = await asyncio.wait_for(control.communicate(), 20)
        assert time.monotonic() - begun < 12
        assert control.returncode == 0, err
        assert b"in force" in out
    finally:
        os.kill(pid, signal.SIGCONT)
        (world.folder / "hangs").unlink()
    await world.bridge.wait_for_line("configuration reloaded", 60)
    for _, writer in pipes.values():
        writer.close()

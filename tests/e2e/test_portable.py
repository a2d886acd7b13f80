"""Each command of the user's side once without what only Linux has, as on other systems: mxrtc_bridge/system."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tests.e2e.world import World, echo, payload, pump

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


class PortableWorld(World):
    """One whose users have another system."""

    def env(self, user: str) -> dict[str, str]:
        return super().env(user) | {"MXRTC_PORTABLE": "1"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await PortableWorld.start(tmp_path_factory.mktemp("portable"), stack)
        await world.serve("echo", echo)
        for name, direction in (("inbox", "receive"), ("share", "send")):
            (world.folder / name).mkdir()
            world.services[name] = {"files": {"dir": str(world.folder / name), "direction": direction}}
        world.grant("alice", "build/echo", "build/inbox", "build/share")
        await world.add_user("alice", by_program=True)
        await world.start_bridge()
        yield world


async def run(world: World, *args: str, stdin: bytes = b"") -> bytes:
    code, out, err = await world.run_mxrtc("alice", *args, stdin=stdin)
    assert code == 0, err
    return out


async def test_services_are_listed_and_a_peer_answers_by_its_device(world: World) -> None:
    assert [line.split(b"\t")[0] for line in (await run(world, "ls")).splitlines()] == [
        b"build/echo",
        b"build/inbox",
        b"build/share",
    ]
    assert b'"signalling": "device"' in await run(world, "--json", "ping", "-c", "1", "build")


async def test_bytes_pass_through_a_pipe_and_a_port(world: World) -> None:
    sent = payload(3_000_000)
    assert await run(world, "nc", "build/echo", stdin=sent) == sent
    _, port = await world.connect("alice", "build/echo", "-L", "0")
    assert await pump(port, sent) == sent


async def test_files_arrive_whole_in_both_directions(world: World) -> None:
    sent = payload(5_000_000)
    folder = world.folder / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(sent)
    await run(world, "send", str(folder), "build/inbox")
    (arrived,) = [path for path in (world.folder / "inbox").rglob("a.jpg") if ".mxrtc" not in path.parts]
    assert hashlib.sha256(arrived.read_bytes()).digest() == hashlib.sha256(sent).digest()
    (world.folder / "share/b.bin").write_bytes(sent)
    fetched = world.folder / "fetched"
    await run(world, "get", "build/share:b.bin", "-o", f"{fetched}{os.sep}")
    assert (fetched / "b.bin").read_bytes() == sent


async def test_the_network_and_the_login_are_told_and_the_login_ends(world: World) -> None:
    assert b"build/echo" in await run(world, "how", "build/echo")
    await run(world, "devices")
    await run(world, "status")
    await run(world, "netcheck")
    await run(world, "logout")
    code, _, err = await world.run_mxrtc("alice", "ls")
    assert code == 2, err

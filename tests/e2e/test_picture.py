"""The picture of a terminal in the README: its commands are carried out, and say what it shows."""

from __future__ import annotations

import os
import shlex
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tests import pictures
from tests.e2e.world import World, echo

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

SESSION = (
    "mxrtc ls",
    "mxrtc ping -c 2 build",
    "mxrtc send photos build/inbox",
    "mxrtc ls build/share",
    "mxrtc get build/share:report.pdf",
    "echo hello | mxrtc -q nc build/echo",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path_factory.mktemp("picture"), stack)
        await world.serve("echo", echo)
        for name, direction in (("inbox", "receive"), ("share", "send")):
            folder = world.folder / name
            folder.mkdir()
            world.services[name] = {"files": {"dir": str(folder), "direction": direction}}
        (world.folder / "share/report.pdf").write_bytes(bytes(300_000))
        photos = world.folder / "photos"
        photos.mkdir()
        for number in range(3):
            (photos / f"{number}.jpg").write_bytes(bytes(1_000_000))
        world.grant("alice", "build/echo", "build/inbox", "build/share")
        await world.add_user("alice")
        await world.start_bridge()
        yield world


async def run(world: World, line: str) -> str:
    """What a command prints, as if it were typed in the folder of the world."""
    before, _, command = line.rpartition(" | ")
    stdin = " ".join(shlex.split(before)[1:]) + "\n" if before else ""
    here = f"{world.folder}/"
    words = [here + word if word == "photos" else word for word in shlex.split(command)[1:]]
    if words[0] == "get":
        words += ["-o", here]
    code, out, err = await world.run_mxrtc("alice", *words, stdin=stdin.encode())
    assert code == 0, err
    # On a slow machine commands say what they wait for.
    said = "".join(each for each in err.splitlines(keepends=True) if ": waiting for " not in each)
    return (said + out.decode()).replace("\t", "  ").replace(here, "")


async def test_the_commands_of_the_picture_say_what_it_shows(world: World) -> None:
    drawn = pictures.terminal([(line, await run(world, line)) for line in SESSION])
    if os.environ.get("MXRTC_WRITE_PICTURES"):
        Path(pictures.TERMINAL).write_text(drawn)
    assert pictures.words_of(pictures.TERMINAL.read_text()) == pictures.words_of(drawn)

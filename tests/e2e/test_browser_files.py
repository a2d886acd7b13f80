"""A page in Chromium puts files into a drop box and fetches them from a share, from the specification alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.e2e.pages import run_page
from tests.e2e.world import PASSWORD, World

pytestmark = pytest.mark.real

MIB = 1024 * 1024


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path, stack)
        for name, direction in (("inbox", "receive"), ("outbox", "send")):
            (tmp_path / name).mkdir(mode=0o700)
            world.services[name] = {"files": {"dir": str(tmp_path / name), "direction": direction}}
        world.grant("alice", "build/inbox", "build/outbox")
        world.settings["ice"] = {"interfaces": [], "remote": {"loopback": True, "private": True}}
        await world.homeserver.register_user("alice", PASSWORD)
        await world.start_bridge()
        yield world


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file that is not hidden."""
    found = (path for path in folder.rglob("*") if path.is_file())
    relative = ((path, path.relative_to(folder)) for path in found)
    return {
        str(name): hashlib.sha256(path.read_bytes()).hexdigest()
        for path, name in relative
        if not any(part.startswith(".") for part in name.parts)
    }


async def test_page_puts_files_into_a_drop_box_and_fetches_them_from_a_share(world: World, tmp_path: Path) -> None:
    album = tmp_path / "outbox" / "album"
    (album / "summer").mkdir(parents=True)
    (album / "empty").touch()
    (album / "summer" / "sea.jpg").write_bytes(os.urandom(3 * MIB + 11))
    (album / "exact.bin").write_bytes(os.urandom(MIB))
    result = await run_page("files.js", "transfer", world, tmp_path)
    assert "failed" not in result, result
    assert result["put"]["refused"] == []
    assert result["put"]["wanted"] == 4
    assert result["put"]["names"] == ["empty", "trip/päge.txt", "trip/large.bin", "exact.bin"]
    assert dict(result["got"]) == digests(tmp_path / "outbox")
    assert digests(tmp_path / "inbox") == dict(result["sent"])
    assert '"violation"' in result["violation"], "a path that leads upwards ends the job"
    assert '"denied"' in result["refusal"], "a drop box gives nothing away"

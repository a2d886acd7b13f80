"""Bridge and client are killed at random moments of a transfer: nothing half appears, and nothing begins anew.

What a killed receiver leaves is looked at from outside, by the files on the disk: what its map calls verified is
compared with the source, and never gets less while the transfer goes on.

The moments come from a seed, which is printed with what happened; ``MXRTC_SEED`` gives the same again, as far as a real
machine does anything again.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from mxrtc_bridge.demo.processes import POLL_INTERVAL_S, ManagedProcess, Mark
from tests.e2e.files import MIB, STATE, digest, digests
from tests.e2e.world import World, payload
from tests.long import LONG

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(2400)]

KILLS = 28 if LONG else 3
"""In each direction."""
SIZE = 160 * MIB + 12_345
LATEST_S = 1.2
"""After the connection; a transfer that nobody disturbs takes longer."""
DIGEST_BYTES = hashlib.sha256().digest_size
CONNECTED = '"kind": "connected"'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder: Path = tmp_path_factory.mktemp("killed")
    for name in ("inbox", "share"):
        (folder / name).mkdir()
    async with AsyncExitStack() as stack:
        world = await World.start(folder, stack)
        world.services["inbox"] = {"files": {"dir": str(folder / "inbox"), "direction": "receive"}}
        world.services["share"] = {"files": {"dir": str(folder / "share"), "direction": "send"}}
        world.grant("alice", "build/inbox", "build/share")
        await world.add_user("alice")
        await world.start_bridge()
        yield world


@dataclass
class Story:
    """One file on its way, through all the deaths."""

    source: Path
    target: Path
    """The directory that it goes to."""
    command: tuple[str | Path, ...]
    data: bytes = field(repr=False)
    chunks: int = 0
    """Verified when it was last looked at."""
    events: list[str] = field(default_factory=list)

    def verified(self) -> list[bytes] | None:
        """The digests of the verified chunks of what is unfinished; None if there is nothing unfinished."""
        maps = list((self.target / STATE / "partial").glob("*.map"))
        assert len(maps) <= 1, "one file has one partial file"
        if not maps:
            return None
        _, _, found = maps[0].read_bytes().partition(b"\n")
        listed = [found[at : at + DIGEST_BYTES] for at in range(0, len(found) - DIGEST_BYTES + 1, DIGEST_BYTES)]
        with maps[0].with_suffix(".part").open("rb") as file:
            for number, each in enumerate(listed):
                assert hashlib.sha256(file.read(MIB)).digest() == each, f"chunk {number} on the disk"
        return listed

    def look(self) -> None:
        """Nothing is visible but the whole file; what counts as verified is right, and not less than before."""
        for _ in range(3):
            try:
                listed = self.verified()
                break
            except FileNotFoundError:
                continue  # A bridge that lives may publish while we look.
        else:
            raise AssertionError("what is unfinished comes and goes")
        visible = digests(self.target)
        if self.source.name in visible:
            self.check_whole()
            return
        assert not [name for name in visible if name.startswith(self.source.stem)]
        assert len(listed or []) >= self.chunks, "what was verified is verified no more"
        self.chunks = len(listed or [])
        for number, found in enumerate(listed or []):
            assert hashlib.sha256(self.data[number * MIB :][:MIB]).digest() == found, f"chunk {number}"

    def check_whole(self) -> None:
        assert digest(self.target / self.source.name) == hashlib.sha256(self.data).hexdigest()

    async def until_some_is_verified(self) -> None:
        while not self.verified_or_done():
            await asyncio.sleep(POLL_INTERVAL_S)

    def verified_or_done(self) -> bool:
        try:
            return bool(self.verified()) or (self.target / self.source.name).exists()
        except FileNotFoundError:
            return False


async def ended_within(process: ManagedProcess, seconds: float) -> bool:
    # Real time: where in its work a process dies is what is tried out here.
    await asyncio.sleep(seconds)
    return process.returncode is not None


async def moved_by_the_last_attempt(world: World, since: Mark) -> int:
    """Payload bytes, as the bridge has counted them."""
    assert world.bridge is not None
    found = await world.bridge.wait_for_line(r"transfer \w+: clean .* (\d+) bytes out, (\d+) in", 10, after=since)
    return int(found[1]) + int(found[2])


async def carry(world: World, story: Story, rng: random.Random, most: int) -> int:
    """Transfer the file, killing one side or the other up to ``most`` times; returns how often that was."""
    kills = 0
    while True:
        async with world.mxrtc("alice", "--json", *story.command) as client:
            client_mark = Mark()
            while True:
                assert world.bridge is not None
                bridge_mark = world.bridge.mark()
                await client.wait_for_line(CONNECTED, 60, after=client_mark)
                if not kills:
                    await story.until_some_is_verified()
                if kills >= most or await ended_within(client, rng.uniform(0.0, LATEST_S)):
                    assert await client.wait(120) == 0, client.tail()
                    story.check_whole()
                    moved = await moved_by_the_last_attempt(world, bridge_mark)
                    assert moved <= SIZE - story.chunks * MIB, "what was verified is not sent again"
                    story.events.append(f"done, the last {moved / MIB:.1f} MiB in one go")
                    return kills
                kills += 1
                client_mark = client.mark()
                victim = rng.choice(("bridge", "client"))
                died = (client if victim == "client" else world.bridge).kill()
                if victim == "client" and died == 0:
                    kills -= 1  # It was done just before.
                else:
                    assert died == -9, client.tail()
                story.look()
                story.events.append(f"{victim} at {story.chunks}")
                if victim == "bridge":
                    await world.start_bridge()
                # A client whose bridge has died goes on by itself, or its user loses patience.
                if victim == "client" or rng.random() < 0.5:
                    client.kill()
                    break
                story.events.append("the same client")


async def carry_until_killed_often(world: World, folder: Path, target: Path, *, send: bool) -> None:
    seed = os.environ.get("MXRTC_SEED") or secrets.token_hex(4)
    rng = random.Random(seed)
    kills = files = 0
    stories: list[Story] = []
    try:
        while kills < KILLS:
            source = folder / f"file-{files}.bin"
            command = ("send", source, "build/inbox") if send else ("get", f"build/share:{source.name}", "-o", target)
            data = payload(SIZE)
            source.write_bytes(data)
            stories.append(Story(source, target, command, data))
            # A file dies a few times; then it arrives, and the next one begins.
            kills += await carry(world, stories[-1], rng, min(KILLS - kills, rng.randint(2, 6)))
            source.unlink()
            stories[-1].data = b""
            files += 1
    finally:
        print(f"MXRTC_SEED={seed}: {kills} kills;", "; ".join(", ".join(story.events) for story in stories))
    assert sorted(digests(target)) == sorted(f"file-{number}.bin" for number in range(files)), "each is there once"


async def test_what_is_sent_to_a_drop_box_survives_the_deaths_of_both_sides(world: World, tmp_path: Path) -> None:
    await carry_until_killed_often(world, tmp_path, world.folder / "inbox", send=True)


async def test_what_is_fetched_from_a_share_survives_the_deaths_of_both_sides(world: World, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    await carry_until_killed_often(world, world.folder / "share", tmp_path / "to", send=False)

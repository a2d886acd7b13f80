"""What has arrived is told: to its sender by the peer, and to the room for notices by the bot."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientSession

from tests.e2e.files import make
from tests.e2e.people import Person
from tests.e2e.world import DOMAIN, PASSWORD, World, payload

pytestmark = pytest.mark.real

BOT, PEER = f"@rtcbot:{DOMAIN}", f"@rtc_build:{DOMAIN}"


async def notices(person: Person, room: str, at_least: int) -> list[dict[str, Any]]:
    """The notices of a room, oldest first, once there are enough of them."""
    async with asyncio.timeout(20):
        while len(found := await person.notices(room)) < at_least:
            await asyncio.sleep(0.1)
    return found


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path, stack)
        world.services["inbox"] = {"files": {"dir": str(tmp_path / "inbox"), "direction": "receive"}}
        world.services["quiet"] = {"files": {"dir": str(tmp_path / "quiet"), "direction": "receive", "announce": False}}
        world.grant("alice", "build/inbox", "build/quiet")
        # Who calls by a device has no chat with the peer, as a rule, in which something could be told.
        world.signal = "room"
        await world.add_user("alice")
        await world.homeserver.register_user("carol", PASSWORD)
        await world.start_bridge()
        yield world


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


async def test_sender_and_the_room_for_notices_are_told_what_has_arrived(
    world: World, http: ClientSession, tmp_path: Path
) -> None:
    carol = await Person.log_in(world, "carol", http)
    created = await carol.ask("POST", "createRoom", {"preset": "private_chat"})
    room = created["room_id"]
    world.settings["rooms"] = {"notices": room}
    world.reload()
    assert world.bridge is not None
    await world.bridge.wait_for_line(r"is not in the room for notices .*; invite it", 20)
    await carol.ask("POST", f"rooms/{quote(room)}/invite", {"user_id": BOT})
    await carol.until_member(room, BOT)

    data = payload(2000)
    tree = make(tmp_path, {"a & b.txt": data, "many/1": b"1", "many/2": b"22", "many/sub/3": b"333"})
    single = tree / "a & b.txt"
    for paths in ([single, "build/inbox"], [single, "build/inbox"], [tree / "many", "build/inbox"]):
        code, _, err = await world.run_mxrtc("alice", "send", *paths)
        assert code == 0, err
    code, _, err = await world.run_mxrtc("alice", "send", single, "build/quiet")
    assert code == 0, err

    digest = hashlib.sha256(data).hexdigest()
    alice = await Person.log_in(world, "alice", http)
    (direct,) = (await alice.ask("GET", "joined_rooms"))["joined_rooms"]
    told = await notices(alice, direct, 2)
    assert [(each["sender"], each["content"]["body"]) for each in told] == [
        (PEER, f"Received a & b.txt, 2.0 KiB, SHA-256 {digest}"),
        (PEER, "Received 3 files, 6 B: many/1, many/2, many/sub/3"),
    ], "what was there already is no news, and a service may be quiet"
    assert told[0]["content"]["formatted_body"] == (
        f"Received <code>a &amp; b.txt</code>, 2.0 KiB, SHA-256 <code>{digest}</code>"
    )
    assert told[0]["content"]["m.mentions"] == {}

    announced = await notices(carol, room, 2)
    assert [(each["sender"], each["content"]["body"]) for each in announced] == [
        (BOT, f"@alice:{DOMAIN} has put a & b.txt into {PEER}/inbox: 2.0 KiB, SHA-256 {digest}"),
        (BOT, f"@alice:{DOMAIN} has put 3 files into {PEER}/inbox, 6 B: many/1, many/2, many/sub/3"),
    ]
    # Named no more: the bot leaves.
    del world.settings["rooms"]
    world.reload()
    async with asyncio.timeout(20):
        while BOT in (await carol.ask("GET", f"rooms/{quote(room)}/joined_members"))["joined"]:
            await asyncio.sleep(0.1)

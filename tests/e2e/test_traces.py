"""What calls by a room leave there, through a real homeserver: the peer's own part is taken back."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientSession

from tests.e2e.people import Person
from tests.e2e.world import DOMAIN, World, echo

pytestmark = pytest.mark.real

ALICE, PEER = f"@alice:{DOMAIN}", f"@rtc_build:{DOMAIN}"


async def said_by_the_peer(alice: Person, room: str) -> list[dict[str, Any]]:
    found = await alice.ask("GET", f"rooms/{quote(room)}/messages?dir=b&limit=100")
    return [event for event in found["chunk"] if event["type"].startswith("m.call.") and event["sender"] == PEER]


async def until_taken_back(alice: Person, room: str, least: int) -> None:
    async with asyncio.timeout(40):
        while True:
            events = await said_by_the_peer(alice, room)
            if len(events) >= least and all(event["content"] == {} for event in events):
                return
            await asyncio.sleep(0.2)


async def test_the_peer_takes_back_what_it_has_said_in_a_call_and_after_a_crash_too(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path, stack)
        await world.serve("echo", echo)
        world.grant("alice", "build/echo")
        world.signal = "room"
        await world.add_user("alice")
        bridge = await world.start_bridge()
        http = await stack.enter_async_context(ClientSession())
        alice = await Person.log_in(world, "alice", http)
        process, _ = await world.connect("alice", "build/echo", "-L", "0")
        rooms = json.loads((world.folder / "state-alice" / "rooms.json").read_text())
        room = rooms[f"{ALICE} {PEER}"]
        (answer,) = [event for event in await said_by_the_peer(alice, room) if event["type"] == "m.call.answer"]
        assert "v=0" in answer["content"]["answer"]["sdp"], "while the call lives it is there"
        await process.terminate(10)
        await until_taken_back(alice, room, 1)

        process, _ = await world.connect("alice", "build/echo", "--no-reconnect", "-L", "0")
        before = len(await said_by_the_peer(alice, room))
        bridge.kill()
        await world.start_bridge()
        # The answer, and the hangup that the new run sends for it.
        await until_taken_back(alice, room, before + 1)

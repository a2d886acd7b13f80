"""Peer connections of other implementations, by the events of a room: real homeserver, bridge, pages and a Go program.

The page of the js-sdk in test_browser.py shows the signalling of a client; here it is written by hand, and the bytes
and channels are many.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from tests.e2e.world import DOMAIN, PASSWORD, World
from tests.long import LONG
from tests.rtc.implementations import OtherPeer
from tests.rtc.interop_fixtures import Start, node, start
from tests.rtc.test_interop_loss import MESSAGE, words

__all__ = ["node", "start"]

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(1300 if LONG else 180),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.parametrize("implementation", ["pion", "firefox", "chromium"]),
]

PEER = f"@rtc_build:{DOMAIN}"
MIB = 1024 * 1024
SIZE = 64 * MIB if LONG else 4 * MIB
IN_FLIGHT = MIB
"""A page that sends back what comes must not be given more than its own buffer holds."""
RESTED = 16 * MIB
"""More than all buffers on the way."""
BATCH, BURST, OPENS_PER_S = 32, 256, 32
"""Channels that the other side may open at once, and each second (``RtcSettings``)."""
LIMIT_S = 600 if LONG else 170


class Services:
    """What stands behind the peer, and what it has seen."""

    def __init__(self) -> None:
        self.may_read = asyncio.Event()
        self.digests: asyncio.Queue[str] = asyncio.Queue()
        self.greeted = 0

    async def collect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read to the end."""
        hasher = hashlib.sha256()
        while data := await reader.read(65536):
            hasher.update(data)
        self.digests.put_nowait(hasher.hexdigest())

    async def rest(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.may_read.wait()
        await self.collect(reader, writer)

    async def send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send, and read what comes back of it."""
        data, hasher, sent, came = words(SIZE), hashlib.sha256(), 0, 0
        while came < SIZE:
            if sent < SIZE and sent - came < IN_FLIGHT:
                writer.write(data[sent : sent + MESSAGE])
                await writer.drain()
                sent += MESSAGE
                continue
            back = await reader.read(65536)
            if not back:
                break
            hasher.update(back)
            came += len(back)
        self.digests.put_nowait(hasher.hexdigest())

    async def greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Say a word, and end when it has come back."""
        writer.write(b"hello")
        back = await reader.readexactly(5)
        self.greeted += back == b"hello"


class Caller:
    """A user who places calls for a peer connection of another implementation, event by event."""

    def __init__(self, world: World, token: str, room: str) -> None:
        self._world = world
        self._token = token
        self._room = room
        self._since = ""
        self._sent = 0

    @classmethod
    async def log_in(cls, world: World, name: str) -> Caller:
        """Log in and share a room with the peer."""
        login = await world.homeserver.login(name, PASSWORD)
        wanted = {"invite": [PEER], "is_direct": True, "preset": "private_chat"}
        made = await world.homeserver.request(
            "POST", "/_matrix/client/v3/createRoom", token=login.access_token, body=wanted
        )
        caller = cls(world, login.access_token, made["room_id"])
        await caller.event("m.room.member", state_key=PEER, content={"membership": "join"})
        return caller

    async def call(self, other: OtherPeer, call_id: str, label: str) -> None:
        """Open a channel for the service ``label`` by a call."""
        other.tell(kind="open", label=label, protocol="raw.mxrtc")
        offer = await other.until("description")
        common = {"call_id": call_id, "party_id": "by-hand", "version": "1"}
        offered = {"type": "offer", "sdp": offer["sdp"]}
        await self._send("m.call.invite", {**common, "lifetime": 60000, "invitee": PEER, "offer": offered})
        answer = await self.event("m.call.answer", sender=PEER, content={"call_id": call_id})
        other.tell(kind="description", **answer["content"]["answer"])
        await self._send("m.call.select_answer", {**common, "selected_party_id": answer["content"]["party_id"]})

    async def hang_up(self, call_id: str) -> None:
        common = {"call_id": call_id, "party_id": "by-hand", "version": "1"}
        await self._send("m.call.hangup", {**common, "reason": "user_hangup"})

    async def _send(self, kind: str, content: dict[str, Any]) -> None:
        self._sent += 1
        path = f"/_matrix/client/v3/rooms/{quote(self._room)}/send/{kind}/{self._sent}"
        await self._world.homeserver.request("PUT", path, token=self._token, body=content)

    async def event(self, kind: str, *, content: dict[str, Any], **fields: str) -> dict[str, Any]:
        """Wait for an event with these fields; what else comes meanwhile is passed over."""
        async with asyncio.timeout(30):
            while True:
                path = f"/_matrix/client/v3/sync?timeout=5000&since={self._since}"
                answer = await self._world.homeserver.request("GET", path.removesuffix("&since="), token=self._token)
                self._since = answer["next_batch"]
                room = answer.get("rooms", {}).get("join", {}).get(self._room, {})
                for event in room.get("state", {}).get("events", []) + room.get("timeline", {}).get("events", []):
                    assert event["type"] != "m.call.reject", event
                    if (
                        event["type"] == kind
                        and fields.items() <= event.items()
                        and (content.items() <= event["content"].items())
                    ):
                        return dict(event)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def standing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[World, Services, Caller]]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path_factory.mktemp("stacks"), stack)
        services = Services()
        for name in ("collect", "rest", "send", "greet"):
            await world.serve(name, getattr(services, name), raw=True)
        world.grant("alice", *(f"build/{name}" for name in ("collect", "rest", "send", "greet")))
        await world.homeserver.register_user("alice", PASSWORD)
        await world.start_bridge()
        yield world, services, await Caller.log_in(world, "alice")


@pytest.fixture
def services(standing: tuple[World, Services, Caller]) -> Services:
    return standing[1]


@pytest_asyncio.fixture(loop_scope="module")
async def called(
    standing: tuple[World, Services, Caller], start: Start, implementation: str, request: pytest.FixtureRequest
) -> AsyncIterator[Callable[[str], Awaitable[OtherPeer]]]:
    """A function that makes a peer connection with a channel for the service that it is given."""
    caller, call_id = standing[2], request.node.name
    async with start(implementation) as other:

        async def call(service: str) -> OtherPeer:
            await caller.call(other, call_id, service)
            await other.until("open", label=service)
            return other

        yield call
        await caller.hang_up(call_id)


Call = Callable[[str], Awaitable[OtherPeer]]


async def test_bytes_go_to_a_service_as_they_were_sent(called: Call, services: Services) -> None:
    other = await called("collect")
    other.tell(kind="flood", label="collect", total=SIZE, size=MESSAGE)
    await other.until("flooded", timeout_s=LIMIT_S)
    other.tell(kind="close", label="collect")
    async with asyncio.timeout(LIMIT_S):
        assert await services.digests.get() == hashlib.sha256(words(SIZE)).hexdigest()


async def test_bytes_of_a_service_go_there_and_back(called: Call, services: Services) -> None:
    await called("send")
    async with asyncio.timeout(LIMIT_S):
        assert await services.digests.get() == hashlib.sha256(words(SIZE)).hexdigest()


async def test_service_that_rests_stops_the_sender_and_gets_everything(called: Call, services: Services) -> None:
    """Three seconds in which the buffer of a careful sender stays full, as the service does not read."""
    services.may_read.clear()
    other = await called("rest")
    other.tell(kind="flood", label="rest", total=RESTED, size=MESSAGE)
    await other.until("waiting", count=3, timeout_s=30)
    services.may_read.set()
    await other.until("flooded", timeout_s=LIMIT_S)
    other.tell(kind="close", label="rest")
    async with asyncio.timeout(LIMIT_S):
        assert await services.digests.get() == hashlib.sha256(words(RESTED)).hexdigest()


async def test_channels_are_opened_and_ended_one_after_the_other(called: Call, services: Services) -> None:
    """As many as may be opened at once, and in a long run more than the 1,024 of which half of 2,048 numbers are."""
    services.greeted = 0
    other = await called("greet")
    await other.until("closed", label="greet")
    opened = 1
    for turn in range(36 if LONG else 7):
        if opened > BURST - BATCH:
            await asyncio.sleep(BATCH / OPENS_PER_S)  # more would be refused
        for _ in range(BATCH):
            other.tell(kind="open", label="greet", protocol="raw.mxrtc")
        opened += BATCH
        await other.until("closed", label="greet", count=opened, timeout_s=60)
        assert services.greeted == opened, turn

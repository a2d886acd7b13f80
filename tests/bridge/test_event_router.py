"""Who gets what arrives: verifications first, then calls and commands of whoever is admitted, and nobody else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mxrtc_bridge.bridge.devices.decryption import ClearEvent
from mxrtc_bridge.bridge.devices.lookups import JudgedCaller, Standing
from mxrtc_bridge.bridge.event_router import EventRouter
from mxrtc_bridge.core.call.codec import content_of
from mxrtc_bridge.core.call.events import CallEvent
from mxrtc_bridge.core.crypto.records import CallerDevice, Trust
from mxrtc_bridge.core.ids import DeviceId, EventId, RoomId, UserId
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity
from tests.core.call.messages import invite
from tests.fakes import RecordingCounters

ALICE, PEER, BOT = UserId("@alice:example.org"), UserId("@rtc_build:example.org"), UserId("@rtcbot:example.org")
ROOM = RoomId("!room:example.org")
PHONE = DeviceIdentity(ALICE, DeviceId("PHONE"), "ed", "curve", Trust.CROSS_SIGNED)
INVITE, CALL_CONTENT = content_of(invite())


class World:
    """All to whom something may be given; each notes it."""

    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []
        self.waited = 0
        self.peer: UserId | None = PEER
        self.admits, self.readable, self.verifies = True, True, False
        self.withdrawn: set[EventId] = set()
        self.late: Callable[[ClearEvent], Awaitable[None]]
        self.counters, self.serving = RecordingCounters(), asyncio.Event()
        itself: Any = self
        self.router = EventRouter(
            itself,
            SimpleNamespace(decryption=self, verification_intake=self, encryption=self),  # type: ignore[arg-type]
            SimpleNamespace(peers=self, manager=self, signalling=self),  # type: ignore[arg-type]
            itself,
            withdrawn=itself,
            counters=self.counters,  # type: ignore[arg-type]
            serving=self.serving,
        )

    # Rooms and peers

    def speaker_in(self, _room: RoomId) -> UserId:
        return self.peer or BOT

    def peer_in(self, _room: RoomId) -> UserId | None:
        return self.peer

    def is_own(self, user: UserId) -> bool:
        return user.startswith("@rtc")

    async def settled(self, _room: RoomId) -> None:
        assert self.log == [], "nothing is decided before"
        self.waited += 1

    # Decryption

    async def open(self, event: RoomEvent, local: UserId, late: Any) -> ClearEvent | None:
        self.late = late
        return ClearEvent(event, local, PHONE) if self.readable else None

    async def admit(self, clear: ClearEvent) -> JudgedCaller | None:
        return JudgedCaller(Standing.GOOD, clear.device, "m") if self.admits else None

    # Verifications, calls, the bot

    def holds(self, _room: RoomId, event: EventId) -> bool:
        return event in self.withdrawn

    def device_of(self, local: UserId) -> UserId:
        return local

    def take(self, *_: object) -> bool:
        return self.verifies

    def take_in_room(self, device: UserId, _event: RoomEvent) -> bool:
        self.log.append(("verification?", device))
        return self.verifies

    def receive_message(self, event: RoomEvent, local: UserId) -> None:
        self.log.append(("message", event.type, local))

    async def receive(self, event: CallEvent, local: UserId) -> None:
        self.log.append(("call", event.sender, event.device, local))

    async def handle(self, *given: Any) -> None:
        if len(given) == 3:
            self.log.append(("signal",))
            await given[2](CallEvent(ROOM, EventId("$s"), ALICE, 1, invite()), PEER)

    async def come(self, kind: str = INVITE, content: Any = CALL_CONTENT, sender: UserId = ALICE) -> list[object]:
        """Let an event come; returns who has got it, other than whoever looks whether it is a verification."""
        self.log.clear()
        await self.router.receive_room_event(RoomEvent(EventId("$e"), ROOM, kind, sender, 1, content))
        return [entry for entry in self.log if entry[0] in ("call", "message")]


CALLED = ("call", ALICE, CallerDevice(PHONE.device, "ed", Trust.CROSS_SIGNED, "m"), PEER)


@pytest.fixture
async def world() -> World:
    return World()


async def test_calls_and_commands_of_whoever_is_admitted_reach_who_takes_them(world: World) -> None:
    assert await world.come() == [CALLED]
    assert await world.come("m.room.message", {}) == [("message", "m.room.message", PEER)]
    world.admits = False
    assert await world.come() == await world.come("m.room.message", {}) == []


async def test_what_our_own_users_say_is_for_nobody(world: World) -> None:
    assert await world.come(sender=PEER) == []
    assert world.log == []


async def test_a_verification_comes_before_all_else_and_is_nothing_else_then(world: World) -> None:
    world.verifies, world.admits = True, False
    assert await world.come("m.key.verification.start", {}) == []
    assert world.log == [("verification?", PEER)]


async def test_an_event_whose_key_comes_late_goes_the_same_way(world: World) -> None:
    world.readable = False
    assert await world.come() == []
    await world.late(ClearEvent(RoomEvent(EventId("$e"), ROOM, INVITE, ALICE, 1, CALL_CONTENT), PEER, PHONE))
    assert CALLED in world.log


async def test_what_was_redacted_while_its_key_was_waited_for_is_no_call_and_no_verification(world: World) -> None:
    world.withdrawn, world.verifies = {EventId("$e")}, True
    assert await world.come() == []
    assert world.log == []


async def test_a_room_that_is_named_for_the_bot_takes_commands_and_no_calls(world: World) -> None:
    world.peer = None
    assert await world.come() == []
    assert await world.come("m.room.message", {}) == [("message", "m.room.message", BOT)]


async def test_what_is_no_event_of_a_call_is_counted(world: World) -> None:
    assert await world.come(INVITE, {}) == []
    assert len(world.counters.counted) == 1


async def test_changes_of_a_room_wait_until_it_is_known_who_is_in_it(world: World) -> None:
    assert await world.come() == [CALLED]
    assert world.waited == 1


async def test_calls_of_devices_wait_until_the_bridge_serves_and_are_judged_only_then(world: World) -> None:
    device: Any = object()
    task = asyncio.create_task(world.router.receive_to_device(device, device))
    await asyncio.sleep(0)
    assert world.log == []
    world.serving.set()
    await task
    assert world.log == [("signal",), ("call", ALICE, None, PEER)]
    world.verifies = True
    await world.router.receive_to_device(device, device)
    assert len(world.log) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"call_id": "x" * 300}, "bad_id: call_id has 300 characters; the limit is 255"),
        ({"call_id": "\N{RIGHT-TO-LEFT OVERRIDE}\x1b[2J"}, "bad_id: call_id '\\u202e\\x1b[2J' does not have the form"),
        ({"party_id": 5}, "bad_id: party_id must be a string, not int"),
        ({"candidates": 5}, "bad_content: candidates must be a list, not int"),
    ],
)
async def test_what_is_wrong_with_a_call_event_that_is_ignored_is_said(
    world: World, content: dict[str, object], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    good = {"call_id": "c", "party_id": "p", "version": "1", "candidates": []}
    assert await world.come("m.call.candidates", good | content) == []
    assert f"x m.call.candidates from {ALICE} ignored: {words}" in caplog.text
    assert world.counters.counted == [("refusal", words.partition(":")[0])]

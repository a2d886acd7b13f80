"""Whose calls and commands from encrypted rooms are heard: by what is answered now, not by what they came with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mxrtc_bridge.bridge.devices import decryption
from mxrtc_bridge.bridge.devices.decryption import EventDecryption
from mxrtc_bridge.bridge.devices.lookups import JudgedCaller, Standing
from mxrtc_bridge.core.call.codec import content_of
from mxrtc_bridge.core.call.events import CallMessage, Reject
from mxrtc_bridge.core.crypto.records import CallerDevice, Trust
from mxrtc_bridge.core.ids import DeviceId, EventId, RoomId, UserId
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.crypto.encrypted_rooms import Opened
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity
from tests.core.call.messages import invite, select
from tests.fakes import RecordingCounters

ALICE, PEER, ROOM = UserId("@alice:example.org"), UserId("@rtc_build:example.org"), RoomId("!room:example.org")
PHONE = DeviceIdentity(ALICE, DeviceId("PHONE"), "ed", "curve", Trust.CROSS_SIGNED)


class World:
    """Everything around the events; the look-up says what a test wants."""

    def __init__(self) -> None:
        self.is_on, self.least, self.allowed = True, Trust.UNSIGNED, True
        self.standing, self.trust = Standing.GOOD, Trust.CROSS_SIGNED
        self.device = PHONE
        self.is_other = False
        self.looked = 0
        self.calls: list[CallerDevice | None] = []
        self.messages: list[RoomEvent] = []
        self.notices: list[str] = []
        self.rejects: list[CallMessage] = []
        self.counters = RecordingCounters()
        self.opened: RoomEvent

        def no(*_: object) -> bool:
            return False

        self.events = EventDecryption(
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            lookups=self,  # type: ignore[arg-type]
            rights=self,  # type: ignore[arg-type]
            counters=self.counters,  # type: ignore[arg-type]
            wall_ms=lambda: 1000,
            later=no,
        )

    def judge_by_message(self, device: DeviceIdentity) -> JudgedCaller:
        return JudgedCaller(Standing.GOOD, device).under(self.least)

    async def open(self, *_: object) -> Opened:
        return Opened(self.opened, self.device)

    async def judge(self, *_: object) -> JudgedCaller:
        self.looked += 1
        return JudgedCaller(self.standing, replace(self.device, trust=self.trust), "m")

    def allows(self, *_: object) -> bool:
        return self.allowed

    async def may_notify(self, *_: object) -> bool:
        return True

    async def send(self, _room: RoomId, _local: UserId, message: CallMessage, *, step: str) -> None:
        assert step == ("identity" if self.is_other else "device")
        self.rejects.append(message)

    async def send_notice(self, _room: RoomId, _local: UserId, text: str, *, key: str) -> None:
        assert key
        self.notices.append(text)

    async def come(self, kind: str, content: Any) -> None:
        encrypted = RoomEvent(EventId("$e"), ROOM, "m.room.encrypted", ALICE, 1000, {})
        self.opened = replace(encrypted, type=kind, content=content)
        clear = await self.events.open(encrypted, PEER, None)  # type: ignore[arg-type]
        caller = None if clear is None else await self.events.admit(clear)
        if caller is not None and kind == "m.room.message":
            self.messages.append(self.opened)
        elif caller is not None:
            self.calls.append(caller.device)

    async def is_encrypted(self, *_: object) -> bool:
        return False

    def shows_other(self, local: UserId) -> bool:
        assert local == PEER
        return self.is_other

    async def come_plain(self, kind: str, content: Any) -> None:
        event = RoomEvent(EventId("$e"), ROOM, kind, ALICE, 1000, content)
        clear = await self.events.open(event, PEER, None)  # type: ignore[arg-type]
        if clear is not None and await self.events.admit(clear) is not None:
            self.messages.append(event)

    async def call(self) -> None:
        await self.come(*content_of(invite()))


@pytest.fixture
def world() -> World:
    return World()


async def test_an_invite_is_heard_by_what_is_answered_now(world: World) -> None:
    world.least, world.device = Trust.CROSS_SIGNED, replace(PHONE, trust=Trust.UNSIGNED)
    await world.call()
    assert world.calls == [CallerDevice(PHONE.device, "ed", Trust.CROSS_SIGNED, "m")]
    assert (world.looked, world.notices) == (1, [])


@pytest.mark.parametrize("least", [Trust.UNSIGNED, Trust.CROSS_SIGNED])
@pytest.mark.parametrize(
    ("standing", "words"),
    [
        (Standing.UNTRUSTED, decryption.UNTRUSTED_DEVICE),
        (Standing.CHANGED, decryption.CHANGED_IDENTITY),
        (Standing.UNLISTED, decryption.UNLISTED_DEVICE),
        (Standing.UNKNOWN, decryption.UNKNOWN_DEVICE),
    ],
)
async def test_a_caller_who_is_refused_reads_why_whatever_was_known_of_the_device(
    world: World, standing: Standing, words: str, least: Trust
) -> None:
    world.least, world.standing = least, standing
    await world.call()
    assert (world.calls, world.notices) == ([], [words])
    assert [type(each) for each in world.rejects] == [Reject]
    assert world.counters.counted == [("refusal", "device")]


async def test_a_command_is_judged_by_what_is_answered_now_where_not_every_device_is_trusted(world: World) -> None:
    world.standing = Standing.CHANGED
    await world.come("m.room.message", {"msgtype": "m.text", "body": "peers"})
    assert (len(world.messages), world.looked) == (1, 0)
    world.least = Trust.CROSS_SIGNED
    await world.come("m.room.message", {"msgtype": "m.text", "body": "peers"})
    assert (len(world.messages), world.looked) == (1, 1)
    assert world.notices == [decryption.CHANGED_IDENTITY]


async def test_the_rest_of_a_call_and_whoever_has_no_right_ask_nobody(world: World) -> None:
    world.standing = Standing.UNLISTED
    await world.come(*content_of(select(None)))
    world.allowed = False
    await world.call()
    assert (len(world.calls), world.looked) == (2, 0), "who has no right is refused by who decides on calls"
    world.least, world.device = Trust.CROSS_SIGNED, replace(PHONE, trust=Trust.UNSIGNED)
    await world.call()
    assert (len(world.calls), world.looked, world.notices) == (2, 0, [])


async def test_a_peer_that_shows_another_identity_takes_no_new_call_by_a_plain_room_and_says_why(world: World) -> None:
    await world.come_plain(*content_of(invite()))
    assert (len(world.messages), world.notices) == (1, [])
    world.is_other = True
    await world.come_plain(*content_of(invite()))
    assert (len(world.messages), world.notices) == (1, [decryption.OTHER_IDENTITY])
    assert [isinstance(each, Reject) and each.reason for each in world.rejects] == ["peer_identity"]
    assert world.counters.counted == [("refusal", "unavailable")]
    await world.come_plain(*content_of(select(None)))
    await world.come_plain("m.room.message", {"msgtype": "m.text", "body": "peers"})
    assert len(world.messages) == 3, "calls that live, and commands, go on"

"""Calls by messages between devices, at the bridge's end: who is heard, what is answered, and to whom."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from mxrtc_bridge.app.signals import LOOK_EVERY_MS, Signals
from mxrtc_bridge.core.encryption import DeviceId, Trust
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.events import Answer, CallEvent, CallMessage, Hangup, Invite, Reject, SelectAnswer, Version
from mxrtc_bridge.core.ids import CallId, PartyId, RoomId, UserId
from mxrtc_bridge.core.policy import Allow, Deny
from mxrtc_bridge.core.signal import (
    CHANGED_IDENTITY,
    MAX_EARLY,
    SIGNAL_TYPE,
    UNTRUSTED_DEVICE,
    Signal,
    channel_of,
    parse_signal,
    signal_content,
)
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, ToDeviceEvent, UserDevices
from tests.fakes import RecordingCounters

ALICE, PEER = UserId("@alice:example.org"), UserId("@rtc_build:example.org")
PHONE = DeviceIdentity(ALICE, DeviceId("PHONE"), "ed", "curve", Trust.CROSS_SIGNED)
CALL, PARTY = CallId("call"), PartyId("party")
INVITE = Invite(CALL, PARTY, Version.V1, "v=0\r\n", 60_000)
CHANNEL = channel_of(PEER, ALICE, PHONE.device)


@dataclass
class Device:
    """The peer's device."""

    user: UserId = PEER
    sent: list[tuple[str, Signal]] = field(default_factory=list)
    listed: tuple[DeviceIdentity, ...] = (PHONE,)
    asked: int = 0
    pinned: str | None = None

    async def send_to_device(self, devices: list[DeviceIdentity], event_type: str, content: dict[str, Any]) -> None:
        assert event_type == SIGNAL_TYPE
        (device,) = devices
        self.sent.append((device.device, parse_signal(content)))

    async def devices_of(self, user: UserId, *, fresh: bool = False) -> UserDevices:
        assert user == ALICE
        self.asked += fresh
        return UserDevices(user, self.listed, "m2", self.pinned)


class World:
    """Everything around the signals; also the rules in force and the rooms."""

    def __init__(self) -> None:
        self.device = Device()
        self.up = True
        self.now_ms = 77
        self.heard: list[CallEvent] = []
        self.rooms: list[tuple[RoomId, CallMessage]] = []
        self.least = Trust.UNSIGNED
        self.allowed = True
        self.counters = RecordingCounters()
        self.config = self
        self.encryption = self
        self.signals = Signals(
            self,
            lambda _user: self.device if self.up else None,  # type: ignore[arg-type,return-value]
            self.receive,
            rights=self,  # type: ignore[arg-type]
            counters=self.counters,
            wall_ms=lambda: self.now_ms,
        )

    async def receive(self, event: CallEvent, local: UserId) -> None:
        assert local == PEER
        self.heard.append(event)

    async def send(self, room: RoomId, sender: UserId, message: CallMessage, *, step: str) -> None:
        self.rooms.append((room, message))

    def may_call(self, user: UserId, local: UserId) -> Allow | Deny:
        return Allow("test") if self.allowed else Deny("test")

    async def come(
        self,
        message: CallMessage = INVITE,
        seq: int = 0,
        device: DeviceIdentity | None = PHONE,
        kind: str = SIGNAL_TYPE,
        **changes: Any,
    ) -> None:
        content = {**signal_content(Signal(seq, 5, message)), **changes}
        await self.signals.handle(self.device, ToDeviceEvent(kind, ALICE, content, device))  # type: ignore[arg-type]

    def refusals(self) -> list[str]:
        return [code for kind, code in self.counters.counted if kind == "refusal"]


@pytest.fixture
def world() -> World:
    return World()


async def test_an_invite_becomes_an_event_of_a_call_and_is_answered_to_its_device_alone(world: World) -> None:
    await world.come()
    (event,) = world.heard
    assert (event.room_id, event.sender, event.sent_at_ms, event.message) == (CHANNEL, ALICE, 5, INVITE)
    assert event.device is not None
    assert (event.device.device, event.device.trust) == (PHONE.device, Trust.CROSS_SIGNED)
    answer, hangup = Answer(CALL, PARTY, Version.V1, "v=0\r\n"), Hangup(CALL, PARTY, Version.V1)
    await world.signals.send(CHANNEL, PEER, answer, step="answer")
    await world.signals.send(CHANNEL, PEER, hangup, step="hangup")
    assert world.device.sent == [("PHONE", Signal(0, 77, answer)), ("PHONE", Signal(1, 77, hangup))]
    assert world.rooms == []


async def test_what_belongs_to_a_room_goes_there(world: World) -> None:
    room = RoomId("!room:example.org")
    await world.signals.send(room, PEER, Hangup(CALL, PARTY, Version.V1), step="hangup")
    assert [each for each, _ in world.rooms] == [room]
    assert world.device.sent == []


async def test_a_message_in_plain_text_and_one_of_another_type_are_not_heard(world: World) -> None:
    await world.come(device=None)
    await world.come(kind="m.secret.request")
    assert (world.heard, world.device.sent, world.refusals()) == ([], [], ["plain_signal"])


@pytest.mark.parametrize(
    "changes", [{"seq": -1}, {"seq": None}, {"sent_ms": "x"}, {"type": "m.room.message"}, {"content": []}]
)
async def test_what_is_no_message_of_a_call_is_counted_and_not_heard(world: World, changes: dict[str, Any]) -> None:
    await world.come(**changes)
    assert (world.heard, len(world.refusals())) == ([], 1)


async def test_a_device_that_the_policy_does_not_admit_is_told_so_if_its_user_has_a_right(world: World) -> None:
    world.least = Trust.CROSS_SIGNED
    world.device.listed = (replace(PHONE, trust=Trust.UNSIGNED),)
    await world.come(device=replace(PHONE, trust=Trust.UNSIGNED))
    ((device, signal),) = world.device.sent
    assert (device, type(signal.message), world.heard) == ("PHONE", Reject, [])
    assert signal.message.reason == UNTRUSTED_DEVICE  # type: ignore[union-attr]
    # Everything else, and everybody else, gets silence.
    await world.come(SelectAnswer(CALL, PARTY, Version.V1, PARTY), 1, replace(PHONE, trust=Trust.UNSIGNED))
    world.allowed = False
    world.now_ms += LOOK_EVERY_MS
    await world.come(device=replace(PHONE, trust=Trust.UNSIGNED))
    assert (len(world.device.sent), world.heard, world.device.asked) == (1, [], 1)
    world.allowed = True
    await world.come()
    assert len(world.heard) == 1


async def test_a_changed_identity_is_refused_as_such(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.least, world.device.pinned = Trust.CROSS_SIGNED, "m1"
    world.device.listed = (replace(PHONE, trust=Trust.UNSIGNED),)
    await world.come(device=replace(PHONE, trust=Trust.UNSIGNED))
    ((_, signal),) = world.device.sent
    assert signal.message.reason == CHANGED_IDENTITY  # type: ignore[union-attr]
    assert "mxrtc-bridge trust @alice:example.org" in caplog.text


async def test_a_device_that_was_signed_since_is_let_in_and_not_asked_for_at_every_message(world: World) -> None:
    world.least = Trust.CROSS_SIGNED
    unsigned = replace(PHONE, trust=Trust.UNSIGNED)
    other = replace(PHONE, device=DeviceId("OTHER"))
    world.device.listed = (other,)
    await world.come(device=unsigned)
    world.device.listed = (other, PHONE)
    await world.come(device=unsigned)
    assert (world.heard, world.device.asked) == ([], 1), "asked for a moment ago"
    world.now_ms += LOOK_EVERY_MS
    await world.come(device=unsigned)
    (event,) = world.heard
    assert event.device is not None
    assert (event.device.trust, world.device.asked) == (Trust.CROSS_SIGNED, 2)


async def test_messages_come_in_order_and_once_and_a_gap_ends_them(world: World) -> None:
    select = SelectAnswer(CALL, PARTY, Version.V1, PARTY)
    await world.come(select, 1)
    await world.come(seq=0)
    await world.come(seq=0)
    assert [type(event.message) for event in world.heard] == [Invite, SelectAnswer]
    await world.come(select, MAX_EARLY + 3)
    assert world.refusals() == ["gap"]
    # The same message is the same event, so that a repetition is known as one.
    assert len({event.event_id for event in world.heard}) == 2


async def test_a_device_that_called_an_earlier_run_is_found_again_or_known_to_be_gone(world: World) -> None:
    hangup = Hangup(CALL, PARTY, Version.V1)
    await world.signals.send(CHANNEL, PEER, hangup, step="hangup")
    assert [device for device, _ in world.device.sent] == ["PHONE"]
    world.device.listed = ()
    fresh = World()
    fresh.device.listed = ()
    with pytest.raises(HomeserverError) as gone:
        await fresh.signals.send(CHANNEL, PEER, hangup, step="hangup")
    assert not gone.value.retryable
    fresh.up = False
    with pytest.raises(HomeserverError) as down:
        await fresh.signals.send(CHANNEL, PEER, hangup, step="hangup")
    assert down.value.retryable

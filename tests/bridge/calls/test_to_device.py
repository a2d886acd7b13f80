"""Calls by messages between devices, at the bridge's end: who is heard, what is answered, and to whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import pytest_asyncio

from mxrtc_bridge.bridge.calls.to_device import (
    MAX_CHANNELS,
    MAX_CHANNELS_OF_STRANGERS,
    MAX_LINES_OF_SERVER,
    MAX_LINES_OF_USER,
    MAX_WAITING,
    ToDeviceSignalling,
)
from mxrtc_bridge.bridge.devices.lookups import JudgedCaller, Standing
from mxrtc_bridge.core.call.events import Answer, CallEvent, CallMessage, Hangup, Invite, Reject, SelectAnswer, Version
from mxrtc_bridge.core.call.route import DevicePair
from mxrtc_bridge.core.call.to_device import (
    CHANGED_IDENTITY,
    MAX_EARLY,
    SIGNAL_TYPE,
    UNKNOWN_DEVICE,
    UNLISTED_DEVICE,
    UNTRUSTED_DEVICE,
    CallToDevice,
    call_to_device_content,
    parse_call_to_device,
)
from mxrtc_bridge.core.crypto.records import CallerDevice, Trust
from mxrtc_bridge.core.errors import HomeserverError, RefusedStatementError, StorageError
from mxrtc_bridge.core.ids import CallId, DeviceId, PartyId, RoomId, UserId
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, ToDeviceEvent, UserDevices
from tests.fakes import RecordingCounters

ALICE, PEER = UserId("@alice:example.org"), UserId("@rtc_build:example.org")
PHONE = DeviceIdentity(ALICE, DeviceId("PHONE"), "ed", "curve", Trust.CROSS_SIGNED)
CALL, PARTY = CallId("call"), PartyId("party")
INVITE = Invite(CALL, PARTY, Version.V1, "v=0\r\n", 60_000)
CHANNEL = DevicePair(PEER, ALICE, PHONE.device)


@dataclass
class Device:
    """The peer's device."""

    user: UserId = PEER
    sent: list[tuple[str, CallToDevice]] = field(default_factory=list)
    listed: tuple[DeviceIdentity, ...] = (PHONE,)
    asked: int = 0

    @property
    def sender(self) -> Device:
        """What is sent with it is kept here as well."""
        return self

    async def send(self, devices: list[DeviceIdentity], event_type: str, content: dict[str, Any]) -> None:
        assert event_type == SIGNAL_TYPE
        (device,) = devices
        self.sent.append((device.device, parse_call_to_device(content)))

    async def devices_of(self, user: UserId, *, fresh: bool = False) -> UserDevices:
        """What is asked for when an earlier run was called, and only then."""
        assert fresh
        self.asked += 1
        return UserDevices(user, self.listed, "m", "m")


class World:
    """Everything around the signals; also the rules in force and the rooms."""

    def __init__(self) -> None:
        self.device = Device()
        self.up = True
        self.now_ms = 77
        self.heard: list[CallEvent] = []
        self.refusals_of_database: list[StorageError] = []
        self.rooms: list[tuple[RoomId, CallMessage]] = []
        self.least = Trust.UNSIGNED
        self.allowed = True
        self.counters = RecordingCounters()
        self.trust = Trust.CROSS_SIGNED
        self.standing: Standing | None = None
        """What the look-up says; None to judge by ``trust``."""
        self.gates: dict[DeviceId, asyncio.Event] = {}
        """Look-ups that hang until these are set."""
        self.looked: list[tuple[UserId, DeviceId]] = []
        self.signals = ToDeviceSignalling(
            self,
            lambda _user: self.device if self.up else None,  # type: ignore[arg-type,return-value]
            lookups=self,  # type: ignore[arg-type]
            rights=self,  # type: ignore[arg-type]
            counters=self.counters,
            wall_ms=lambda: self.now_ms,
            own_server="own.test",
            monotonic=lambda: self.now_ms / 1000,
        )

    async def receive(self, event: CallEvent, local: UserId) -> None:
        assert local == PEER
        if self.refusals_of_database:
            raise self.refusals_of_database.pop()
        self.heard.append(event)

    async def send(self, room: RoomId, sender: UserId, message: CallMessage, *, step: str) -> None:
        self.rooms.append((room, message))

    def judge_by_message(self, device: DeviceIdentity) -> JudgedCaller:
        return JudgedCaller(Standing.GOOD, device).under(self.least)

    async def judge(self, local: UserId, device: DeviceIdentity) -> JudgedCaller:
        assert local == PEER
        self.looked.append((device.user, device.device))
        standing, found = self.standing, replace(device, trust=self.trust)
        if device.device in self.gates:
            await self.gates[device.device].wait()
        if standing is None:
            return JudgedCaller(Standing.GOOD, found, "m").under(self.least)
        return JudgedCaller(standing, found, "m")

    def allows(self, user: UserId, local: UserId) -> bool:
        return self.allowed

    async def come(
        self,
        message: CallMessage = INVITE,
        seq: int = 0,
        device: DeviceIdentity | None = PHONE,
        kind: str = SIGNAL_TYPE,
        settle: bool = True,
        **changes: Any,
    ) -> None:
        content = {**call_to_device_content(CallToDevice(seq, 5, message)), **changes}
        sender = ALICE if device is None else device.user
        await self.signals.handle(self.device, ToDeviceEvent(kind, sender, content, device), self.receive)  # type: ignore[arg-type]
        if settle:
            await self.settle()

    async def settle(self) -> None:
        """Let all look-ups that do not hang come to an end."""
        for _ in range(20):
            await asyncio.sleep(0)

    def answers(self) -> list[str | None]:
        return [signal.message.reason for _, signal in self.device.sent if isinstance(signal.message, Reject)]

    def refusals(self) -> list[str]:
        return [code for kind, code in self.counters.counted if kind == "refusal"]


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    running = asyncio.create_task(world.signals.run())
    await asyncio.sleep(0)
    yield world
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_an_invite_becomes_an_event_of_a_call_and_is_answered_to_its_device_alone(world: World) -> None:
    await world.come()
    (event,) = world.heard
    assert (event.route, event.sender, event.sent_at_ms, event.message) == (CHANNEL, ALICE, 5, INVITE)
    assert event.device is not None
    assert (event.device.device, event.device.trust) == (PHONE.device, Trust.CROSS_SIGNED)
    answer, hangup = Answer(CALL, PARTY, Version.V1, "v=0\r\n"), Hangup(CALL, PARTY, Version.V1)
    await world.signals.send(CHANNEL, PEER, answer, step="answer")
    await world.signals.send(CHANNEL, PEER, hangup, step="hangup")
    assert world.device.sent == [("PHONE", CallToDevice(0, 77, answer)), ("PHONE", CallToDevice(1, 77, hangup))]
    assert world.rooms == []


async def test_a_call_that_comes_while_nobody_owns_look_ups_keeps_no_later_one_back() -> None:
    """As after a failure, until its owner begins again."""
    world = World()
    for expected in (1, 2):
        running = asyncio.create_task(world.signals.run())
        await asyncio.sleep(0)
        await world.come(replace(INVITE, call_id=CallId(f"heard{expected}")))
        assert len(world.heard) == expected
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await world.come(replace(INVITE, call_id=CallId(f"unheard{expected}")))
        assert world.signals.lines == 0
    assert len(world.heard) == 2


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


@pytest.mark.parametrize(
    ("standing", "reason"),
    [
        (Standing.UNTRUSTED, UNTRUSTED_DEVICE),
        (Standing.CHANGED, CHANGED_IDENTITY),
        (Standing.UNLISTED, UNLISTED_DEVICE),
        (Standing.UNKNOWN, UNKNOWN_DEVICE),
    ],
)
@pytest.mark.parametrize("least", [Trust.UNSIGNED, Trust.CROSS_SIGNED])
async def test_a_device_that_is_not_let_in_is_told_why_whatever_was_known_of_it(
    world: World, standing: Standing, reason: str, least: Trust
) -> None:
    world.least, world.standing = least, standing
    await world.come()
    ((device, signal),) = world.device.sent
    assert (device, type(signal.message), world.answers()) == ("PHONE", Reject, [reason])
    assert (world.heard, world.refusals()) == ([], ["device"])


async def test_what_follows_an_invite_that_was_refused_is_not_answered(world: World) -> None:
    world.least, world.trust = Trust.CROSS_SIGNED, Trust.UNSIGNED
    unsigned = replace(PHONE, trust=Trust.UNSIGNED)
    await world.come(device=unsigned)
    await world.come(SelectAnswer(CALL, PARTY, Version.V1, PARTY), 1, unsigned)
    assert (len(world.device.sent), world.heard) == (1, [])


async def test_whoever_has_no_right_makes_nobody_ask_and_is_refused_by_who_decides_on_calls(world: World) -> None:
    world.allowed = False
    await world.come()
    assert (len(world.heard), world.looked, world.device.sent) == (1, [], [])
    await world.signals.send(CHANNEL, PEER, Reject(CALL, PARTY, Version.V1, None), step="reject")
    assert world.answers() == [None]
    world.least = Trust.CROSS_SIGNED
    await world.come(replace(INVITE, call_id=CallId("other")), device=replace(PHONE, trust=Trust.UNSIGNED))
    assert (len(world.heard), world.looked, world.device.asked) == (1, [], 0)


async def test_a_device_that_was_signed_since_is_let_in_and_what_follows_as_well(world: World) -> None:
    world.least = Trust.CROSS_SIGNED
    unsigned = replace(PHONE, trust=Trust.UNSIGNED)
    await world.come(device=unsigned)
    await world.come(SelectAnswer(CALL, PARTY, Version.V1, PARTY), 1, unsigned)
    assert [type(event.message) for event in world.heard] == [Invite, SelectAnswer]
    assert {event.device for event in world.heard} == {CallerDevice(PHONE.device, "ed", Trust.CROSS_SIGNED, "m")}
    assert len(world.looked) == 1, "only for the invite"


async def test_an_invite_that_was_held_back_is_judged_when_it_is_heard(world: World) -> None:
    """It came as number 1, while the device was good; number 0 comes when it is not any more."""
    await world.come(INVITE, 1)
    assert (world.heard, world.looked) == ([], [])
    world.standing = Standing.UNLISTED
    await world.come(SelectAnswer(CALL, PARTY, Version.V1, PARTY), 0)
    assert [event.message for event in world.heard if isinstance(event.message, Invite)] == []
    assert world.answers() == [UNLISTED_DEVICE]


async def test_what_another_key_sends_is_no_part_of_the_call(world: World) -> None:
    await world.come()
    await world.come(SelectAnswer(CALL, PARTY, Version.V1, PARTY), 1, replace(PHONE, ed25519="other"))
    assert [type(event.message) for event in world.heard] == [Invite]
    assert world.refusals() == ["device"]


async def test_messages_of_others_do_not_wait_for_a_look_up_and_those_of_the_device_do(world: World) -> None:
    other = replace(PHONE, device=DeviceId("TABLET"))
    gate = world.gates[PHONE.device] = asyncio.Event()
    await world.come()
    await world.come(Hangup(CALL, PARTY, Version.V1), 1)
    await world.come(device=other)
    assert [event.route for event in world.heard] == [DevicePair(PEER, ALICE, other.device)]
    gate.set()
    await world.settle()
    assert [type(event.message) for event in world.heard[1:]] == [Invite, Hangup]
    assert world.signals.lines == 0


async def test_what_waits_is_bounded_for_a_device_a_user_and_a_server(world: World) -> None:
    async def invites(count: int, **who: Any) -> None:
        for number in range(count):
            each = DeviceIdentity(**{"device": DeviceId(f"D{number}"), "ed25519": "e", "curve25519": "c", **who})
            world.gates[each.device] = gate
            await world.come(device=each, settle=False)

    gate = asyncio.Event()
    await invites(MAX_WAITING + 5, user=ALICE, device=PHONE.device)
    assert world.refusals() == ["rate"] * 5
    await invites(MAX_LINES_OF_USER, user=ALICE)
    assert world.refusals() == ["rate"] * 6
    for number in range(MAX_LINES_OF_SERVER):
        await invites(1, user=UserId(f"@u{number}:example.org" + (f":{8000 + number}" if number % 2 else "")))
    assert world.refusals() == ["rate"] * (6 + MAX_LINES_OF_USER)
    await invites(1, user=UserId("@carol:far.test"))
    assert world.signals.lines == MAX_LINES_OF_SERVER + 1
    gate.set()
    for _ in range(100):
        await asyncio.sleep(0)
    assert world.signals.lines == 0


async def test_whoever_is_not_looked_up_as_too_many_are_is_told_that_the_bridge_is_busy(world: World) -> None:
    gate = asyncio.Event()
    for number in range(MAX_LINES_OF_SERVER + 1):
        each = DeviceIdentity(UserId(f"@u{number}:example.org"), DeviceId(f"D{number}"), "e", "c")
        world.gates[each.device] = gate
        await world.come(device=each, settle=False)
    await world.settle()
    assert [(to, signal.message.reason) for to, signal in world.device.sent] == [  # type: ignore[union-attr]
        (f"D{MAX_LINES_OF_SERVER}", "user_busy")
    ]
    gate.set()


async def test_defect_in_a_refusal_ends_no_look_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def defective(*_: object) -> None:
        raise RuntimeError("a defect of the device")

    monkeypatch.setattr(world.device, "send", defective)
    gate = asyncio.Event()
    for number in range(MAX_LINES_OF_SERVER + 1):
        each = DeviceIdentity(UserId(f"@u{number}:example.org"), DeviceId(f"D{number}"), "e", "c")
        world.gates[each.device] = gate
        await world.come(device=each, settle=False)
    await world.settle()
    assert world.signals.lines == MAX_LINES_OF_SERVER
    gate.set()
    await world.settle()
    assert len(world.heard) == MAX_LINES_OF_SERVER


async def test_callers_of_our_own_homeserver_are_looked_up_at_once(world: World) -> None:
    gate = asyncio.Event()
    for number in range(160):
        each = DeviceIdentity(UserId(f"@u{number}:own.test"), DeviceId(f"D{number}"), "e", "c")
        world.gates[each.device] = gate
        await world.come(device=each, settle=False)
    assert (world.refusals(), world.signals.lines) == ([], 160)
    gate.set()


async def test_a_failure_in_a_look_up_stops_no_other_message(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def judge(*_: object) -> Any:
        raise RuntimeError("a defect")

    right = world.judge
    world.judge = judge  # type: ignore[method-assign]
    await world.come()
    world.judge = right  # type: ignore[method-assign]
    await world.come(replace(INVITE, call_id=CallId("other")))
    assert [event.message.call_id for event in world.heard] == ["other"]
    assert "was not handled" in caplog.text


async def test_calls_of_strangers_push_no_caller_out(world: World) -> None:
    await world.come()
    world.allowed = False
    for number in range(MAX_CHANNELS_OF_STRANGERS + 1):
        await world.come(device=replace(PHONE, device=DeviceId(f"D{number}")), settle=False)
    await world.signals.send(CHANNEL, PEER, Hangup(CALL, PARTY, Version.V1), step="hangup")
    assert ([device for device, _ in world.device.sent], world.device.asked) == (["PHONE"], 0)


async def test_calls_of_a_busy_user_leave_the_numbers_of_another_call_alone(world: World) -> None:
    answer, busy = (
        Answer(CALL, PARTY, Version.V1, "v=0\r\n"),
        DevicePair(PEER, UserId("@busy:example.org"), PHONE.device),
    )
    await world.signals.send(CHANNEL, PEER, answer, step="answer")
    for number in range(MAX_CHANNELS + 1):
        await world.signals.send(busy, PEER, replace(answer, call_id=CallId(f"c{number}")), step="answer")
    await world.signals.send(CHANNEL, PEER, SelectAnswer(CALL, PARTY, Version.V1, PARTY), step="select")
    assert [signal.seq for _, signal in world.device.sent if signal.message.call_id == CALL] == [0, 1]


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
    assert not down.value.retryable, "it may stay so, and other calls wait to be hung up"


@pytest.mark.parametrize(("refusal", "heard"), [(StorageError("busy"), 2), (RefusedStatementError("not this"), 1)])
async def test_a_database_that_is_busy_when_a_message_is_heard_loses_none_of_its_call(
    world: World, refusal: StorageError, heard: int
) -> None:
    """It has been put into its order, so it would not be heard if it came again."""
    world.refusals_of_database.append(refusal)
    await world.come()
    await world.come(SelectAnswer(CALL, PARTY, Version.V1, PARTY), seq=1)
    async with asyncio.timeout(5):
        while len(world.heard) < heard:
            await asyncio.sleep(0.02)
    assert [type(event.message) for event in world.heard] == [Invite, SelectAnswer][2 - heard :]

"""Verifications of one device: who may begin, how many there are, and the real key agreement between two."""

from __future__ import annotations

from typing import Any

import pytest

from mxrtc_bridge.core.crypto.sas import TIMEOUT_S
from mxrtc_bridge.core.crypto.sas_events import TYPES, Request
from mxrtc_bridge.core.crypto.sas_values import Compare, Effect, SendToDevices, VerificationEnded, VerifiedKeys
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import EventId, RoomId, UserId
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.crypto.values import ToDeviceEvent
from mxrtc_bridge.matrix.crypto.verification import MAX_OPEN, NEWEST_MS, OLDEST_MS, Exchange, OlmSecret, Verifications
from tests.matrix.crypto.verification_world import ALICE, BUILD, LAPTOP, MASTERS, PEER, PHONE, Device

ROOM = RoomId("!room:example.org")
NOW_MS = 1_000_000_000


class End:
    """The verifications of one device, and what was said of them."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.now = 0.0
        self.said: list[Effect] = []
        self.in_room: list[tuple[RoomId, SendToDevices, str]] = []
        self.admitted = True
        self.verifications = Verifications(
            device,  # type: ignore[arg-type]
            admits=lambda _user: self.admitted,
            changed=self._changed,
            monotonic=lambda: self.now,
            wall_ms=lambda: NOW_MS,
            send_in_room=self._send_in_room,
        )

    async def _changed(self, _exchange: Exchange, effect: Effect) -> None:
        self.said.append(effect)

    async def _send_in_room(self, room: RoomId, effect: SendToDevices, key: str) -> None:
        self.in_room.append((room, effect, key))

    @property
    def only(self) -> Exchange:
        (exchange,) = self.verifications.open
        return exchange

    def kinds(self) -> list[type[Effect]]:
        return [type(each) for each in self.said]


async def pump(*ends: End) -> None:
    """Deliver everything that the devices have sent to each other."""
    moved = True
    while moved:
        moved = False
        for sender in ends:
            for receiver in ends:
                for event in sender.device.take(receiver.device.device_id):
                    moved = True
                    assert await receiver.verifications.receive(event)


def request(transaction: str = "t", sender: UserId = ALICE, **changes: Any) -> ToDeviceEvent:
    content = {"from_device": PHONE, "methods": ["m.sas.v1"], "timestamp": NOW_MS, "transaction_id": transaction}
    return ToDeviceEvent(TYPES[Request], sender, {**content, **changes}, None)


@pytest.fixture
def alice() -> End:
    return End(Device(ALICE, PHONE))


@pytest.fixture
def peer() -> End:
    return End(Device(PEER, BUILD))


async def test_two_devices_agree_by_the_real_library_and_verify_each_other(alice: End, peer: End) -> None:
    assert await alice.verifications.ask(PEER) is not None
    await pump(alice, peer)
    assert alice.only.code == peer.only.code is not None
    assert len(alice.only.code.emoji) == 7  # type: ignore[union-attr]
    assert alice.only.waits_for_us
    for end in (alice, peer):
        await end.verifications.compared(end.only, same=True)
    await pump(alice, peer)
    assert alice.said[1:] == [VerifiedKeys(BUILD, MASTERS[PEER]), VerificationEnded("", by_them=False)]
    assert peer.said[1:] == [VerifiedKeys(PHONE, MASTERS[ALICE]), VerificationEnded("", by_them=False)]
    assert (alice.verifications.open, peer.verifications.open) == ((), ())


@pytest.mark.parametrize("bad", ["A" * 43, "x" * 43])
def test_a_key_without_any_secret_is_refused(bad: str) -> None:
    """The point of order one would make a secret that everybody knows."""
    with pytest.raises(ValueError, match=r".+"):
        OlmSecret().agree(bad)


async def test_a_user_without_devices_cannot_be_asked(alice: End) -> None:
    assert await alice.verifications.ask(UserId("@nobody:example.org")) is None
    assert alice.verifications.open == ()


async def test_all_devices_are_asked_but_our_own(peer: End, alice: End) -> None:
    await peer.verifications.ask(ALICE)
    assert {device for _, device, _, _ in peer.device.sent} == {PHONE, LAPTOP}
    await alice.verifications.ask(ALICE)
    assert {device for _, device, _, _ in alice.device.sent} == {LAPTOP}


async def test_who_is_not_admitted_is_not_answered_and_costs_nothing(peer: End) -> None:
    peer.admitted = False
    assert await peer.verifications.receive(request())
    assert (peer.verifications.open, peer.device.sent, peer.device.queries) == ((), [], 0)


@pytest.mark.parametrize("age_ms", [OLDEST_MS + 1, -NEWEST_MS - 1])
async def test_a_request_of_another_time_is_ignored(peer: End, age_ms: int) -> None:
    await peer.verifications.receive(request(timestamp=NOW_MS - age_ms))
    assert (peer.verifications.open, peer.device.sent) == ((), [])
    await peer.verifications.receive(request(timestamp=NOW_MS - OLDEST_MS))
    assert len(peer.verifications.open) == 1


@pytest.mark.parametrize(
    "event",
    [
        request(transaction_id=None),
        request(from_device=5),
        request(timestamp=None),
        ToDeviceEvent("m.key.verification.ready", ALICE, {"transaction_id": "unknown"}, None),
    ],
)
async def test_what_belongs_to_nothing_is_taken_and_not_answered(peer: End, event: ToDeviceEvent) -> None:
    assert await peer.verifications.receive(event)
    assert (peer.verifications.open, peer.device.sent) == ((), [])


async def test_other_messages_are_not_ours(peer: End) -> None:
    assert not await peer.verifications.receive(ToDeviceEvent("io.mxrtc.signal", ALICE, {}, None))


async def test_whoever_tries_again_ends_the_older_one(peer: End) -> None:
    await peer.verifications.receive(request("first"))
    await peer.verifications.receive(request("second"))
    assert peer.only.transaction == "second"
    assert peer.device.cancelled == ["m.user"]
    assert peer.said == [VerificationEnded("m.user", by_them=False, reason="the other side has ended it")]


async def test_a_request_that_comes_twice_is_one(peer: End) -> None:
    await peer.verifications.receive(request())
    await peer.verifications.receive(request())
    assert [kind for _, _, kind, _ in peer.device.sent] == ["m.key.verification.ready"]


async def test_there_is_a_limit_and_the_oldest_makes_room(peer: End) -> None:
    for number in range(MAX_OPEN + 1):
        await peer.verifications.receive(request(f"t{number}", UserId(f"@user{number}:example.org")))
    assert [each.transaction for each in peer.verifications.open] == [f"t{number}" for number in range(1, MAX_OPEN + 1)]
    assert (peer.device.cancelled, peer.kinds()) == (["m.user"], [VerificationEnded])


async def test_time_ends_them(alice: End) -> None:
    await alice.verifications.ask(PEER)
    alice.now = TIMEOUT_S
    await alice.verifications.tick()
    assert (alice.verifications.open, alice.device.cancelled) == ((), ["m.timeout"])


async def test_the_end_is_the_end_also_when_the_other_side_cannot_be_told(alice: End) -> None:
    await alice.verifications.ask(PEER)
    alice.device.fails = HomeserverError("away")
    await alice.verifications.give_up(alice.only)
    assert (alice.verifications.open, alice.kinds()) == ((), [VerificationEnded])
    with pytest.raises(HomeserverError):
        await alice.verifications.ask(PEER)


def event(kind: str, content: dict[str, Any], event_id: str = "$request", **changes: Any) -> RoomEvent:
    values = {"sender": ALICE, "origin_server_ts": NOW_MS, "room_id": ROOM, **changes}
    return RoomEvent(event_id=EventId(event_id), type=kind, content=content, **values)


ASKED = {"msgtype": "m.key.verification.request", "to": PEER, "from_device": PHONE, "methods": ["m.sas.v1"]}


async def test_one_in_a_room_is_answered_there_and_refers_to_its_request(peer: End) -> None:
    assert await peer.verifications.receive_in_room(event("m.room.message", ASKED))
    ((room, sent, key_of_send),) = peer.in_room
    assert (room, sent.type, key_of_send) == (ROOM, "m.key.verification.ready", "$request m.key.verification.ready")
    relation = {"rel_type": "m.reference", "event_id": "$request"}
    assert sent.content["m.relates_to"] == relation
    assert peer.device.sent == []
    cancel = {"code": "m.user", "reason": "", "m.relates_to": relation}
    elsewhere = event("m.key.verification.cancel", cancel, "$c", room_id=RoomId("!other:example.org"))
    assert await peer.verifications.receive_in_room(elsewhere)
    assert len(peer.verifications.open) == 1, "only the room where it began counts"
    assert await peer.verifications.receive_in_room(event("m.key.verification.cancel", cancel, "$c"))
    assert peer.verifications.open == ()


@pytest.mark.parametrize(
    "other",
    [
        event("m.room.message", {**ASKED, "to": "@somebody:example.org"}),
        event("m.room.message", ASKED, origin_server_ts=NOW_MS - OLDEST_MS - 1),
        event("m.key.verification.start", {"m.relates_to": {"event_id": 5}}),
        event("m.key.verification.start", {"m.relates_to": "x"}),
    ],
)
async def test_what_is_for_others_or_nobody_in_a_room_is_not_answered(peer: End, other: RoomEvent) -> None:
    assert await peer.verifications.receive_in_room(other)
    assert (peer.verifications.open, peer.in_room) == ((), [])


async def test_ordinary_messages_in_a_room_are_not_ours(peer: End) -> None:
    for other in (event("m.room.message", {"msgtype": "m.text"}), event("m.key.verification.request", ASKED)):
        assert not await peer.verifications.receive_in_room(other)


async def test_a_message_between_devices_cannot_go_on_with_one_in_a_room(peer: End) -> None:
    await peer.verifications.receive_in_room(event("m.room.message", ASKED))
    content = {"transaction_id": "$request", "code": "m.user", "reason": ""}
    await peer.verifications.receive(ToDeviceEvent("m.key.verification.cancel", ALICE, content, None))
    assert len(peer.verifications.open) == 1


async def test_what_is_to_be_compared_is_said_once(alice: End, peer: End) -> None:
    await alice.verifications.ask(PEER)
    await pump(alice, peer)
    assert (alice.kinds(), peer.kinds()) == ([Compare], [Compare])

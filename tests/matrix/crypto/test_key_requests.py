"""Keys that were asked for: from whom they are taken, and what is asked of us."""

from __future__ import annotations

from typing import Any

import pytest
import vodozemac

from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.errors import EventError
from mxrtc_bridge.core.ids import DeviceId, RoomId, UserId
from mxrtc_bridge.matrix.crypto.inbound import MAX_SESSION_KEY_CHARS
from mxrtc_bridge.matrix.crypto.key_requests import (
    AGAIN_MS,
    MAX_ASKED,
    KeyRequest,
    KeyRequests,
    parse_request,
)
from mxrtc_bridge.matrix.crypto.olm_sessions import OlmMessage
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity

ALICE, MALLORY = UserId("@alice:example.org"), UserId("@mallory:example.org")
ROOM = RoomId("!room:example.org")
PICKLE = bytes(32)
OUTBOUND = vodozemac.GroupSession()
INBOUND = vodozemac.InboundGroupSession(OUTBOUND.session_key)
SESSION = OUTBOUND.session_id
MEGOLM = "m.megolm.v1.aes-sha2"
GOOD = {
    "algorithm": MEGOLM,
    "room_id": ROOM,
    "session_id": SESSION,
    "session_key": INBOUND.export_at(0).to_base64(),  # type: ignore[union-attr]
    "sender_key": "curve",
    "sender_claimed_ed25519_key": "ed",
    "forwarding_curve25519_key_chain": [],
}
DEVICE = DeviceIdentity(ALICE, DeviceId("PHONE"), "ed", "curve", Trust.CROSS_SIGNED)


class Clock:
    now_ms = 0


@pytest.fixture
def requests() -> KeyRequests:
    return KeyRequests(lambda: DeviceId("BUILD"), PICKLE, wall_ms=lambda: Clock.now_ms)


def message(content: dict[str, Any], curve25519: str = "curve", ed25519: str = "ed") -> OlmMessage:
    return OlmMessage("m.forwarded_room_key", content, curve25519, ed25519, None)


def test_a_key_that_was_asked_for_is_taken_from_its_maker(requests: KeyRequests) -> None:
    asked = requests.ask(ROOM, SESSION, ALICE)
    assert asked is not None
    assert asked["body"] == {"algorithm": MEGOLM, "room_id": ROOM, "session_id": SESSION}
    assert (asked["action"], asked["requesting_device_id"]) == ("request", "BUILD")
    record = requests.read_key(ALICE, message(GOOD), DEVICE)
    assert (record.room, record.session_id, record.user, record.device) == (ROOM, SESSION, ALICE, DEVICE.device)
    session = vodozemac.InboundGroupSession.from_pickle(record.pickle, PICKLE)
    assert bytes(session.decrypt(OUTBOUND.encrypt(b"text")).plaintext) == b"text"
    requests.came(record)
    with pytest.raises(EventError, match="nobody has asked"):
        requests.read_key(ALICE, message(GOOD), DEVICE)


def test_a_key_that_was_not_asked_for_is_not_taken(requests: KeyRequests) -> None:
    requests.ask(ROOM, SESSION, MALLORY)
    requests.ask(RoomId("!other:example.org"), SESSION, ALICE)
    with pytest.raises(EventError, match="nobody has asked"):
        requests.read_key(ALICE, message(GOOD), DEVICE)


@pytest.mark.parametrize(
    ("content", "keys", "words"),
    [
        (GOOD, ("other", "ed"), "made the key"),
        (GOOD, ("curve", "other"), "made the key"),
        ({**GOOD, "sender_key": None}, ("curve", "ed"), "made the key"),
        ({**GOOD, "algorithm": "m.other"}, ("curve", "ed"), "malformed"),
        ({**GOOD, "session_id": "x"}, ("curve", "ed"), "malformed"),
        ({**GOOD, "room_id": 5}, ("curve", "ed"), "room"),
        ({**GOOD, "session_key": "x" * (MAX_SESSION_KEY_CHARS + 1)}, ("curve", "ed"), "too long"),
        ({**GOOD, "session_key": "x"}, ("curve", "ed"), "damaged"),
        ({**GOOD, "session_key": None}, ("curve", "ed"), "malformed"),
    ],
)
def test_only_the_maker_may_give_it_and_only_whole(
    requests: KeyRequests, content: dict[str, Any], keys: tuple[str, str], words: str
) -> None:
    requests.ask(ROOM, SESSION, ALICE)
    with pytest.raises(EventError, match=words):
        requests.read_key(ALICE, message(content, *keys), DEVICE)


def test_the_key_of_another_session_is_not_taken_for_it(requests: KeyRequests) -> None:
    other = vodozemac.GroupSession()
    requests.ask(ROOM, other.session_id, ALICE)
    with pytest.raises(EventError, match="another session"):
        requests.read_key(ALICE, message({**GOOD, "session_id": other.session_id}), DEVICE)


def test_it_is_asked_for_once_an_hour_and_not_without_end(requests: KeyRequests) -> None:
    assert requests.ask(ROOM, SESSION, ALICE) is not None
    assert requests.ask(ROOM, SESSION, ALICE) is None
    Clock.now_ms += AGAIN_MS
    assert requests.ask(ROOM, SESSION, ALICE) is not None
    for number in range(MAX_ASKED):
        requests.ask(ROOM, f"s{number}", ALICE)
    with pytest.raises(EventError, match="nobody has asked"):
        requests.read_key(ALICE, message(GOOD), DEVICE)


ASKED: dict[str, Any] = {
    "action": "request",
    "body": {"algorithm": MEGOLM, "room_id": ROOM, "session_id": SESSION, "sender_key": "curve"},
    "request_id": "1",
    "requesting_device_id": "PHONE",
}


def test_a_request_of_another_device_is_read() -> None:
    assert parse_request(ASKED) == KeyRequest(ROOM, SESSION, DeviceId("PHONE"))


@pytest.mark.parametrize(
    "changes",
    [
        {"action": "request_cancellation"},
        {"body": None},
        {"body": {**ASKED["body"], "algorithm": "m.other"}},
        {"body": {**ASKED["body"], "room_id": None}},
        {"body": {**ASKED["body"], "session_id": "x"}},
        {"requesting_device_id": 5},
        {"requesting_device_id": "x" * 256},
    ],
)
def test_anything_else_is_no_request(changes: dict[str, Any]) -> None:
    assert parse_request({**ASKED, **changes}) is None

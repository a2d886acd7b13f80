"""What comes before the invite of its call is kept for it, within bounds."""

from __future__ import annotations

from mxrtc_bridge.core.call.early import KEPT_FOR_S, MAX_EARLY, MAX_EARLY_OF_USER, EarlyMessages
from mxrtc_bridge.core.call.events import CallEvent, CallMessage, Hangup, Version
from mxrtc_bridge.core.crypto.records import CallerDevice, Trust
from mxrtc_bridge.core.ids import CallId, DeviceId, EventId, PartyId, RoomId, UserId
from tests.core.call.messages import MALLORY, PEER, USER, candidates, hangup, invite

ROOM, OTHER_ROOM = RoomId("!a:example.org"), RoomId("!b:example.org")
OTHER_PEER = UserId("@rtc_other:example.org")


def event(message: CallMessage, sender: UserId = USER, room: RoomId = ROOM, key: str | None = None) -> CallEvent:
    device = None if key is None else CallerDevice(DeviceId("PHONE"), key, Trust.UNSIGNED)
    return CallEvent(room, EventId("$e"), sender, 0, message, device)


def another(number: int) -> CallMessage:
    return Hangup(CallId(f"other{number}"), PartyId("p"), Version.V1)


def test_messages_of_the_call_and_its_caller_come_once_and_in_order() -> None:
    early = EarlyMessages()
    for number, each in enumerate([event(candidates(1)), event(hangup())]):
        early.put(number, each, PEER)
    early.put(2, event(hangup(), MALLORY), PEER)
    early.put(2, event(hangup(), room=OTHER_ROOM), PEER)
    early.put(2, event(hangup()), OTHER_PEER)
    early.put(2, event(another(1)), PEER)
    assert early.take(3, event(invite()), PEER) == [candidates(1), hangup()]
    assert early.take(3, event(invite()), PEER) == []
    assert len(early) == 4


def test_what_another_key_has_sent_is_no_part_of_the_call() -> None:
    early = EarlyMessages()
    for key in (None, "another", "same"):
        early.put(0, event(hangup() if key != "same" else candidates(1), key=key), PEER)
    assert early.take(1, event(invite(), key="same"), PEER) == [candidates(1)]


def test_message_is_kept_for_the_lifetime_of_an_invite() -> None:
    early = EarlyMessages()
    early.put(0, event(hangup()), PEER)
    early.put(1, event(candidates(1)), PEER)
    assert early.take(KEPT_FOR_S, event(invite()), PEER) == [candidates(1)]
    early.put(0, event(hangup()), PEER)
    early.put(KEPT_FOR_S, event(another(1)), PEER)
    assert len(early) == 1


def test_one_caller_keeps_so_many_and_all_together_so_many() -> None:
    early = EarlyMessages()
    for number in range(MAX_EARLY_OF_USER + 5):
        early.put(0, event(another(number)), PEER)
    assert len(early) == MAX_EARLY_OF_USER
    early.put(0, event(hangup(), MALLORY), PEER)
    for number in range(MAX_EARLY):
        early.put(0, event(another(number), UserId(f"@u{number}:example.org")), PEER)
        assert len(early) <= MAX_EARLY
    assert early.take(0, event(invite(), MALLORY), PEER) == [], "the oldest has gone"
    newest = CallEvent(ROOM, EventId("$e"), UserId(f"@u{MAX_EARLY - 1}:example.org"), 0, another(MAX_EARLY - 1))
    assert early.take(0, newest, PEER) == [another(MAX_EARLY - 1)]

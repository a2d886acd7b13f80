"""Events that calls leave behind, in the database."""

from __future__ import annotations

from mxrtc_bridge.core.ids import CallId, EventId, RoomId, UserId
from mxrtc_bridge.storage.call_events import KEEP_MS, CallEventRow, CallEventStore
from mxrtc_bridge.storage.database import Database

PEER = UserId("@rtc_build:example.org")
ONE, TWO = RoomId("!one:example.org"), RoomId("!two:example.org")
NOW = 1_700_000_000_000


def trace(number: int, room: RoomId = ONE, call: str = "call") -> CallEventRow:
    return CallEventRow(room, EventId(f"$e{number}"), PEER, CallId(call))


async def test_only_calls_that_are_over_are_due_and_each_event_once(database: Database) -> None:
    store = CallEventStore(database)
    for number, each in enumerate((trace(1), trace(2), trace(3, TWO), trace(4, ONE, "other"))):
        await store.add(each, NOW + number)
    await store.add(trace(1), NOW)
    assert await store.due() == []
    await store.call_over(ONE, CallId("call"))
    assert await store.due() == [trace(1), trace(2)]
    await store.gone(EventId("$e1"))
    assert await store.due() == [trace(2)]
    await store.call_over(None, None)
    assert await store.due() == [trace(2), trace(3, TWO), trace(4, ONE, "other")]


async def test_what_could_never_be_redacted_is_forgotten(database: Database) -> None:
    store = CallEventStore(database)
    await store.add(trace(1), NOW)
    await store.add(trace(2), NOW + 10)
    assert await store.prune(NOW + KEEP_MS + 5) == 1
    await store.call_over(None, None)
    assert await store.due() == [trace(2)]

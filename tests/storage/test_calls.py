"""A call is claimed once, and open until it is ended."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from mxrtc_bridge.core.call.route import DevicePair
from mxrtc_bridge.core.ids import CallId, DeviceId, EventId, PartyId, RoomId, UserId
from mxrtc_bridge.engine.ports import CallDirectory, CallRecord
from mxrtc_bridge.storage.calls import KEEP_MS, CallStore
from mxrtc_bridge.storage.database import Database, DatabaseBounds

RECORD = CallRecord(
    route=RoomId("!a"),
    call_id=CallId("c1"),
    local=UserId("@rtc_build:example.org"),
    remote=UserId("@alice:example.org"),
    party_id=PartyId("p"),
)


def event(number: int) -> EventId:
    return EventId(f"${number}")


@pytest.fixture
def calls(database: Database) -> CallStore:
    return CallStore(database)


async def test_claimed_calls_are_open_until_they_end(calls: CallStore) -> None:
    directory: CallDirectory = calls
    second = replace(RECORD, call_id=CallId("c2"), party_id=None)
    assert await directory.claim(RECORD, event(1), 10)
    assert await directory.claim(second, event(2), 11)
    assert await directory.open_calls() == [RECORD, second]
    await directory.end(RECORD, "user_hangup", 12)
    assert await directory.open_calls() == [second]


async def test_calls_between_devices_are_kept_beside_those_of_rooms(calls: CallStore) -> None:
    pair = replace(RECORD, route=DevicePair(RECORD.local, RECORD.remote, DeviceId("PHONE 2")))
    assert await calls.claim(pair, event(1), 10)
    assert await calls.claim(RECORD, event(2), 11)
    assert await calls.open_calls() == [pair, RECORD]
    await calls.end(pair, "user_hangup", 12)
    assert await calls.open_calls() == [RECORD]


@pytest.mark.parametrize(
    ("record", "event_id", "granted"),
    [
        (RECORD, event(1), False),
        (RECORD, event(2), False),
        (replace(RECORD, call_id=CallId("c2")), event(1), False),
        (replace(RECORD, remote=UserId("@mallory:evil.example"), party_id=None), event(2), False),
        (replace(RECORD, call_id=CallId("c2")), event(2), True),
        (replace(RECORD, route=RoomId("!b")), event(2), True),
        (replace(RECORD, local=UserId("@rtc_db:example.org")), event(2), True),
    ],
)
@pytest.mark.parametrize("ended", [False, True])
async def test_claim_refuses_a_replay_of_the_call_or_the_event(
    calls: CallStore, record: CallRecord, event_id: EventId, granted: bool, ended: bool
) -> None:
    assert await calls.claim(RECORD, event(1), 10)
    if ended:
        await calls.end(RECORD, "done", 11)
    assert await calls.claim(record, event_id, 20) is granted


async def test_claim_refuses_a_replay_after_a_restart(url: str) -> None:
    async with await Database.open(url) as database:
        assert await CallStore(database).claim(RECORD, event(1), 10)
    async with await Database.open(url) as database:
        assert not await CallStore(database).claim(RECORD, event(1), 10)
        assert await CallStore(database).open_calls() == [RECORD]


async def test_claim_is_won_once_by_many_at_the_same_moment(calls: CallStore) -> None:
    won = await asyncio.gather(*(calls.claim(RECORD, event(number % 3), 10) for number in range(20)))
    assert sorted(won) == [False] * 19 + [True]


async def test_end_may_be_said_twice_and_for_unknown_calls(calls: CallStore) -> None:
    await calls.end(RECORD, "unknown", 1)
    await calls.claim(RECORD, event(1), 2)
    await calls.end(RECORD, "first " + "x" * 1000, 3)
    await calls.end(RECORD, "second", 4)
    assert await calls.open_calls() == []
    assert await calls.prune(3 + KEEP_MS) == 0
    assert await calls.prune(4 + KEEP_MS) == 1


async def test_prune_keeps_open_calls_however_old(calls: CallStore) -> None:
    await calls.claim(RECORD, event(1), 1)
    assert await calls.prune(10 * KEEP_MS) == 0
    assert await calls.open_calls() == [RECORD]


async def test_prune_keeps_the_newest_of_too_many(url: str) -> None:
    async with await Database.open(url, DatabaseBounds(prune_batch=2)) as database:
        calls = CallStore(database, max_ended=3)
        records = [replace(RECORD, call_id=CallId(f"c{number}")) for number in range(8)]
        for number, record in enumerate(records):
            await calls.claim(record, event(number), number)
            if number:
                await calls.end(record, "done", number)
        assert await calls.prune(10) == 4
        assert [await calls.claim(record, event(100 + n), 10) for n, record in enumerate(records)] == [
            False, True, True, True, True, False, False, False,
        ]  # fmt: skip


async def test_the_same_claim_asked_for_again_is_no_replay(calls: CallStore) -> None:
    """Whoever does not know whether it was stored asks again; another claim of the same call is refused."""
    assert await calls.claim(RECORD, event(1), 10, again=True)
    assert await calls.claim(RECORD, event(1), 10, again=True)
    assert not await calls.claim(replace(RECORD, party_id=PartyId("other")), event(1), 10, again=True)
    assert not await calls.claim(RECORD, event(2), 10, again=True)
    assert len(await calls.open_calls()) == 1
    await calls.end(RECORD, "done", 11)
    assert not await calls.claim(RECORD, event(1), 12, again=True), "it is over"

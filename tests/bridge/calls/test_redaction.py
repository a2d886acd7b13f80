"""What calls leave in rooms is taken back, once they are over, and after a crash as well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mxrtc_bridge.bridge.calls.redaction import CallRedaction
from mxrtc_bridge.core.call.events import CallMessage, Hangup, Version
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import CallId, EventId, PartyId, RoomId, UserId
from mxrtc_bridge.engine.ports import CallRecord
from mxrtc_bridge.storage.call_events import CallEventRow, CallEventStore
from mxrtc_bridge.storage.database import Database
from tests.storage.made_tables import give_tables
from tests.waiting import until

PEER, ALICE = UserId("@rtc_build:example.org"), UserId("@alice:example.org")
ROOM = RoomId("!room:example.org")


def record(call: str) -> CallRecord:
    return CallRecord(ROOM, CallId(call), PEER, ALICE, PartyId("p"))


class World:
    """It is the outbox and the homeserver."""

    def __init__(self, store: CallEventStore) -> None:
        self.store = store
        self.sent = 0
        self.redacted: list[tuple[str, str]] = []
        self.failure: HomeserverError | None = None
        self.failures = 0
        self.broken: set[RoomId] = set()
        self.hanging: set[RoomId] = set()
        self.in_force = self.rooms = self
        self.redact_calls = True
        self.slept: list[float] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self, **times: float) -> CallRedaction:
        traces = CallRedaction(
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            self.store,
            config=self,  # type: ignore[arg-type]
            wall_ms=lambda: 5,
            sleep=self.sleep,
            **times,  # type: ignore[arg-type]
        )
        await traces.start()
        self.tasks.append(asyncio.create_task(traces.run()))
        return traces

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def send(self, room: RoomId, sender: UserId, message: CallMessage, *, step: str) -> EventId:
        self.sent += 1
        return EventId(f"${message.call_id}-{step}")

    async def redact(self, room: RoomId, event: EventId, txn_id: str, as_user: UserId | None = None) -> EventId:
        if room in self.hanging:
            await asyncio.get_running_loop().create_future()
        if self.failure is not None or room in self.broken:
            self.failures += 1
            raise self.failure or HomeserverError("the homeserver answered 500", 500)
        assert event in txn_id
        self.redacted.append((event, str(as_user)))
        return EventId("$r")

    async def until_redacted(self, count: int) -> list[str]:
        async with asyncio.timeout(10):
            while len(self.redacted) < count:
                await asyncio.sleep(0.005)
        return [event for event, _ in self.redacted]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with await Database.open(f"sqlite:///{give_tables(tmp_path / 'traces.db')}") as database:
        made = World(CallEventStore(database))
        yield made
        for task in made.tasks:
            task.cancel()
        await asyncio.gather(*made.tasks, return_exceptions=True)


async def say(traces: CallRedaction, call: str, step: str) -> None:
    await traces.send(ROOM, PEER, Hangup(CallId(call), PartyId("p"), Version.V1), step=step)


async def test_the_events_of_a_call_are_taken_back_when_it_is_over_and_no_others(world: World) -> None:
    traces = await world.start()
    for call, step in (("a", "answer"), ("a", "hangup"), ("b", "answer")):
        await say(traces, call, step)
    await traces.call_over(record("a"))
    assert await world.until_redacted(2) == ["$a-answer", "$a-hangup"]
    assert world.slept == [10.0], "a little later, for clients that are late"
    assert world.redacted[0][1] == PEER
    await traces.call_over(record("b"))
    assert (await world.until_redacted(3))[2:] == ["$b-answer"]


async def test_what_a_crash_has_left_is_taken_back_at_the_start(world: World) -> None:
    first = await world.start()
    await say(first, "a", "answer")
    world.tasks[0].cancel()
    await world.start()
    assert await world.until_redacted(1) == ["$a-answer"]


async def test_where_it_is_not_wanted_everything_stays(world: World) -> None:
    traces = await world.start()
    world.redact_calls = False
    await say(traces, "a", "answer")
    await traces.call_over(record("a"))
    world.redact_calls = True
    await say(traces, "b", "answer")
    await traces.call_over(record("b"))
    assert await world.until_redacted(1) == ["$b-answer"]


async def test_what_may_not_be_redacted_holds_up_nothing_and_an_outage_is_waited_for(world: World) -> None:
    traces = await world.start(retry_s=0.02)
    await say(traces, "a", "answer")
    world.failure = HomeserverError("away", 0)
    await traces.call_over(record("a"))
    await until(lambda: world.failures > 1)
    world.failure = None
    assert await world.until_redacted(1) == ["$a-answer"]
    world.failure = HomeserverError("forbidden", 403, "M_FORBIDDEN")
    await say(traces, "b", "answer")
    await traces.call_over(record("b"))
    async with asyncio.timeout(10):
        while await world.store.due():
            await asyncio.sleep(0.005)
    world.failure = None
    await say(traces, "c", "answer")
    await traces.call_over(record("c"))
    assert await world.until_redacted(2) == ["$a-answer", "$c-answer"]


@pytest.mark.parametrize("what", ["broken", "hanging"])
async def test_a_room_that_fails_or_hangs_holds_up_no_other(world: World, what: str) -> None:
    bad = RoomId("!bad:example.org")
    getattr(world, what).add(bad)
    for number in range(250):
        room = bad if number % 2 else RoomId(f"!r{number}:example.org")
        await world.store.add(CallEventRow(room, EventId(f"$e{number}"), PEER, CallId("c")), number)
    await world.start(room_s=0.2)
    assert len(await world.until_redacted(125)) == 125
    if what == "broken":
        assert world.failures < 10, "one of them is enough to know"

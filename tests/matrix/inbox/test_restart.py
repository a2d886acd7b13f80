"""The inbox goes on where it ended: after a close, a crash, an outage of the database."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.inbox.inbox import Inbox, InboxLimits
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.events import InboxStore
from tests import long
from tests.long import examples
from tests.matrix.inbox.bench import (
    MemoryStore,
    Recorder,
    StoredRow,
    arrival,
    kill,
    make_inbox,
    plenty,
    raw_event,
    running,
)


async def test_events_of_an_earlier_run_are_handled_first() -> None:
    store, recorder = MemoryStore(), Recorder()
    await store.store([arrival(number, number % 2) for number in range(6)], 0)
    async with running(make_inbox(store, recorder)) as inbox:
        await inbox.accept("1", [raw_event(6, 0), raw_event(7, 1)])
        await inbox.idle()
    assert recorder.by_room() == {"!r0:example.org": [0, 2, 4, 6], "!r1:example.org": [1, 3, 5, 7]}


async def test_stored_event_that_is_damaged_is_set_aside() -> None:
    store, recorder = MemoryStore(), Recorder()
    await store.store([arrival(1), arrival(2)], 0)
    store.rows["$1"].payload = '{"event_id":'
    async with running(make_inbox(store, recorder)) as inbox:
        await inbox.idle()
    assert recorder.numbers == [2]
    assert store.rows["$1"].state == "aside"


async def test_close_lets_the_running_event_end_and_leaves_the_rest_stored() -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def handler(event: RoomEvent) -> None:
        entered.set()
        await go_on.wait()

    store = MemoryStore()
    inbox = make_inbox(store, handler)
    task = asyncio.create_task(inbox.run())
    await asyncio.sleep(0)
    await inbox.accept("1", [raw_event(1), raw_event(2)])
    await entered.wait()
    inbox.close()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    await task
    assert store.states() == {"done": 1, "new": 1}


async def test_crash_between_store_and_handle_loses_nothing() -> None:
    """The first run dies in the middle of an event; the second handles that event and the rest."""
    entered = asyncio.Event()

    async def dying(event: RoomEvent) -> None:
        if event.content["number"] == 2:
            entered.set()
            await asyncio.Event().wait()

    store, recorder = MemoryStore(), Recorder()
    inbox = make_inbox(store, dying)
    task = asyncio.create_task(inbox.run())
    await asyncio.sleep(0)
    await inbox.accept("1", [raw_event(number) for number in range(5)])
    await entered.wait()
    while store.rows["$1"].state == "new":
        await asyncio.sleep(0)
    await kill(task)
    assert not inbox.ready
    async with running(make_inbox(store, recorder)) as second:
        await second.accept("1", [raw_event(number) for number in range(5)])
        await second.idle()
    assert recorder.numbers == [2, 3, 4]


async def test_database_that_is_away_after_the_start_delays_but_loses_nothing() -> None:
    faults = iter(["before", "before", "", "before", ""] + ["before", ""] * 20)
    store, recorder = MemoryStore(fault=lambda: next(faults, "")), Recorder()
    for number in range(5):
        store.rows[f"${number}"] = StoredRow(
            number + 1, f"${number}", "!r0:example.org", arrival(number).payload, "new"
        )
    async with running(make_inbox(store, recorder)) as inbox:
        await inbox.idle()
    assert recorder.numbers == list(range(5))
    assert store.states() == {"done": 5}


@st.composite
def transactions(draw: st.DrawFn) -> list[list[int]]:
    """Transactions of events 0 to n in order, some of them repeated, as a homeserver with retries sends them."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    sent: list[list[int]] = []
    start = 0
    for size in sizes:
        sent.append(list(range(start, start + size)))
        start += size
    return sent


@settings(max_examples=examples(60), deadline=None)
@given(
    sent=transactions(),
    turns=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    faults=st.lists(st.sampled_from(["", "", "", "before", "after"]), max_size=30),
    limits=st.builds(
        InboxLimits,
        lanes=st.sampled_from([1, 2, 3, 10]),
        events_per_lane=st.sampled_from([1, 2, 100]),
        held_chars=st.sampled_from([1, 400, 10**6]),
        page=st.sampled_from([1, 2, 100]),
        retry_s=st.just(0.0),
    ),
    copies=st.integers(1, 3),
    crash_after=st.integers(0, 60),
)
def test_every_interleaving_handles_each_event_once_and_in_order(
    sent: list[list[int]], turns: list[int], faults: list[str], limits: InboxLimits, copies: int, crash_after: int
) -> None:
    """Concurrent copies of each transaction, failing storage, and a crash of the whole at some moment."""

    async def scenario() -> None:
        delays, failures = iter(turns * 50), iter(faults)
        store = MemoryStore(delay=lambda: next(delays, 0), fault=lambda: next(failures, ""))
        first, second = Recorder(lambda: next(delays, 0)), Recorder(lambda: next(delays, 0))

        async def deliver(inbox: Inbox, numbers: list[int]) -> None:
            while True:
                try:
                    return await inbox.accept("t", [raw_event(number, number % 3) for number in numbers])
                except StorageError:
                    if not inbox.status().running:
                        raise
                    await asyncio.sleep(0)

        async def send(inbox: Inbox) -> None:
            # A homeserver begins the next transaction when one copy of the last was answered.
            for numbers in sent:
                await asyncio.gather(*(deliver(inbox, numbers) for _ in range(copies)))

        inbox = make_inbox(store, first, limits=limits)
        run = asyncio.create_task(inbox.run())
        sending = asyncio.create_task(send(inbox))
        for _ in range(crash_after):
            await asyncio.sleep(0)
        await kill(sending)
        await kill(run)
        settled = {row.key for row in store.rows.values() if row.state == "done"}
        stored = set(store.rows)

        async with running(make_inbox(store, second, limits=limits)) as inbox:
            await send(inbox)
            await inbox.idle()
        everything = [number for numbers in sent for number in numbers]
        assert store.states() == {"done": len(everything)}
        for recorder in (first, second):
            assert len(set(recorder.numbers)) == len(recorder.numbers), "handled twice in one run"
            for numbers in recorder.by_room().values():
                assert numbers == sorted(numbers)
        assert set(first.numbers) | set(second.numbers) == set(everything)
        assert {f"${number}" for number in second.numbers} == {f"${number}" for number in everything} - settled
        assert {f"${number}" for number in first.numbers} <= stored

    asyncio.run(scenario())


async def test_backlog_of_ten_thousand_events_is_handled_in_order(tmp_path: Any) -> None:
    """With the real store: what a homeserver has kept during an outage, much of it in one room."""
    recorder, count = Recorder(), long.size(10_000, 2000)
    async with await Database.open(f"sqlite:///{tmp_path}/bridge.db") as database:
        store = InboxStore(database)
        limits = InboxLimits(events_per_lane=100, places=plenty())
        async with running(make_inbox(store, recorder, limits=limits)) as inbox:
            for start in range(0, count, 100):
                events = [raw_event(n, 0 if n % 2 else n % 50) for n in range(start, start + 100)]
                await inbox.accept(str(start), events)
            await inbox.idle()
        assert await store.count_waiting() == []
        aside = await database.read(lambda connection: connection.fetch("SELECT event_id FROM event WHERE state = 2"))
        assert aside == []
    assert len(recorder.handled) == count
    for numbers in recorder.by_room().values():
        assert numbers == sorted(numbers)


async def test_real_store_takes_concurrent_copies_once_and_survives_a_crash(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/bridge.db"
    first, second = Recorder(delay=lambda: 3), Recorder()
    batches = [[raw_event(n, n % 4) for n in range(start, start + 20)] for start in range(0, 200, 20)]
    async with await Database.open(url) as database:
        inbox = make_inbox(InboxStore(database), first)
        task = asyncio.create_task(inbox.run())
        inbox.set_ready(True)
        while not inbox.ready:
            await asyncio.sleep(0)
        for batch in batches[:7]:
            await asyncio.gather(*(inbox.accept("t", batch) for _ in range(5)))
        await kill(task)
    async with await Database.open(url) as database:
        store = InboxStore(database)
        async with running(make_inbox(store, second)) as inbox:
            for batch in batches[5:]:
                await asyncio.gather(*(inbox.accept("t", batch) for _ in range(5)))
            await inbox.idle()
        assert await store.count_waiting() == []
    for recorder in (first, second):
        assert len(set(recorder.numbers)) == len(recorder.numbers)
        for numbers in recorder.by_room().values():
            assert numbers == sorted(numbers)
    assert set(first.numbers) | set(second.numbers) == set(range(200))

"""The inbox holds a bounded part in memory, and refuses what it cannot store."""

from __future__ import annotations

import asyncio

import pytest

from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.inbox.inbox import InboxLimits
from tests.matrix.inbox.bench import (
    MemoryStore,
    Recorder,
    make_inbox,
    raw_event,
    running,
)


async def test_accept_before_and_after_the_run_is_refused() -> None:
    store, recorder = MemoryStore(), Recorder()
    inbox = make_inbox(store, recorder)
    assert not inbox.ready
    with pytest.raises(StorageError, match="not open"):
        await inbox.accept("1", [raw_event(1)])
    async with running(inbox):
        assert inbox.ready
        inbox.set_ready(False)
        assert not inbox.ready
    with pytest.raises(StorageError, match="not open"):
        await inbox.accept("1", [raw_event(1)])
    assert store.rows == {}
    await inbox.run()


async def test_refused_store_is_told_and_handled_when_it_comes_again() -> None:
    faults = iter(["", "", "before"])
    store, recorder = MemoryStore(fault=lambda: next(faults, "")), Recorder()
    async with running(make_inbox(store, recorder)) as inbox:
        await inbox.idle()
        with pytest.raises(StorageError, match="disk is full"):
            await inbox.accept("1", [raw_event(1)])
        assert store.rows == {}
        await inbox.accept("1", [raw_event(1)])
        await inbox.idle()
    assert recorder.numbers == [1]


async def test_commit_whose_answer_was_lost_is_handled_when_it_comes_again() -> None:
    """The second attempt finds its events stored; they are new all the same."""
    faults = iter(["", "", "after"])
    store, recorder = MemoryStore(fault=lambda: next(faults, "")), Recorder()
    async with running(make_inbox(store, recorder)) as inbox:
        await inbox.idle()
        with pytest.raises(StorageError):
            await inbox.accept("1", [raw_event(1), raw_event(2)])
        await inbox.accept("1", [raw_event(1), raw_event(2)])
        await inbox.idle()
    assert recorder.numbers == [1, 2]


async def test_request_that_is_cancelled_while_storing_loses_nothing() -> None:
    store, recorder = MemoryStore(delay=lambda: 5), Recorder()
    async with running(make_inbox(store, recorder)) as inbox:
        await inbox.idle()
        request = asyncio.create_task(inbox.accept("1", [raw_event(1), raw_event(2)]))
        await asyncio.sleep(0)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await inbox.idle()
        assert recorder.numbers == [1, 2]


async def test_memory_holds_a_bounded_number_of_events_of_a_room() -> None:
    """What does not fit stays in the database and comes in pages, in order."""
    go_on = asyncio.Event()
    recorder = Recorder()

    async def handler(event: RoomEvent) -> None:
        await go_on.wait()
        await recorder(event)

    store = MemoryStore()
    async with running(make_inbox(store, handler, limits=InboxLimits(events_per_lane=10, page=7))) as inbox:
        await inbox.idle()
        for start in range(0, 100, 5):
            await inbox.accept(str(start), [raw_event(number) for number in range(start, start + 5)])
        assert inbox.status().longest_lane <= 10
        go_on.set()
        await inbox.idle()
    assert recorder.numbers == list(range(100))
    assert store.largest_page == 7


async def test_memory_holds_a_bounded_number_of_characters() -> None:
    go_on = asyncio.Event()
    recorder = Recorder()

    async def handler(event: RoomEvent) -> None:
        await go_on.wait()
        await recorder(event)

    limits = InboxLimits(held_chars=10_000)
    async with running(make_inbox(MemoryStore(), handler, limits=limits)) as inbox:
        await inbox.idle()
        big = {"number": 0, "sdp": "x" * 3000}
        await inbox.accept("1", [raw_event(n, n % 4, content={**big, "number": n}) for n in range(40)])
        assert inbox.status().held_chars <= 10_000 + 4 * 3500
        go_on.set()
        await inbox.idle()
        assert inbox.status().held_chars == 0
    assert recorder.by_room() == {f"!r{room}:example.org": list(range(room, 40, 4)) for room in range(4)}


@pytest.mark.parametrize("rooms", [1, 2, 9])
async def test_lanes_beyond_the_limit_wait_their_turn_in_order(rooms: int) -> None:
    """Also events that come while older ones of the same room are still left out."""
    store, recorder = MemoryStore(), Recorder(delay=lambda: 2)
    async with running(make_inbox(store, recorder, limits=InboxLimits(lanes=rooms, page=3))) as inbox:
        for start in range(0, 200, 10):
            await inbox.accept(str(start), [raw_event(n, n % 10) for n in range(start, start + 10)])
            assert inbox.status().lanes <= rooms
            for _ in range(start % 7):
                await asyncio.sleep(0)
        await inbox.idle()
    assert recorder.by_room() == {f"!r{room}:example.org": list(range(room, 200, 10)) for room in range(10)}

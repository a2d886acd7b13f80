"""The inbox handles what it accepted: once, in order, whatever goes wrong around it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.matrix.arrivals import Arrival
from mxrtc_bridge.matrix.inbox import EventStore, Inbox, InboxLimits, RoomEvent
from mxrtc_bridge.matrix.verdicts import Verdict
from mxrtc_bridge.metrics import Metrics
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.inbox import InboxStore

ALICE = "@alice:example.org"


def raw_event(number: int, room: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "event_id": f"${number}",
        "room_id": f"!r{room}:example.org",
        "type": "m.call.invite",
        "sender": ALICE,
        "origin_server_ts": 1_700_000_000_000,
        "content": {"number": number},
        **changes,
    }


@dataclass
class _Stored:
    seq: int
    key: str
    room_id: str
    payload: str
    state: str
    reason: str | None = None


@dataclass
class MemoryStore:
    """The durable side in memory. Each step takes ``delay()`` turns of the loop and may fail by ``fault()``."""

    rows: dict[str, _Stored] = field(default_factory=dict)
    delay: Callable[[], int] = lambda: 0
    fault: Callable[[], str] = lambda: ""
    largest_page: int = 0

    async def _step(self) -> str:
        for _ in range(self.delay()):
            await asyncio.sleep(0)
        fault = self.fault()
        if fault == "before":
            raise StorageError("the disk is full")
        return fault

    async def store(self, arrivals: Sequence[Arrival], now_ms: int) -> list[int | None]:
        fault = await self._step()
        places: list[int | None] = []
        for arrival in arrivals:
            if arrival.key in self.rows:
                places.append(None)
                continue
            state = "new" if arrival.refusal is None else "aside"
            row = _Stored(len(self.rows) + 1, arrival.key, arrival.room_id, arrival.payload, state, arrival.refusal)
            self.rows[arrival.key] = row
            places.append(row.seq)
        if fault == "after":
            raise StorageError("committed, but the answer was lost")
        for _ in range(self.delay()):
            await asyncio.sleep(0)
        return places

    def _waiting(self) -> list[_Stored]:
        return [row for row in self.rows.values() if row.state == "new"]

    async def waiting_rooms(self, limit: int) -> list[str]:
        await self._step()
        return list(dict.fromkeys(row.room_id for row in self._waiting()))[:limit]

    async def waiting(self, room_id: str, after: int, limit: int) -> list[_Stored]:
        await self._step()
        found = [row for row in self._waiting() if row.room_id == room_id and row.seq > after][:limit]
        self.largest_page = max(self.largest_page, len(found))
        return found

    async def count_waiting(self) -> int:
        await self._step()
        return len(self._waiting())

    async def settle(self, verdicts: Sequence[Verdict], now_ms: int) -> None:
        await self._step()
        for verdict in verdicts:
            row = self.rows[verdict.key]
            if row.state == "new":
                row.state = "done" if verdict.refusal is None else "aside"
                row.reason = verdict.refusal

    def states(self) -> dict[str, int]:
        return dict(Counter(row.state for row in self.rows.values()))


class Recorder:
    """A handler that takes down what it gets, and checks that no room is handled twice at the same time."""

    def __init__(self, delay: Callable[[], int] = lambda: 0) -> None:
        self.handled: list[RoomEvent] = []
        self._busy: set[str] = set()
        self._delay = delay

    async def __call__(self, event: RoomEvent) -> None:
        assert event.room_id not in self._busy, "two events of one room at the same time"
        self._busy.add(event.room_id)
        self.handled.append(event)
        try:
            for _ in range(self._delay()):
                await asyncio.sleep(0)
        finally:
            self._busy.discard(event.room_id)

    @property
    def numbers(self) -> list[int]:
        return [event.content["number"] for event in self.handled]

    def by_room(self) -> dict[str, list[int]]:
        rooms: dict[str, list[int]] = defaultdict(list)
        for event in self.handled:
            rooms[event.room_id].append(event.content["number"])
        return dict(rooms)


def make_inbox(
    store: EventStore,
    handler: Callable[[RoomEvent], Awaitable[None]],
    *,
    metrics: Metrics | None = None,
    types: frozenset[str] | None = None,
    limits: InboxLimits | None = None,
) -> Inbox:
    return Inbox(
        store,
        handler,
        wall_ms=lambda: 1_700_000_000_000,
        knows_user=lambda user: user == "@rtc_build:example.org",
        metrics=metrics or Metrics(),
        types=types,
        limits=limits or InboxLimits(retry_s=0),
    )


@asynccontextmanager
async def running(inbox: Inbox) -> AsyncIterator[Inbox]:
    """Run the inbox; at the end close it and wait until it has ended."""
    task = asyncio.create_task(inbox.run())
    inbox.set_ready(True)
    while not inbox.ready and not task.done():
        await asyncio.sleep(0)
    try:
        yield inbox
    finally:
        inbox.close()
        await task


async def kill(task: asyncio.Task[None]) -> None:
    """End a running inbox as a crash would: nothing more is written."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_accepted_events_are_handled_in_order() -> None:
    store, recorder = MemoryStore(), Recorder()
    async with running(make_inbox(store, recorder)) as inbox:
        await inbox.accept("1", [raw_event(number, number % 3) for number in range(30)])
        await inbox.accept("2", [raw_event(number, number % 3) for number in range(30, 60)])
        await inbox.idle()
    assert recorder.by_room() == {f"!r{room}:example.org": list(range(room, 60, 3)) for room in range(3)}
    assert store.states() == {"done": 60}


async def test_event_reaches_the_handler_whole() -> None:
    """The same from memory and from the database."""
    store, recorder = MemoryStore(), Recorder()
    stripped = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "invite"}}
    raw = raw_event(
        1,
        type="m.room.member",
        state_key="@rtc_build:example.org",
        unsigned={"age": 5, "invite_room_state": [stripped, "odd", {"type": 5}], "prev_content": "odd"},
    )
    async with running(make_inbox(store, recorder)) as inbox:
        await inbox.accept("1", [raw])
        await inbox.idle()
    store.rows["$1"].state = "new"
    async with running(make_inbox(store, recorder)) as inbox:
        await inbox.idle()
    first, second = recorder.handled
    assert first == second
    assert (first.state_key, first.sender, first.origin_server_ts) == (
        "@rtc_build:example.org", ALICE, 1_700_000_000_000,
    )  # fmt: skip
    assert first.invite_room_state == (stripped,)


async def test_repeated_events_are_handled_once() -> None:
    """In the same transaction, with the same transaction id, and with another one."""
    store, recorder, metrics = MemoryStore(), Recorder(), Metrics()
    async with running(make_inbox(store, recorder, metrics=metrics)) as inbox:
        await inbox.accept("1", [raw_event(1), raw_event(1), raw_event(2)])
        await inbox.accept("1", [raw_event(1), raw_event(2)])
        await inbox.idle()
        await inbox.accept("2", [raw_event(2), raw_event(3)])
        await inbox.idle()
    assert recorder.numbers == [1, 2, 3]
    assert b'mxrtc_events_total{outcome="duplicate"} 4.0' in metrics.render()


async def test_events_of_other_types_are_neither_stored_nor_handled() -> None:
    store, recorder, metrics = MemoryStore(), Recorder(), Metrics()
    async with running(make_inbox(store, recorder, metrics=metrics, types=frozenset({"m.call.invite"}))) as inbox:
        await inbox.accept("1", [raw_event(1, type="m.room.message"), raw_event(2), raw_event(3, type="m.reaction")])
        await inbox.idle()
    assert list(store.rows) == ["$2"]
    assert recorder.numbers == [2]
    assert b'mxrtc_events_total{outcome="ignored"} 2.0' in metrics.render()


@pytest.mark.parametrize(
    "poison",
    [
        None,
        17,
        "text",
        [],
        {},
        raw_event(7, event_id=7),
        raw_event(7, event_id="$" + "x" * 255),
        raw_event(7, room_id="r"),
        raw_event(7, room_id=None),
        raw_event(7, sender="alice"),
        raw_event(7, sender={"a": 1}),
        raw_event(7, type=None),
        raw_event(7, type="t" * 256),
        raw_event(7, state_key=5),
        raw_event(7, state_key="k" * 256),
        raw_event(7, content=[]),
        raw_event(7, content=None),
        raw_event(7, origin_server_ts="now"),
        raw_event(7, origin_server_ts=-1),
        raw_event(7, origin_server_ts=True),
        raw_event(7, origin_server_ts=2**53),
        raw_event(7, content={"sdp": "x" * (512 * 1024)}),
        {key: value for key, value in raw_event(7).items() if key != "origin_server_ts"},
    ],
    ids=lambda poison: repr(poison)[:60],
)
async def test_poison_event_is_set_aside_once_and_the_rest_goes_on(poison: object) -> None:
    store, recorder = MemoryStore(), Recorder()
    async with running(make_inbox(store, recorder)) as inbox:
        await inbox.accept("1", [raw_event(1), poison, raw_event(2)])
        await inbox.accept("2", [poison, raw_event(3)])
        await inbox.idle()
    assert recorder.numbers == [1, 2, 3]
    assert store.states() == {"done": 3, "aside": 1}
    (aside,) = (row for row in store.rows.values() if row.state == "aside")
    assert aside.reason
    assert len(aside.payload) <= 4096
    assert aside.key.startswith(("hash:", "$"))
    assert len(aside.key) <= 255


@pytest.mark.parametrize(
    "good",
    [
        raw_event(1, event_id="$" + "x" * 254),
        raw_event(1, type="t" * 255, state_key="k" * 255),
        raw_event(1, origin_server_ts=2**53 - 1),
        raw_event(1, origin_server_ts=0),
        raw_event(1, content={"number": 1, "text": "\ud800\x00 \u202e", "sdp": "x" * (500 * 1024)}),
        raw_event(1, room_id="!withoutserver"),
        raw_event(1, unsigned=["odd"]),
        raw_event(1, unsigned={"invite_room_state": {"odd": 1}}),
        raw_event(1, unsigned={"invite_room_state": [{"type": "t", "state_key": "", "content": {}}] * 1000}),
    ],
    ids=lambda good: repr(good)[:60],
)
async def test_event_at_a_limit_is_handled(good: dict[str, Any]) -> None:
    store, recorder = MemoryStore(), Recorder()
    async with running(make_inbox(store, recorder)) as inbox:
        await inbox.accept("1", [good])
        await inbox.idle()
    assert store.states() == {"done": 1}
    assert len(recorder.handled[0].invite_room_state) <= 64


async def test_handler_that_raises_sets_the_event_aside_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """The log names event, exception type and place, but never what the exception says."""
    store, handled = MemoryStore(), []

    async def handler(event: RoomEvent) -> None:
        handled.append(event.content["number"])
        if event.content["number"] == 2:
            raise KeyError("a=candidate:192.0.2.1")

    async with running(make_inbox(store, handler)) as inbox:
        await inbox.accept("1", [raw_event(number) for number in (1, 2, 3)])
        await inbox.idle()
    assert handled == [1, 2, 3]
    assert {key: row.state for key, row in store.rows.items()} == {"$1": "done", "$2": "aside", "$3": "done"}
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "$2" in errors[0]
    assert "KeyError at handler" in errors[0]
    assert "192.0.2.1" not in caplog.text


async def test_handler_that_raises_cancelled_does_not_stop_its_room() -> None:
    """A handler that awaits something cancelled elsewhere looks like a cancelled worker, but is not."""
    store, handled = MemoryStore(), []

    async def handler(event: RoomEvent) -> None:
        handled.append(event.content["number"])
        if event.content["number"] == 1:
            raise asyncio.CancelledError

    async with running(make_inbox(store, handler)) as inbox:
        await inbox.accept("1", [raw_event(1), raw_event(2)])
        await inbox.idle()
    assert handled == [1, 2]
    assert store.rows["$1"].reason == "the handler was cancelled from within"


async def test_handler_that_hangs_sets_the_event_aside_and_goes_on() -> None:
    store, handled, metrics = MemoryStore(), [], Metrics()

    async def handler(event: RoomEvent) -> None:
        handled.append(event.content["number"])
        if event.content["number"] == 1:
            await asyncio.Event().wait()
        if event.content["number"] == 2:
            raise TimeoutError("of its own")

    limits = InboxLimits(handler_timeout_s=0.01)
    async with running(make_inbox(store, handler, limits=limits, metrics=metrics)) as inbox:
        await inbox.accept("1", [raw_event(1), raw_event(2), raw_event(3)])
        await inbox.idle()
    assert handled == [1, 2, 3]
    assert store.rows["$1"].reason == "timeout: not handled within 0.01 s"
    assert "TimeoutError at handler" in (store.rows["$2"].reason or "")
    assert b'mxrtc_events_total{outcome="timeout"} 1.0' in metrics.render()


async def test_slow_room_does_not_hold_up_another() -> None:
    go_on, handled = asyncio.Event(), []

    async def handler(event: RoomEvent) -> None:
        if event.room_id == "!r0:example.org":
            await go_on.wait()
        handled.append(event.content["number"])

    async with running(make_inbox(MemoryStore(), handler)) as inbox:
        await inbox.accept("1", [raw_event(1, 0), raw_event(2, 0), raw_event(3, 1), raw_event(4, 1)])
        while len(handled) < 2:
            await asyncio.sleep(0)
        assert handled == [3, 4]
        go_on.set()
        await inbox.idle()
    assert handled == [3, 4, 1, 2]


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


async def test_users_are_known_by_the_given_rule() -> None:
    inbox = make_inbox(MemoryStore(), Recorder())
    assert inbox.knows_user("@rtc_build:example.org")
    assert not inbox.knows_user(ALICE)


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


async def test_too_many_stored_events_are_refused_and_accepted_later() -> None:
    go_on = asyncio.Event()

    async def handler(event: RoomEvent) -> None:
        await go_on.wait()

    store = MemoryStore()
    async with running(make_inbox(store, handler, limits=InboxLimits(stored=10))) as inbox:
        await inbox.accept("1", [raw_event(number) for number in range(10)])
        with pytest.raises(StorageError, match="10 events wait already; the limit is 10"):
            await inbox.accept("2", [raw_event(11)])
        assert len(store.rows) == 10
        go_on.set()
        await inbox.idle()
        await inbox.accept("2", [raw_event(number) for number in range(11, 21)])
        await inbox.idle()
    assert store.states() == {"done": 20}


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
    async with running(make_inbox(store, handler, limits=InboxLimits(events_per_room=10, page=7))) as inbox:
        await inbox.idle()
        for start in range(0, 100, 5):
            await inbox.accept(str(start), [raw_event(number) for number in range(start, start + 5)])
        assert len(inbox._rooms["!r0:example.org"].queue) <= 10
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
        assert inbox._held_chars <= 10_000 + 4 * 3500
        go_on.set()
        await inbox.idle()
        assert inbox._held_chars == 0
    assert recorder.by_room() == {f"!r{room}:example.org": list(range(room, 40, 4)) for room in range(4)}


@pytest.mark.parametrize("rooms", [1, 2, 9])
async def test_rooms_beyond_the_limit_wait_their_turn_in_order(rooms: int) -> None:
    """Also events that come while older ones of the same room are still left out."""
    store, recorder = MemoryStore(), Recorder(delay=lambda: 2)
    async with running(make_inbox(store, recorder, limits=InboxLimits(rooms=rooms, page=3))) as inbox:
        for start in range(0, 200, 10):
            await inbox.accept(str(start), [raw_event(n, n % 10) for n in range(start, start + 10)])
            assert len(inbox._rooms) <= rooms
            for _ in range(start % 7):
                await asyncio.sleep(0)
        await inbox.idle()
    assert recorder.by_room() == {f"!r{room}:example.org": list(range(room, 200, 10)) for room in range(10)}


async def test_events_of_an_earlier_run_are_handled_first() -> None:
    store, recorder = MemoryStore(), Recorder()
    await store.store([_arrival(number, number % 2) for number in range(6)], 0)
    async with running(make_inbox(store, recorder)) as inbox:
        await inbox.accept("1", [raw_event(6, 0), raw_event(7, 1)])
        await inbox.idle()
    assert recorder.by_room() == {"!r0:example.org": [0, 2, 4, 6], "!r1:example.org": [1, 3, 5, 7]}


async def test_stored_event_that_is_damaged_is_set_aside() -> None:
    store, recorder = MemoryStore(), Recorder()
    await store.store([_arrival(1), _arrival(2)], 0)
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
        store.rows[f"${number}"] = _Stored(number + 1, f"${number}", "!r0:example.org", _arrival(number).payload, "new")
    async with running(make_inbox(store, recorder)) as inbox:
        await inbox.idle()
    assert recorder.numbers == list(range(5))
    assert store.states() == {"done": 5}


def _arrival(number: int, room: int = 0) -> Arrival:
    from mxrtc_bridge.matrix.arrivals import read_arrival

    arrival = read_arrival(raw_event(number, room), None)
    assert arrival is not None
    return arrival


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


@settings(max_examples=60, deadline=None)
@given(
    sent=transactions(),
    turns=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    faults=st.lists(st.sampled_from(["", "", "", "before", "after"]), max_size=30),
    limits=st.builds(
        InboxLimits,
        rooms=st.sampled_from([1, 2, 3, 10]),
        events_per_room=st.sampled_from([1, 2, 100]),
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
                    if inbox._tasks is None:
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
    recorder = Recorder()
    async with await Database.open(f"sqlite:///{tmp_path}/bridge.db") as database:
        store = InboxStore(database)
        limits = InboxLimits(events_per_room=100)
        async with running(make_inbox(store, recorder, limits=limits)) as inbox:
            for start in range(0, 10_000, 100):
                events = [raw_event(n, 0 if n % 2 else n % 50) for n in range(start, start + 100)]
                await inbox.accept(str(start), events)
            await inbox.idle()
        assert await store.count_waiting() == 0
        assert await store.set_aside() == []
    assert len(recorder.handled) == 10_000
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
        assert await store.count_waiting() == 0
    for recorder in (first, second):
        assert len(set(recorder.numbers)) == len(recorder.numbers)
        for numbers in recorder.by_room().values():
            assert numbers == sorted(numbers)
    assert set(first.numbers) | set(second.numbers) == set(range(200))

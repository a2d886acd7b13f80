"""A durable store in memory, a handler that takes down what it gets, and an inbox between them."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mxrtc_bridge.core.bounds.shares import ShareLimits
from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.inbox import EventOutcome, StoredEvent, WaitingCount, WaitingEvent
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.inbox.capacity import CapacityLimits
from mxrtc_bridge.matrix.inbox.inbox import Inbox, InboxLimits
from mxrtc_bridge.matrix.inbox.incoming import EventStore, IncomingEvent, read_arrival
from mxrtc_bridge.matrix.inbox.lanes import lane_of
from mxrtc_bridge.metrics import Metrics
from tests.honesty import Honesty

ALICE = "@alice:example.org"


def shares(**changes: int) -> ShareLimits:
    """Shares that are never full, but for those that are named."""
    many = 10**9
    fields = {"sender": many, "server": many, "foreign": many, "others": many, "total": many, "room": many}
    return ShareLimits(**{**fields, **changes})


def plenty() -> CapacityLimits:
    """Places for everything that waits."""
    return CapacityLimits(waiting=shares(), changes=shares())


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
class StoredRow:
    seq: int
    key: str
    room_id: str
    payload: str
    state: str
    sender: str = ALICE
    lane: str = ALICE
    reason: str | None = None


@dataclass
class MemoryStore:
    """The durable side in memory. Each step takes ``delay()`` turns of the loop and may fail by ``fault()``.

    It stands for a database. A test that needs a bad one sets ``honesty``: *silent* hangs, *wrong* refuses everything;
    it is never stale, as the inbox has it for itself.
    """

    rows: dict[str, StoredRow] = field(default_factory=dict)
    delay: Callable[[], int] = lambda: 0
    fault: Callable[[], str] = lambda: ""
    largest_page: int = 0
    honesty: Honesty = Honesty.TRUE

    async def _step(self) -> str:
        while self.honesty is Honesty.SILENT:
            await asyncio.sleep(0)
        for _ in range(self.delay()):
            await asyncio.sleep(0)
        fault = self.fault()
        if fault == "before" or self.honesty is Honesty.WRONG:
            raise StorageError("the disk is full")
        return fault

    async def store(self, arrivals: Sequence[IncomingEvent], now_ms: int) -> list[int | None]:
        fault = await self._step()
        places: list[int | None] = []
        for arrival in arrivals:
            if arrival.key in self.rows:
                places.append(None)
                continue
            state = "new" if arrival.refusal is None else "aside"
            place = (len(self.rows) + 1, arrival.key, arrival.room_id, arrival.payload)
            row = StoredRow(*place, state, arrival.sender, arrival.lane, arrival.refusal)
            self.rows[arrival.key] = row
            places.append(row.seq)
        if fault == "after":
            raise StorageError("committed, but the answer was lost")
        for _ in range(self.delay()):
            await asyncio.sleep(0)
        return places

    def _waiting(self) -> list[StoredRow]:
        return [row for row in self.rows.values() if row.state == "new"]

    async def waiting_lanes(self, limit: int) -> list[tuple[str, str]]:
        await self._step()
        return list(dict.fromkeys((row.room_id, row.lane) for row in self._waiting()))[:limit]

    async def waiting(self, room_id: str, lane: str, after: int, limit: int) -> list[StoredEvent]:
        await self._step()
        wanted = [row for row in self._waiting() if (row.room_id, row.lane) == (room_id, lane) and row.seq > after]
        self.largest_page = max(self.largest_page, len(wanted[:limit]))
        return [StoredEvent(row.seq, row.key, row.sender, row.payload) for row in wanted[:limit]]

    async def find_waiting(self, keys: Sequence[str]) -> list[WaitingEvent]:
        await self._step()
        found = [row for row in self._waiting() if row.key in keys]
        return [WaitingEvent(row.seq, row.key, row.room_id, row.lane, row.sender) for row in found]

    async def count_waiting(self) -> list[WaitingCount]:
        await self._step()
        counts = Counter((row.room_id, row.lane, row.sender) for row in self._waiting())
        return [WaitingCount(*place, count) for place, count in counts.items()]

    async def settle(self, verdicts: Sequence[EventOutcome], now_ms: int) -> None:
        await self._step()
        for verdict in verdicts:
            row = self.rows[verdict.key]
            if row.state == "new":
                row.state = "done" if verdict.refusal is None else "aside"
                row.reason = verdict.refusal

    def states(self) -> dict[str, int]:
        return dict(Counter(row.state for row in self.rows.values()))


class Recorder:
    """A handler that takes down what it gets, and checks that no lane is handled twice at the same time."""

    def __init__(self, delay: Callable[[], int] = lambda: 0) -> None:
        self.handled: list[RoomEvent] = []
        self._busy: set[tuple[str, str]] = set()
        self._delay = delay

    async def __call__(self, event: RoomEvent) -> None:
        place = (event.room_id, lane_of(event))
        assert place not in self._busy, "two events of one lane at the same time"
        self._busy.add(place)
        self.handled.append(event)
        try:
            for _ in range(self._delay()):
                await asyncio.sleep(0)
        finally:
            self._busy.discard(place)

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
    arrived: Callable[[object], None] = lambda _raw: None,
    has_right: Callable[[UserId], bool] = lambda _user: False,
) -> Inbox:
    return Inbox(
        store,
        handler,
        wall_ms=lambda: 1_700_000_000_000,
        knows_user=lambda user: user == "@rtc_build:example.org",
        metrics=metrics or Metrics(),
        types=types,
        limits=limits or InboxLimits(retry_s=0),
        arrived=arrived,
        own_server="example.org",
        has_right=has_right,
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


def arrival(number: int, room: int = 0) -> IncomingEvent:
    read = read_arrival(raw_event(number, room), None)
    assert read is not None
    return read

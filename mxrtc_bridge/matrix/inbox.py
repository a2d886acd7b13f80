"""Durable, ordered intake of room events: stored, then answered, then handled one by one in each room.

The database is the queue; memory only holds its head. Promises, each with a test:

- :meth:`Inbox.accept` returns after the events are committed. What it was given is handled, also after a crash.
- An event is handled once, whatever transactions bring it and however often (a crash may repeat the last few).
- Within a room events are handled one after the other, in the order of arrival. Rooms do not wait for each other.
- What takes a right away takes effect when it arrives (:meth:`Inbox.look`), whatever becomes of the transaction.
- An event that was redacted before its turn came is not handled any more.
- An event that cannot be read, or whose handler raises or takes too long, is set aside with the reason.
- Memory is bounded: at a limit events simply stay in the database, and are read from there in order when there is room.
  When too many wait there, :meth:`Inbox.accept` refuses, and the homeserver keeps them.

How a room works: while its queue has room, new events go straight into it. Otherwise the room is *behind*: from then on
nothing is put into its queue directly, and its worker reads pages from the database until it has caught up. A worker
ends when its room has nothing left, after its verdicts are committed, so whoever reads the room next sees them.
Storing and queueing happen under one lock, reading a page as well: the order in the queue is the order of arrival.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field

from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.matrix.arrivals import Arrival, EventStore, read_arrival
from mxrtc_bridge.matrix.room_event import RoomEvent, decode
from mxrtc_bridge.matrix.verdicts import Verdict, Verdicts, ask_until_done
from mxrtc_bridge.matrix.withdrawn import WithdrawnEvents
from mxrtc_bridge.metrics import Metrics

__all__ = ["EventStore", "Inbox", "InboxLimits", "RoomEvent"]

_log = logging.getLogger(__name__)

Handler = Callable[[RoomEvent], Awaitable[None]]

REDACTED = "redacted"
"""Why an event is set aside that was taken back before its turn came."""


@dataclass(frozen=True, slots=True)
class InboxLimits:
    """Bounds of the inbox."""

    rooms: int = 10_000
    """Rooms with a worker; further rooms wait in the database."""
    events_per_room: int = 1000
    held_chars: int = 64 * 1024 * 1024
    """Encoded events held in memory, all rooms together; above it each room reads one event at a time."""
    page: int = 100
    """Events that one read from the database brings."""
    stored: int = 100_000
    """Events that may wait in the database; above it, transactions are refused."""
    handler_timeout_s: float = 60.0
    retry_s: float = 1.0
    """First pause when the database refuses."""


@dataclass(slots=True)
class _Queued:
    key: str
    size: int
    event: RoomEvent | None
    payload: str = ""
    """Of an event that comes from the database: decoded when its turn comes."""


@dataclass(slots=True)
class _Room:
    room_id: str
    behind: bool
    queue: deque[_Queued] = field(default_factory=deque)
    last_seq: int = 0
    """Place of the newest event that was ever in the queue."""
    ticket: int = 0
    """Of the last verdict."""


class Inbox:
    """Takes events from the transaction endpoint and gives them to ``handler``.

    After making one you must run :meth:`run` in a task; it ends after :meth:`close`. Until :meth:`set_ready` says
    otherwise the endpoint answers 503.
    """

    def __init__(
        self,
        store: EventStore,
        handler: Handler,
        *,
        wall_ms: Callable[[], int],
        knows_user: Callable[[str], bool],
        metrics: Metrics,
        types: frozenset[str] | None = None,
        limits: InboxLimits | None = None,
        arrived: Callable[[object], None] = lambda _raw: None,
        withdrawn: WithdrawnEvents | None = None,
    ) -> None:
        """Make an inbox.

        Args:
            store: where the events are kept.
            handler: called for one event at a time in each room; what it raises sets the event aside.
            wall_ms: the wall clock.
            knows_user: whether a user id is one of ours, answered from the configuration only.
            metrics: counts outcomes.
            types: the event types that are handled; others are counted and neither stored nor handled. None
                takes all. What was handled leaves no content behind in the database.
            limits: bounds.
            arrived: shown each entry of each transaction as it came, before anything else is done with it; must
                not block, and must expect anything.
            withdrawn: remembers what was redacted; others may ask it as well.
        """
        self._arrived = arrived
        self._withdrawn = WithdrawnEvents() if withdrawn is None else withdrawn
        self._store = store
        self._handler = handler
        self._wall_ms = wall_ms
        self._knows_user = knows_user
        self._metrics = metrics
        self._types = types
        self._limits = limits or InboxLimits()
        self._rooms: dict[str, _Room] = {}
        self._held_chars = 0
        self._waiting = 0
        self._left_out = True
        """Whether the database may hold events of rooms that have no worker; at the start nobody knows."""
        self._admitting = False
        self._intake = asyncio.Lock()
        self._verdicts = Verdicts(self._settle, pause_s=self._limits.retry_s)
        self._tasks: asyncio.TaskGroup | None = None
        self._wanted = False
        self._closing = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether transactions are taken."""
        return self._wanted and self._tasks is not None and not self._closing.is_set()

    def set_ready(self, ready: bool) -> None:
        """Say whether the parts behind the handler are ready."""
        self._wanted = ready

    def knows_user(self, user_id: str) -> bool:
        """Whether ``user_id`` is one of our users."""
        return self._knows_user(user_id)

    async def run(self) -> None:
        """Handle events, those of an earlier run first, until :meth:`close`; cancelling it leaves the rest stored."""
        if self._closing.is_set():
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                self._waiting = await ask_until_done(self._store.count_waiting, pause_s=self._limits.retry_s)
                self._metrics.events_pending(self._waiting)
                if self._waiting:
                    _log.info("%d events of an earlier run wait", self._waiting)
                recorder = tasks.create_task(self._verdicts.run())
                self._tasks = tasks
                self._admit_more()
                await self._closing.wait()
                while self._rooms or self._admitting or self._verdicts.held:
                    await self._changed.wait()
                recorder.cancel()
        finally:
            self._tasks = None
            self._closing.set()
            self._rooms.clear()
            self._signal()

    def close(self) -> None:
        """Let the events that are being handled end, then end :meth:`run`; what waits is handled after a new start.

        With a database that refuses, this takes until it works again: bound the wait, then cancel :meth:`run`.
        """
        self._closing.set()
        self._signal()

    async def idle(self) -> None:
        """Return when nothing waits and all verdicts are committed, or the inbox has ended."""
        while not self._closing.is_set() and (
            self._rooms or self._left_out or self._admitting or self._verdicts.held or self._intake.locked()
        ):
            await self._changed.wait()

    def look(self, events: Sequence[object]) -> None:
        """Let the events of a transaction take away what they take away, at once and in their order.

        Comes before :meth:`accept`, also where that will refuse, and for what came before: what is taken away twice
        is gone, and nothing is ever given here.
        """
        for raw in events:
            self._withdrawn.look(raw)
            try:
                self._arrived(raw)
            except Exception as error:  # noqa: BLE001 - it must keep no other event from taking effect
                _log.error("! an event was not looked at when it arrived: %s", _describe(error))

    async def accept(self, txn_id: str, events: Sequence[object]) -> None:
        """Store the events of one transaction and queue the new ones; returns when they are committed.

        Args:
            txn_id: only for the log; transaction ids do not identify anything over time.
            events: parsed JSON, in the order of the transaction.

        Raises:
            StorageError: nothing was taken; the homeserver should send the transaction again.
        """
        if self._tasks is None or self._closing.is_set():
            raise StorageError("the inbox is not open")
        arrivals = [arrival for raw in events if (arrival := read_arrival(raw, self._types)) is not None]
        self._metrics.events("ignored", len(events) - len(arrivals))
        if not arrivals:
            return
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # A task of ours: storing and queueing belong together, also when the request that brought them is cancelled.
        self._spawn(self._take(arrivals, taken))
        await taken
        _log.debug("< transaction %s: %d events, %d ours", txn_id[:40], len(events), len(arrivals))

    async def _take(self, arrivals: Sequence[Arrival], taken: asyncio.Future[None]) -> None:
        try:
            async with self._intake:
                await self._store_and_queue(arrivals)
        except StorageError as error:
            if not taken.done():
                taken.set_exception(error)
        except BaseException as error:
            if not taken.done():
                taken.set_exception(StorageError(f"storing failed: {type(error).__name__}"))
            raise
        else:
            if not taken.done():
                taken.set_result(None)
        finally:
            self._signal()

    async def _store_and_queue(self, arrivals: Sequence[Arrival]) -> None:
        if self._waiting + len(arrivals) > self._limits.stored:
            raise StorageError(f"{self._waiting} events wait already; the limit is {self._limits.stored}")
        places = await self._store.store(arrivals, self._wall_ms())
        for arrival, seq in zip(arrivals, places, strict=True):
            if seq is None:
                self._metrics.events("duplicate")
                # Perhaps an earlier attempt was committed although it failed: let the worker look into the database.
                self._queue(arrival, None)
            elif arrival.refusal is not None:
                self._metrics.events("set_aside")
                _log.info("! event %s set aside: %s", arrival.key, arrival.refusal)
            else:
                self._metrics.events("stored")
                self._waiting += 1
                self._queue(arrival, seq)
        for arrival in arrivals:
            if arrival.withdraws is not None:
                await self._withdraw(*arrival.withdraws)
        self._metrics.events_pending(self._waiting)

    async def _withdraw(self, room_id: str, key: str) -> None:
        """Take a redacted event out of what waits; where that fails the transaction comes again, and so does this."""
        room = self._rooms.get(room_id)
        held = next((queued for queued in room.queue if queued.key == key), None) if room is not None else None
        if room is not None and held is not None:
            room.queue.remove(held)
            self._held_chars -= held.size
        # What was in the queue and is there no more is being handled, or has a verdict: that counts.
        after = room.last_seq if room is not None and held is None else 0
        try:
            waited = await self._store.withdraw(room_id, key, after, self._wall_ms())
        except StorageError:
            if room is not None and held is not None:
                room.ticket = await self._verdicts.put(Verdict(key, REDACTED))
            raise
        if waited:
            self._waiting -= 1
            self._metrics.events("set_aside")

    def _queue(self, arrival: Arrival, seq: int | None) -> None:
        if arrival.refusal is not None:
            return
        # While rooms are left out, this may be one of them: then older events of it must come first.
        room = self._rooms.get(arrival.room_id) or self._start(arrival.room_id, behind=self._left_out)
        if room is None:
            self._left_out = True
        elif (
            seq is None
            or room.behind
            or len(room.queue) >= self._limits.events_per_room
            or self._held_chars >= self._limits.held_chars
        ):
            room.behind = True
        else:
            room.last_seq = seq
            self._hold(room, _Queued(arrival.key, len(arrival.payload), arrival.event))

    def _hold(self, room: _Room, queued: _Queued) -> None:
        self._held_chars += queued.size
        room.queue.append(queued)

    def _start(self, room_id: str, *, behind: bool) -> _Room | None:
        if len(self._rooms) >= self._limits.rooms:
            return None
        room = _Room(room_id, behind)
        self._spawn(self._work(room))
        self._rooms[room_id] = room
        return room

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        tasks = self._tasks
        if tasks is None:
            work.close()
            raise StorageError("the inbox is not open")
        try:
            tasks.create_task(work)
        except RuntimeError as error:  # the task group is ending
            work.close()
            raise StorageError("the inbox is closing") from error

    async def _work(self, room: _Room) -> None:
        try:
            while not self._closing.is_set():
                if room.queue:
                    await self._handle_next(room)
                elif room.behind:
                    await ask_until_done(lambda: self._refill(room), pause_s=self._limits.retry_s)
                elif room.ticket:
                    ticket, room.ticket = room.ticket, 0
                    await self._verdicts.settled(ticket)
                else:
                    break
        finally:
            self._held_chars -= sum(queued.size for queued in room.queue)
            self._rooms.pop(room.room_id, None)
            self._signal()
        self._admit_more()

    async def _refill(self, room: _Room) -> None:
        async with self._intake:
            limit = self._limits.page if self._held_chars < self._limits.held_chars else 1
            found = await self._store.waiting(room.room_id, room.last_seq, limit)
            room.behind = len(found) == limit
            for stored in found:
                room.last_seq = stored.seq
                self._hold(room, _Queued(stored.key, len(stored.payload), None, stored.payload))

    async def _handle_next(self, room: _Room) -> None:
        queued = room.queue.popleft()
        try:
            refusal = await self._handle(queued)
        finally:
            self._held_chars -= queued.size
        if refusal == REDACTED:
            self._metrics.events("set_aside")
            _log.info("x event %s was redacted before its turn came", queued.key)
        elif refusal is not None:
            self._metrics.events("timeout" if refusal.startswith("timeout") else "set_aside")
            _log.error("! event %s set aside: %s", queued.key, refusal)
        else:
            self._metrics.events("handled")
        room.ticket = await self._verdicts.put(Verdict(queued.key, refusal))

    async def _handle(self, queued: _Queued) -> str | None:
        """Hand one event to the handler; returns why it must be set aside, or None."""
        limit = asyncio.timeout(self._limits.handler_timeout_s)
        try:
            event = queued.event or decode(queued.payload)
            if self._withdrawn.holds(event.room_id, event.event_id):
                return REDACTED
            async with limit:
                await self._handler(event)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return "the handler was cancelled from within"
        except Exception as error:  # noqa: BLE001 - one event must never stop its room
            if limit.expired():
                return f"timeout: not handled within {self._limits.handler_timeout_s:g} s"
            return f"the handler raised {_describe(error)}"
        return None

    async def _settle(self, verdicts: Sequence[Verdict]) -> None:
        await self._store.settle(verdicts, self._wall_ms())
        self._waiting -= len(verdicts)
        self._metrics.events_pending(self._waiting)
        # The verdicts leave their queue in this same step of the loop; whoever waits looks after it.
        asyncio.get_running_loop().call_soon(self._signal)

    def _admit_more(self) -> None:
        """Start to look for rooms without a worker, if there may be some and a tenth of the places is free."""
        free_enough = len(self._rooms) <= self._limits.rooms * 9 // 10
        if self._left_out and free_enough and not self._admitting and not self._closing.is_set():
            self._spawn(self._admit())
            self._admitting = True

    async def _admit(self) -> None:
        try:
            await ask_until_done(self._admit_rooms, pause_s=self._limits.retry_s)
        finally:
            self._admitting = False
            self._signal()
        self._admit_more()

    async def _admit_rooms(self) -> None:
        async with self._intake:
            limit = len(self._rooms) + self._limits.page
            found = await self._store.waiting_rooms(limit)
            self._left_out = len(found) == limit
            for room_id in found:
                if room_id not in self._rooms and self._start(room_id, behind=True) is None:
                    self._left_out = True
                    break

    def _signal(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _describe(error: BaseException) -> str:
    """Name an exception by its type and place only: its text may hold what must not be logged."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace is not None else ""
    return f"{type(error).__name__}{place}"

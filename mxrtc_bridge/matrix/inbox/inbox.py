"""Durable, ordered intake of room events: stored, then answered, then handled one by one in each lane.

The database is the queue; memory only holds its head. Promises, each with a test:

- :meth:`Inbox.accept` returns after the events are committed. What got a place is handled, also after a crash.
- An event is handled once, whatever transactions bring it and however often (a crash may repeat the last few).
- What takes a right away takes effect when it arrives (:meth:`Inbox.look`), whatever becomes of the transaction.
- An event that was redacted before its turn came is not handled any more; where it may be a command that takes
  something away, and its own sender has not redacted it, that is for its handler to find out.
- An event that cannot be read, or whose handler raises or takes too long, is set aside with the reason.
- Nobody's flood is others' wait: events have places by sender, server and room (:mod:`.capacity`), and their
  handling begins in turns. Beyond its places an event is dropped.
- Memory is bounded: at a limit events simply stay in the database, and are read from there in order when there is room.

A transaction is refused only when the database refuses it. A homeserver that is refused waits, up to an hour in the
end, with all that is behind, and the end of a right may be among it: better to drop what has no place.

Order. In a room the events of one sender are a lane, and the changes of the room (membership, encryption, rules of
policy lists, redactions) are one. A lane is handled in the order of arrival; lanes do not wait for each other, so one
slow handler is nobody else's. That is enough, because nothing depends on an order between two senders:

- A call is the events of one user; those of our own users mean nothing here. The same is true of a verification.
- What a change takes away has been taken when it arrived, so an event that came before it and is handled after it
  finds less than it had, never more. Who gains by a change writes after it, and what has been learned by then counts.
- While a virtual user joins a room nobody's events of that room are handled
  (:meth:`mxrtc_bridge.matrix.rooms.invitations.Invitations.settled`), since the homeserver may send them before it
  answers us.
- A redaction counts in memory before anything that waits, in whichever lane.

How a lane works: while its queue has room, new events go straight into it. Otherwise the lane is *behind*: from then on
nothing is put into its queue directly, and its worker reads pages from the database until it has caught up. A worker
ends when its lane has nothing left, after its outcomes are committed, so whoever reads the lane next sees them.
Storing and queueing happen under one lock, reading a page as well: the order in the queue is the order of arrival.

One file: storing, queueing and paging share one lock, and the promise about the order needs all three.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field

from mxrtc_bridge.core.bounds.log_rate import LogRate
from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.core.ids import EventId, UserId
from mxrtc_bridge.core.inbox import EventOutcome
from mxrtc_bridge.engine.cancellation import is_told_to_end
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.engine.retries import ask_until_done
from mxrtc_bridge.matrix.api.room_event import RoomEvent, decode
from mxrtc_bridge.matrix.inbox.capacity import CapacityLimits, InboxCapacity
from mxrtc_bridge.matrix.inbox.incoming import EventStore, IncomingEvent, read_arrival
from mxrtc_bridge.matrix.inbox.lanes import Lane, Queued
from mxrtc_bridge.matrix.inbox.outcomes import EventOutcomes
from mxrtc_bridge.matrix.inbox.redactions import WithdrawnEvents
from mxrtc_bridge.metrics import Metrics

log = logging.getLogger(__name__)

Handler = Callable[[RoomEvent], Awaitable[None]]

MAY_TAKE = frozenset({"m.room.message", "m.room.encrypted"})
"""Types that may hold a command that takes something away."""
REDACTED = "redacted"
"""Why an event is set aside that was taken back before its turn came."""


@dataclass(frozen=True, slots=True)
class InboxLimits:
    """Bounds of the inbox."""

    lanes: int = 10_000
    """Lanes with a worker, the last fifth for those with a right; further lanes wait in the database."""
    events_per_lane: int = 1000
    held_chars: int = 64 * 1024 * 1024
    """Encoded events held in memory, all lanes together; above it each lane reads one event at a time."""
    page: int = 100
    """Events that one read from the database brings."""
    places: CapacityLimits = field(default_factory=CapacityLimits)
    handler_timeout_s: float = 60.0
    retry_s: float = 1.0
    """First pause when the database refuses."""


MAX_SET_ASIDE_PER_HOUR = 500
"""Events that cannot be read and are kept for the admin to look at; more are only counted."""


@dataclass(frozen=True, slots=True)
class InboxStatus:
    """What :meth:`Inbox.status` says."""

    running: bool
    waiting: int
    """Events that have a place."""
    lanes: int
    """Lanes that have a worker."""
    longest_lane: int
    """Events that the fullest of them holds in memory."""
    held_chars: int
    """Characters of all that are held so."""
    longest_table: int
    """Senders, servers or rooms, whichever are the most, whose shares are counted."""


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
        own_server: str,
        has_right: Callable[[UserId], bool] = lambda _user: False,
        types: frozenset[str] | None = None,
        limits: InboxLimits | None = None,
        arrived: Callable[[object], None] = lambda _raw: None,
        withdrawn: WithdrawnEvents | None = None,
    ) -> None:
        """Make an inbox.

        Args:
            store: where the events are kept.
            handler: called for one event at a time in each lane; what it raises sets the event aside.
            wall_ms: the wall clock.
            knows_user: whether a user id is one of ours, answered from the configuration only.
            metrics: counts outcomes.
            own_server: the server name of our homeserver.
            has_right: whether a user holds any right: some places are for those.
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
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._held_chars = 0
        self._places = InboxCapacity(self._limits.places, own_server, has_right, metrics)
        self._counting = asyncio.Lock()
        self._miscounted = False
        """Whether something may have been stored that was not counted."""
        self._evidence = LogRate(subjects=MAX_SET_ASIDE_PER_HOUR)
        self._seldom = RateLimitedLog(log)
        self._left_out = True
        """Whether the database may hold events of lanes that have no worker; at the start nobody knows."""
        self._admitting = False
        self._intake = asyncio.Lock()
        self._outcomes = EventOutcomes(self._settle, pause_s=self._limits.retry_s)
        self._tasks: asyncio.TaskGroup | None = None
        self._wanted = False
        self._closing = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether transactions are taken."""
        return self._wanted and self._tasks is not None and not self._closing.is_set()

    @property
    def closing(self) -> bool:
        """Whether it was told to end."""
        return self._closing.is_set()

    def set_ready(self, ready: bool) -> None:
        """Say whether the parts behind the handler are ready."""
        self._wanted = ready

    def knows_user(self, user_id: str) -> bool:
        """Whether ``user_id`` is a virtual user."""
        return self._knows_user(user_id)

    async def run(self) -> None:
        """Handle events, those of an earlier run first, until :meth:`close`; cancelling it leaves the rest stored.

        After a failure it may be run again: what was in memory is read from the database.
        """
        if self._closing.is_set():
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                await ask_until_done(self._count, pause_s=self._limits.retry_s)
                if len(self._places):
                    log.info("%d events of an earlier run wait", len(self._places))
                recorder = tasks.create_task(self._outcomes.run())
                self._tasks = tasks
                self._signal()
                self._admit_more()
                await self._closing.wait()
                while self._lanes or self._admitting or self._outcomes.held:
                    await self._changed.wait()
                recorder.cancel()
        except asyncio.CancelledError:
            self._closing.set()
            raise
        finally:
            self._tasks = None
            self._lanes.clear()
            self._admitting, self._left_out = False, True
            self._signal()

    def close(self) -> None:
        """Let the events that are being handled end, then end :meth:`run`; what waits is handled after a new start.

        With a database that refuses, this takes until it works again: bound the wait, then cancel :meth:`run`.
        """
        self._closing.set()
        self._signal()

    async def opened(self) -> None:
        """Return when :meth:`run` takes transactions, which it does once it knows what waits, or is told to end."""
        while self._tasks is None and not self._closing.is_set():
            await self._changed.wait()

    async def idle(self) -> None:
        """Return when nothing waits and all outcomes are committed, or the inbox has ended."""
        while not self._closing.is_set() and (
            self._lanes or self._left_out or self._admitting or self._outcomes.held or self._intake.locked()
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
                what = _describe(error)
                self._seldom.log(logging.ERROR, what, "! an event was not looked at when it arrived: %s", what)

    def status(self) -> InboxStatus:
        """How much is here at this moment."""
        longest = max((len(lane.queue) for lane in self._lanes.values()), default=0)
        places = self._places
        return InboxStatus(
            self._tasks is not None, len(places), len(self._lanes), longest, self._held_chars, places.longest_table
        )

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
        log.debug("< transaction %s: %d events, %d ours", txn_id[:40], len(events), len(arrivals))

    async def _take(self, arrivals: Sequence[IncomingEvent], taken: asyncio.Future[None]) -> None:
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

    async def _count(self) -> None:
        async with self._counting:
            self._places.count_anew(await self._store.count_waiting())
        self._miscounted = False
        self._metrics.events_pending(len(self._places))

    async def _store_and_queue(self, arrivals: Sequence[IncomingEvent]) -> None:
        if self._miscounted:
            await self._count()
        admitted = [arrival for arrival in arrivals if self._admits(arrival)]
        try:
            places = await self._store.store(admitted, self._wall_ms())
        except BaseException:
            # Perhaps it is stored all the same, so that its places are taken.
            self._miscounted = True
            for arrival in admitted:
                self._give_back(arrival)
            raise
        for arrival, seq in zip(admitted, places, strict=True):
            if seq is None:
                self._metrics.events("duplicate")
                self._give_back(arrival)
                # Perhaps an earlier attempt was committed although it failed: let the worker look into the database.
                self._queue(arrival, None)
            elif arrival.refusal is not None:
                self._metrics.events("set_aside")
                code = arrival.refusal.partition(":")[0]
                self._seldom.info(code, "! event %s set aside: %s", arrival.key, arrival.refusal)
            else:
                self._metrics.events("stored")
                self._queue(arrival, seq)
        await self._withdraw([(*each.withdraws, each.sender) for each in arrivals if each.withdraws])
        self._metrics.events_pending(len(self._places))

    def _admits(self, arrival: IncomingEvent) -> bool:
        """Whether an event is stored: it gets a place, or is kept to be looked at."""
        if arrival.event is not None:
            return self._places.take(arrival.event, arrival.lane)
        if self._evidence.due(arrival.key, self._wall_ms() / 1000) is not None:
            return True
        self._metrics.events("set_aside")
        return False

    def _give_back(self, arrival: IncomingEvent) -> None:
        if arrival.event is not None:
            self._places.give_back(arrival.sender, arrival.room_id, arrival.lane)

    async def _withdraw(self, redactions: Sequence[tuple[str, EventId, str]]) -> None:
        """Take redacted events out of what waits; where that fails the transaction comes again, and so does this.

        Args:
            redactions: of each its room, the event that it redacts, and its sender.
        """
        redactors: dict[tuple[str, str], set[str]] = {}
        for room, key, sender in redactions:
            redactors.setdefault((room, key), set()).add(sender)
        outcomes: list[EventOutcome] = []
        for each in await self._store.find_waiting([key for _, key, _ in redactions]) if redactions else ():
            lane = self._lanes.get((each.room_id, each.lane))
            held = next((queued for queued in lane.queue if queued.key == each.key), None) if lane is not None else None
            # What was in the queue and is there no more is being handled, or has an outcome: that counts.
            in_hand = lane is not None and held is None and each.seq <= lane.last_seq
            by = redactors.get((each.room_id, each.key))
            if by is None or in_hand:
                continue
            if each.sender not in by and each.lane and self._places.has_right(UserId(each.sender)):
                continue  # It may take something away: see _is_withdrawn.
            if lane is not None and held is not None:
                lane.queue.remove(held)
                self._held_chars -= held.size
            outcomes.append(EventOutcome(each.key, REDACTED, each.sender, each.room_id, each.lane))
        if outcomes:
            self._metrics.events("set_aside", len(outcomes))
            # Not by the queue of outcomes: nobody may read them from the database meanwhile.
            await ask_until_done(lambda: self._settle(outcomes), pause_s=self._limits.retry_s)

    def _queue(self, arrival: IncomingEvent, seq: int | None) -> None:
        if arrival.refusal is not None:
            return
        # While lanes are left out, this may be one of them: then older events of it must come first.
        found = self._lanes.get((arrival.room_id, arrival.lane))
        lane = found or self._start(arrival.room_id, arrival.lane, behind=self._left_out)
        if lane is None:
            self._left_out = True
        elif (
            seq is None
            or lane.behind
            or len(lane.queue) >= self._limits.events_per_lane
            or self._held_chars >= self._limits.held_chars
        ):
            lane.behind = True
        else:
            lane.last_seq = seq
            self._hold(lane, Queued(arrival.key, arrival.sender, len(arrival.payload), arrival.event))

    def _hold(self, lane: Lane, queued: Queued) -> None:
        self._held_chars += queued.size
        lane.queue.append(queued)

    @property
    def _crowd(self) -> int:
        """Lanes from which on only those with a right, and changes of rooms, get a worker."""
        return max(1, self._limits.lanes * 4 // 5)

    def _start(self, room_id: str, name: str, *, behind: bool) -> Lane | None:
        count = len(self._lanes)
        if count >= self._limits.lanes:
            return None
        if count >= self._crowd and name and not self._places.has_right(UserId(name)):
            return None
        lane = Lane(room_id, name, behind)
        self._spawn(self._work(lane))
        self._lanes[room_id, name] = lane
        return lane

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

    async def _work(self, lane: Lane) -> None:
        try:
            while not self._closing.is_set():
                if lane.queue:
                    await self._handle_next(lane)
                elif lane.behind:
                    await ask_until_done(lambda: self._refill(lane), pause_s=self._limits.retry_s)
                elif lane.ticket:
                    ticket, lane.ticket = lane.ticket, 0
                    await self._outcomes.settled(ticket)
                else:
                    break
        finally:
            self._held_chars -= sum(queued.size for queued in lane.queue)
            self._lanes.pop((lane.room_id, lane.name), None)
            self._signal()
        self._admit_more()

    async def _refill(self, lane: Lane) -> None:
        async with self._intake:
            limit = self._limits.page if self._held_chars < self._limits.held_chars else 1
            found = await self._store.waiting(lane.room_id, lane.name, lane.last_seq, limit)
            lane.behind = len(found) == limit
            for stored in found:
                lane.last_seq = stored.seq
                self._hold(lane, Queued(stored.key, stored.sender, len(stored.payload), None, stored.payload))

    async def _handle_next(self, lane: Lane) -> None:
        async with self._places.turn(lane.queue[0].sender, lane.name):
            # Meanwhile it may have been redacted, or the bridge stops; then it waits for the next start.
            if self._closing.is_set() or not lane.queue:
                return
            queued = lane.queue.popleft()
            try:
                refusal = await self._handle(queued)
            finally:
                self._held_chars -= queued.size
        if refusal == REDACTED:
            self._metrics.events("set_aside")
            log.debug("x event %s was redacted before its turn came", queued.key)
        elif refusal is not None:
            self._metrics.events("timeout" if refusal.startswith("timeout") else "set_aside")
            self._seldom.log(logging.ERROR, queued.sender, "! event %s set aside: %s", queued.key, refusal)
        else:
            self._metrics.events("handled")
        lane.ticket = await self._outcomes.put(lane.outcome(queued.key, queued.sender, refusal))

    async def _handle(self, queued: Queued) -> str | None:
        """Hand one event to the handler; returns why it must be set aside, or None."""
        limit = asyncio.timeout(self._limits.handler_timeout_s)
        try:
            event = queued.event or decode(queued.payload)
            if self._is_withdrawn(event):
                return REDACTED
            async with limit:
                # A database that is busy is no fault of the event.
                await ask_until_done(lambda: self._handler(event), pause_s=self._limits.retry_s, says=False)
        except asyncio.CancelledError:
            if is_told_to_end():
                raise
            return "the handler was cancelled from within"
        except Exception as error:  # noqa: BLE001 - one event must never stop its room
            if limit.expired():
                return f"timeout: not handled within {self._limits.handler_timeout_s:g} s"
            return f"the handler raised {_describe(error)}"
        return None

    def _is_withdrawn(self, event: RoomEvent) -> bool:
        # A command that takes something away is taken back by its sender only. Whether this is one, or is to be
        # dropped, is found out when it is read.
        by = event.sender if event.type in MAY_TAKE else None
        return self._withdrawn.holds(event.room_id, event.event_id, by)

    async def _settle(self, outcomes: Sequence[EventOutcome]) -> None:
        async with self._counting:
            await self._store.settle(outcomes, self._wall_ms())
            for each in outcomes:
                self._places.give_back(each.sender, each.room_id, each.lane)
        self._metrics.events_pending(len(self._places))
        # The outcomes leave their queue in this same step of the loop; whoever waits looks after it.
        asyncio.get_running_loop().call_soon(self._signal)

    def _admit_more(self) -> None:
        """Start to look for lanes without a worker, if there may be some and a tenth of the places is free."""
        free_enough = len(self._lanes) <= self._crowd * 9 // 10
        if self._left_out and free_enough and not self._admitting and not self._closing.is_set():
            self._spawn(self._admit())
            self._admitting = True

    async def _admit(self) -> None:
        try:
            await ask_until_done(self._admit_lanes, pause_s=self._limits.retry_s)
        finally:
            self._admitting = False
            self._signal()
        self._admit_more()

    async def _admit_lanes(self) -> None:
        async with self._intake:
            limit = len(self._lanes) + self._limits.page
            found = await self._store.waiting_lanes(limit)
            self._left_out = len(found) == limit
            for room_id, name in found:
                if (room_id, name) not in self._lanes and self._start(room_id, name, behind=True) is None:
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

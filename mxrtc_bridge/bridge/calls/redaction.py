"""Takes back what calls leave in rooms: the events that virtual users have sent, once the call is over.

Each is in the database when it has been sent, so that a crash leaves none behind: at the next start all calls are over.
A call is over for some seconds before anything goes, for clients that are a little late.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence

from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.core.bounds.latest import Latest
from mxrtc_bridge.core.call.events import CallMessage
from mxrtc_bridge.core.call.route import DevicePair
from mxrtc_bridge.core.errors import HomeserverError, StorageError, first_error
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.engine.ports import CallRecord
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.engine.set_within import set_within
from mxrtc_bridge.engine.side_by_side import each
from mxrtc_bridge.matrix.api.homeserver import QuietHomeserver
from mxrtc_bridge.matrix.outbox.outbox import Outbox
from mxrtc_bridge.storage.call_events import CallEventRow, CallEventStore

log = logging.getLogger(__name__)

DELAY_S = 10.0
"""After the end of a call."""
RETRY_S = 60.0
AT_ONCE = 4
"""Rooms in which events are taken back at the same time."""
ROOM_S = 10.0
"""How long some events of one room may take; the rest of them comes with the next time."""
MAX_LATER = 50
"""Rooms in which it fails, from which on the next ones are not tried."""
MAX_TOLD = 1000


class CallRedaction:
    """Sends events of calls into rooms, and takes them back: :meth:`start` comes first, then :meth:`run` must run."""

    def __init__(
        self,
        outbox: Outbox,
        redactor: QuietHomeserver,
        store: CallEventStore,
        *,
        config: CurrentConfig,
        wall_ms: Callable[[], int],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        retry_s: float = RETRY_S,
        room_s: float = ROOM_S,
    ) -> None:
        """Make it.

        Args:
            outbox: sends events.
            redactor: takes them back.
            store: remembers them.
            config: says whether events are taken back.
            wall_ms: milliseconds since the epoch.
            sleep: waits.
            retry_s: see :data:`RETRY_S`.
            room_s: see :data:`ROOM_S`.
        """
        self._retry_s = retry_s
        self._room_s = room_s
        self._outbox = outbox
        self._redactor = redactor
        self._store = store
        self._config = config
        self._wall_ms = wall_ms
        self._sleep = sleep
        self._seldom = RateLimitedLog(log)
        self._due = asyncio.Event()
        self._told = Latest[RoomId, None](MAX_TOLD)
        """Rooms in which it has failed, which is said once."""

    async def send(self, room: RoomId, sender: UserId, message: CallMessage, *, step: str) -> None:
        """Send an event of a call; see :meth:`mxrtc_bridge.matrix.outbox.outbox.Outbox.send`."""
        event = await self._outbox.send(room, sender, message, step=step)
        if not self._config.in_force.rooms.redact_calls:
            return
        try:
            await self._store.add(CallEventRow(room, event, sender, message.call_id), self._wall_ms())
        except StorageError as error:
            self._seldom.warning(sender, "! an event of a call will stay in its room: %s", error)

    async def call_over(self, record: CallRecord) -> None:
        """A call has ended; of one between devices nothing is left anywhere.

        Raises:
            StorageError: the database does not take it; the next start does.
        """
        if isinstance(record.route, DevicePair):
            return
        await self._store.call_over(record.route, record.call_id)
        self._due.set()

    async def start(self) -> None:
        """Let go what an earlier run has left: none of its calls lives. To be called before there are new ones.

        Raises:
            StorageError: the database does not take it.
        """
        await self._store.call_over(None, None)

    async def run(self) -> None:
        """Take back what may go, until cancelled."""
        while True:
            failed = await self._take_back()
            if await set_within(self._due, self._retry_s if failed else None):
                self._due.clear()
                await self._sleep(DELAY_S)

    async def _take_back(self) -> bool:
        """Redact all that may go; returns whether to try again soon.

        A room in which it fails keeps its events for the next time, and those of others waiting for nothing.
        """
        later: dict[RoomId, None] = {}
        failed = False
        try:
            while traces := await self._store.due(not_in=tuple(later)):
                by_room: dict[RoomId, list[CallEventRow]] = {}
                for trace in traces:
                    by_room.setdefault(trace.room, []).append(trace)
                await each(by_room.items(), functools.partial(self._redact_in, later), AT_ONCE)
                if len(later) >= MAX_LATER:
                    break  # It is the homeserver, and not its rooms.
        except* StorageError as errors:
            log.warning("! events of calls are taken back later: %s", first_error(errors))
            failed = True
        return failed or bool(later)

    async def _redact_in(self, later: dict[RoomId, None], events: tuple[RoomId, Sequence[CallEventRow]]) -> None:
        room, traces = events
        try:
            async with asyncio.timeout(self._room_s):
                for trace in traces:
                    await self._redact(trace)
        except (HomeserverError, TimeoutError) as error:
            later[room] = None
            if room not in self._told:
                why = str(error) or "it takes long"
                self._seldom.warning(room, "! events of calls in %s are taken back later: %s", room, why)
            self._told[room] = None
        else:
            self._told.pop(room, None)

    async def _redact(self, trace: CallEventRow) -> None:
        try:
            # The name of the request is the event's: the same redaction is not sent twice.
            await self._redactor.redact(trace.room, trace.event, f"mxrtc-redact-{trace.event}", trace.sender)
        except HomeserverError as error:
            if error.retryable:
                raise
            # We have left the room, or may not: it stays.
            self._seldom.info(trace.room, "an event of a call stays in its room: %s", error)
        await self._store.gone(trace.event)

"""Takes back what calls leave in rooms: the events that virtual users have sent, once the call is over.

Each is in the database when it has been sent, so that a crash leaves none behind: at the next start all calls are over.
A call is over for some seconds before anything goes, for clients that are a little late.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.core.call.events import CallMessage
from mxrtc_bridge.core.call.route import DevicePair
from mxrtc_bridge.core.errors import HomeserverError, StorageError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.engine.ports import CallRecord
from mxrtc_bridge.matrix.api.homeserver import QuietHomeserver
from mxrtc_bridge.matrix.outbox.outbox import Outbox
from mxrtc_bridge.storage.call_events import CallEventRow, CallEventStore

log = logging.getLogger(__name__)

DELAY_S = 10.0
"""After the end of a call."""
RETRY_S = 60.0


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
    ) -> None:
        """Make it.

        Args:
            outbox: sends events.
            redactor: takes them back.
            store: remembers them.
            config: says whether events are taken back.
            wall_ms: milliseconds since the epoch.
            sleep: waits.
            retry_s: See :data:`RETRY_S`.
        """
        self._retry_s = retry_s
        self._outbox = outbox
        self._redactor = redactor
        self._store = store
        self._config = config
        self._wall_ms = wall_ms
        self._sleep = sleep
        self._due = asyncio.Event()

    async def send(self, room: RoomId, sender: UserId, message: CallMessage, *, step: str) -> None:
        """Send an event of a call; see :meth:`mxrtc_bridge.matrix.outbox.outbox.Outbox.send`."""
        event = await self._outbox.send(room, sender, message, step=step)
        if not self._config.in_force.rooms.redact_calls:
            return
        try:
            await self._store.add(CallEventRow(room, event, sender, message.call_id), self._wall_ms())
        except StorageError as error:
            log.warning("! an event of a call will stay in its room: %s", error)

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
            try:
                async with asyncio.timeout(self._retry_s if failed else None):
                    await self._due.wait()
            except TimeoutError:
                continue
            self._due.clear()
            await self._sleep(DELAY_S)

    async def _take_back(self) -> bool:
        """Redact all that may go; returns whether to try again soon."""
        try:
            while traces := await self._store.due():
                for trace in traces:
                    await self._redact(trace)
        except (HomeserverError, StorageError) as error:
            log.warning("! events of calls are taken back later: %s", error)
            return True
        return False

    async def _redact(self, trace: CallEventRow) -> None:
        try:
            # The name of the request is the event's: the same redaction is not sent twice.
            await self._redactor.redact(trace.room, trace.event, f"mxrtc-redact-{trace.event}", trace.sender)
        except HomeserverError as error:
            if error.retryable:
                raise
            # We have left the room, or may not: it stays.
            log.info("an event of a call stays in its room: %s", error)
        await self._store.gone(trace.event)

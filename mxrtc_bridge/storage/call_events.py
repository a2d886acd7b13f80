"""Events of calls that virtual users have sent into rooms, until they are redacted: what a call has left behind.

Bounded by age and number: what could not be redacted for so long stays where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mxrtc_bridge.core.ids import CallId, EventId, RoomId, UserId
from mxrtc_bridge.storage.database import Database

KEEP_MS = 7 * 24 * 3600 * 1000
MAX_ROWS = 20_000
BATCH = 100


@dataclass(frozen=True, slots=True)
class CallEventRow:
    """One event."""

    room: RoomId
    event: EventId
    sender: UserId
    call_id: CallId


class CallEventStore:
    """The table ``call_trace``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, trace: CallEventRow, now_ms: int) -> None:
        """Remember an event."""
        await self._database.write(
            "INSERT INTO call_trace (room_id, event_id, sender, call_id, sent_ms, is_over) "
            "VALUES ($1, $2, $3, $4, $5, 0) ON CONFLICT DO NOTHING",
            (trace.room, trace.event, trace.sender, trace.call_id, now_ms),
        )

    async def call_over(self, room: RoomId | None, call_id: CallId | None) -> None:
        """Note that the events of a call may go; of all calls without arguments, as at a start."""
        which = () if room is None else (room, call_id)
        where = " WHERE room_id = $1 AND call_id = $2" if which else ""
        await self._database.write(f"UPDATE call_trace SET is_over = 1{where}", which)  # noqa: S608 - ours

    async def due(self, *, not_in: Sequence[RoomId] = ()) -> list[CallEventRow]:
        """The oldest that may go, without those of some rooms."""
        others = f" AND room_id NOT IN ({', '.join(f'${2 + place}' for place in range(len(not_in)))})" if not_in else ""
        rows = await self._database.rows(
            "SELECT room_id, event_id, sender, call_id FROM call_trace "  # noqa: S608 - numbers of places
            f"WHERE is_over = 1{others} ORDER BY sent_ms LIMIT $1",
            (BATCH, *not_in),
        )
        return [CallEventRow(*row) for row in rows]

    async def gone(self, event: EventId) -> None:
        """Forget an event that has been redacted, or cannot be."""
        await self._database.write("DELETE FROM call_trace WHERE event_id = $1", (event,))

    async def prune(self, now_ms: int) -> int:
        """Forget what is too old or too much; returns the rows."""
        return await self._database.prune("call_trace", "event_id", "sent_ms", now_ms - KEEP_MS, MAX_ROWS)

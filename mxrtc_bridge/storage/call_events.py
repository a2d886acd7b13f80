"""Events of calls that our users have sent into rooms, until they are redacted: what a call has left behind.

Bounded by age and number: what could not be redacted for so long stays where it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from mautrix.util.async_db import Connection

from mxrtc_bridge.core.ids import CallId, EventId, RoomId, UserId
from mxrtc_bridge.storage.database import Database, in_batches

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

        async def insert(connection: Connection) -> None:
            await connection.execute(
                "INSERT INTO call_trace (room_id, event_id, sender, call_id, sent_ms, is_over) "
                "VALUES ($1, $2, $3, $4, $5, 0) "
                "ON CONFLICT DO NOTHING",
                trace.room,
                trace.event,
                trace.sender,
                trace.call_id,
                now_ms,
            )

        await self._database.transaction(insert)

    async def call_over(self, room: RoomId | None, call_id: CallId | None) -> None:
        """Note that the events of a call may go; of all calls without arguments, as at a start."""

        async def update(connection: Connection) -> None:
            if room is None:
                await connection.execute("UPDATE call_trace SET is_over = 1")
            else:
                await connection.execute(
                    "UPDATE call_trace SET is_over = 1 WHERE room_id = $1 AND call_id = $2", room, call_id
                )

        await self._database.transaction(update)

    async def due(self) -> list[CallEventRow]:
        """The oldest that may go."""

        async def select(connection: Connection) -> list[CallEventRow]:
            rows = await connection.fetch(
                "SELECT room_id, event_id, sender, call_id FROM call_trace WHERE is_over = 1 ORDER BY sent_ms LIMIT $1",
                BATCH,
            )
            return [
                CallEventRow(
                    RoomId(row["room_id"]), EventId(row["event_id"]), UserId(row["sender"]), CallId(row["call_id"])
                )
                for row in rows
            ]

        return await self._database.read(select)

    async def gone(self, event: EventId) -> None:
        """Forget an event that has been redacted, or cannot be."""

        async def delete(connection: Connection) -> None:
            await connection.execute("DELETE FROM call_trace WHERE event_id = $1", event)

        await self._database.transaction(delete)

    async def prune(self, now_ms: int) -> int:
        """Forget what is too old or too much; returns the rows."""
        return await in_batches(lambda: self._prune_batch(now_ms))

    async def _prune_batch(self, now_ms: int) -> int:
        async def delete(connection: Connection) -> int:
            rows = await connection.fetch(
                "DELETE FROM call_trace WHERE sent_ms < $1 OR event_id IN "
                "(SELECT event_id FROM call_trace ORDER BY sent_ms DESC LIMIT 1000 OFFSET $2) RETURNING 1",
                now_ms - KEEP_MS,
                MAX_ROWS,
            )
            return len(rows)

        return await self._database.transaction(delete)

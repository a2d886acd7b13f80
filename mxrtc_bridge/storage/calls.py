"""Calls that were begun: so that a replay is never acted on, and no call stays open after a crash.

Implements :class:`mxrtc_bridge.engine.ports.CallDirectory`. The check for a replay and the entry are one statement; two
claims at the same moment cannot both win.
"""

from __future__ import annotations

from typing import Any

from mautrix.util.async_db import Connection

from mxrtc_bridge.core.call.route import read_call_route
from mxrtc_bridge.core.ids import CallId, EventId, PartyId, UserId
from mxrtc_bridge.engine.ports import CallRecord
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.spare_rows import SpareRows

KEEP_MS = 30 * 24 * 3600 * 1000
"""How long an ended call is remembered. A replay after that fails the check of the event's age (at most minutes)."""
MAX_ENDED = 200_000
MAX_OPEN = 10_000
"""Open calls that are reported after a start, far above the limit for sessions."""
MAX_REASON_CHARS = 200


class CallStore:
    """The table ``call``."""

    def __init__(self, database: Database, *, max_ended: int = MAX_ENDED) -> None:
        self._database = database
        self._max_ended = max_ended
        self._spare = SpareRows()

    async def claim(self, record: CallRecord, event_id: EventId, now_ms: int, *, again: bool = False) -> bool:
        """Store the call as open; False if this call or this event was claimed before.

        The party id, which is new for each claim, is its key: ``again`` asks once more for a claim of which nobody
        knows whether it was stored, and what stands there under this key is that claim and no replay.
        """

        async def insert(connection: Connection) -> bool:
            # No conflict target: the key of the call and the event id refuse alike.
            claimed = await connection.fetchval(
                "INSERT INTO call (room_id, call_id, local_user, party_id, event_id, remote_user, claimed_ms) "
                "VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING RETURNING 1",
                *(*keys, record.remote, now_ms),
            )
            if claimed is not None or not again:
                return claimed is not None
            ours = await connection.fetchval(
                "SELECT 1 FROM call WHERE room_id = $1 AND call_id = $2 AND local_user = $3 AND party_id = $4 "
                "AND event_id = $5 AND ended_ms IS NULL",
                *keys,
            )
            return ours is not None

        keys = (*_key(record), record.party_id, event_id)
        return await self._database.transaction(insert)

    async def end(self, record: CallRecord, reason: str, now_ms: int) -> None:
        """Mark the call as ended; the first reason stays."""
        self._spare.write(1)
        await self._database.write(
            "UPDATE call SET ended_ms = $4, end_reason = $5 "
            "WHERE room_id = $1 AND call_id = $2 AND local_user = $3 AND ended_ms IS NULL",
            (*_key(record), now_ms, reason[:MAX_REASON_CHARS]),
        )

    async def open_calls(self) -> list[CallRecord]:
        """Calls without an end, oldest first."""
        rows = await self._database.rows(
            "SELECT room_id, call_id, local_user, remote_user, party_id FROM call WHERE ended_ms IS NULL "
            "ORDER BY claimed_ms, event_id LIMIT $1",
            (MAX_OPEN,),
        )
        return [record for row in rows if (record := _record(row)) is not None]

    async def prune(self, now_ms: int) -> int:
        """Forget ended calls that are too old or too many, in small transactions; returns how many."""
        return await self._database.prune(
            "call",
            "event_id",
            "ended_ms",
            now_ms - KEEP_MS,
            self._max_ended,
            where="ended_ms IS NOT NULL",
            spare=self._spare,
        )


def _key(record: CallRecord) -> tuple[str, str, str]:
    return str(record.route), record.call_id, record.local


def _record(row: Any) -> CallRecord | None:
    """A row; None if nothing can be done about the call, as somebody has changed the database by hand."""
    try:
        route = read_call_route(row["room_id"])
    except ValueError:
        return None
    return CallRecord(
        route=route,
        call_id=CallId(row["call_id"]),
        local=UserId(row["local_user"]),
        remote=UserId(row["remote_user"]),
        party_id=None if row["party_id"] is None else PartyId(row["party_id"]),
    )

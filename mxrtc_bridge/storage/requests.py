"""Requests for access, kept until they are answered and a while longer.

A decision is written only where the request is still open, in one statement: of two admins who answer at the same
moment, one is told that the other was first. Bounded: ended requests are forgotten by age and by number.
"""

from __future__ import annotations

from typing import Any

from mautrix.util.async_db import Connection

from mxrtc_bridge.core.access.requests import AccessRequest, RequestState
from mxrtc_bridge.core.ids import EventId, RoomId, ServiceName, UserId, read_actor
from mxrtc_bridge.storage.database import Database

KEEP_MS = 90 * 24 * 3600 * 1000
"""How long an ended request is remembered."""
MAX_ENDED = 20_000
MAX_LISTED = 1000
_COLUMNS = (
    "number, user_id, peer, service, for_s, because, room_id, asked_ms, state, decided_by, decided_ms, notice_event"
)


class RequestStore:
    """The table ``request``."""

    def __init__(self, database: Database, *, max_ended: int = MAX_ENDED) -> None:
        self._database = database
        self._max_ended = max_ended

    async def add(self, request: AccessRequest) -> int | None:
        """Store an open request and return its number; None if the user has one open for the service already."""
        values = (request.user, request.peer, request.service, request.for_s, request.because, request.room)
        rows = await self._database.write(
            "INSERT INTO request (user_id, peer, service, for_s, because, room_id, asked_ms, state) "
            "VALUES ($1, $2, $3, $4, $5, $6, $7, 'asked') ON CONFLICT DO NOTHING RETURNING number",
            (*values, request.asked_ms),
        )
        return int(rows[0]["number"]) if rows else None

    async def settle(self, request: AccessRequest) -> bool:
        """Write down how an open request ended; False if it had ended before."""
        return await self._database.transaction(lambda connection: settle_in(connection, request))

    async def set_notice(self, number: int, notice: EventId) -> None:
        """Remember the notice that reactions to this request answer to."""
        await self._database.write("UPDATE request SET notice_event = $2 WHERE number = $1", (number, notice))

    async def get(self, number: int) -> AccessRequest | None:
        """The request with this number."""
        found = await self._select("WHERE number = $1", number)
        return found[0] if found else None

    async def by_notice(self, notice: EventId) -> AccessRequest | None:
        """The request that a notice is about."""
        found = await self._select("WHERE notice_event = $1", notice)
        return found[0] if found else None

    async def open_requests(self) -> list[AccessRequest]:
        """All that wait for an answer, oldest first; at most :data:`MAX_LISTED`."""
        return await self._select(f"WHERE state = 'asked' ORDER BY number LIMIT {MAX_LISTED}")

    async def of_user(self, user: UserId, since_ms: int) -> list[AccessRequest]:
        """The requests of a user that are open, or were asked or decided since then; newest first."""
        return await self._select(
            "WHERE user_id = $1 AND (state = 'asked' OR asked_ms >= $2 OR decided_ms >= $2) "
            f"ORDER BY number DESC LIMIT {MAX_LISTED}",
            user,
            since_ms,
        )

    async def count_open(self) -> int:
        """How many wait for an answer."""
        return int((await self._database.row("SELECT COUNT(*) FROM request WHERE state = 'asked'"))[0])

    async def prune(self, now_ms: int) -> int:
        """Forget ended requests that are too old or too many; returns how many."""
        ended, oldest = "state <> 'asked'", now_ms - KEEP_MS
        return await self._database.prune(
            "request", "number", "decided_ms", oldest, self._max_ended, where=ended, order="number"
        )

    async def _select(self, where: str, *values: object) -> list[AccessRequest]:
        # Only column names and fixed conditions are put together here; values are arguments.
        rows = await self._database.rows(f"SELECT {_COLUMNS} FROM request {where}", values)  # noqa: S608
        return [_request(row) for row in rows]


async def settle_in(connection: Connection, request: AccessRequest) -> bool:
    """Do what :meth:`RequestStore.settle` does, as a part of a transaction."""
    number = await connection.fetchval(
        "UPDATE request SET state = $2, decided_by = $3, decided_ms = $4 "
        "WHERE number = $1 AND state = 'asked' RETURNING number",
        request.number,
        request.state.value,
        None if request.decided_by is None else str(request.decided_by),
        request.decided_ms,
    )
    return number is not None


async def reopen_in(connection: Connection, number: int) -> None:
    """Take back a decision that was not carried out, as a part of the transaction that ends its grant.

    Should the person have asked anew meanwhile, that request is the one to be answered, and this one is over.
    """
    await connection.execute(
        "UPDATE request SET state = 'expired' WHERE number = $1 AND EXISTS (SELECT 1 FROM request AS later "
        "WHERE later.state = 'asked' AND later.user_id = request.user_id AND later.peer = request.peer "
        "AND later.service = request.service)",
        number,
    )
    await connection.execute(
        "UPDATE request SET state = 'asked', decided_by = NULL, decided_ms = NULL "
        "WHERE number = $1 AND state IN ('allowed', 'allowed_once')",
        number,
    )


def _request(row: Any) -> AccessRequest:
    return AccessRequest(
        number=row["number"],
        user=UserId(row["user_id"]),
        peer=UserId(row["peer"]),
        service=ServiceName(row["service"]),
        for_s=row["for_s"],
        because=row["because"],
        room=RoomId(row["room_id"]),
        asked_ms=row["asked_ms"],
        state=RequestState(row["state"]),
        decided_by=None if row["decided_by"] is None else read_actor(row["decided_by"]),
        decided_ms=row["decided_ms"],
        notice=None if row["notice_event"] is None else EventId(row["notice_event"]),
    )

"""Grants that people have given, kept until a good while after they ended: who gave what to whom, and who ended it.

Bounded: ended grants are forgotten by age and by number; how many are in force at a time is bounded by whoever gives.
"""

from __future__ import annotations

from typing import Any

from mautrix.util.async_db import Connection

from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.core.grants import StoredGrant
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.policy import Service, parse_subject
from mxrtc_bridge.core.requests import Request
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.pruning import in_batches
from mxrtc_bridge.storage.requests import settle_in

KEEP_MS = 365 * 24 * 3600 * 1000
"""How long an ended grant is remembered."""
MAX_ENDED = 50_000
_BATCH = 500
_COLUMNS = "number, subject, peer, service, giver, since_ms, until_ms, reason, once"


class GrantStore:
    """The table ``given_grant``."""

    def __init__(self, database: Database, *, max_ended: int = MAX_ENDED) -> None:
        self._database = database
        self._max_ended = max_ended

    async def add(self, grant: StoredGrant, settles: Request | None = None) -> int | None:
        """Store a grant, and return its number.

        Args:
            grant: the grant.
            settles: the request that it answers, as it is decided, in the same transaction; if it was decided before,
                nothing is stored, and None is returned.
        """

        async def insert(connection: Connection) -> int | None:
            if settles is not None and not await settle_in(connection, settles):
                return None
            return int(
                await connection.fetchval(
                    "INSERT INTO given_grant (subject, peer, service, giver, since_ms, until_ms, reason, once) "
                    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING number",
                    str(grant.subject),
                    grant.service.peer,
                    grant.service.name,
                    grant.giver,
                    grant.since_ms,
                    grant.until_ms,
                    grant.reason,
                    int(grant.once),
                )
            )

        return await self._database.transaction(insert)

    async def end(self, number: int, ended_ms: int, how: str, by: UserId | None = None) -> None:
        """Write down that a grant has ended; the first end counts.

        Args:
            number: which.
            ended_ms: when, in wall-clock milliseconds.
            how: ``expired``, ``revoked``, ``used``.
            by: who ended it.
        """

        async def update(connection: Connection) -> None:
            await connection.execute(
                "UPDATE given_grant SET ended_ms = $2, ended_how = $3, ended_by = $4 "
                "WHERE number = $1 AND ended_ms IS NULL",
                number,
                ended_ms,
                how,
                by,
            )

        await self._database.transaction(update)

    async def claim(self, number: int, now_ms: int) -> None:
        """Write down that a session uses a grant for one session: it is of no use after a restart."""

        async def update(connection: Connection) -> None:
            await connection.execute(
                "UPDATE given_grant SET claimed_ms = $2 WHERE number = $1 AND claimed_ms IS NULL", number, now_ms
            )

        await self._database.transaction(update)

    async def in_force(self, now_ms: int) -> list[StoredGrant]:
        """The grants that have not ended; what should have ended while nobody looked is written down as ended."""

        async def select(connection: Connection) -> list[StoredGrant]:
            await connection.execute(
                "UPDATE given_grant SET ended_ms = $1, ended_how = 'used' "
                "WHERE ended_ms IS NULL AND claimed_ms IS NOT NULL",
                now_ms,
            )
            await connection.execute(
                "UPDATE given_grant SET ended_ms = until_ms, ended_how = 'expired' "
                "WHERE ended_ms IS NULL AND until_ms <= $1",
                now_ms,
            )
            rows = await connection.fetch(
                f"SELECT {_COLUMNS} FROM given_grant WHERE ended_ms IS NULL ORDER BY number"  # noqa: S608
            )
            return [grant for row in rows if (grant := _grant(row)) is not None]

        return await self._database.transaction(select)

    async def prune(self, now_ms: int) -> int:
        """Forget ended grants that are too old or too many; returns how many."""
        return await in_batches(lambda: self._prune_batch(now_ms))

    async def _prune_batch(self, now_ms: int) -> int:
        async def delete(connection: Connection) -> int:
            rows = await connection.fetch(
                "DELETE FROM given_grant WHERE number IN (SELECT number FROM given_grant "
                "WHERE ended_ms < $1 ORDER BY number LIMIT $2) RETURNING 1",
                now_ms - KEEP_MS,
                _BATCH,
            )
            if rows:
                return len(rows)
            excess = await connection.fetchval(
                "SELECT COUNT(*) - $1 FROM given_grant WHERE ended_ms IS NOT NULL", self._max_ended
            )
            if excess <= 0:
                return 0
            rows = await connection.fetch(
                "DELETE FROM given_grant WHERE number IN (SELECT number FROM given_grant WHERE ended_ms IS NOT NULL "
                "ORDER BY ended_ms, number LIMIT $1) RETURNING 1",
                min(excess, _BATCH),
            )
            return len(rows)

        return await self._database.transaction(delete)


def _grant(row: Any) -> StoredGrant | None:
    try:
        subject = parse_subject(row["subject"])
    except ConfigError:
        return None  # Nobody: whoever changed the database by hand gives nothing with it.
    return StoredGrant(
        number=int(row["number"]),
        subject=subject,
        service=Service(UserId(row["peer"]), ServiceName(row["service"])),
        giver=UserId(row["giver"]),
        since_ms=row["since_ms"],
        until_ms=row["until_ms"],
        reason=row["reason"],
        once=bool(row["once"]),
    )

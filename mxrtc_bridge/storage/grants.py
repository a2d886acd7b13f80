"""Grants that people have given, kept until a good while after they ended: who gave what to whom, and who ended it.

A row is pending until :meth:`GrantStore.confirm`, and gives nothing so long. Each grant has a key that whoever gives it
makes; by it a grant is stored once, and can be given up although nobody knows whether it was stored. Ends, claims and
what is given up may be written again and again: the first counts.

Bounded: ended grants are forgotten by age and by number; how many are in force at a time is bounded by whoever gives.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from mautrix.util.async_db import Connection

from mxrtc_bridge.core.access.grants import Change, ClaimedGrant, EndedGrant, GivenUp, StoredGrant
from mxrtc_bridge.core.access.requests import AccessRequest
from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.core.ids import Actor
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.grant_recovery import COLUMNS, RecoveredGrants, read_grant, recover
from mxrtc_bridge.storage.requests import reopen_in, settle_in

KEEP_MS = 365 * 24 * 3600 * 1000
"""How long an ended grant is remembered."""
MAX_ENDED = 50_000
_INSERT = (
    "INSERT INTO given_grant (subject, peer, service, giver, since_ms, until_ms, reason, once, pending, grant_key, "
    "request, ended_ms, ended_how) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, $9, $10, $11, $12) "
    "ON CONFLICT (grant_key) DO NOTHING RETURNING number"
)


class _AnsweredBeforeError(StateError):
    """The request that a grant was to answer has been answered; ends the transaction."""


class GrantStore:
    """The table ``given_grant``."""

    def __init__(self, database: Database, *, max_ended: int = MAX_ENDED) -> None:
        self._database = database
        self._max_ended = max_ended

    async def add(
        self, grant: StoredGrant, settles: AccessRequest | None = None, *, key: str | None = None
    ) -> int | None:
        """Store a grant as pending, and return its number; the same for a key that is stored already.

        Args:
            grant: the grant.
            settles: the request that it answers, as it is decided, in the same transaction; if it was decided before,
                or the grant was given up meanwhile, nothing is stored, and None is returned.
            key: unique; by it the grant can be stored again, or given up. A new one if nobody will.

        Raises:
            StorageError: the database does not take it.
            UnknownOutcomeError: it may be stored; as it is pending it gives nothing, and :class:`GivenUp` ends it.
        """
        key = key or secrets.token_hex(16)

        async def insert(connection: Connection) -> int | None:
            number = await connection.fetchval(
                _INSERT, *_values(grant, grant.reason), key, None if settles is None else settles.number, None, None
            )
            if number is None:
                return await _number_of(connection, key)
            if settles is not None and not await settle_in(connection, settles):
                raise _AnsweredBeforeError
            return int(number)

        try:
            return await self._database.transaction(insert)
        except _AnsweredBeforeError:
            return None

    async def confirm(self, number: int) -> bool:
        """Put a pending grant in force; False if it has ended. Confirming it again changes nothing.

        Raises:
            StorageError: it stays pending.
            UnknownOutcomeError: it may be in force after a restart, unless it is given up.
        """
        statement = "UPDATE given_grant SET pending = 0 WHERE number = $1 AND ended_ms IS NULL RETURNING 1"
        return bool(await self._database.write(statement, (number,)))

    async def end(self, number: int, ended_ms: int, how: str, by: Actor | None = None) -> None:
        """Write down that one grant has ended; the first end counts.

        Args:
            number: which.
            ended_ms: when, in wall-clock milliseconds.
            how: see :attr:`~mxrtc_bridge.core.access.grants.EndedGrant.how`.
            by: who ended it.
        """
        await self._database.transaction(lambda connection: _end(connection, number, ended_ms, how, by))

    async def write(self, changes: Sequence[Change]) -> None:
        """Write down what has become of grants, all or nothing; what is written already stays as it is.

        Raises:
            StorageError: the database does not take it.
        """

        async def update(connection: Connection) -> None:
            for change in changes:
                match change:
                    case EndedGrant(grant=grant, ended_ms=ended_ms, how=how, by=by):
                        await _end(connection, grant.number, ended_ms, how, by)
                    case ClaimedGrant():
                        await connection.execute(
                            "UPDATE given_grant SET claimed_ms = $2 WHERE number = $1 AND claimed_ms IS NULL",
                            change.number,
                            change.claimed_ms,
                        )
                    case GivenUp():
                        await _give_up(connection, change)

        await self._database.transaction(update)

    async def in_force(self, now_ms: int) -> list[StoredGrant]:
        """The grants that count, the oldest first.

        Raises:
            StorageError: the database cannot be read.
        """
        rows = await self._database.rows(
            f"SELECT {COLUMNS} FROM given_grant WHERE ended_ms IS NULL AND pending = 0 "  # noqa: S608 - ours
            "AND claimed_ms IS NULL AND until_ms > $1 ORDER BY number",
            (now_ms,),
        )
        return [grant for row in rows if (grant := read_grant(row)) is not None]

    async def recover(self, now_ms: int) -> RecoveredGrants:
        """At a start: end what must not come back, by the database's own rows and by what the audit says.

        Raises:
            StorageError: the database cannot be used.
        """
        return await self._database.transaction(lambda connection: recover(connection, now_ms))

    async def prune(self, now_ms: int) -> int:
        """Forget ended grants that are too old or too many; returns how many."""
        return await self._database.prune(
            "given_grant", "number", "ended_ms", now_ms - KEEP_MS, self._max_ended, where="ended_ms IS NOT NULL"
        )


async def _end(connection: Connection, number: int, ended_ms: int, how: str, by: Actor | None) -> None:
    await connection.execute(
        "UPDATE given_grant SET ended_ms = $2, ended_how = $3, ended_by = $4 WHERE number = $1 AND ended_ms IS NULL",
        *(number, ended_ms, how, None if by is None else str(by)),
    )


async def _give_up(connection: Connection, given_up: GivenUp) -> None:
    """End a grant by its key, and open the request again that it was to answer.

    Where there is none, an ended row takes its key, so that a transaction that is still under way somewhere cannot
    store it afterwards.
    """
    for _ in range(2):
        row = await connection.fetchrow(
            "UPDATE given_grant SET ended_ms = $2, ended_how = 'unconfirmed' "
            "WHERE grant_key = $1 AND ended_ms IS NULL RETURNING request",
            given_up.key,
            given_up.ended_ms,
        )
        if row is not None:
            if row["request"] is not None:
                await reopen_in(connection, row["request"])
            return
        values = (*_values(given_up.grant, ""), given_up.key, None, given_up.ended_ms, "unconfirmed")
        if await connection.fetchval(_INSERT, *values) is not None:
            return
        # It stands there: ended before, or committed just now, while this waited for it.


async def _number_of(connection: Connection, key: str) -> int | None:
    number = await connection.fetchval("SELECT number FROM given_grant WHERE grant_key = $1 AND ended_ms IS NULL", key)
    return None if number is None else int(number)


def _values(grant: StoredGrant, reason: str) -> tuple[object, ...]:
    service = grant.service
    ends = (grant.since_ms, grant.until_ms)
    return str(grant.subject), service.peer, service.name, str(grant.giver), *ends, reason, int(grant.once)

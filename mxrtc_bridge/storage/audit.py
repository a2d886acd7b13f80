"""The audit in the database: what is asked for by user, peer and time, and the head of the chain of the file.

Bounded: rows are forgotten by age and by number, but never the last one, which says how far the chain has come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mautrix.util.async_db import Connection

from mxrtc_bridge.core.audit import NO_LINES, AuditRecord, ChainError, Entry, Head, read_line
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.pruning import in_batches

KEEP_MS = 400 * 24 * 3600 * 1000
MAX_ROWS = 500_000
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which records are asked for."""

    user: str | None = None
    peer: str | None = None
    since_ms: int | None = None


class AuditStore:
    """The table ``audit``."""

    def __init__(self, database: Database, *, max_rows: int = MAX_ROWS) -> None:
        self._database = database
        self._max_rows = max_rows

    async def head(self) -> Head:
        """The last line that is stored.

        Raises:
            StorageError: the database cannot be read.
        """

        async def select(connection: Connection) -> Head:
            row = await connection.fetchrow("SELECT number, digest FROM audit ORDER BY number DESC LIMIT 1")
            return NO_LINES if row is None else Head(row["number"], row["digest"])

        return await self._database.transaction(select)

    async def add(self, entries: Sequence[Entry]) -> None:
        """Store lines, all or none.

        Raises:
            StorageError: the database does not take them.
        """

        async def insert(connection: Connection) -> None:
            await connection.executemany(
                "INSERT INTO audit (number, digest, at_ms, user_id, peer, line) VALUES ($1, $2, $3, $4, $5, $6) "
                "ON CONFLICT DO NOTHING",
                [
                    (
                        each.head.number,
                        each.head.digest,
                        each.record.at_ms,
                        each.record.user,
                        each.record.peer,
                        each.line,
                    )
                    for each in entries
                ],
            )

        await self._database.transaction(insert)

    async def page(self, query: AuditQuery, offset: int, count: int) -> tuple[list[tuple[int, AuditRecord]], int]:
        """Records from the newest on, with their numbers, and how many there are.

        Raises:
            StorageError: the database cannot be read.
        """
        conditions: list[str] = []
        values: list[object] = []
        for column, operator, value in (
            ("user_id", "=", query.user),
            ("peer", "=", query.peer),
            ("at_ms", ">=", query.since_ms),
        ):
            if value is not None:
                values.append(value)
                conditions.append(f"{column} {operator} ${len(values)}")
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""

        async def select(connection: Connection) -> tuple[list[Any], int]:
            # Only names of columns are put together here; values are arguments.
            total = await connection.fetchval(f"SELECT COUNT(*) FROM audit {where}", *values)  # noqa: S608
            rows = await connection.fetch(
                f"SELECT number, line FROM audit {where} ORDER BY number DESC "  # noqa: S608
                f"LIMIT ${len(values) + 1} OFFSET ${len(values) + 2}",
                *values,
                count,
                offset,
            )
            return rows, int(total)

        rows, total = await self._database.transaction(select)
        return [(row["number"], record) for row in rows if (record := _record(row["line"])) is not None], total

    async def prune(self, now_ms: int) -> int:
        """Forget what is too old or too much; returns the rows."""
        return await in_batches(lambda: self._prune_batch(now_ms))

    async def _prune_batch(self, now_ms: int) -> int:
        async def delete(connection: Connection) -> int:
            rows = await connection.fetch(
                "DELETE FROM audit WHERE number IN (SELECT number FROM audit WHERE number < "
                "(SELECT MAX(number) FROM audit) AND (at_ms < $1 OR number <= (SELECT MAX(number) FROM audit) - $2) "
                "ORDER BY number LIMIT $3) RETURNING 1",
                now_ms - KEEP_MS,
                self._max_rows,
                _BATCH,
            )
            return len(rows)

        return await self._database.transaction(delete)


def _record(line: str) -> AuditRecord | None:
    try:
        return read_line(line.encode()).record
    except ChainError:
        return None  # somebody has changed the database by hand; the file says what there was

"""The audit in the database: what is asked for by user, peer and time, the head of the chain, and the key of its lines.

A number is stored once: :meth:`AuditStore.add` compares what stands there with what it was to write. Bounded: rows are
forgotten by age and by number, but never the last one, which says how far the chain has come. Whose rows go first:
those of users who were turned away, of the server that has most, then those of the user who has most. What admins and
the bridge have done has room of its own, which no caller can take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mautrix.util.async_db import Connection

from mxrtc_bridge.core.audit.chain import (
    NO_LINES,
    AuditEntry,
    AuditRecord,
    ChainError,
    Head,
    Retention,
    digest_of,
    found_as,
    read_line,
    retention,
)
from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.storage.database import Database, in_batches
from mxrtc_bridge.storage.inspection import DatabaseReader
from mxrtc_bridge.storage.spare_rows import SpareRows

KEEP_MS = 400 * 24 * 3600 * 1000
MAX_ROWS = 500_000
"""Records of calls and uses."""
MAX_ACTS = 100_000
"""Records of what admins and the bridge have done."""
MAX_OF_USER = 20_000
"""Records of a user who is let in; with fewer, nobody's are forgotten for the sake of others' while there is room."""
MAX_OF_SERVER = 5_000
"""Records of the users of a server that are turned away."""
_BATCH = 2000
_MAX_BATCHES = 100
"""In one run; the rest goes in the next."""
_SMALL = 16
"""Where the largest part is as small as this, the oldest rows go, whoever's they are."""
_INSERT = (
    "INSERT INTO audit (number, digest, at_ms, user_id, peer, owner, line) VALUES ($1, $2, $3, $4, $5, $6, $7) "
    "ON CONFLICT (number) DO NOTHING"
)
_OWNER_PREFIX = {Retention.ACT: "", Retention.LET_IN: "+", Retention.TURNED_AWAY: "-"}


class AuditContradictionError(StorageError):
    """The database holds another line with a number than the one that is to be written, or that stands in the file."""


@dataclass(frozen=True, slots=True)
class AuditKey:
    """What lines are written with, so that nobody else can write them."""

    secret: bytes = field(repr=False)
    since: int
    """Number of the first line that was written with it."""


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which records are asked for."""

    user: str | None = None
    peer: str | None = None
    since_ms: int | None = None


class AuditReader:
    """What the lines of the file are compared with: the tables ``audit`` and ``audit_key``, only read.

    Args:
        database: open, perhaps to read only.
    """

    def __init__(self, database: DatabaseReader) -> None:
        self._reader = database

    async def head(self) -> Head:
        """The last line that is stored.

        Raises:
            StorageError: the database cannot be read.
        """
        return (await self.last())[0]

    async def last(self) -> tuple[Head, AuditRecord | None]:
        """The last line that is stored, and its record if that can be read.

        Raises:
            StorageError: the database cannot be read.
        """
        row = await self._reader.row("SELECT number, digest, line FROM audit ORDER BY number DESC LIMIT 1")
        return (NO_LINES, None) if row is None else (Head(row["number"], row["digest"]), _record(row["line"]))

    async def key(self) -> AuditKey | None:
        """The key of new lines; None before the first start.

        Raises:
            StorageError: the database cannot be read.
        """
        row = await self._reader.row("SELECT secret, since FROM audit_key WHERE id = 1")
        return None if row is None else AuditKey(bytes.fromhex(row["secret"]), row["since"])

    async def digests(self, first: int, last: int, *, thorough: bool = False) -> dict[int, str]:
        """The digests of the lines of these numbers that are stored.

        Args:
            first: number.
            last: number.
            thorough: of a row whose digest is not that of its line, because somebody has changed it, say "".

        Raises:
            StorageError: the database cannot be read.
        """
        line = ", line" if thorough else ""
        rows = await self._reader.rows(
            f"SELECT number, digest{line} FROM audit WHERE number BETWEEN $1 AND $2",  # noqa: S608 - ours
            (first, last),
        )
        if not thorough:
            return {row["number"]: row["digest"] for row in rows}
        return {
            row["number"]: row["digest"] if digest_of(row["line"].encode()) == row["digest"] else "" for row in rows
        }


class AuditStore(AuditReader):
    """The same tables, as the bridge writes them."""

    def __init__(
        self,
        database: Database,
        *,
        max_rows: int = MAX_ROWS,
        max_acts: int = MAX_ACTS,
        max_of_user: int = MAX_OF_USER,
        max_of_server: int = MAX_OF_SERVER,
    ) -> None:
        super().__init__(database)
        self._database = database
        self._max_rows = max_rows
        self._shares = {"": max_acts, "+": max_of_user, "-": max_of_server}
        self._spare = SpareRows()

    async def keep_key(self, key: AuditKey) -> None:
        """Store the first key; the one that is there stays.

        Raises:
            StorageError: the database does not take it.
        """
        statement = "INSERT INTO audit_key (id, secret, since) VALUES (1, $1, $2) ON CONFLICT DO NOTHING"
        await self._database.write(statement, (key.secret.hex(), key.since))

    async def add(self, entries: Sequence[AuditEntry]) -> None:
        """Store lines, all or none; those that are there already, equal, count as stored.

        Raises:
            AuditContradictionError: another line has the number of one of them.
            StorageError: the database does not take them.
        """

        async def insert(connection: Connection) -> None:
            first, last = entries[0].head.number, entries[-1].head.number
            # What stands there already is left as it is, and looked at then. PostgreSQL does not tell whether there is.
            done: Any = await connection.executemany(_INSERT, [_row(each) for each in entries])
            if getattr(done, "rowcount", None) == len(entries):
                return
            rows = await connection.fetch(
                "SELECT number, digest FROM audit WHERE number BETWEEN $1 AND $2", first, last
            )
            found = {row["number"]: row["digest"] for row in rows}
            for each in entries:
                if found.get(each.head.number) != each.head.digest:
                    raise AuditContradictionError(contradiction(each.head.number))

        self._spare.write(len(entries))
        await self._database.transaction(insert, idempotent=True)

    async def take_back(self, heads: Sequence[Head]) -> None:
        """Remove exactly these lines, of which it was not known whether they were stored.

        Raises:
            StorageError: the database does not answer.
        """

        async def delete(connection: Connection) -> None:
            await connection.executemany(
                "DELETE FROM audit WHERE number = $1 AND digest = $2", [(each.number, each.digest) for each in heads]
            )

        await self._database.transaction(delete)

    async def count(self) -> int:
        """How many lines are stored.

        Raises:
            StorageError: the database cannot be read.
        """
        return int((await self._database.row("SELECT COUNT(*) FROM audit"))[0])

    async def page(self, query: AuditQuery, offset: int, count: int) -> tuple[list[tuple[int, AuditRecord]], int]:
        """Records from the newest on, with their numbers, and how many there are.

        Raises:
            StorageError: the database cannot be read.
        """
        conditions: list[str] = []
        values: list[object] = []
        for column, operator, value in (
            ("user_id", "=", found_as(query.user)),
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
                *(*values, count, offset),
            )
            return rows, int(total)

        rows, total = await self._database.read(select)
        return [(row["number"], record) for row in rows if (record := _record(row["line"])) is not None], total

    async def prune(self, now_ms: int) -> int:
        """Forget what is too old or too much; returns the rows."""
        oldest = _Surplus("at_ms < $2", "at_ms", now_ms - KEEP_MS)
        gone = await in_batches(lambda: self._delete(oldest, _BATCH), at_most=_MAX_BATCHES)
        if not await self._spare.may_be_exceeded(self._missing):
            return gone
        # Who has too much is found out beside what others write.
        while gone < _BATCH * _MAX_BATCHES and (surplus := await self._database.read(self._surplus)) is not None:
            left = surplus.rows
            while left > 0 and (count := await self._delete(surplus, min(left, _BATCH))):
                left -= count
                gone += count
            if left == surplus.rows:
                break
        return gone

    async def _delete(self, surplus: _Surplus, count: int) -> int:
        return await self._database.transaction(lambda connection: _delete(connection, surplus, count))

    async def _missing(self) -> int:
        """How many rows may come before anybody can have more than their share, or all together too much."""
        total, largest = await self._database.read(_largest)
        return min(self._max_rows - total, *(self._shares[prefix] - held for prefix, _, held in largest))

    async def _surplus(self, connection: Connection) -> _Surplus | None:
        """What goes next, as somebody has more than their share or all together have too much."""
        rows, largest = await _largest(connection)
        total = rows - self._max_rows
        for prefix, owner, held in largest:
            excess = held - self._shares[prefix]
            if excess <= 0 and held and prefix and total > 0:
                # Nobody has more than their share, and all together have too much.
                if held <= _SMALL:
                    return _Surplus("SUBSTR(owner, 1, 1) = $2", "number", prefix, total)
                excess = min(total, held // 2)
            if excess > 0 and (held > 1 or prefix):
                return _Surplus("owner = $2", "number", owner, excess)
        return None


@dataclass(frozen=True, slots=True)
class _Surplus:
    """Rows that are to go: those for which a condition of ours is true, the first by a column."""

    condition: str
    by: str
    value: object
    rows: int = 0
    """How many of them."""


def contradiction(number: int) -> str:
    """Say that two places hold different lines with the same number."""
    return (
        f"the database and the audit file hold different lines with the number {number}: one of them was changed, or "
        "another bridge writes into one of them"
    )


async def _largest(connection: Connection) -> tuple[int, list[tuple[str, str, int]]]:
    """How many rows there are of users, and who has most: of each kind its prefix, the owner, and how many."""
    total = int(await connection.fetchval("SELECT COUNT(*) FROM audit WHERE owner <> ''"))
    largest = []
    for prefix in ("-", "+", ""):
        row = await connection.fetchrow(
            "SELECT owner, COUNT(*) AS held FROM audit WHERE SUBSTR(owner, 1, 1) = $1 "
            "GROUP BY owner ORDER BY COUNT(*) DESC LIMIT 1",
            prefix,
        )
        largest.append((prefix, "", 0) if row is None else (prefix, str(row["owner"]), int(row["held"])))
    return total, largest


async def _delete(connection: Connection, surplus: _Surplus, count: int) -> int:
    """Delete some rows, the oldest first, never the last of all."""
    rows = await connection.fetch(
        f"DELETE FROM audit WHERE number IN (SELECT number FROM audit WHERE {surplus.condition} "  # noqa: S608 - ours
        f"AND number < (SELECT MAX(number) FROM audit) ORDER BY {surplus.by} LIMIT $1) RETURNING 1",
        count,
        surplus.value,
    )
    return len(rows)


def _row(entry: AuditEntry) -> tuple[object, ...]:
    record = entry.record
    kind, owner = retention(record)
    owner = f"{_OWNER_PREFIX[kind]}{owner}"
    head = entry.head
    return (head.number, head.digest, record.at_ms, found_as(record.user), record.peer, owner, entry.line)


def _record(line: str) -> AuditRecord | None:
    try:
        return read_line(line.encode()).record
    except ChainError:
        return None  # somebody has changed the database by hand; the file says what there was

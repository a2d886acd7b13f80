"""The database: opened once, closed always, and two ways to run statements in it.

:meth:`Database.transaction` writes, :meth:`Database.read` only reads; there is no other way in. What they guarantee:

- The statements of one call are committed together or not at all. Those of a reading are never committed, so whoever
  writes in one sees in the first test that nothing stays.
- Once begun, they run to their end although the caller is cancelled: a pooled connection is never left inside a
  transaction, which would make every later one fail. (mautrix's own ``transaction()`` leaves it so after a
  cancellation and after a failed COMMIT; therefore it is not used with SQLite.)
- A database that is locked, full or away is asked again for some seconds; then the caller gets a
  :class:`~mxrtc_bridge.core.errors.StorageError` and nothing has been stored. Away is also one that lets nobody in, or
  does not answer: whatever fails that is not the fault of a statement.
- What is the fault of a statement (a text with U+0000, which PostgreSQL does not hold, a half of a surrogate pair, a
  number that is too large) is a :class:`~mxrtc_bridge.core.errors.RefusedStatementError` of whoever asked for it, and
  nobody else has anything of it. No exception of a database library leaves this file.
- Transactions are isolated as they are meant here, whatever the database or the login has as its default.
- No work is committed twice. A COMMIT whose answer is lost (a fail-over, a firewall that forgets, a timeout) may have
  been carried out, so what is done again is never done blindly: each writing notes a mark of its own in the same
  transaction, and is done again only where the database does not hold that mark. What cannot be found out in some
  seconds is an :class:`~mxrtc_bridge.core.errors.UnknownOutcomeError`: a caller looks it up by a key of its own.

By which key each store looks up what may have been stored; so every write may be asked for twice:

    grants          a key of the giver's; ends, claims and what is given up: the first of its kind counts
    requests        one is open for a user and service; settled: the first answer counts
    calls           room, call, users, and the party id that is new for each claim
    inbox           the id of the event
    audit           the number of the line, and its digest
    the others      a row has the values that were written last, under the key of its table

SQLite runs in WAL mode with ``synchronous=FULL``. ``NORMAL`` would be faster (0.02 ms instead of 0.4 ms for a commit on
a solid-state disk) but may forget the last commits when the power fails, and both the 200 that we give the homeserver
and the claim of a call promise that this does not happen. The inbox makes few, big commits instead.

One file: what is guaranteed holds because no way leads around these few methods.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import secrets
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from mautrix.util.async_db import Connection, Scheme
from mautrix.util.async_db import Database as Pool

from mxrtc_bridge.core.bounds.backoff import Backoff
from mxrtc_bridge.core.errors import StorageError, UnknownOutcomeError
from mxrtc_bridge.storage.failures import CommitError, brief, is_away, raise_for_statement
from mxrtc_bridge.storage.pool import CONNECT_S, open_pool
from mxrtc_bridge.storage.spare_rows import SpareRows

T = TypeVar("T")
Work = Callable[[Connection], Awaitable[T]]

_BACKOFF = Backoff(0.05, 1.0)
KEEP_MARKS_MS = 24 * 3600 * 1000
"""How long the marks of an earlier run stay; nothing that is still asked about is older than a minute."""

log = logging.getLogger(__name__)
_NOTE = (
    "INSERT INTO write_mark (lane, mark, noted_ms) VALUES ($1, $2, $3) ON CONFLICT (lane) DO UPDATE "
    "SET mark = excluded.mark, noted_ms = excluded.noted_ms WHERE write_mark.mark <> excluded.mark RETURNING 1"
)
"""Returns nothing where the mark stands already. PostgreSQL waits here for a COMMIT of the lane that is under way."""


@dataclass(frozen=True, slots=True)
class DatabaseBounds:
    """How long a database is waited for, and how much may wait for it."""

    patience_s: float = 5.0
    """How long a failing transaction is tried again; well below the 60 s after which a homeserver gives a request
    up."""
    answer_s: float = 10.0
    """How long PostgreSQL may take to answer a statement; then the connection is given up."""
    hangs_s: float = 30.0
    """How long anything may take in all, also with a file: longer than PostgreSQL can, and less than a homeserver
    waits."""
    close_s: float = 15.0
    """How long what is under way is waited for when the database is closed."""
    max_waiting: int = 2000
    """Transactions that may wait for a connection; the next one fails at once."""
    prune_batch: int = 1000
    """Rows that are forgotten at a time."""


@dataclass(slots=True)
class _Writing:
    """One call of :meth:`Database.transaction`, over all its attempts."""

    lane: str
    """A row for marks that no other writing uses meanwhile; so there are as many as ever went on at the same time.

    Empty where no mark is noted, as the work finds out by itself what of it is stored.
    """
    is_first: bool
    """Whether it is the first of this run; those of earlier ones are forgotten with it."""
    mark: str = field(default_factory=lambda: secrets.token_hex(16))
    committing: bool = False
    """Whether a COMMIT was sent of which it is not known that it failed."""
    result: Any = None
    """What the work has returned that may be committed."""


class Database:
    """An open database. Made by :meth:`open`; use it as an async context manager, or call :meth:`close` in a finally.

    A database that is not closed keeps a thread alive, and with it the whole process.
    """

    def __init__(self, pool: Pool, bounds: DatabaseBounds) -> None:
        self._pool = pool
        self._bounds = bounds
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._run = secrets.token_hex(8)
        self._lanes = 0
        self._free_lanes: list[int] = []

    @classmethod
    async def open(cls, url: str, bounds: DatabaseBounds | None = None) -> Self:
        """Open the database and bring its tables up to date.

        Args:
            url: ``sqlite:relative.db``, ``sqlite:///absolute.db`` or ``postgres://user:password@host/name``.
            bounds: other ones than usual.

        Raises:
            StorageError: it cannot be reached or written, belongs to another program, or is of a newer version.
        """
        bounds = bounds or DatabaseBounds()
        return cls(await open_pool(url, bounds.answer_s), bounds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let running transactions end, then close all connections; calling it again does nothing.

        A database that does not answer is waited for as long as ``close_s`` says, and then left alone.
        """
        if self._closed:
            return
        self._closed = True
        try:
            async with asyncio.timeout(self._bounds.close_s):
                while self._running:
                    await asyncio.wait(self._running)
        except TimeoutError:
            log.error("! the database does not answer; what it was told last may be stored or not")
            for task in self._running:
                task.cancel()
        finally:
            await self._let_go()

    async def _let_go(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._pool.stop()
        except TimeoutError:
            if self._pool.scheme == Scheme.POSTGRES:
                self._pool.pool.terminate()  # type: ignore[attr-defined]

    async def transaction(self, work: Work[T], *, idempotent: bool = False) -> T:
        """Run ``work`` with a connection, in one transaction, and return what it returns.

        ``work`` may be called more than once, so it must change nothing but the database; it is committed once.

        Args:
            work: what is done.
            idempotent: ``work`` finds what an attempt before has stored and then changes and returns the same; it
                waits for a COMMIT of that which is under way, as an INSERT of the same key does. So it needs no mark,
                which saves a statement.

        Raises:
            StorageError: the database is closed, or has refused for as long as we ask.
            UnknownOutcomeError: it may have been committed, or may still be.
        """
        if idempotent:
            return await self._start(work, _Writing("", is_first=False), lambda: None)
        is_first = not self._lanes
        lane = heapq.heappop(self._free_lanes) if self._free_lanes else self._lanes
        self._lanes = max(self._lanes, lane + 1)
        writing = _Writing(f"{self._run}-{lane}", is_first)
        return await self._start(work, writing, lambda: self._leave(lane, writing))

    async def read(self, work: Work[T]) -> T:
        """Run ``work``, which only reads, with a connection that sees one state of the database.

        Raises:
            StorageError: the database is closed, or has refused for as long as we ask.
        """
        return await self._start(work, None, lambda: None)

    async def write(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        """Run one statement as a :meth:`transaction`, and return the rows of its RETURNING."""
        return await self.transaction(lambda connection: connection.fetch(statement, *values))

    async def rows(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        """The rows of one SELECT, as a :meth:`read`."""
        return await self.read(lambda connection: connection.fetch(statement, *values))

    async def row(self, statement: str, values: Sequence[object] = ()) -> Any:
        """The first row of one SELECT, as a :meth:`read`; None where there is none."""
        return await self.read(lambda connection: connection.fetchrow(statement, *values))

    async def prune(
        self,
        table: str,
        key: str,
        age: str,
        before_ms: int,
        at_most: int,
        *,
        where: str = "TRUE",
        order: str = "",
        spare: SpareRows | None = None,
    ) -> int:
        """Forget rows that are too old or too many, in small transactions; returns how many.

        Args:
            table: which.
            key: the column that names a row.
            age: the column that says since when a row can go.
            before_ms: rows whose age is before this go.
            at_most: so many of the others stay, the newest.
            where: a condition for rows that may go at all.
            order: the column by which rows are old and new where there are too many; ``age`` without it.
            spare: of a large table; knows whether there can be too many.
        """
        by = order or age
        old = (
            f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE {where} "  # noqa: S608 - names of ours
            f"AND {age} < $1 ORDER BY {age} LIMIT $2) RETURNING 1"
        )
        gone = await in_batches(lambda: self._deleted(old, (before_ms, self._bounds.prune_batch)))

        async def missing() -> int:
            return at_most - int((await self.row(f"SELECT COUNT(*) FROM {table} WHERE {where}"))[0])  # noqa: S608 - as above

        if spare is not None and not await spare.may_be_exceeded(missing):
            return gone
        # The newest row that is too much is looked for once, and not while others wait to write.
        newest = await self.row(
            f"SELECT {by} AS place, {key} AS name FROM {table} WHERE {where} "  # noqa: S608 - as above
            f"ORDER BY {by} DESC, {key} DESC LIMIT 1 OFFSET $1",
            (at_most,),
        )
        if newest is None:
            return gone
        excess = (
            f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE {where} "  # noqa: S608 - as above
            f"AND ({by}, {key}) <= ($1, $2) ORDER BY {by}, {key} LIMIT $3) RETURNING 1"
        )
        values = (newest["place"], newest["name"], self._bounds.prune_batch)
        return gone + await in_batches(lambda: self._deleted(excess, values))

    async def _deleted(self, statement: str, values: Sequence[object]) -> int:
        return len(await self.write(statement, values))

    @property
    def sqlite_file(self) -> Path | None:
        """The file of SQLite; None for PostgreSQL."""
        return Path(self._pool.url.path) if self._pool.scheme == Scheme.SQLITE else None

    async def command(self, statement: str, *, gives_number: bool = True) -> int:
        """Run a command of SQLite that may be no part of a transaction; returns the number that it gives.

        Raises:
            StorageError: the database refuses.
        """
        try:
            async with self._pool.acquire_direct() as connection:
                if gives_number:
                    return int((await connection.fetch(statement))[0][0])
                # A script is run to its end; a statement without rows only until its first step.
                await connection.wrapped.executescript(statement)
        except sqlite3.Error as error:
            raise StorageError(f"the database refuses a command: {brief(error)}") from error
        return 0

    async def _start(self, work: Work[T], writing: _Writing | None, over: Callable[[], None]) -> T:
        if (refusal := self._refusal()) is not None:
            over()
            raise refusal
        task = asyncio.create_task(self._persist(work, writing))
        self._running.add(task)
        task.add_done_callback(self._ended)
        task.add_done_callback(lambda _: over())
        if not (await asyncio.wait([task], timeout=self._bounds.hangs_s))[0]:
            # Its file is on a disk that hangs: the thread goes on, and nobody can say how it ends.
            kind = StorageError if writing is None else UnknownOutcomeError
            raise kind(f"the database has not answered for {self._bounds.hangs_s:g} seconds")
        return task.result()

    def _refusal(self) -> StorageError | None:
        if self._closed:
            return StorageError("the database is closed")
        if len(self._running) >= self._bounds.max_waiting:
            return StorageError(
                f"{self._bounds.max_waiting} transactions wait for the database already; it is too slow or away"
            )
        return None

    def _leave(self, lane: int, writing: _Writing) -> None:
        """Let others use the lane; not where its COMMIT may still be under way, as nobody asks for it any more."""
        if not writing.committing:
            heapq.heappush(self._free_lanes, lane)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The caller sees it as well, unless it was cancelled meanwhile.
            log.debug("! transaction failed: %s", error)

    async def _persist(self, work: Work[T], writing: _Writing | None) -> T:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._bounds.patience_s
        failures = 0
        looks_again = False
        while True:
            let_in = False
            try:
                async with self._pool.acquire_direct() as connection:
                    let_in = True
                    result = await self._run_once(connection, work, writing)
            except Exception as error:  # noqa: BLE001 - told apart by whose fault it is
                unknown = writing is not None and writing.committing
                # One that lets nobody in (maintenance, another password) is away like one that is down.
                if let_in and not unknown and not is_away(error):
                    raise_for_statement(error)
                failures += 1
                pause_s = _BACKOFF.pause_s(failures)
                problem = error.__cause__ if isinstance(error, CommitError) and error.__cause__ else error
                if unknown and not looks_again:
                    # A COMMIT may take its time to fail, and what became of it is worth another look.
                    looks_again = True
                    deadline = max(deadline, loop.time() + self._bounds.patience_s)
                if loop.time() + pause_s > deadline:
                    if unknown:
                        raise UnknownOutcomeError(
                            f"the database has not said whether it has stored this: {brief(problem)}"
                        ) from problem
                    raise StorageError(f"the database cannot be used at the moment: {brief(problem)}") from problem
            else:
                if writing is not None:
                    writing.committing = False
                return result
            await asyncio.sleep(pause_s)

    async def _run_once(self, connection: Connection, work: Work[T], writing: _Writing | None) -> T:
        """Run the work and commit it; a writing that turns out to have been committed is not done again."""
        sqlite = connection.scheme == Scheme.SQLITE
        raw: Any = connection.wrapped
        # Whoever writes sees what others have committed while it waited; whoever reads sees one state throughout.
        isolation = "repeatable_read" if writing is None else "read_committed"
        postgres = None if sqlite else raw.transaction(isolation=isolation, readonly=writing is None)
        try:
            if postgres is not None:
                await postgres.start()
            else:
                # IMMEDIATE takes the write lock here, where waiting for it is possible; a later upgrade would fail.
                await raw.execute("BEGIN" if writing is None else "BEGIN IMMEDIATE")
            if writing is not None and not await _note(connection, writing):
                result: T = writing.result
            else:
                result = await work(connection)
                if writing is not None:
                    writing.result, writing.committing = result, True
                    try:
                        await (postgres.commit() if postgres is not None else raw.execute("COMMIT"))
                    except Exception as error:
                        raise CommitError from error
                    return result
        except BaseException as error:
            if postgres is not None and isinstance(error.__cause__ or error, TimeoutError):
                # It would be asked to roll back, and not answer either.
                raw.terminate()
            await _roll_back(raw, postgres)
            raise
        await _roll_back(raw, postgres)
        return result


async def _note(connection: Connection, writing: _Writing) -> bool:
    """Note the mark of a writing; False if it stands there, so an earlier attempt was committed."""
    if not writing.lane:
        return True
    now_ms = time.time_ns() // 1_000_000
    values = (writing.lane, writing.mark, now_ms)
    if writing.is_first:
        await connection.execute("DELETE FROM write_mark WHERE noted_ms < $1", now_ms - KEEP_MARKS_MS)
    if not writing.committing:
        await connection.execute(_NOTE, *values)
        return True
    new = await connection.fetchval(_NOTE, *values) is not None
    if new:
        # Nothing was committed: had it been, or were it to be, the mark would stand there.
        writing.committing = False
    return new


async def _roll_back(raw: Any, postgres: Any) -> None:
    if postgres is None:
        await raw.rollback()
    elif not raw.is_closed() and raw.is_in_transaction():
        await postgres.rollback()


async def in_batches(batch: Callable[[], Awaitable[int]], *, at_most: int | None = None) -> int:
    """Forget until a batch has found nothing any more; returns the rows of all of them.

    Args:
        batch: forgets some rows, and says how many.
        at_most: batches of one run; what they leave goes in the next.
    """
    forgotten = 0
    for _ in itertools.count() if at_most is None else range(at_most):
        if (count := await batch()) <= 0:
            break
        forgotten += count
    return forgotten

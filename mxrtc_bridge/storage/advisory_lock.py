"""One bridge for one PostgreSQL database: two would hang up each other's calls and handle each other's events.

The lock is an advisory one, which the server gives back when the connection ends, however it ends. It belongs to a
transaction that stays open as long as the bridge runs: so it is held also through a connection pooler that gives each
transaction to another connection (PgBouncer with ``pool_mode=transaction``), where one of the session would belong to
everybody. The transaction reads nothing and so keeps no old rows alive.

Where that connection is lost (a restart of the server, a fail-over, a firewall that forgets), the bridge goes on and
takes the lock again, as long as the server lets nobody in if need be. One that another bridge has taken meanwhile ends
this one. What was lost may still count as held at the server's end: then that end is closed first.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from yarl import URL

from mxrtc_bridge.core.bounds.backoff import Backoff
from mxrtc_bridge.core.errors import StorageError, first_error
from mxrtc_bridge.storage.pooler import not_opened

log = logging.getLogger(__name__)

LOCK = 0x6D787274
"""The letters of ``mxrt``; the second half of the key is the schema, which another bridge may have for itself."""
LOOK_EVERY_S = 10.0
"""How often it is looked whether the connection holds."""
ANSWER_S = 10.0
START_S = 5.0
"""How long one that is started waits for the lock: the server may notice late that the bridge before it was killed."""
TAKEN_TIMES = 4
"""How often somebody else must have the lock in a row: the server's end of our own connection takes a moment to end."""
_AGAIN = Backoff(0.2, 10.0)
_TAKE = "SELECT pg_try_advisory_xact_lock($1, hashtext(current_schema()))"
_HOLDER = (
    "SELECT pid, backend_start FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND granted "
    "AND classid::bigint = $1 AND objid::bigint = hashtext(current_schema())::bigint & 4294967295 AND objsubid = 2 "
    "AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_OWN = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
"""A number of a process comes again after a restart of the server, and may be another bridge's then."""
_SETTINGS = {
    # A machine that has lost its power says nothing: half a minute later the lock is free.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "idle_in_transaction_session_timeout": "0",
}


class _TakenError(Exception):
    """Somebody else holds it."""


class _AdvisoryLock:
    """The lock, with the connection that holds it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None
        self._own: tuple[object, ...] | None = None
        """The server's end of the connection that holds it, or has held it."""

    async def take(self) -> None:
        """Take it.

        Raises:
            _TakenError: somebody else has it.
            Exception: the server is away, or lets nobody in.
        """
        self.drop()
        asyncpg: Any = importlib.import_module("asyncpg")
        async with asyncio.timeout(ANSWER_S):
            connection = await asyncpg.connect(self._url, timeout=ANSWER_S, statement_cache_size=0)
            self._connection = connection
            # Otherwise it would keep the state of the database that its first statement has seen.
            await connection.transaction(isolation="read_committed").start()
            for name, value in _SETTINGS.items():
                await connection.execute(f"SET LOCAL {name} = {value}")
            if not await connection.fetchval(_TAKE, LOCK):
                await self._end_own(connection)
                raise _TakenError
            self._own = tuple(await connection.fetchrow(_OWN))
        await self.look()

    async def _end_own(self, connection: Any) -> None:
        """Close the server's end of a connection of ours that was lost, if that is what holds it."""
        if self._own in [tuple(row) for row in await connection.fetch(_HOLDER, LOCK)]:
            assert self._own is not None
            await connection.fetchval("SELECT pg_terminate_backend($1)", self._own[0])

    async def look(self) -> None:
        """See that it is still held.

        Raises:
            Exception: it is not, or that cannot be found out.
        """
        async with asyncio.timeout(ANSWER_S):
            # By the simple protocol: the result of the other one keeps a state of the database until the next.
            await self._connection.execute("SELECT 1")

    def drop(self) -> None:
        """Give it back at once."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


@asynccontextmanager
async def sole_use_of_server(
    url: str, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> AsyncIterator[None]:
    """Hold the database at ``url`` for ourselves; does nothing for one that is not PostgreSQL's.

    Args:
        url: of the database.
        sleep: waits.

    Raises:
        StorageError: another bridge holds it, also where it has taken it while our connection was lost.
    """
    name = _name_of(url)
    if name is None or importlib.util.find_spec("asyncpg") is None:  # opening the database says so
        yield
        return
    lock = _AdvisoryLock(url)
    try:
        await _take(lock, name)
        async with asyncio.TaskGroup() as tasks:
            holding = tasks.create_task(_hold(lock, name, sleep), name="lock of the database")
            yield
            holding.cancel()
    except BaseExceptionGroup as group:
        raise first_error(group) from None
    finally:
        lock.drop()


async def _take(lock: _AdvisoryLock, name: str) -> None:
    loop = asyncio.get_running_loop()
    deadline, failures = loop.time() + START_S, 0
    while True:
        try:
            await lock.take()
        except _TakenError:
            failures += 1
            if loop.time() + _AGAIN.pause_s(failures) > deadline:
                raise StorageError(f"another bridge uses the database {name!a}; stop it before this one") from None
        except Exception as error:
            raise not_opened(error) from error
        else:
            return
        await asyncio.sleep(_AGAIN.pause_s(failures))


async def _hold(lock: _AdvisoryLock, name: str, sleep: Callable[[float], Awaitable[None]]) -> None:
    """See to it that the lock is held, until cancelled.

    Raises:
        StorageError: somebody else has it.
    """
    while True:
        await sleep(LOOK_EVERY_S)
        try:
            await lock.look()
        except Exception as error:  # noqa: BLE001 - as above
            log.warning("! the connection that holds the lock of the database is lost: %s", type(error).__name__)
            await _take_again(lock, name, sleep)
            log.info("the lock of the database is held again")


async def _take_again(lock: _AdvisoryLock, name: str, sleep: Callable[[float], Awaitable[None]]) -> None:
    failures = taken = 0
    while True:
        try:
            await lock.take()
        except _TakenError:
            taken += 1
            if taken >= TAKEN_TIMES:
                raise StorageError(
                    f"another bridge uses the database {name!a} since the connection to it was lost; stop it before "
                    "this one is started again"
                ) from None
        except Exception as error:  # noqa: BLE001 - as above
            log.debug("the lock of the database is not held: %r", error)
            taken = 0
        else:
            return
        failures += 1
        await sleep(_AGAIN.pause_s(failures))


def _name_of(url: str) -> str | None:
    """The name of the database, which is no secret; None where it is none of PostgreSQL's."""
    try:
        parsed = URL(url)
    except ValueError:
        return None  # opening the database says what is wrong with it
    return parsed.path.lstrip("/") if parsed.scheme in ("postgres", "postgresql") else None

"""The database is private, durable, patient, and never left in a broken state."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest
from mautrix.util.async_db import Connection
from mautrix.util.async_db.aiosqlite import TxnConnection

from mxrtc_bridge.core.errors import StorageError, UnknownOutcomeError
from mxrtc_bridge.storage.database import Database, DatabaseBounds
from tests.waiting import turns, until

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


async def insert_notice(connection: Connection, user: str = "@a:example.org") -> None:
    await connection.execute("INSERT INTO notice (user_id, last_ms) VALUES ($1, $2)", user, 1)


async def count_notices(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT COUNT(*) FROM notice"))


async def pragma(database: Database, name: str) -> object:
    async def read(connection: Connection) -> object:
        return await connection.fetchval(f"PRAGMA {name}")

    return await database.transaction(read)


async def test_what_was_committed_is_there_after_opening_again(url: str) -> None:
    async with await Database.open(url) as database:
        await database.transaction(insert_notice)
    async with await Database.open(url) as database:
        assert await database.transaction(count_notices) == 1


async def test_transaction_leaves_nothing_when_it_fails(database: Database) -> None:
    async def fail(connection: Connection) -> None:
        await insert_notice(connection)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.transaction(fail)
    assert await database.transaction(count_notices) == 0


async def test_transaction_is_finished_when_its_caller_is_cancelled(database: Database) -> None:
    """The connection must not go back to the pool inside a transaction."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow(connection: Connection) -> None:
        await insert_notice(connection)
        entered.set()
        await go_on.wait()

    caller = asyncio.create_task(database.transaction(slow))
    await entered.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go_on.set()
    await asyncio.wait(database._running)
    assert await database.transaction(count_notices) == 1


async def test_transaction_is_rolled_back_when_it_is_cancelled_itself(database: Database) -> None:
    """Even when the loop is torn down around it, the connection stays usable."""
    entered = asyncio.Event()

    async def slow(connection: Connection) -> None:
        await insert_notice(connection)
        entered.set()
        await asyncio.Event().wait()

    caller = asyncio.create_task(database.transaction(slow))
    await entered.wait()
    for task in database._running:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert await database.transaction(count_notices) == 0


async def test_close_waits_for_a_running_transaction(url: str) -> None:
    database = await Database.open(url)
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow(connection: Connection) -> None:
        entered.set()
        await go_on.wait()
        await insert_notice(connection)

    caller = asyncio.create_task(database.transaction(slow))
    await entered.wait()
    closing = asyncio.create_task(database.close())
    await asyncio.sleep(0)
    with pytest.raises(StorageError, match="closed"):
        await database.transaction(count_notices)
    go_on.set()
    await caller
    await closing
    await database.close()
    async with await Database.open(url) as again:
        assert await again.transaction(count_notices) == 1


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What SQLite has refused so far, and why."""
    execute, refused = TxnConnection.execute, list[str]()

    async def watched(self: TxnConnection, query: str, *values: object, timeout: float | None = None) -> object:
        try:
            return await execute(self, query, *values, timeout=timeout)
        except sqlite3.OperationalError as error:
            refused.append(f"{query}: {error}")
            raise

    monkeypatch.setattr(TxnConnection, "execute", watched)
    return refused


async def test_locked_database_is_asked_again_until_it_is_free(tmp_path: Path, refusals: list[str]) -> None:
    path = tmp_path / "bridge.db"
    async with await Database.open(f"sqlite:///{path}") as database:
        other = sqlite3.connect(path, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            writing = asyncio.create_task(database.transaction(insert_notice))
            await until(lambda: refusals == ["BEGIN IMMEDIATE: database is locked"])
            other.execute("COMMIT")
            await writing
        finally:
            other.close()
        assert await database.transaction(count_notices) == 1


async def test_close_waits_for_a_transaction_that_waits_for_the_lock(tmp_path: Path, refusals: list[str]) -> None:
    """Between two attempts it holds no connection, but it is not abandoned."""
    path = tmp_path / "bridge.db"
    database = await Database.open(f"sqlite:///{path}")
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(database.transaction(insert_notice))
        await until(lambda: refusals)
        closing = asyncio.create_task(database.close())
        await turns()
        other.execute("COMMIT")
        await writing
        await closing
        assert other.execute("SELECT COUNT(*) FROM notice").fetchone() == (1,)
    finally:
        other.close()


async def test_locked_database_is_an_error_after_a_while_and_works_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "bridge.db"
    async with await Database.open(f"sqlite:///{path}", DatabaseBounds(patience_s=0.1)) as database:
        other = sqlite3.connect(path, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageError, match="cannot be used at the moment"):
                await database.transaction(insert_notice)
        finally:
            other.close()
        await database.transaction(insert_notice)
        assert await database.transaction(count_notices) == 1


async def test_full_disk_is_an_error_and_loses_nothing_that_was_stored(tmp_path: Path) -> None:
    """SQLite's own page limit stands for a disk without space."""
    async with await Database.open(f"sqlite:///{tmp_path}/bridge.db", DatabaseBounds(patience_s=0.1)) as database:
        await database.transaction(insert_notice)
        pages = await pragma(database, "page_count")
        await pragma(database, f"max_page_count = {pages}")

        async def insert_much(connection: Connection) -> None:
            for number in range(200):
                await insert_notice(connection, f"@{number}{'x' * 200}:example.org")

        with pytest.raises(StorageError, match="full"):
            await database.transaction(insert_much)
        assert await database.transaction(count_notices) == 1
        await pragma(database, "max_page_count = 100000")
        await database.transaction(insert_much)
        assert await database.transaction(count_notices) == 201


async def test_transactions_beyond_the_limit_fail_at_once(url: str) -> None:
    async with await Database.open(url, DatabaseBounds(max_waiting=3)) as database:
        go_on = asyncio.Event()

        async def slow(connection: Connection) -> None:
            await go_on.wait()

        waiting = [asyncio.create_task(database.transaction(slow)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(StorageError, match="3 transactions wait"):
            await database.transaction(count_notices)
        go_on.set()
        await asyncio.gather(*waiting)
        assert await database.transaction(count_notices) == 0


async def test_postgres_that_lets_nobody_in_is_away_and_works_afterwards(postgres_url: str) -> None:
    """Closed for maintenance, or with another password; the connections that there were are cut."""
    import asyncpg

    admin = await asyncpg.connect(postgres_url)
    name = "closed_to_all"
    try:
        await admin.execute(f"DROP DATABASE IF EXISTS {name}")
        await admin.execute(f"CREATE DATABASE {name}")
        async with await Database.open(
            f"{postgres_url.rpartition('/')[0]}/{name}", DatabaseBounds(patience_s=0.2)
        ) as database:
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            for work in (database.transaction(insert_notice), database.read(count_notices)):
                with pytest.raises(StorageError, match="cannot be used at the moment"):
                    await work
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            await database.transaction(insert_notice)
            assert await database.read(count_notices) == 1
    finally:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.close()


async def test_a_file_on_a_disk_that_hangs_is_waited_for_within_bounds_and_works_afterwards(tmp_path: Path) -> None:
    over = threading.Event()

    async def hang(connection: Connection) -> None:
        await insert_notice(connection)
        await connection.wrapped.create_function("hang", 0, lambda: over.wait(30))
        await connection.fetch("SELECT hang()")

    async with await Database.open(f"sqlite:///{tmp_path}/bridge.db", DatabaseBounds(hangs_s=0.2)) as database:
        async with asyncio.timeout(5):
            with pytest.raises(UnknownOutcomeError, match=r"has not answered for 0\.2 seconds"):
                await database.transaction(hang)
            # What comes now waits for the same file, and is not known to be stored either.
            with pytest.raises(UnknownOutcomeError):
                await database.transaction(lambda connection: insert_notice(connection, "@b:example.org"))
            with pytest.raises(StorageError) as away:
                await database.read(count_notices)
            assert (type(away.value), away.value.retryable) == (StorageError, True)
        over.set()
        await database.transaction(lambda connection: insert_notice(connection, "@c:example.org"))
        assert await database.read(count_notices) == 3

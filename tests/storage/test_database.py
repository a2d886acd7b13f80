"""The database is private, durable, patient, and never left in a broken state."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from mautrix.util.async_db import Connection

from mxrtc_bridge.core.errors import StorageError, UnknownOutcomeError
from mxrtc_bridge.storage import database as database_module
from mxrtc_bridge.storage.database import Database


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """An SQLite thread that is not ended keeps the program from ending."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
    left = [thread for thread in left if not thread.name.startswith("asyncio_")]
    for thread in left:  # one whose connection is closed says so before it has ended
        thread.join(5)
    assert [thread.name for thread in left if thread.is_alive()] == []


async def insert_notice(connection: Connection, user: str = "@a:example.org") -> None:
    await connection.execute("INSERT INTO notice (user_id, last_ms) VALUES ($1, $2)", user, 1)


async def count_notices(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT COUNT(*) FROM notice"))


async def pragma(database: Database, name: str) -> object:
    async def read(connection: Connection) -> object:
        return await connection.fetchval(f"PRAGMA {name}")

    return await database.transaction(read)


async def test_sqlite_files_are_readable_by_their_owner_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The main file and both journal files hold keys; the umask of the process does not matter."""
    old = os.umask(0)
    try:
        async with await Database.open(f"sqlite:///{tmp_path}/bridge.db") as database:
            await database.transaction(insert_notice)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(old)
    assert modes == {"bridge.db": 0o600, "bridge.db-wal": 0o600, "bridge.db-shm": 0o600}
    assert caplog.text == "", "it never had another mode that was corrected afterwards"


async def test_sqlite_file_that_others_could_read_is_closed_to_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bridge.db"
    path.touch(mode=0o644)
    async with await Database.open(f"sqlite:///{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "readable by others" in caplog.text


async def test_sqlite_commits_survive_a_power_failure_by_its_settings(tmp_path: Path) -> None:
    async with await Database.open(f"sqlite:///{tmp_path}/bridge.db") as database:
        assert await pragma(database, "journal_mode") == "wal"
        assert await pragma(database, "synchronous") == 2
        assert await pragma(database, "foreign_keys") == 1


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


async def test_locked_database_is_asked_again_until_it_is_free(tmp_path: Path) -> None:
    path = tmp_path / "bridge.db"
    async with await Database.open(f"sqlite:///{path}") as database:
        other = sqlite3.connect(path, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            writing = asyncio.create_task(database.transaction(insert_notice))
            done, _ = await asyncio.wait([writing], timeout=0.7)
            assert not done
            other.execute("COMMIT")
            await writing
        finally:
            other.close()
        assert await database.transaction(count_notices) == 1


async def test_close_waits_for_a_transaction_that_waits_for_the_lock(tmp_path: Path) -> None:
    """Between two attempts it holds no connection, but it is not abandoned."""
    path = tmp_path / "bridge.db"
    database = await Database.open(f"sqlite:///{path}")
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(database.transaction(insert_notice))
        await asyncio.wait([writing], timeout=0.52)
        closing = asyncio.create_task(database.close())
        await asyncio.wait([closing], timeout=0.1)
        other.execute("COMMIT")
        await writing
        await closing
        assert other.execute("SELECT COUNT(*) FROM notice").fetchone() == (1,)
    finally:
        other.close()


async def test_locked_database_is_an_error_after_a_while_and_works_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "bridge.db"
    async with await Database.open(f"sqlite:///{path}", patience_s=0.1) as database:
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
    async with await Database.open(f"sqlite:///{tmp_path}/bridge.db", patience_s=0.1) as database:
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
    async with await Database.open(url, max_waiting=3) as database:
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


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("mysql://example.org/db", "must begin with sqlite: or postgres://"),
        ("bridge.db", "must begin with sqlite: or postgres://"),
        ("sqlite://bridge.db", "three slashes"),
        ("sqlite:", "three slashes"),
        ("sqlite::memory:", "three slashes"),
        ("sqlite:///tmp/x.db?mode=ro", "without \\? and #"),
        ("postgres://user:secret@[bad/db", "form of a URL"),
        ("sqlite:///nowhere/at/all/bridge.db", "No such file"),
    ],
)
async def test_database_url_that_cannot_be_used_is_explained(text: str, complaint: str) -> None:
    with pytest.raises(StorageError, match=complaint) as caught:
        await Database.open(text)
    assert "secret" not in str(caught.value)


async def test_file_that_is_no_database_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary, " * 1000)
    with pytest.raises(StorageError, match="not a database"):
        await Database.open(f"sqlite:///{path}")
    assert path.read_text().startswith("dear diary")


async def test_database_of_a_newer_version_is_refused(url: str) -> None:
    async with await Database.open(url) as database:

        async def age(connection: Connection) -> None:
            await connection.execute("UPDATE mxrtc_version SET version = 99")

        await database.transaction(age)
    with pytest.raises(StorageError, match="v99"):
        await Database.open(url)


async def test_database_of_another_program_is_refused(url: str) -> None:
    async with await Database.open(url) as database:

        async def rename(connection: Connection) -> None:
            await connection.execute("UPDATE database_owner SET owner = 'somebody'")

        await database.transaction(rename)
    with pytest.raises(StorageError, match="owned by somebody"):
        await Database.open(url)


async def test_postgres_that_is_away_is_explained(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(StorageError, match="cannot be opened"):
        await Database.open("postgres://user:secret@127.0.0.1:1/db")
    assert "secret" not in caplog.text


async def test_postgres_without_its_package_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "postgres_errors", lambda *names: ())
    with pytest.raises(StorageError, match=r"mxrtc-bridge\[postgres\]"):
        await Database.open("postgres://user:secret@127.0.0.1:1/db")


async def test_postgres_that_lets_nobody_in_is_away_and_works_afterwards(postgres_url: str) -> None:
    """Closed for maintenance, or with another password; the connections that there were are cut."""
    import asyncpg

    admin = await asyncpg.connect(postgres_url)
    name = "closed_to_all"
    try:
        await admin.execute(f"DROP DATABASE IF EXISTS {name}")
        await admin.execute(f"CREATE DATABASE {name}")
        async with await Database.open(f"{postgres_url.rpartition('/')[0]}/{name}", patience_s=0.2) as database:
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

    async with await Database.open(f"sqlite:///{tmp_path}/bridge.db", hangs_s=0.2) as database:
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

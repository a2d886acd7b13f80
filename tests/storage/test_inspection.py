"""A look at a database says what a bridge would find, and leaves no trace: on SQLite and PostgreSQL."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import AsyncExitStack, closing
from pathlib import Path

import asyncpg
import pytest

from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.inspection import look, read_only
from mxrtc_bridge.storage.virtual_users import VirtualUserStore

BUILD = UserId("@rtc_build:example.org")


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """All files of a folder, with their content and when they were written."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


async def test_a_database_that_is_not_there_is_new_and_not_made(url: str, tmp_path: Path) -> None:
    for _ in range(2):
        found = await look(url)
        assert (found.is_new, dict(found.own_users)) == (True, {})
    assert list(tmp_path.iterdir()) == []


async def test_what_is_there_is_seen_while_it_is_used_and_afterwards(url: str, tmp_path: Path) -> None:
    async with await Database.open(url) as database:
        await VirtualUserStore(database).remember(BUILD, "registered", 1)
        found = await look(url)
        assert (found.is_new, dict(found.own_users)) == (False, {BUILD: "registered"})
        await VirtualUserStore(database).remember(BUILD, "adopted", 2)
    before = state(tmp_path)
    assert dict((await look(url)).own_users) == {BUILD: "adopted"}
    assert state(tmp_path) == before


async def test_rows_are_read_while_it_is_used_and_afterwards_and_nothing_is_written(url: str, tmp_path: Path) -> None:
    statement, value = "SELECT how FROM own_user WHERE user_id = $1 AND since_ms < $2", (BUILD, 10)
    async with read_only(url) as nothing:
        assert nothing is None, "it is not there yet"
    async with await Database.open(url) as database, AsyncExitStack() as stack:
        await VirtualUserStore(database).remember(BUILD, "registered", 1)
        reader = await stack.enter_async_context(read_only(url))
        assert reader is not None
        assert [row["how"] for row in await reader.rows(statement, value)] == ["registered"]
        await VirtualUserStore(database).remember(BUILD, "adopted", 2)
        assert (await reader.row(statement, value))["how"] == "adopted"
        with pytest.raises(StorageError, match=r"read.?only"):
            await reader.rows("DELETE FROM own_user")
    before = state(tmp_path)
    async with read_only(url) as reader:
        assert reader is not None
        assert await reader.row(statement, ("@nobody:example.org", 10)) is None
    assert state(tmp_path) == before


async def test_a_journal_that_a_kill_has_left_is_read_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "bridge.db"
    killed = f"""
import os, sqlite3
connection = sqlite3.connect({str(path)!r}, isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("CREATE TABLE own_user (user_id TEXT PRIMARY KEY, how TEXT NOT NULL)")
connection.execute("CREATE TABLE mxrtc_version (version INTEGER PRIMARY KEY)")
connection.execute("INSERT INTO mxrtc_version VALUES (1)")
connection.execute("INSERT INTO own_user VALUES ('{BUILD}', 'registered')")
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -9
    before = state(tmp_path)
    assert {"bridge.db-wal", "bridge.db-shm"} < set(before)
    assert dict((await look(f"sqlite://{path}")).own_users) == {BUILD: "registered"}
    assert state(tmp_path) == before


async def change(url: str, *statements: str) -> None:
    """Run statements past the bridge."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)
        return
    server = await asyncpg.connect(url)
    try:
        for statement in statements:
            await server.execute(statement)
    finally:
        await server.close()


async def test_an_earlier_version_is_read_as_it_is(url: str) -> None:
    await (await Database.open(url)).close()
    await change(url, "DROP TABLE own_user", "UPDATE mxrtc_version SET version = 9")
    await change(url, f"INSERT INTO certificate (user_id, pem) VALUES ('{BUILD}', '')")
    assert dict((await look(url)).own_users) == {BUILD: "before"}
    await change(url, "INSERT INTO audit (number, digest, at_ms, line) VALUES (1, '', 0, '')")
    assert dict((await look(url)).own_users) == {BUILD: "before", "*": "before"}
    with pytest.raises((sqlite3.Error, asyncpg.PostgresError)):
        await change(url, "SELECT 1 FROM own_user")  # no upgrade was made


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("UPDATE mxrtc_version SET version = 10000", "newer version of mxrtc-bridge"),
        ("UPDATE database_owner SET owner = 'mautrix-telegram'", "belongs to 'mautrix-telegram'"),
        ("CREATE TABLE state_groups_state (x INTEGER)", "belongs to a homeserver"),
    ],
)
async def test_what_no_bridge_would_take_is_refused(url: str, statement: str, why: str) -> None:
    async with await Database.open(url) as database:
        await database.write(statement)
    with pytest.raises(StorageError, match=why):
        await look(url)
    with pytest.raises(StorageError):
        await (await Database.open(url)).close()


async def test_files_that_are_no_database_are_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to be looked at as one\n" * 40)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name, why in (
        ("text", "file is not a database"),
        ("folder", "no regular file"),
        ("fifo", "no regular file"),
        ("none/file", "the folder of the database"),
        ("text/file", "Not a directory"),
    ):
        with pytest.raises(StorageError, match=why):
            await look(f"sqlite://{tmp_path / name}")
    (tmp_path / "empty").touch()
    assert (await look(f"sqlite://{tmp_path / 'empty'}")).is_new


async def test_a_server_that_is_away_is_said_without_its_password() -> None:
    with pytest.raises(StorageError, match="cannot be opened") as caught:
        await look("postgres://u:secret@127.0.0.1:1/name")
    assert "secret" not in str(caught.value)


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "bridge.db").write_bytes(b"no database " * 100)
    with pytest.raises(StorageError, match=r"bridge\.db' cannot be used"):
        await look(f"sqlite:{tmp_path / 'bridge.db'}")


async def test_a_server_without_the_package_for_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(StorageError, match=r"needs the extra `postgres`; install it with: .*mxrtc-bridge\[postgres\]"):
        await look("postgres://user@127.0.0.1:1/name")

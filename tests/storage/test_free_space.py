"""The file of the database gets smaller: also one that an earlier version has made, and in small steps."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mautrix.util.async_db import Connection

from mxrtc_bridge.core.inbox import ArrivedEvent
from mxrtc_bridge.storage.calls import CallStore
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.events import InboxStore
from mxrtc_bridge.storage.free_space import STEP_PAGES, reorganise, shrink
from mxrtc_bridge.storage.tables import open_stores

MIB = 1 << 20


async def fill(database: Database) -> None:
    """Write 12 MiB, and forget them."""

    async def write(connection: Connection) -> None:
        rows = [(f"@{number}{'x' * 4000}:example.org", 1) for number in range(3000)]
        await connection.executemany("INSERT INTO notice (user_id, last_ms) VALUES ($1, $2)", rows)

    await database.transaction(write)
    await database.transaction(lambda connection: connection.execute("DELETE FROM notice"))


async def test_a_file_gets_smaller_by_what_was_forgotten_step_by_step(tmp_path: Path) -> None:
    path = tmp_path / "bridge.db"
    async with await Database.open(f"sqlite:///{path}") as database:
        await fill(database)
        full = await database.command("PRAGMA page_count")
        assert await shrink(database, step_pages=100, steps=3) == 300
        assert await database.command("PRAGMA page_count") == full - 300
        assert await shrink(database) > 1000
        assert await database.command("PRAGMA freelist_count") <= STEP_PAGES
        assert await shrink(database) == 0, "some room is kept for what comes"
    assert path.stat().st_size < 4 * MIB


async def test_a_file_of_an_earlier_version_is_written_anew_once(tmp_path: Path) -> None:
    path = tmp_path / "bridge.db"
    async with await Database.open(f"sqlite:///{path}") as database:
        await fill(database)
    plain = sqlite3.connect(path, isolation_level=None)
    plain.executescript("PRAGMA auto_vacuum = NONE; VACUUM")
    assert plain.execute("PRAGMA auto_vacuum").fetchone() == (0,)
    plain.close()
    async with await Database.open(f"sqlite:///{path}") as database:
        await fill(database)
        assert await shrink(database) == 0
    assert path.stat().st_size > 8 * MIB
    async with open_stores(f"sqlite:///{path}"):
        pass
    assert path.stat().st_size > 8 * MIB, "a look at it changes nothing"
    async with open_stores(f"sqlite:///{path}", sole=True):
        pass
    assert path.stat().st_size < 4 * MIB
    async with await Database.open(f"sqlite:///{path}") as database:
        assert await database.command("PRAGMA auto_vacuum") == 2
        await reorganise(database)


async def test_a_file_that_another_program_uses_is_written_anew_at_a_later_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bridge.db"
    async with await Database.open(f"sqlite:///{path}"):
        pass
    other = sqlite3.connect(path, isolation_level=None)
    other.executescript("PRAGMA auto_vacuum = NONE; VACUUM; BEGIN IMMEDIATE")
    async with open_stores(f"sqlite:///{path}", sole=True):
        assert "stays as large as it is, and that is tried again at the next start" in caplog.text
    other.execute("ROLLBACK")
    async with open_stores(f"sqlite:///{path}", sole=True):
        assert other.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    other.close()


async def test_the_server_sees_to_it_itself(database: Database) -> None:
    if database.sqlite_file is None:
        assert await shrink(database) == 0
        await reorganise(database)


async def test_what_is_too_old_or_too_much_is_found_by_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A walk over all rows would keep those waiting who want to write."""
    statements: list[str] = []
    write = Database.write

    async def noted(self: Database, statement: str, values: Sequence[object] = ()) -> list[Any]:
        statements.append(statement)
        return await write(self, statement, values)

    async with (
        open_stores(f"sqlite:///{tmp_path}/bridge.db") as stores,
        await Database.open(f"sqlite:///{tmp_path}/bridge.db") as database,
    ):
        monkeypatch.setattr(Database, "write", noted)
        await InboxStore(database, max_done=0, max_set_aside=0).prune(1)
        await CallStore(database, max_ended=0).prune(1)
        await InboxStore(database).store([ArrivedEvent("$1", "!r:x", "{}", refusal="bad")], 1)
        assert await InboxStore(database, max_set_aside=0).prune(2) == 1
        await stores.prune(1)
        plans = {
            each: await database.rows(f"EXPLAIN QUERY PLAN {each}", (0,) * len(set(re.findall(r"\$\d", each))))
            for each in statements
        }
    events = {each: plan for each, plan in plans.items() if "DELETE FROM event" in each}
    deleting = {each: [row["detail"] for row in plan] for each, plan in events.items()}
    assert len(deleting) >= 2
    for statement, plan in deleting.items():
        assert any("USING" in line and "INDEX event_" in line for line in plan), (statement, plan)
        assert not any(line.startswith("SCAN event") and "INDEX" not in line for line in plan), (statement, plan)

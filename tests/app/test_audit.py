"""The writer of the audit: nothing counts before it is on the disk, and nothing that has happened is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from mxrtc_bridge.app import audit as module
from mxrtc_bridge.app.audit import Audit
from mxrtc_bridge.config.settings import AuditSettings
from mxrtc_bridge.core.audit import AuditKind, AuditRecord, ChainError, Entry, check_head, read_chain
from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.storage import audit_file
from mxrtc_bridge.storage.audit import AuditQuery, AuditStore
from mxrtc_bridge.storage.audit_file import AuditFile, read_lines
from mxrtc_bridge.storage.database import Database

NOW = 1_700_000_000_000
CALL = AuditRecord(AuditKind.CALL, NOW, user="@alice:example.org", allowed=True)
END = AuditRecord(AuditKind.END, NOW, user="@alice:example.org")


class World:
    """One audit and what is around it; may be started again as after a crash."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.path = folder / "audit.jsonl"
        self.store = AuditStore(database)
        self.told: list[str] = []
        self.mirrored: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> Audit:
        audit = Audit(
            self.store,
            AuditSettings(self.path, 1 << 20, 3),
            wall_ms=lambda: NOW,
            tell_admins=self.told.append,
            mirror=lambda number, _record: self.mirrored.append(number),
        )
        await audit.start()
        self.tasks.append(asyncio.create_task(audit.run()))
        return audit

    async def verify(self) -> list[str]:
        """Check file and database against each other; returns the kinds, the oldest first."""
        found = list(read_chain(read_lines(self.path)))
        check_head(found, await self.store.head())
        return [entry.record.kind.value for entry in found]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with await Database.open(f"sqlite:///{tmp_path / 'audit.db'}") as database:
        made = World(tmp_path, database)
        yield made
        for task in made.tasks:
            task.cancel()
        await asyncio.gather(*made.tasks, return_exceptions=True)


async def until(condition: object) -> None:
    async with asyncio.timeout(10):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


async def test_a_decision_is_in_both_places_when_it_counts(world: World) -> None:
    audit = await world.start()
    assert await audit.record(CALL)
    assert await world.verify() == ["start", "call"]
    rows, total = await audit.page(AuditQuery(), 1, 10)
    assert (next(record for _, record in rows), total) == (CALL, 2)
    await audit.close()
    assert await world.verify() == ["start", "call", "stop"]
    assert world.mirrored == [1, 2, 3]


async def test_many_at_once_share_their_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = await world.start()
    written: list[int] = []
    plain = AuditFile.append
    monkeypatch.setattr(
        AuditFile, "append", lambda self, lines, head: (written.append(len(lines)), plain(self, lines, head))[1]
    )
    assert all(await asyncio.gather(*(audit.record(CALL) for _ in range(200))))
    assert sum(written) == 200
    assert len(written) <= 3
    assert len(await world.verify()) == 201


class Failing:
    """A disk that can be full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, what: type, method: str) -> None:
        self.on = True
        plain = getattr(what, method)
        failing = self

        if what is AuditFile:

            def append(self: AuditFile, *args: object) -> object:
                if failing.on:
                    raise StorageError("the audit file cannot be written: No space left on device")
                return plain(self, *args)

            monkeypatch.setattr(what, method, append)
        else:

            async def add(self: AuditStore, rows: list[Entry]) -> None:
                if failing.on:
                    raise StorageError("the database is full")
                await plain(self, rows)

            monkeypatch.setattr(what, method, add)


@pytest.mark.parametrize(("what", "method"), [(AuditFile, "append"), (AuditStore, "add")])
async def test_a_full_disk_lets_nobody_in_loses_no_end_and_the_admins_are_told_once(
    world: World, monkeypatch: pytest.MonkeyPatch, what: type, method: str
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.02)
    audit = await world.start()
    disk = Failing(monkeypatch, what, method)
    assert not await audit.record(CALL)
    assert audit.failing
    for _ in range(3):
        audit.note(END)
        assert not await audit.record(CALL)
    assert len(world.told) == 1
    assert "No new sessions are taken; live ones go on." in world.told[0]
    disk.on = False
    # By itself, without anybody who asks.
    await until(lambda: not audit.failing)
    assert await world.verify() == ["start", "call", "end", "call", "end", "call", "end", "call"]
    rows, _ = await audit.page(AuditQuery(), 1, 1)
    assert (rows[0][1].allowed, rows[0][1].rule) == (False, module.UNWRITABLE)
    assert "written again" in world.told[1]
    assert await audit.record(CALL)
    assert len(world.told) == 2


async def test_a_backlog_is_bounded_and_says_what_it_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.02)
    monkeypatch.setattr(module, "MAX_BACKLOG", 3)
    audit = await world.start()
    disk = Failing(monkeypatch, AuditFile, "append")
    for number in range(5):
        audit.note(replace(END, session=number))
    await until(lambda: audit.failing)
    disk.on = False
    await until(lambda: not audit.failing)
    rows, _ = await audit.page(AuditQuery(), 1, 10)
    assert [record.session for _, record in rows] == [4, 3, 2, None, None]
    assert "2 records before this one are lost" in (rows[3][1].reason or "")


async def test_too_many_decisions_at_once_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    audit = await world.start()
    answers = await asyncio.gather(*(audit.record(CALL) for _ in range(4)))
    assert answers == [True, True, False, False]


async def test_what_a_crash_kept_from_the_database_is_put_there_at_the_start(world: World) -> None:
    audit = await world.start()
    await audit.record(CALL)
    await audit.close()
    # Written to the file, but the database did not get to know it.
    last = list(read_chain(read_lines(world.path)))[-1]
    file = AuditFile(world.path, 1 << 20, 3)
    entry = module.entry_after(last.head, END)
    file.append([entry.line], entry.head)
    file.close()
    with world.path.open("a") as raw:
        raw.write('{"allowed":tr')
    await (await world.start()).close()
    assert await world.verify() == ["start", "call", "stop", "end", "start", "stop"]
    assert world.told == []


async def test_a_file_that_has_lost_lines_is_a_gap_that_is_told_and_shown(world: World) -> None:
    audit = await world.start()
    await audit.record(CALL)
    await audit.close()
    lines = world.path.read_text().splitlines(keepends=True)
    world.path.write_text("".join(lines[:-1]))
    await (await world.start()).close()
    assert "the file ended with line 2, the database with 3" in world.told[0]
    with pytest.raises(ChainError, match="line 3: its number is 4, behind 2"):
        await world.verify()


async def test_a_lost_database_does_not_break_the_chain_of_the_file(world: World, tmp_path: Path) -> None:
    audit = await world.start()
    await audit.record(CALL)
    await audit.close()
    async with await Database.open(f"sqlite:///{tmp_path / 'new.db'}") as database:
        world.store = AuditStore(database)
        await (await world.start()).close()
        assert await world.verify() == ["start", "call", "stop", "start", "stop"]


async def test_where_the_database_was_lost_a_long_file_is_believed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = await world.start()
    for _ in range(10):
        await audit.record(CALL)
    await audit.close()
    monkeypatch.setattr(audit_file, "TAIL_LINES", 3)
    async with await Database.open(f"sqlite:///{tmp_path / 'new.db'}") as database:
        world.store = AuditStore(database)
        await (await world.start()).close()
        assert (await world.verify())[-4:] == ["call", "stop", "start", "stop"]
        rows, total = await world.store.page(AuditQuery(), 1, 1)
        assert (total, "the database began empty" in (rows[0][1].reason or "")) == (5, True)


async def test_a_file_that_cannot_be_written_is_no_start(world: World) -> None:
    world.path.mkdir()
    with pytest.raises(StorageError, match="cannot be used"):
        await world.start()


async def test_who_gives_up_waiting_breaks_nothing(world: World) -> None:
    audit = await world.start()
    waiting = [asyncio.create_task(audit.record(CALL)) for _ in range(5)]
    await asyncio.sleep(0)
    for task in waiting[1:3]:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await audit.record(CALL)
    kinds = await world.verify()
    assert kinds[0] == "start"
    assert 4 <= len(kinds) <= 7

"""The writer of the audit: nothing counts before it is on the disk, and nothing that has happened is lost."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from dataclasses import replace

import pytest

from mxrtc_bridge.bridge.audit import writer as module
from mxrtc_bridge.bridge.audit.writer import UNWRITABLE, AuditLog
from mxrtc_bridge.config.config import AuditSettings
from mxrtc_bridge.core.audit.chain import (
    AuditEntry,
    AuditKind,
    AuditRecord,
    Head,
    read_chain,
)
from mxrtc_bridge.core.audit.shares import AuditShares
from mxrtc_bridge.core.errors import StorageError, UnknownOutcomeError
from mxrtc_bridge.storage.audit import AuditQuery, AuditStore
from mxrtc_bridge.storage.audit_file import AuditFile, read_lines
from tests.bridge.audit.world import CALL, END, NOW, World, world
from tests.long import some
from tests.waiting import turns, until

__all__ = ["world"]


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

            async def add(self: AuditStore, rows: list[AuditEntry]) -> None:
                if failing.on:
                    raise StorageError("the database is full")
                await plain(self, rows)

            monkeypatch.setattr(what, method, add)


@pytest.mark.parametrize(("what", "method"), [(AuditFile, "append"), (AuditStore, "add")])
async def test_a_full_disk_lets_nobody_in_loses_no_end_and_the_admins_are_told_once(
    world: World, monkeypatch: pytest.MonkeyPatch, what: type, method: str
) -> None:
    audit = await world.start(retry_s=0.02)
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
    audit = await world.start(retry_s=0.02, max_backlog=3)
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
    audit = await world.start(max_waiting=2)
    answers = await asyncio.gather(*(audit.record(CALL) for _ in range(4)))
    assert answers == [True, True, False, False]


async def test_a_contradiction_takes_no_sessions_and_is_told_with_its_number(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = await world.start(retry_s=0.02)
    other = module.entry_after(await world.store.head(), replace(CALL, user="@mallory:x"))
    await world.store.add([other])
    assert not await audit.record(CALL)
    assert not await audit.record(CALL)
    assert not await audit.ready()
    assert len(world.told) == 1
    assert "different lines with the number 2" in world.told[0]
    assert [entry.record.kind.value for entry in read_chain(read_lines(world.path))] == ["start"]


async def test_a_row_that_was_stored_although_that_was_not_confirmed_is_not_in_the_way(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to a COMMIT is lost for longer than the database is asked: the row is there, and nobody knows."""
    audit = await world.start(retry_s=0.02)
    plain, lost = AuditStore.add, True

    async def add(self: AuditStore, rows: list[AuditEntry]) -> None:
        await plain(self, rows)
        if lost:
            raise StorageError("the connection was lost")

    monkeypatch.setattr(AuditStore, "add", add)
    assert not await audit.record(CALL)
    lost = False
    await until(lambda: not audit.failing)
    assert await audit.record(replace(CALL, user="@bob:x"))
    assert await world.verify() == ["start", "call", "call"]
    rows, _ = await audit.page(AuditQuery(), 1, 10)
    assert [(n, record.user, record.allowed) for n, record in rows[:2]] == [
        (3, "@bob:x", True),
        (2, CALL.user, False),
    ]
    await audit.close()
    world.told.clear()
    await (await world.start()).close()
    assert world.told == []


class Unsure:
    """A database of which nobody knows for a while whether it has stored lines."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, stores: bool) -> None:
        self.on = True
        plain, unsure = AuditStore.add, self

        async def add(self: AuditStore, rows: list[AuditEntry]) -> None:
            if stores or not unsure.on:
                await plain(self, rows)
            if unsure.on:
                raise UnknownOutcomeError("the network is gone")

        monkeypatch.setattr(AuditStore, "add", add)


@pytest.mark.parametrize("stores", [True, False])
async def test_lines_of_an_unknown_outcome_stay_and_what_was_told_about_them_follows(
    world: World, monkeypatch: pytest.MonkeyPatch, *, stores: bool
) -> None:
    audit = await world.start(retry_s=0.02)
    database = Unsure(monkeypatch, stores=stores)
    asked = asyncio.create_task(audit.record(CALL))
    audit.note(END)
    assert not await asked
    for _ in range(3):
        assert not await audit.record(CALL)
    assert not await audit.ready()
    assert [entry.record.kind.value for entry in read_chain(read_lines(world.path))] == ["start", "end", "call"]
    database.on = False
    await until(lambda: not audit.failing)
    assert await world.verify() == ["start", "end", "call", *["call"] * 4]
    rows, _ = await audit.page(AuditQuery(), 1, 10)
    assert [record.allowed for _, record in rows] == [*[False] * 4, True, None, None]
    assert world.mirrored == [1, 2, 3, 4, 5, 6, 7]
    await audit.close()
    assert len(world.told) == 2
    assert await world.verify() == ["start", "end", "call", *["call"] * 4, "stop"]


@pytest.mark.parametrize("stores", [True, False])
@pytest.mark.parametrize("ending", ["killed", "stopped"])
async def test_an_end_after_an_unknown_outcome_leaves_one_truth_in_both_places(
    world: World, monkeypatch: pytest.MonkeyPatch, ending: str, *, stores: bool
) -> None:
    audit = await world.start()
    database = Unsure(monkeypatch, stores=stores)
    audit.note(END)
    assert not await audit.record(CALL)
    told = len(world.told)
    if ending == "stopped":
        await audit.close()
    else:
        for task in world.tasks:
            task.cancel()
        await asyncio.gather(*world.tasks, return_exceptions=True)
    database.on = False
    await (await world.start()).close()
    assert await world.verify() == ["start", "end", "call", "start", "stop"]
    assert len(world.told) == told, "that is no gap"


@pytest.mark.parametrize("turns", some(range(40), 10))
@pytest.mark.parametrize("times", [1, 2])
async def test_a_stop_at_any_moment_of_a_write_neither_repeats_nor_denies(
    world: World, monkeypatch: pytest.MonkeyPatch, turns: int, times: int
) -> None:
    audit = AuditLog(
        world.store,
        AuditSettings(world.path, 1 << 20, 3),
        wall_ms=lambda: NOW,
        tell_admins=world.told.append,
        mirror=lambda number, _record: world.mirrored.append(number),
    )
    await audit.start()
    audit.note(replace(END, session=7))
    asked = [asyncio.create_task(audit.record(replace(CALL, session=8 + n))) for n in range(3)]
    await asyncio.sleep(0)
    run = asyncio.create_task(audit.run())
    for _ in range(turns):
        await asyncio.sleep(0)
    for _ in range(times):
        run.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(run, return_exceptions=True)
    assert run.cancelled()
    await audit.close()
    told = await asyncio.gather(*asked)
    rows, _ = await world.store.page(AuditQuery(), 0, 100)
    assert [record.session for _, record in rows if record.kind is AuditKind.END] == [7]
    calls = sorted((record.session, record.allowed) for _, record in rows if record.kind is AuditKind.CALL)
    assert calls == [(8 + n, answer) for n, answer in enumerate(told)]
    assert len(await world.verify()) == len(rows) == len(world.mirrored)
    assert world.told == []


async def test_a_stop_while_the_disk_is_slow_says_what_became_of_each(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = await world.start()
    plain = AuditFile.append
    begun, over = threading.Event(), threading.Event()

    def append_slowly(self: AuditFile, lines: list[str], last: Head) -> int:
        begun.set()
        over.wait(30)
        return plain(self, lines, last)

    monkeypatch.setattr(AuditFile, "append", append_slowly)
    audit.note(replace(END, session=7))
    asked = asyncio.create_task(audit.record(CALL))
    await asyncio.to_thread(begun.wait)
    world.tasks[0].cancel()
    await turns()
    over.set()
    await asyncio.gather(*world.tasks, return_exceptions=True)
    assert await asked
    await audit.close()
    assert await world.verify() == ["start", "end", "call", "stop"]


async def test_what_a_stop_cannot_write_is_said_to_be_lost(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    audit = await world.start()
    world.tasks[0].cancel()
    await asyncio.gather(*world.tasks, return_exceptions=True)
    Failing(monkeypatch, AuditFile, "append")
    asked = asyncio.create_task(audit.record(CALL))
    await asyncio.sleep(0)
    audit.note(END)
    await audit.close()
    assert not await asked
    # The end, the refusal of the call, and the stop.
    assert "3 records of the audit are lost" in caplog.text
    audit.note(END)
    assert "a record of the audit is lost, as it came after the end" in caplog.text
    assert not await audit.record(CALL)


async def test_a_caller_orders_no_more_lines_than_its_share_and_what_is_beyond_is_said(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = await world.start(shares=AuditShares(per_user=5))
    use = AuditRecord(AuditKind.SERVICE, NOW, user="@alice:example.org", service="ssh", allowed=True, rule="g")
    assert all([await audit.record(use) for _ in range(50)])
    assert await audit.record(CALL)
    audit.note(AuditRecord(AuditKind.PAUSE, NOW, by="@admin:x"))
    await audit.close()
    assert await world.verify() == ["start", *["service"] * 5, "call", "pause", "service", "stop"]
    rows, _ = await world.store.page(AuditQuery(user="@alice:example.org"), 0, 1)
    assert (rows[0][1].count, rows[0][1].reason) == (45, "and 45 more uses by @alice:example.org")


async def test_a_use_beyond_the_share_is_refused_too_where_nothing_can_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = await world.start(retry_s=0.02, ready_for_s=0.0)
    assert await audit.ready()
    full = True

    def check(self: AuditFile) -> None:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(AuditFile, "_check_room", check)
    assert not await audit.ready()
    assert "No space left on device. No new sessions are taken" in world.told[0]
    assert not await audit.record(CALL)
    full = False
    await until(lambda: not audit.failing)
    assert await audit.ready()
    assert "written again" in world.told[1]


async def test_what_the_database_has_forgotten_is_said(world: World) -> None:
    audit = await world.start()
    for _ in range(9):
        await audit.record(CALL)
    assert await audit.left_out() == 0
    await AuditStore(world.database, max_rows=4).prune(NOW)
    assert await audit.left_out() == 5


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


def leave(world: World, how: str) -> None:
    """Do what another program does that rotates or tidies up."""
    aside = world.path.with_name("aside")
    match how:
        case "moved":
            world.path.rename(aside)
        case "moved, and made anew":
            world.path.rename(aside)
            world.path.touch(0o600)
        case "removed":
            world.path.unlink()
        case "copied, and emptied":
            os.truncate(world.path, 0)


@pytest.mark.parametrize("how", ["moved", "moved, and made anew", "removed", "copied, and emptied"])
async def test_lines_go_to_where_the_file_has_its_name_whatever_another_program_does(world: World, how: str) -> None:
    audit = await world.start()
    assert await audit.record(CALL)
    leave(world, how)
    assert await audit.record(CALL)
    assert await audit.record(END)
    assert await world.verify() == ["call", "end"]
    (told,) = world.told
    assert "while the bridge ran" in told
    await audit.close()
    await (await world.start()).close()


async def test_what_another_program_adds_while_the_bridge_runs_spoils_no_line(world: World) -> None:
    audit = await world.start()
    with world.path.open("ab") as file:
        file.write(b"no line, and without its end")
    assert await audit.record(CALL)
    assert await world.verify() == ["start", "call"]
    assert "28 bytes" in world.told[0]
    assert world.path.with_name("audit-refused.jsonl").read_bytes() == b"no line, and without its end"
    await audit.close()


HANGING = "its disk, or the database, has not answered for 0.2 seconds"
NO_NEW = "No new sessions are taken; live ones go on."


async def test_another_file_in_the_place_of_the_audit_is_not_written_to(world: World) -> None:
    audit = await world.start()
    world.path.rename(world.path.with_name("aside"))
    world.path.write_bytes(b"of somebody\n")
    assert not await audit.record(CALL)
    assert "another file stands in its place" in world.told[0]
    assert world.path.read_bytes() == b"of somebody\n"
    world.path.with_name("aside").replace(world.path)
    assert await audit.record(CALL)
    await audit.close()


async def test_a_disk_that_hangs_holds_up_neither_the_end_of_the_writer_nor_the_stop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = await world.start(close_s=0.3)
    begun, over, sync = threading.Event(), threading.Event(), os.fdatasync

    def hangs(descriptor: int) -> None:
        begun.set()
        over.wait(30)
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", hangs)
    deciding = asyncio.create_task(audit.record(CALL))
    await until(begun.is_set)
    (running,) = world.tasks
    running.cancel()
    async with asyncio.timeout(2):
        await asyncio.wait([running])
        await audit.close()
    # Whoever waits is told when it is known: the line is being written.
    assert not deciding.done()
    over.set()
    assert await deciding


async def test_whoever_waits_for_a_disk_that_hangs_is_refused_soon_and_the_audit_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = await world.start(hangs_s=0.2, retry_s=0.05)
    over, sync = threading.Event(), os.fdatasync

    def hangs(descriptor: int) -> None:
        over.wait(30)
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", hangs)
    async with asyncio.timeout(3):
        assert not await audit.record(CALL)
        assert (audit.failing, world.told) == (True, [f"The audit cannot be written: {HANGING}. {NO_NEW}"])
        # Whoever comes now waits for nothing.
        assert not await audit.record(CALL)
        assert not await audit.ready()
    over.set()
    await until(lambda: not audit.failing)
    assert await audit.record(CALL)
    entries = list(read_chain(read_lines(world.path)))
    assert [(entry.record.kind.value, entry.record.allowed) for entry in entries] == [
        ("start", None), ("call", True), ("call", False), ("call", False), ("call", True),
    ]  # fmt: skip
    assert entries[2].record.rule == UNWRITABLE
    await audit.close()


async def test_a_disk_that_hangs_while_nothing_is_written_is_found_by_whoever_asks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = await world.start(hangs_s=0.2, ready_for_s=0.0)
    over = threading.Event()
    monkeypatch.setattr(AuditFile, "check_room", lambda _file: over.wait(30))
    async with asyncio.timeout(3):
        assert not await audit.ready()
    assert HANGING in world.told[0]
    over.set()
    await until(lambda: not audit.failing)
    await audit.close()


async def test_no_decision_waits_while_old_files_are_removed_and_a_stop_only_a_moment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.max_bytes = 3000
    audit = await world.start(hangs_s=1.0, close_s=2.0)
    begun, over, remove = threading.Event(), threading.Event(), AuditFile.remove_until

    def removes(file: AuditFile, number: int) -> None:
        begun.set()
        over.wait(30)
        remove(file, number)

    monkeypatch.setattr(AuditFile, "remove_until", removes)
    async with asyncio.timeout(10):
        while not begun.is_set():
            assert await audit.record(CALL)
        assert all([await audit.record(CALL) for _ in range(50)])
        await audit.close()
    assert world.told == []
    many = len(list(world.path.parent.glob("audit*.jsonl")))
    over.set()
    await until(lambda: len(list(world.path.parent.glob("audit*.jsonl"))) < many)


async def test_start_whose_file_hangs_on_opening_says_for_what_it_waits(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers, plain = threading.Event(), AuditFile.__init__

    def opens(*args: object, **options: object) -> None:
        assert answers.wait(20)
        plain(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(AuditFile, "__init__", opens)
    starting = asyncio.create_task(world.start(hangs_s=0.05))
    await until(lambda: "the start waits for the audit" in caplog.text)
    answers.set()
    await starting

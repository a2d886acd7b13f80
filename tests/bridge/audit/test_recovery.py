"""What the audit finds at a start: nothing is believed that is not proved, and nothing genuine is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mxrtc_bridge.bridge.audit import writer as module
from mxrtc_bridge.bridge.audit.writer import AuditLog
from mxrtc_bridge.config.config import AuditSettings
from mxrtc_bridge.core.audit.chain import (
    NO_LINES,
    AuditKind,
    AuditRecord,
    ChainError,
    Head,
    Removals,
    is_authentic,
    read_chain,
    read_line,
)
from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.storage.audit import AuditContradictionError, AuditQuery, AuditStore
from mxrtc_bridge.storage.audit_file import full_files, read_acts, read_lines, refused_file
from mxrtc_bridge.storage.database import Database
from tests.bridge.audit.world import CALL, END, NOW, World, world

__all__ = ["world"]


async def crash(audit: AuditLog, world: World) -> None:
    """End a run without a stop, as a kill does."""
    for task in world.tasks:
        task.cancel()
    await asyncio.gather(*world.tasks, return_exceptions=True)
    assert audit._file is not None
    audit._file.close()


def append(world: World, *lines: str) -> None:
    with world.path.open("a") as raw:
        raw.writelines(f"{line}\n" for line in lines)


async def key_of(world: World) -> bytes:
    key = await world.store.key()
    assert key is not None
    return key.secret


async def reasons(world: World) -> list[str | None]:
    """What the starts say, the oldest first."""
    rows, _ = await world.store.page(AuditQuery(), 0, 1000)
    return [record.reason for _, record in reversed(rows) if record.kind is AuditKind.START]


async def test_what_a_crash_kept_from_the_database_is_put_there_at_the_start_and_named(world: World) -> None:
    audit = await world.start()
    await audit.record(CALL)
    await crash(audit, world)
    # Written to the file, but the database did not get to know it; the last line not even that.
    entry = module.entry_after(audit.head, END, await key_of(world))
    append(world, entry.line)
    with world.path.open("a") as raw:
        raw.write('{"allowed":tr')
    await (await world.start()).close()
    assert await world.verify() == ["start", "call", "end", "start", "stop"]
    assert await reasons(world) == [None, "lines 3 to 3 come from the file, after a crash"]
    assert world.told == []


def forged(head: Head, record: AuditRecord, _key: bytes) -> list[str]:
    return [module.entry_after(head, record).line]


def with_another_key(head: Head, record: AuditRecord, _key: bytes) -> list[str]:
    return [module.entry_after(head, record, b"x" * 32).line]


def with_a_copied_mac(head: Head, record: AuditRecord, key: bytes) -> list[str]:
    mac = module.entry_after(head, END, key).line[-74:]
    return [module.entry_after(head, record, b"x" * 32).line[:-74] + mac]


def far_ahead(head: Head, record: AuditRecord, key: bytes) -> list[str]:
    return [module.entry_after(Head(head.number + 5, head.digest), record, key).line]


def nonsense(_head: Head, _record: AuditRecord, _key: bytes) -> list[str]:
    return ["nonsense", "x" * 40_000, ""]


def of_an_old_number(_head: Head, record: AuditRecord, key: bytes) -> list[str]:
    return [module.entry_after(NO_LINES, record, key).line]


GRANT = AuditRecord(AuditKind.GRANT, NOW, user="@mallory:x", peer="@rtc_a:x", service="ssh", grant=9, until_ms=NOW)


@pytest.mark.parametrize("crashed", [False, True])
@pytest.mark.parametrize("forge", [forged, with_another_key, with_a_copied_mac, far_ahead, nonsense, of_an_old_number])
async def test_lines_added_while_the_bridge_is_down_are_set_aside_and_told_and_never_shown(
    world: World, forge: Callable[[Head, AuditRecord, bytes], list[str]], *, crashed: bool
) -> None:
    audit = await world.start()
    await audit.record(CALL)
    await (crash(audit, world) if crashed else audit.close())
    before = await world.verify()
    lines = forge(audit.head, GRANT, await key_of(world))
    append(world, *lines)
    await (await world.start()).close()
    assert await world.verify() == [*before, "start", "stop"]
    rows, _ = await world.store.page(AuditQuery(user="@mallory:x"), 0, 10)
    assert rows == []
    reason = (await reasons(world))[-1]
    assert "were not written by this bridge" in (reason or "")
    assert len(world.told) == 1
    assert refused_file(world.path).read_text() == "".join(f"{line}\n" for line in lines)


async def test_a_forged_line_behind_those_of_a_crash_takes_nothing_from_them(world: World) -> None:
    audit = await world.start()
    await crash(audit, world)
    genuine = module.entry_after(audit.head, END, await key_of(world))
    append(world, genuine.line, *forged(genuine.head, GRANT, b""))
    await (await world.start()).close()
    assert await world.verify() == ["start", "end", "start", "stop"]
    assert "lines with the numbers: 3" in ((await reasons(world))[-1] or "")


@pytest.mark.parametrize("stopped", [True, False])
async def test_genuine_lines_that_no_crash_can_have_left_end_the_start(world: World, *, stopped: bool) -> None:
    audit = await world.start()
    await (audit.close() if stopped else crash(audit, world))
    entries = [module.entry_after(audit.head, END, await key_of(world))]
    for _ in range(0 if stopped else module.MOST_TOGETHER):
        entries.append(module.entry_after(entries[-1].head, END, await key_of(world)))
    append(world, *(entry.line for entry in entries))
    before = world.path.read_bytes()
    with pytest.raises(AuditContradictionError, match="the database is older than the file, or they were played in"):
        await world.start()
    assert world.path.read_bytes() == before


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_line_changed_while_the_bridge_is_down_ends_the_start_with_its_number(
    world: World, number: int
) -> None:
    audit = await world.start()
    await audit.record(CALL)
    await audit.close()
    lines = world.path.read_text().splitlines(keepends=True)
    lines[number - 1] = lines[number - 1].replace('"at_ms":1', '"at_ms":2')
    world.path.write_text("".join(lines))
    again = AuditLog(
        world.store,
        AuditSettings(world.path, 1 << 20, 3),
        wall_ms=lambda: NOW,
        tell_admins=world.told.append,
        mirror=lambda *_: None,
    )
    with pytest.raises(AuditContradictionError, match=f"with the number {number}: .*then move the audit file away"):
        await again.start()
    await again.close()
    assert world.path.read_text() == "".join(lines), "nothing is written behind it, no stop either"
    # The remedy helps.
    world.path.rename(world.path.with_suffix(".kept"))
    await (await world.start()).close()
    assert [record.kind.value for _, record in (await world.store.page(AuditQuery(), 0, 2))[0]] == ["stop", "start"]


async def test_lines_taken_out_moved_or_put_in_are_told_at_the_start(world: World) -> None:
    audit = await world.start()
    for _ in range(4):
        await audit.record(CALL)
    await audit.close()
    lines = world.path.read_text().splitlines(keepends=True)
    foreign = module.entry_after(Head(900, "f" * 64), GRANT).line + "\n"
    changes: list[Callable[[list[str]], list[str]]] = [
        lambda whole: [*whole[:2], *whole[3:]],
        lambda whole: [*whole[:2], whole[3], whole[2], *whole[4:]],
        lambda whole: [*whole[:3], whole[1], *whole[3:]],
        lambda whole: [*whole[:3], foreign, *whole[3:]],
        lambda whole: [*whole[:3], "nonsense\n", *whole[3:]],
    ]
    for change in changes:
        changed = change(lines)
        world.told.clear()
        world.path.write_text("".join(changed))
        audit = await world.start()
        head = audit.head
        await audit.close()
        assert len(world.told) == 1
        assert "the file does not hold together behind line" in world.told[0]
        assert "the file does not hold together" in ((await reasons(world))[-1] or "")
        written = world.path.read_text().splitlines(keepends=True)[len(changed) :]
        assert [read_line(line.encode()[:-1]).head.number for line in written] == [head.number, head.number + 1]
        lines += written


async def test_a_line_of_which_the_database_knows_nothing_any_more_cannot_be_changed_unseen(world: World) -> None:
    audit = await world.start()
    for _ in range(4):
        await audit.record(CALL)
    await audit.close()
    await world.database.transaction(lambda connection: connection.execute("DELETE FROM audit WHERE number < 4"))
    text = world.path.read_text()
    world.path.write_text(text.replace("@alice", "@carol", 1))
    await (await world.start()).close()
    assert "the file does not hold together behind line 2" in world.told[0]


async def test_a_crash_between_two_files_is_no_gap(world: World) -> None:
    audit = await world.start()
    await audit.record(CALL)
    await crash(audit, world)
    world.path.rename(world.path.with_name("audit-000000000002.jsonl"))
    genuine = module.entry_after(audit.head, END, await key_of(world))
    append(world, genuine.line)
    await (await world.start()).close()
    assert world.told == []
    assert await world.verify() == ["start", "call", "end", "start", "stop"]


async def test_a_row_changed_in_the_database_ends_the_start(world: World) -> None:
    audit = await world.start()
    await audit.record(CALL)
    await audit.close()
    await world.database.transaction(
        lambda connection: connection.execute(f"UPDATE audit SET digest = '{'e' * 64}' WHERE number = 2")
    )
    with pytest.raises(AuditContradictionError, match="the number 2"):
        await world.start()


async def test_the_chain_of_an_earlier_version_goes_on_with_a_key(world: World) -> None:
    """Lines without a mac, of which older files are gone already; they are vouched for by the first new one."""
    entries = [module.entry_after(Head(4, "e" * 64), AuditRecord(AuditKind.START, NOW))]
    entries += [module.entry_after(entries[-1].head, CALL)]
    append(world, *(entry.line for entry in entries))
    await world.store.add(entries)
    await (await world.start()).close()
    assert await world.verify() == ["start", "call", "start", "stop"]
    key = await world.store.key()
    assert key is not None
    assert key.since == 7
    removals = Removals()
    found = list(removals.watch(read_chain(read_lines(world.path), key.secret, key.since)))
    removals.check()
    assert [entry.keyed for entry in found] == [False, False, True, True]


async def test_full_files_are_removed_only_after_the_chain_says_so_and_admins_lines_are_kept(world: World) -> None:
    world.max_bytes = 3000
    audit = await world.start()
    audit.note(AuditRecord(AuditKind.PAUSE, NOW, by="@admin:x"))
    for _ in range(100):
        assert await audit.record(CALL)
    await audit.close()
    key = await world.store.key()
    assert key is not None
    removals = Removals()
    found = list(removals.watch(read_chain(read_lines(world.path), key.secret, key.since)))
    removals.check()
    assert found[0].head.number > 20
    assert len(full_files(world.path)) <= 4
    acts = [read_line(line) for line in read_acts(world.path)]
    assert all(is_authentic(entry, key.secret) for entry in acts)
    assert [entry.record.kind.value for entry in acts][:2] == ["start", "pause"]
    assert [entry.head.number for entry in acts] == sorted({entry.head.number for entry in acts})
    full_files(world.path)[0].unlink()
    removals = Removals()
    list(removals.watch(read_chain(read_lines(world.path))))
    with pytest.raises(ChainError, match="are missing, and the bridge has not removed them"):
        removals.check()


async def test_files_that_somebody_puts_beside_the_audit_push_out_none_of_it(world: World) -> None:
    world.max_bytes = 3000
    audit = await world.start()
    while len(full_files(world.path)) < 3:
        assert await audit.record(CALL)
    mine = full_files(world.path)
    for number in [*range(1, 6), *range(10**11, 10**11 + 5)]:
        planted = world.path.with_name(f"{world.path.stem}-{number:012d}{world.path.suffix}")
        planted.write_bytes(mine[0].read_bytes())
    await audit.close()
    await (await world.start()).close()
    assert [each for each in mine if not each.exists()] == []


@pytest.mark.parametrize("name", ["audit-000000000001.jsonl", "audit-acts.jsonl", "audit-refused.jsonl"])
async def test_a_pipe_beside_the_audit_makes_nobody_wait(world: World, name: str) -> None:
    audit = await world.start()
    await audit.record(CALL)
    await crash(audit, world)
    append(world, '{"n":9,"prev":"' + "0" * 64 + '"}')
    os.mkfifo(world.path.with_name(name))
    async with asyncio.timeout(5):
        try:
            await world.start()
        except StorageError as error:
            assert "no regular file" in str(error)  # noqa: PT017 - it may start as well
    with contextlib.suppress(StorageError):
        list(read_acts(world.path))
        list(read_lines(world.path))


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


async def test_where_the_database_was_lost_a_long_file_is_believed(world: World, tmp_path: Path) -> None:
    audit = await world.start()
    for _ in range(10):
        await audit.record(CALL)
    await audit.close()
    async with await Database.open(f"sqlite:///{tmp_path / 'new.db'}") as database:
        world.store = AuditStore(database)
        await (await world.start(tail_lines=3)).close()
        assert (await world.verify())[-4:] == ["call", "stop", "start", "stop"]
        rows, total = await world.store.page(AuditQuery(), 1, 1)
        assert (total, "the database began empty" in (rows[0][1].reason or "")) == (5, True)


async def test_a_file_that_cannot_be_written_is_no_start(world: World) -> None:
    world.path.mkdir()
    with pytest.raises(StorageError, match="cannot be used"):
        await world.start()

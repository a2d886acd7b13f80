"""The audit on the disk and in the database."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from mxrtc_bridge.core.audit.chain import (
    NO_LINES,
    AuditEntry,
    AuditKind,
    AuditRecord,
    Head,
    check_head,
    entry_after,
    read_chain,
)
from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.storage.audit import KEEP_MS, AuditContradictionError, AuditKey, AuditQuery, AuditStore
from mxrtc_bridge.storage.audit_file import AuditFile, full_files, read_lines
from mxrtc_bridge.storage.database import Database

NOW = 1_700_000_000_000
ALICE, BOB, PEER, LAB = "@alice:example.org", "@bob:example.org", "@rtc_build:example.org", "@rtc_lab:example.org"


def entries(count: int, after: Head = NO_LINES, **values: object) -> list[AuditEntry]:
    made: list[AuditEntry] = []
    for number in range(count):
        record = AuditRecord(AuditKind.CALL, NOW + number, **{"user": ALICE, "peer": PEER, **values})  # type: ignore[arg-type]
        made.append(entry_after(made[-1].head if made else after, record))
    return made


def append(file: AuditFile, made: list[AuditEntry]) -> int:
    return file.append([each.line for each in made], made[-1].head)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_lines_are_appended_and_found_again(path: Path) -> None:
    made = entries(5)
    file = AuditFile(path, 1 << 20, 3)
    append(file, made[:3])
    file.close()
    file = AuditFile(path, 1 << 20, 3)
    assert file.tail() == made[:3]
    append(file, made[3:])
    assert file.tail() == made
    file.close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert check_head(read_chain(read_lines(path)), made[-1].head) == 5


@pytest.mark.parametrize("left", [1, 10, 50])
def test_a_line_that_was_not_written_to_its_end_is_cut_off(path: Path, left: int) -> None:
    made = entries(3)
    file = AuditFile(path, 1 << 20, 3)
    append(file, made[:2])
    file.close()
    with path.open("a") as raw:
        raw.write(made[2].line[:left])
    assert len(list(read_lines(path))) == 2, "who reads meanwhile does not see it either"
    file = AuditFile(path, 1 << 20, 3)
    assert file.tail() == made[:2]
    append(file, made[2:])
    file.close()
    assert check_head(read_chain(read_lines(path)), made[-1].head) == 3


def test_full_files_are_numbered_and_the_oldest_go(path: Path) -> None:
    made = entries(40)
    file = AuditFile(path, 1000, 3)
    for each in made:
        append(file, [each])
        if (number := file.surplus()) is not None:
            assert len(full_files(path)) == 4, "until somebody has written down that it goes"
            file.remove_until(number)
    file.close()
    full = full_files(path)
    assert len(full) == 3
    assert all(each.stat().st_size <= 1000 for each in (*full, path))
    found = list(read_chain(read_lines(path)))
    assert found == made[-len(found) :]
    assert 5 < len(found) < 40
    assert full[-1].name == f"audit-{found[-1].head.number - len(path.read_text().splitlines()):012d}.jsonl"


def test_a_damaged_tail_ends_before_the_damage(path: Path) -> None:
    made = entries(3)
    path.write_text(f"{made[0].line}\nnonsense\n{made[2].line}\n")
    file = AuditFile(path, 1 << 20, 3)
    assert file.tail() == made[2:]
    file.close()


def test_a_link_or_a_missing_folder_is_refused(path: Path) -> None:
    path.symlink_to(path.parent / "elsewhere")
    with pytest.raises(StorageError, match="cannot be used"):
        AuditFile(path, 1 << 20, 3)
    with pytest.raises(StorageError, match="cannot be used"):
        AuditFile(path.parent / "missing" / "audit.jsonl", 1 << 20, 3)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for little."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid():
        pytest.skip("this needs root, to mount a small file system")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_takes_nothing_and_leaves_whole_lines(small_disk: Path) -> None:
    path = small_disk / "audit.jsonl"
    file = AuditFile(path, 1 << 20, 3)
    written: list[AuditEntry] = []
    refused = ""
    while not refused:
        more = entries(50, written[-1].head if written else NO_LINES)
        try:
            append(file, more)
        except StorageError as error:
            refused = str(error)
        else:
            written += more
    assert "No space left" in refused
    assert file.tail() == written
    os.truncate(path, 0)
    append(file, written[:1])
    assert file.tail() == written[:1]
    file.close()


# -- the table -------------------------------------------------------------------------------------------------------


async def test_the_head_is_the_last_line(database: Database) -> None:
    store = AuditStore(database)
    assert await store.head() == NO_LINES
    made = entries(3)
    await store.add(made[:2])
    assert await store.head() == made[1].head
    # After a crash, and where an answer was lost, some of them may be there already.
    await store.add(made)
    await store.add(made)
    assert await store.head() == made[2].head
    assert await store.count() == 3


@pytest.mark.parametrize("number", [1, 150, 300])
async def test_a_number_that_is_taken_by_another_line_is_an_error_that_names_it(
    database: Database, number: int
) -> None:
    store = AuditStore(database)
    made = entries(300)
    await store.add([entries(1, Head(number - 1, "f" * 64), user=BOB)[0]])
    with pytest.raises(AuditContradictionError, match=f"with the number {number}:"):
        await store.add(made)
    assert await store.count() == 1, "all or none"
    await store.take_back([made[number - 1].head])
    assert await store.count() == 1, "nothing but what is ours is taken back"
    await store.take_back([entries(1, Head(number - 1, "f" * 64), user=BOB)[0].head])
    await store.add(made)
    assert await store.count() == 300


async def test_a_digest_is_that_of_the_line_as_it_stands(database: Database) -> None:
    store = AuditStore(database)
    made = entries(3)
    await store.add(made)
    assert (
        await store.digests(2, 9)
        == await store.digests(2, 9, thorough=True)
        == {each.head.number: each.head.digest for each in made[1:]}
    )
    await database.transaction(
        lambda connection: connection.execute("UPDATE audit SET line = replace(line, 'alice', 'carol')")
    )
    assert await store.digests(1, 3, thorough=True) == {1: "", 2: "", 3: ""}


async def test_the_first_key_stays(url: str) -> None:
    async with await Database.open(url) as database:
        store = AuditStore(database)
        assert await store.key() is None
        await store.keep_key(AuditKey(b"1" * 32, 7))
        await store.keep_key(AuditKey(b"2" * 32, 9))
    async with await Database.open(url) as database:
        assert await AuditStore(database).key() == AuditKey(b"1" * 32, 7)
    assert "1" * 10 not in repr(AuditKey(b"1" * 32, 7))


def records_of(*made: AuditRecord) -> list[AuditEntry]:
    found: list[AuditEntry] = []
    for record in made:
        found.append(entry_after(found[-1].head if found else NO_LINES, record))
    return found


async def kept(store: AuditStore) -> Counter[tuple[str, str | None]]:
    rows, _ = await store.page(AuditQuery(), 0, 10_000)
    return Counter((record.kind.value, record.user) for _, record in rows)


GRANT = AuditRecord(AuditKind.GRANT, NOW, user=ALICE, by="@admin:example.org")


async def test_who_is_let_in_pushes_out_their_own_rows_only(database: Database) -> None:
    store = AuditStore(database, max_rows=100, max_of_user=40)
    mallory = AuditRecord(AuditKind.CALL, NOW, user="@mallory:example.org", allowed=True)
    used = AuditRecord(AuditKind.CALL, NOW, user=BOB, allowed=True)
    await store.add(records_of(GRANT, *[used] * 30, *[mallory] * 300))
    assert await store.prune(NOW) == 260
    assert await kept(store) == {("grant", ALICE): 1, ("call", BOB): 30, ("call", mallory.user): 40}


async def test_where_all_have_too_much_who_has_most_gives_most(database: Database) -> None:
    store = AuditStore(database, max_rows=100, max_of_user=90)
    few = AuditRecord(AuditKind.CALL, NOW, user=BOB, allowed=True)
    many = [AuditRecord(AuditKind.CALL, NOW, user=f"@m{n}:x", allowed=True) for n in range(2)]
    await store.add(records_of(GRANT, *[few] * 20, *[many[0]] * 80, *[many[1]] * 70))
    await store.prune(NOW)
    found = await kept(store)
    assert (found["grant", ALICE], found["call", BOB]) == (1, 20)
    assert found.total() == 101
    assert min(found["call", "@m0:x"], found["call", "@m1:x"]) >= 30


async def test_who_is_turned_away_goes_first_however_many_servers_they_make_up(database: Database) -> None:
    store = AuditStore(database, max_rows=100, max_of_server=50)
    used = AuditRecord(AuditKind.CALL, NOW, user=BOB, allowed=True)
    away = [AuditRecord(AuditKind.CALL, NOW, user=f"@u{n}:s{n % 150}.test", allowed=False) for n in range(300)]
    more = [AuditRecord(AuditKind.CALL, NOW, user=f"@u{n}:evil.test", allowed=False) for n in range(200)]
    await store.add(records_of(GRANT, *[used] * 60, *away, *more))
    await store.prune(NOW)
    found = await kept(store)
    assert (found["grant", ALICE], found["call", BOB], found.total()) == (1, 60, 101)


async def test_acts_have_a_bound_of_their_own_and_the_newest_stay(database: Database) -> None:
    store = AuditStore(database, max_acts=5)
    await store.add(records_of(*[GRANT] * 20, AuditRecord(AuditKind.CALL, NOW, user=BOB, allowed=True)))
    assert await store.prune(NOW) == 15
    rows, _ = await store.page(AuditQuery(), 0, 100)
    assert [number for number, _ in rows] == [21, 20, 19, 18, 17, 16]


async def test_records_are_asked_for_in_pages(database: Database) -> None:
    store = AuditStore(database)
    made = entries(10)
    made += entries(10, made[-1].head, user=BOB)
    made += entries(10, made[-1].head, user=BOB, peer=LAB)
    await store.add(made)

    async def numbers(query: AuditQuery, offset: int = 0, count: int = 100) -> tuple[list[int], int]:
        rows, total = await store.page(query, offset, count)
        return [number for number, _ in rows], total

    assert await numbers(AuditQuery(), count=3) == ([30, 29, 28], 30)
    assert await numbers(AuditQuery(), 28, 3) == ([2, 1], 30)
    assert await numbers(AuditQuery(user=ALICE), count=2) == ([10, 9], 10)
    assert await numbers(AuditQuery(user=BOB, peer=PEER), count=1) == ([20], 10)
    assert await numbers(AuditQuery(since_ms=NOW + 9)) == ([30, 20, 10], 3)
    assert await numbers(AuditQuery(user="@nobody:example.org")) == ([], 0)
    rows, _ = await store.page(AuditQuery(peer=LAB), 0, 1)
    assert rows == [(30, made[-1].record)]


@pytest.mark.parametrize("kept", ["@Bob:Example.ORG", "@Bob:example.org"])
async def test_records_of_a_user_are_found_however_the_server_is_written(database: Database, kept: str) -> None:
    store = AuditStore(database)
    made = entries(1, user=kept)
    await store.add(made)
    for asked in ("@Bob:example.org", "@Bob:EXAMPLE.org"):
        assert await store.page(AuditQuery(user=asked), 0, 1) == ([(1, made[0].record)], 1)
    assert await store.page(AuditQuery(user="@bob:example.org"), 0, 1) == ([], 0)


async def test_old_rows_are_forgotten_but_never_the_head(database: Database) -> None:
    store = AuditStore(database, max_rows=4)
    made = entries(10)
    await store.add(made)
    assert await store.prune(NOW) == 6
    assert (await store.page(AuditQuery(), 0, 10))[1] == 4
    assert await store.prune(NOW + KEEP_MS + 100) == 3
    assert await store.head() == made[-1].head
    assert await store.prune(NOW + KEEP_MS + 100) == 0

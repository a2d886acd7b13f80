"""Quotas, room on the disk, and what happens when either ends in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mxrtc_bridge.core.access.targets import FileLimits
from mxrtc_bridge.core.files.messages import CHUNK_BYTES, FileCode, FileError
from mxrtc_bridge.sinks.files.receive import quota
from mxrtc_bridge.sinks.files.receive.quota import Quota
from tests.sinks.files.receive.senders import (
    ALICE,
    BOB,
    ROOMY,
    begun,
    content,
    directory_of,
    entry_of,
    files_in,
    opened,
    partials_in,
    send,
    write,
)


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (replace(ROOMY, file_bytes=99), FileCode.LIMIT),
        (replace(ROOMY, user_bytes=99), FileCode.QUOTA),
        (replace(ROOMY, total_bytes=99), FileCode.QUOTA),
        (replace(ROOMY, user_files=0), FileCode.QUOTA),
        (replace(ROOMY, total_files=0), FileCode.QUOTA),
        (replace(ROOMY, free_floor_bytes=2**62), FileCode.SPACE),
        (replace(ROOMY, receptions=0), FileCode.LIMIT),
        (replace(ROOMY, user_receptions=0), FileCode.LIMIT),
    ],
)
async def test_a_file_beyond_a_limit_is_refused_before_anything_is_written(
    tmp_path: Path, limits: FileLimits, code: FileCode
) -> None:
    async with opened(tmp_path, limits) as box:
        with pytest.raises(FileError) as caught:
            await box.begin(ALICE, entry_of("name", 100))
        assert caught.value.code is code
        assert partials_in(tmp_path) == []
        assert len(box.books.live) == 0


@pytest.mark.parametrize("field", ["file_bytes", "user_bytes", "total_bytes"])
async def test_a_file_at_the_limit_is_taken(tmp_path: Path, field: str) -> None:
    async with opened(tmp_path, replace(ROOMY, **{field: 100})) as box:
        await send(box, "name", content(100))


async def test_promises_count_from_the_beginning(tmp_path: Path) -> None:
    """Many files that were only announced cannot exceed the quota together; one that ends makes room."""
    async with opened(tmp_path, replace(ROOMY, user_bytes=100)) as box:
        first = await begun(box, "first", 60)
        with pytest.raises(FileError, match="quota is 100"):
            await begun(box, "second", 41)
        await begun(box, "second", 41, sender=BOB)
        await first.discard()
        await begun(box, "third", 100)


async def test_a_quota_survives_a_restart(tmp_path: Path) -> None:
    limits = replace(ROOMY, user_bytes=100)
    async with opened(tmp_path, limits) as box:
        await send(box, "a", content(60))
    async with opened(tmp_path, limits) as box:
        assert box.books.usage(ALICE).size == 60
        assert box.books.usage(BOB).size == 0
        with pytest.raises(FileError, match="quota is 100"):
            await begun(box, "b", 41)


async def test_files_that_the_admin_takes_away_are_not_counted_any_more(tmp_path: Path) -> None:
    async with opened(tmp_path, replace(ROOMY, user_bytes=100), recount_every_s=0.0) as box:
        await send(box, "d/a", content(60))
        under_way = await begun(box, "b", 30)
        (tmp_path / "d" / "a").rename(tmp_path.parent / f"{tmp_path.name}-taken")
        await begun(box, "c", 70)
        assert box.books.usage(ALICE).size == 100
        await under_way.discard()
        assert box.books.usage(ALICE).size == 70


async def test_files_that_others_put_there_count_for_the_whole_box(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").write_bytes(bytes(60))
    async with opened(tmp_path, replace(ROOMY, total_bytes=100)) as box:
        assert (box.books.usage().size, box.books.usage().files, box.books.usage(ALICE).size) == (60, 2, 0)
        with pytest.raises(FileError, match="takes 100"):
            await begun(box, "new", 41)
        await send(box, "new", content(40))


async def test_directories_count_as_files(tmp_path: Path) -> None:
    async with opened(tmp_path, replace(ROOMY, user_files=2)) as box:
        await box.begin(ALICE, directory_of("a"))
        await box.begin(ALICE, directory_of("b"))
        with pytest.raises(FileError, match="quota is 2"):
            await box.begin(ALICE, directory_of("c"))
    assert sorted(each.name for each in tmp_path.iterdir()) == [".mxrtc", "a", "b"]


async def test_only_so_many_unfinished_files_are_kept_for_a_user(tmp_path: Path) -> None:
    """The oldest goes; those of others stay."""
    data = content(2 * CHUNK_BYTES)
    async with opened(tmp_path, replace(ROOMY, user_partials=2)) as box:
        for path, sender in (("other", BOB), ("1", ALICE), ("2", ALICE), ("3", ALICE)):
            reception = await begun(box, path, len(data), sender=sender)
            await write(reception, data, upto=CHUNK_BYTES)
            await reception.suspend()
        assert (await begun(box, "1", len(data))).offset == 0
        assert (await begun(box, "2", len(data))).offset == CHUNK_BYTES
        assert (await begun(box, "other", len(data), sender=BOB)).offset == CHUNK_BYTES


async def test_an_unfinished_file_needs_quota_only_for_what_is_missing(tmp_path: Path) -> None:
    data = content(2 * CHUNK_BYTES)
    async with opened(tmp_path, replace(ROOMY, user_bytes=len(data), total_bytes=len(data), user_files=2)) as box:
        reception = await begun(box, "name", len(data))
        await write(reception, data, upto=CHUNK_BYTES)
        await reception.suspend()
        assert box.books.usage(ALICE).size == CHUNK_BYTES
        again = await begun(box, "name", len(data))
        assert again.offset == CHUNK_BYTES


def test_the_room_on_the_disk_is_compared_with_the_floor() -> None:
    books = Quota(FileLimits(free_floor_bytes=50))
    books.check(ALICE, 50, room=100)
    with pytest.raises(FileError, match="not enough room"):
        books.check(ALICE, 51, room=100)
    books.check(ALICE, 51, held=1, room=100)


def test_books_that_are_settled_are_empty() -> None:
    books = Quota(quota.UNLIMITED)
    books.add(ALICE, 10)
    books.add(ALICE, -10, -1)
    assert not books._users
    assert books.total == quota.Usage()


# A disk that is really full, in a process of its own


def run_story(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.sinks.files.full_disk", *words]
    environment = os.environ | settings
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


@pytest.mark.programs
@pytest.mark.parametrize("size", ["100", "3000000"])
def test_a_disk_that_is_full_stops_the_file_and_lets_it_go_on_later(tmp_path: Path, size: str) -> None:
    """On a file system of 2 MiB: the reason is said, nothing half is visible, and it goes on when there is room.

    Without the right to mount one, a limit on the size of files takes its place.
    """
    mount = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=4m", "none", str(tmp_path)]
    may_mount = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    result = run_story("mount" if may_mount else "rlimit", str(tmp_path), size)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "all as it should be"


@pytest.mark.programs
async def test_a_directory_without_the_right_to_write_is_said(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        result = run_story("unprivileged", str(tmp_path), "100")
        assert result.returncode == 0, result.stdout + result.stderr
        return
    async with opened(tmp_path) as box:
        (tmp_path / "sub").mkdir(0o500)
        with pytest.raises(FileError) as caught:
            await send(box, "sub/name", b"x")
        assert caught.value.code is FileCode.DENIED
    assert files_in(tmp_path) == {}

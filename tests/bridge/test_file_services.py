"""The directories of the configuration: what is open after a start, a reload, a failure, and at the end."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from mxrtc_bridge.bridge.file_services import PATIENCE_S, FileServices
from mxrtc_bridge.core.access.targets import Direction, FileLimits, FilesTarget
from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.files.events import Held
from mxrtc_bridge.core.files.messages import FileCode, FileError, Get, Ls
from mxrtc_bridge.core.files.names import NamePolicy
from mxrtc_bridge.core.files.patterns import parse_name_pattern
from mxrtc_bridge.sinks.files.receive.incoming_file import IncomingFile
from mxrtc_bridge.sinks.files.rooted_dir import RootedDirectory
from tests.sinks.files.receive.senders import (
    ALICE,
    BOB,
    begun,
    content,
    directory_of,
    entry_of,
    files_in,
    finish,
    partials_in,
    write,
)

ROOMY = FileLimits(free_floor_bytes=0)


def target_at(path: Path, direction: str = "receive", limits: FileLimits = ROOMY) -> FilesTarget:
    return FilesTarget(str(path), Direction(direction), limits=limits)


@pytest.fixture
async def directories(request: pytest.FixtureRequest) -> AsyncIterator[FileServices]:
    directories = FileServices(patience_s=getattr(request, "param", PATIENCE_S))
    yield directories
    await directories.close()


async def test_files_of_a_user_are_charged_to_that_user(directories: FileServices, tmp_path: Path) -> None:
    target = target_at(tmp_path / "inbox")
    await directories.serve([target])
    receiver = directories.for_user(ALICE).receiver(target)
    reception = await receiver.begin(entry_of("a.txt", 3))
    assert isinstance(reception, IncomingFile)
    await finish(reception, b"abc")
    assert isinstance(await receiver.begin(directory_of("d")), Held)
    assert isinstance(await receiver.begin(entry_of("a.txt", 3)), Held), "it is there already"
    assert directories.box(target).books.usage(ALICE).size == 3
    assert directories.box(target).books.usage(BOB).size == 0
    assert files_in(tmp_path / "inbox") == {"a.txt": b"abc"}


@pytest.mark.parametrize(("direction", "receives", "sends"), [("receive", 1, 0), ("send", 0, 1), ("both", 1, 1)])
async def test_directory_is_open_for_its_direction_only(
    directories: FileServices, tmp_path: Path, direction: str, receives: int, sends: int
) -> None:
    target = target_at(tmp_path, direction)
    await directories.serve([target])
    files = directories.for_user(ALICE)
    if receives:
        files.receiver(target)
    else:
        with pytest.raises(FileError, match="does not receive"):
            files.receiver(target)
    if sends:
        assert await (await files.source(target, Ls(""))).walk().next(10) == []
    else:
        with pytest.raises(FileError, match="not served"):
            await files.source(target, Ls(""))


async def test_share_tells_what_a_pattern_did_not_find(directories: FileServices, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    target = target_at(tmp_path, "send")
    await directories.serve([target])
    walk = (await directories.for_user(ALICE).source(target, Get(("a", "b")))).walk()
    assert [found.path for found in await walk.next(10)] == ["a"]
    assert [found.path for found in await walk.next(10)] == ["b"]
    assert await walk.next(10) == []


async def test_limits_and_names_of_the_configuration_hold(directories: FileServices, tmp_path: Path) -> None:
    limits = FileLimits(file_bytes=10, user_bytes=12, total_bytes=14, free_floor_bytes=0)
    target = FilesTarget(
        str(tmp_path / "inbox"), Direction.RECEIVE, allowed=(parse_name_pattern("*.txt"),), limits=limits
    )
    await directories.serve([target])
    receiver = directories.for_user(ALICE).receiver(target)

    async def refusal(name: str, size: int, user: str = ALICE) -> FileCode:
        with pytest.raises(FileError) as caught:
            await directories.for_user(user).receiver(target).begin(entry_of(name, size))
        return caught.value.code

    assert await refusal("a.txt", 11) is FileCode.LIMIT
    assert await refusal("a.exe", 1) is FileCode.NAME
    assert await refusal(".hidden.txt", 1) is FileCode.NAME
    reception = await receiver.begin(entry_of("a.txt", 10))
    assert isinstance(reception, IncomingFile)
    assert await refusal("b.txt", 3) is FileCode.QUOTA
    assert await refusal("b.txt", 5, BOB) is FileCode.QUOTA
    await reception.discard()


async def test_names_are_made_safe_where_the_admin_says_so(directories: FileServices, tmp_path: Path) -> None:
    target = FilesTarget(str(tmp_path / "inbox"), Direction.RECEIVE, names=NamePolicy.SANITISE, limits=ROOMY)
    await directories.serve([target])
    reception = await directories.for_user(ALICE).receiver(target).begin(entry_of(".hidden", 1))
    assert isinstance(reception, IncomingFile)
    assert not (await finish(reception, b"1")).name.startswith(".")


async def test_new_limits_take_the_place_of_the_old_ones_and_keep_what_is_unfinished(
    directories: FileServices, tmp_path: Path
) -> None:
    old = target_at(tmp_path / "inbox")
    new = target_at(tmp_path / "inbox", limits=FileLimits(free_floor_bytes=0, user_bytes=4 * 1024**2))
    data = content(3 * 1024**2)
    await directories.serve([old])
    reception = await begun(directories.box(old), "big", len(data))
    await write(reception, data, upto=2 * 1024**2)
    await directories.serve([new])
    with pytest.raises(FileError):
        directories.box(old)
    assert partials_in(tmp_path / "inbox") == [".map", ".part"]
    again = await begun(directories.box(new), "big", len(data))
    assert again.offset == 2 * 1024**2
    await finish(again, data)
    assert files_in(tmp_path / "inbox") == {"big": data}


async def test_directory_that_cannot_be_opened_is_tried_again(
    directories: FileServices, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing, fine = target_at(tmp_path / "later", "send"), target_at(tmp_path / "inbox")
    await directories.serve([missing, fine])
    assert "later (send) is not available" in caplog.text
    directories.box(fine)
    with pytest.raises(FileError) as caught:
        directories.share(missing)
    assert caught.value.code is FileCode.UNAVAILABLE
    (tmp_path / "later").mkdir()
    await directories.keep_house()
    directories.share(missing)


async def test_share_is_not_opened_where_the_box_fails(directories: FileServices, tmp_path: Path) -> None:
    target = target_at(tmp_path / "both", "both")
    other = FileServices()
    await other.serve([target])
    await directories.serve([target])
    for part in (directories.box, directories.share):
        with pytest.raises(FileError):
            part(target)
    await other.close()
    await directories.serve([target])
    directories.box(target)
    directories.share(target)


async def test_unfinished_files_are_removed_when_the_house_is_kept(directories: FileServices, tmp_path: Path) -> None:
    target = target_at(tmp_path / "inbox", limits=FileLimits(free_floor_bytes=0, partial_age_s=3600.0))
    data = content(3 * 1024**2)
    await directories.serve([target])
    reception = await begun(directories.box(target), "big", len(data))
    await write(reception, data, upto=2 * 1024**2)
    await reception.suspend()
    await directories.keep_house()
    assert partials_in(tmp_path / "inbox") == [".map", ".part"]
    await directories.close()
    for found in (tmp_path / "inbox" / ".mxrtc" / "partial").iterdir():
        os.utime(found, (time.time() - 7200, time.time() - 7200))
    await directories.serve([target])
    await directories.keep_house()
    assert partials_in(tmp_path / "inbox") == []


async def test_nothing_is_read_from_a_share_that_is_closed(directories: FileServices, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    target = target_at(tmp_path, "send")
    await directories.serve([target])
    source = await directories.for_user(ALICE).source(target, Get(("*",)))
    await directories.serve([])
    with pytest.raises(FileError) as caught:
        await source.walk().next(10)
    assert caught.value.code is FileCode.UNAVAILABLE


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Disks below a folder ``nfs`` answer only when this is set."""
    answers = threading.Event()
    make = RootedDirectory.__init__

    def make_late(self: RootedDirectory, path: Path, **options: Any) -> None:
        if "nfs" in path.parts:
            answers.wait(20)
        make(self, path, **options)

    monkeypatch.setattr(RootedDirectory, "__init__", make_late)
    yield answers
    answers.set()


SHORT = pytest.mark.parametrize("directories", [0.1], indirect=True)
"""How long to be patient with a disk."""


@SHORT
@pytest.mark.parametrize("direction", ["receive", "send", "both"])
async def test_disk_that_hangs_keeps_no_other_directory_from_being_opened_or_closed(
    directories: FileServices, tmp_path: Path, hang: threading.Event, direction: str
) -> None:
    for name in ("nfs", "other", "third"):
        (tmp_path / name).mkdir()
    hung, other, third = (target_at(tmp_path / name, direction) for name in ("nfs", "other", "third"))
    before = threading.active_count()
    for _ in range(20):
        with pytest.raises(LocalError, match=r"have not answered within 0\.1 s: .*nfs$"):
            await directories.serve([hung, other])
    assert directories.open_targets == {other}
    assert threading.active_count() < before + 10, "one attempt at a time, however often it is asked for"
    with pytest.raises(LocalError, match="nfs"):
        await directories.serve([hung, third])
    assert directories.open_targets == {third}
    hang.set()
    await directories.serve([hung, third])
    assert directories.open_targets == {hung, third}


@SHORT
async def test_directory_that_was_opened_too_late_is_closed_again(
    directories: FileServices, tmp_path: Path, hang: threading.Event
) -> None:
    (tmp_path / "nfs").mkdir()
    with pytest.raises(LocalError):
        await directories.serve([target_at(tmp_path / "nfs")])
    with pytest.raises(LocalError):
        await directories.serve([target_at(tmp_path / "nfs", limits=FileLimits(free_floor_bytes=1))])
    await directories.serve([])
    hang.set()
    await directories.close()
    assert directories.open_targets == frozenset()
    async with asyncio.timeout(5):
        while directories.busy_paths:
            await asyncio.sleep(0.01)
    assert directories.open_targets == frozenset()


@SHORT
async def test_disk_that_hangs_while_it_is_let_go_holds_up_nobody(directories: FileServices, tmp_path: Path) -> None:
    answers = threading.Event()
    (tmp_path / "b").mkdir()
    first, second = target_at(tmp_path / "a"), target_at(tmp_path / "b", "send")
    await directories.serve([first, second])
    box = directories.box(first)
    work = [asyncio.create_task(box._workers.run(lambda: answers.wait(20))) for _ in range(8)]
    await asyncio.sleep(0)
    try:
        with pytest.raises(LocalError, match="have not answered"):
            await directories.serve([second])
        with pytest.raises(FileError, match="does not receive"):
            directories.box(first)
        directories.share(second)
        await asyncio.wait_for(asyncio.to_thread(lambda: None), 1)
    finally:
        answers.set()
        await asyncio.gather(*work)

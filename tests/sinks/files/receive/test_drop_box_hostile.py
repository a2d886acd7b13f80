"""What somebody with write access to the directory may try while files arrive."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from pathlib import Path

import pytest

from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.files.messages import FileCode, FileError
from mxrtc_bridge.sinks.files import linux
from mxrtc_bridge.sinks.files.receive.drop_box import DropBox
from mxrtc_bridge.sinks.files.receive.incoming_file import SMALL_FILE_BYTES
from tests.long import size
from tests.sinks.files.receive.senders import content, files_in, opened, send


@pytest.fixture(params=["kernel", "without openat2 and renameat2"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the calls of a new kernel, and with what replaces them."""
    if request.param != "kernel":
        monkeypatch.setattr(linux._LIBRARY, "has_openat2", False)
        monkeypatch.setattr(linux._LIBRARY, "has_renameat2", False)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("size", [10, SMALL_FILE_BYTES + 1])
@pytest.mark.parametrize("path", ["link/name", "link/deeper/name", "dir/link/name", "dir/link/deeper/name"])
async def test_a_link_to_elsewhere_is_not_followed(tmp_path: Path, path: str, size: int) -> None:
    outside = tmp_path / "outside"
    (outside / "deeper").mkdir(parents=True)
    box_path = tmp_path / "box"
    (box_path / "dir").mkdir(parents=True)
    (box_path / "link").symlink_to(outside)
    (box_path / "dir" / "link").symlink_to(outside)
    async with opened(box_path) as box:
        with pytest.raises(FileError) as caught:
            await send(box, path, content(size))
    assert caught.value.code is FileCode.DENIED
    assert files_in(outside) == {}


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("size", [10, SMALL_FILE_BYTES + 1])
async def test_what_stands_at_the_name_is_left_as_it_is(tmp_path: Path, size: int) -> None:
    """Links (also broken ones), FIFOs and directories: the file goes beside them."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    box_path = tmp_path / "box"
    box_path.mkdir()
    (box_path / "link").symlink_to(outside)
    (box_path / "broken").symlink_to(tmp_path / "made")
    os.mkfifo(box_path / "fifo")
    (box_path / "directory").mkdir()
    data = content(size)
    async with opened(box_path) as box:
        for name in ("link", "broken", "fifo", "directory"):
            assert (await send(box, name, data)).name == f"{name} (2)"
    assert outside.read_bytes() == b"secret"
    assert not (tmp_path / "made").exists()


async def test_a_name_that_somebody_takes_in_the_last_moment_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look at the directory says "free", the kernel says "taken"; the ledger has the name that it got."""
    rename = linux.rename_new
    attempts: list[str] = []

    def rename_late(source_directory: int, source: str, directory: int, name: str) -> None:
        attempts.append(name)
        if len(attempts) < 4:
            (tmp_path / name).write_bytes(b"theirs")
        rename(source_directory, source, directory, name)

    monkeypatch.setattr("mxrtc_bridge.sinks.files.receive.publisher.rename_new", rename_late)
    async with opened(tmp_path) as box:
        assert (await send(box, "name", b"mine")).name == "name (4)"
        assert (await send(box, "name", b"mine")).before
        assert box.books.usage().size == 4
    assert attempts == ["name", "name (2)", "name (3)", "name (4)"]
    assert list(files_in(tmp_path).values()) == [b"theirs", b"theirs", b"theirs", b"mine"]


@pytest.mark.posix
@pytest.mark.usefixtures("both_ways")
async def test_a_directory_that_is_swapped_for_a_link_leads_nowhere(tmp_path: Path) -> None:
    """A race: another thread swaps the directory for a link to the outside and back, as fast as it can.

    Each file arrives in the directory or is refused; none ever lands where the link leads.
    """
    outside, box_path = tmp_path / "outside", tmp_path / "box"
    (outside / "sub").mkdir(parents=True)
    (box_path / "a" / "sub").mkdir(parents=True)
    (box_path / "link").symlink_to(outside)
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            exchange(box_path / "a", box_path / "link")

    refusals: list[FileError] = []
    published: dict[str, bytes] = {}
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        async with opened(box_path) as box:
            for number in range(size(300, 100)):
                data = content(10 if number % 3 else SMALL_FILE_BYTES + 1, number)
                try:
                    published[(await send(box, f"a/sub/{number}", data)).name.rpartition("/")[2]] = data
                except FileError as error:
                    refusals.append(error)
    finally:
        over.set()
        thread.join()
    assert published
    assert refusals
    assert {error.code for error in refusals} <= {FileCode.DENIED, FileCode.GONE}
    assert files_in(outside) == {}
    assert {Path(name).name: data for name, data in files_in(box_path).items()} == published


def exchange(one: Path, other: Path) -> None:
    """Let two names change places, in one step."""
    at_cwd, rename_exchange = -100, 2
    call = linux._LIBRARY.calls.renameat2
    assert call(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), rename_exchange) == 0


async def test_a_state_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / ".mxrtc").symlink_to(tmp_path / "outside")
    with pytest.raises(LocalError, match="it is a link, or has one in it"):
        await DropBox(tmp_path / "box").open()
    assert list((tmp_path / "outside").iterdir()) == []


async def test_a_directory_that_is_removed_while_files_arrive_is_made_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        await send(box, "d/1", b"1")
        (tmp_path / "d" / "1").unlink()
        (tmp_path / "d").rmdir()
        await asyncio.gather(*(send(box, f"d/{number}", b"x") for number in range(2, 20)))
    assert len(files_in(tmp_path)) == 18


async def test_the_whole_box_may_be_moved_away_and_nothing_is_made_at_its_place(tmp_path: Path) -> None:
    async with opened(tmp_path / "box") as box:
        (tmp_path / "box").rename(tmp_path / "moved")
        with contextlib.suppress(FileError):
            await send(box, "a/b", b"x")
    assert not (tmp_path / "box").exists()
    assert files_in(tmp_path / "moved") == {"a/b": b"x"}

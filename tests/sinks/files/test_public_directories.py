"""Receiving where other users of the machine can write: what is private is ours, what is published is what came."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.files.messages import FileCode, FileError
from mxrtc_bridge.sinks.files.receive import publisher
from mxrtc_bridge.sinks.files.receive.drop_box import DropBox
from mxrtc_bridge.sinks.files.receive.incoming_file import SMALL_FILE_BYTES
from mxrtc_bridge.sinks.files.receive.partial_file import PartialFileKey
from mxrtc_bridge.sinks.files.receive.publisher import Published
from mxrtc_bridge.sinks.files.receive.receiver import DirectoryReceiver
from mxrtc_bridge.sinks.files.user_paths import UserDestination
from tests.other_user import OTHER_UID, as_other, needs_root, public_directory
from tests.sinks.files.receive.senders import (
    ALICE,
    MTIME_MS,
    ROOMY,
    begun,
    content,
    entry_of,
    files_in,
    finish,
    send,
    sha256,
    write,
)

SIZES = [10, SMALL_FILE_BYTES + 1]
FORCED = [False, True]


@pytest.fixture
def public() -> Iterator[Path]:
    with public_directory() as path:
        yield path


def box_at(path: Path) -> DropBox:
    return DropBox(path, ROOMY)


STORES: list[Callable[[Path], DirectoryReceiver]] = [UserDestination, box_at]


def make_state(public: Path, *, by_other: bool, mode: int = 0o700, partials_mode: int = 0o700) -> None:
    """The state as an earlier program has left it, or as somebody has prepared it."""

    def make() -> None:
        for path, wanted in ((public / ".mxrtc", mode), (public / ".mxrtc" / "partial", partials_mode)):
            path.mkdir()
            path.chmod(wanted)

    if by_other:
        as_other(make)
    else:
        make()


@pytest.mark.posix
@pytest.mark.parametrize("make", STORES)
@pytest.mark.parametrize(
    ("by_other", "mode", "partials_mode", "why"),
    [
        pytest.param(True, 0o777, 0o777, f"/.mxrtc' .* belongs to user {OTHER_UID}", marks=needs_root),
        pytest.param(True, 0o700, 0o700, f"/.mxrtc' .* belongs to user {OTHER_UID}", marks=needs_root),
        (False, 0o777, 0o700, r"/.mxrtc' .* others can write to it \(mode 0777\)"),
        (False, 0o770, 0o700, r"/.mxrtc' .* others can write to it \(mode 0770\)"),
        (False, 0o1777, 0o700, r"/.mxrtc' .* others can write to it \(mode 1777\)"),
        (False, 0o700, 0o702, r"/.mxrtc/partial' .* others can write to it \(mode 0702\)"),
    ],
)
async def test_state_that_is_not_ours_alone_is_refused_with_its_name_and_the_remedy(
    public: Path, make: Callable[[Path], DirectoryReceiver], by_other: bool, mode: int, partials_mode: int, why: str
) -> None:
    make_state(public, by_other=by_other, mode=mode, partials_mode=partials_mode)
    with pytest.raises(LocalError, match=f"{why}.*Remove it"):
        await make(public).open()


@needs_root
@pytest.mark.posix
@pytest.mark.parametrize("make", STORES)
async def test_partial_directory_of_another_user_in_our_state_is_refused(
    public: Path, make: Callable[[Path], DirectoryReceiver]
) -> None:
    """It was open to all when they made it."""
    (public / ".mxrtc").mkdir()
    (public / ".mxrtc").chmod(0o777)
    as_other((public / ".mxrtc" / "partial").mkdir)
    (public / ".mxrtc").chmod(0o700)
    with pytest.raises(LocalError, match=f"/.mxrtc/partial' .* belongs to user {OTHER_UID}"):
        await make(public).open()


def plant(kind: str, path: Path, other: Path) -> None:
    match kind:
        case "a file of another user":
            path.write_bytes(b"")
            os.chown(path, OTHER_UID, OTHER_UID)
        case "a second name":
            other.write_bytes(b"")
            os.link(other, path)
        case "a link":
            path.symlink_to(other)
        case "a file that others can write to":
            path.write_bytes(b"")
            path.chmod(0o606)
        case "a pipe":
            os.mkfifo(path)


PLANTED = [
    pytest.param("a file of another user", marks=needs_root),
    "a second name",
    "a link",
    "a file that others can write to",
    "a pipe",
]


@pytest.mark.posix
@pytest.mark.parametrize("make", STORES)
@pytest.mark.parametrize("name", ["lock", "ledger.jsonl"])
@pytest.mark.parametrize("kind", PLANTED)
async def test_file_of_the_state_that_is_not_ours_alone_is_refused(
    public: Path, tmp_path: Path, make: Callable[[Path], DirectoryReceiver], name: str, kind: str
) -> None:
    make_state(public, by_other=False)
    plant(kind, public / ".mxrtc" / name, tmp_path / "other")
    with pytest.raises(LocalError, match=r"\.mxrtc.* cannot be trusted: .*Remove it"):
        await make(public).open()
    assert not (tmp_path / "other").exists() or (tmp_path / "other").read_bytes() == b""


@pytest.mark.posix
@pytest.mark.parametrize("which", ["part_name", "map_name"])
@pytest.mark.parametrize("kind", PLANTED)
async def test_unfinished_file_that_is_not_ours_alone_is_not_gone_on_with(
    public: Path, tmp_path: Path, which: str, kind: str
) -> None:
    data = content(SMALL_FILE_BYTES + 1)
    entry = entry_of("a", len(data))
    identity = PartialFileKey(ALICE, "a", entry.size, MTIME_MS, entry.version)
    destination = UserDestination(public)
    await destination.open()
    try:
        plant(kind, public / ".mxrtc" / "partial" / getattr(identity, which), tmp_path / "other")
        reception = await begun(destination, "a", len(data))
        with pytest.raises(FileError) as caught:
            await finish(reception, data)
        assert caught.value.code is FileCode.DENIED
        await reception.suspend()
    finally:
        await destination.close()
    assert "a" not in files_in(public)


# What is published


@needs_root
@pytest.mark.parametrize("force", FORCED)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("same_size", [True, False])
async def test_file_that_somebody_replaces_as_it_gets_its_name_is_said_and_has_no_digest(
    public: Path, monkeypatch: pytest.MonkeyPatch, force: bool, size: int, same_size: bool
) -> None:
    """In a directory without the sticky bit they can; often with the number that our file had."""
    theirs = content(size if same_size else size + 1, 1)

    def replace() -> None:
        (public / "a").unlink()
        (public / "a").write_bytes(theirs)
        os.utime(public / "a", ns=(MTIME_MS * 1_000_000, MTIME_MS * 1_000_000))

    sync = publisher.Publisher._sync_directories

    def sync_and_be_late(self: publisher.Publisher, items: list[publisher._Item]) -> None:
        sync(self, items)
        as_other(replace)

    monkeypatch.setattr(publisher.Publisher, "_sync_directories", sync_and_be_late)
    destination = UserDestination(public, force=force)
    await destination.open()
    try:
        with pytest.raises(FileError, match="somebody put another file in its place") as caught:
            await send(destination, "a", content(size))
        assert caught.value.code is FileCode.INTEGRITY
    finally:
        await destination.close()
    assert (public / "a").stat().st_uid == OTHER_UID


@needs_root
async def test_file_that_somebody_takes_away_as_it_gets_its_name_is_said(
    public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = publisher.Publisher._sync_directories

    def sync_and_be_late(self: publisher.Publisher, items: list[publisher._Item]) -> None:
        sync(self, items)
        as_other((public / "a").unlink)

    monkeypatch.setattr(publisher.Publisher, "_sync_directories", sync_and_be_late)
    destination = UserDestination(public)
    await destination.open()
    try:
        with pytest.raises(FileError, match="somebody took the file away"):
            await send(destination, "a", b"ours")
    finally:
        await destination.close()


@needs_root
@pytest.mark.parametrize("size", SIZES)
async def test_state_that_somebody_moves_away_changes_nothing_that_is_published(public: Path, size: int) -> None:
    data = content(size)
    destination = UserDestination(public)
    await destination.open()

    def exchange() -> None:
        (public / ".mxrtc").rename(public / "moved")
        (public / ".mxrtc" / "partial").mkdir(parents=True)
        for name in names:
            (public / ".mxrtc" / "partial" / name).write_bytes(content(size, 1))

    try:
        reception = await begun(destination, "a", size)
        await write(reception, data)
        names = [path.name for path in (public / ".mxrtc" / "partial").iterdir()]
        as_other(exchange)
        published = await reception.publish(sha256(data))
        assert published == Published("a", size, sha256(data))
        assert (public / "a").read_bytes() == data
    finally:
        await destination.close(tidy=True)


@needs_root
async def test_state_that_is_moved_away_again_and_again_ends_with_a_sentence(
    public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mxrtc_bridge.sinks.files.receive import state_dir

    take = state_dir.StateDirectory._take_lock
    moved: list[int] = []

    def take_late(self: state_dir.StateDirectory) -> None:
        take(self)
        moved.append(1)
        as_other(lambda: (public / ".mxrtc").rename(public / f"moved{len(moved)}"))

    monkeypatch.setattr(state_dir.StateDirectory, "_take_lock", take_late)
    with pytest.raises(LocalError, match="moved away again and again"):
        await UserDestination(public).open()


@needs_root
@pytest.mark.posix
async def test_file_of_another_user_with_the_number_of_ours_does_not_count_as_received(public: Path) -> None:
    data = content(100)
    destination = UserDestination(public)
    await destination.open()
    try:
        await send(destination, "a", data)
        inode = (public / "a").stat().st_ino

        def replace() -> None:
            (public / "a").unlink()
            for number in range(200):
                path = public / f"try{number}"
                path.write_bytes(content(100, 1))
                if path.stat().st_ino == inode:
                    path.rename(public / "a")
                    return

        as_other(replace)
        if not (public / "a").exists():  # this file system gives no number twice; somebody else's file is one as well
            os.link(public / "try0", public / "a")
            receipts = destination.box.ledger.receipts
            assert list(receipts())
        again = await send(destination, "a", data)
        assert not again.before
        assert (public / again.name).read_bytes() == data
    finally:
        await destination.close()

"""What a share shows and gives, and what it keeps to itself."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.files.events import Failure
from mxrtc_bridge.core.files.messages import CHUNK_BYTES, EntryKind, FileCode, FileEntry, FileError
from mxrtc_bridge.sinks.files.send.outgoing_file import OutgoingFile
from mxrtc_bridge.sinks.files.send.share import Share
from mxrtc_bridge.sinks.files.send.tree_walk import TreeWalk
from tests.sinks.files.receive.senders import content, sha256

MakeShare = Callable[..., Share]


@pytest.fixture
def make_share() -> Iterator[MakeShare]:
    shares: list[Share] = []

    def make(path: Path, **options: Any) -> Share:
        shares.append(Share(path, **options))
        return shares[-1]

    yield make
    for share in shares:
        share.close()


async def everything(walk: TreeWalk, limit: int = 7) -> tuple[list[FileEntry], list[Failure]]:
    entries: list[FileEntry] = []
    failures: list[Failure] = []
    while found := await walk.next(limit):
        assert len(found) <= limit
        entries += [each for each in found if isinstance(each, FileEntry)]
        failures += [each for each in found if isinstance(each, Failure)]
    assert await walk.next(limit) == []
    return entries, failures


async def paths(walk: TreeWalk) -> list[str]:
    entries, failures = await everything(walk)
    assert failures == []
    return [entry.path + "/" * (entry.kind is EntryKind.DIRECTORY) for entry in entries]


def make_tree(root: Path, names: str) -> None:
    for name in names.split():
        if name.endswith("/"):
            (root / name).mkdir(parents=True, exist_ok=True)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(name.encode())


TREE = "b.txt a/1.txt a/2.png a/sub/3.txt a/sub/deep/4.txt empty/ .git/config a/.hidden .mxrtc/ledger.jsonl x[1].txt"


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ([""], "a/ a/1.txt a/2.png a/sub/ a/sub/3.txt a/sub/deep/ a/sub/deep/4.txt b.txt empty/ x[1].txt"),
        (["a"], "a/ a/1.txt a/2.png a/sub/ a/sub/3.txt a/sub/deep/ a/sub/deep/4.txt"),
        (["a/sub"], "sub/ sub/3.txt sub/deep/ sub/deep/4.txt"),
        (["a/sub/**"], "3.txt deep/ deep/4.txt"),
        (["a/*.txt"], "1.txt"),
        (["**/*.txt"], "a/1.txt a/sub/3.txt a/sub/deep/4.txt b.txt x[1].txt"),
        (["b.txt", "a/2.png"], "2.png b.txt"),
        (["x[1].txt"], "x[1].txt"),
        ([".git", ".git/config", ".mxrtc/ledger.jsonl", "a/.hidden", "none", "b.txt/x"], ""),
    ],
)
async def test_patterns_select_in_order_and_leave_their_place_behind(
    tmp_path: Path, make_share: MakeShare, patterns: list[str], found: str
) -> None:
    make_tree(tmp_path, TREE)
    assert await paths(make_share(tmp_path).select(patterns)) == found.split()


async def test_patterns_that_find_nothing_are_named(tmp_path: Path, make_share: MakeShare) -> None:
    make_tree(tmp_path, TREE)
    walk = make_share(tmp_path).select(["b.*", "nothing", "a/*.gif", ".git"])
    await everything(walk)
    assert walk.unmatched() == ["nothing", "a/*.gif", ".git"]


async def test_hidden_files_are_shown_where_that_is_wanted_but_never_the_state(
    tmp_path: Path, make_share: MakeShare
) -> None:
    make_tree(tmp_path, TREE)
    share = make_share(tmp_path, hidden=True)
    # Two patterns select the last one; it keeps the longer of its two paths.
    assert await paths(share.select(["**/.*", "a/.hidden", ".mxrtc/ledger.jsonl"])) == [
        ".git/",
        ".git/config",
        "a/.hidden",
    ]


@pytest.mark.parametrize(
    ("patterns", "hidden"),
    [
        ([""], 3),
        (["*"], 3),
        (["a"], 1),
        (["**"], 3),
        (["a/*.txt", "b.txt"], 0),
        # Whoever guesses learns nothing.
        ([".env", ".none", "a/.hidden"], 0),
        (["*env", ".e*", "?env", ".[e]nv", "**/.hid*", ".git/*"], 0),
    ],
)
async def test_hidden_names_are_counted_where_everything_was_wanted(
    tmp_path: Path, make_share: MakeShare, patterns: list[str], hidden: int
) -> None:
    """``.git`` counts as one; the state of a drop box does not count."""
    make_tree(tmp_path, TREE + " .env")
    walk = make_share(tmp_path).select(patterns)
    await everything(walk)
    assert walk.hidden == hidden
    shown = make_share(tmp_path, hidden=True).select(patterns)
    await everything(shown)
    assert shown.hidden == 0


async def test_a_listing_counts_what_is_hidden_in_its_directory(tmp_path: Path, make_share: MakeShare) -> None:
    make_tree(tmp_path, TREE + " .env")
    for path, hidden in (("", 2), ("a", 1), ("empty", 0), ("b.txt", 0)):
        walk = await make_share(tmp_path).list(path)
        await everything(walk)
        assert walk.hidden == hidden


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("", "a/ b.txt empty/ x[1].txt"),
        ("/", "a/ b.txt empty/ x[1].txt"),
        ("a/", "a/1.txt a/2.png a/sub/"),
        ("a/sub/3.txt", "a/sub/3.txt"),
        ("empty", ""),
        ("x[1].txt", "x[1].txt"),
    ],
)
async def test_a_listing_shows_one_level_with_whole_paths(
    tmp_path: Path, make_share: MakeShare, path: str, found: str
) -> None:
    make_tree(tmp_path, TREE)
    assert await paths(await make_share(tmp_path).list(path)) == found.split()


@pytest.mark.parametrize(
    ("path", "code"),
    [("none", FileCode.UNKNOWN), ("link", FileCode.UNKNOWN), ("../x", FileCode.NAME), ("x" * 1025, FileCode.NAME)],
)
async def test_a_listing_of_nothing_says_so(tmp_path: Path, make_share: MakeShare, path: str, code: FileCode) -> None:
    (tmp_path / "link").symlink_to("/")
    with pytest.raises(FileError) as caught:
        await make_share(tmp_path).list(path)
    assert caught.value.code is code


async def test_what_is_no_plain_file_is_told_and_never_opened(tmp_path: Path, make_share: MakeShare) -> None:
    """Links, hard links, FIFOs, sockets: each with its reason, in its place; what lies behind them is not shown."""
    root, outside = tmp_path / "share", tmp_path / "outside"
    make_tree(outside, "secret")
    make_tree(root, "plain")
    (root / "link").symlink_to(outside / "secret")
    (root / "dirlink").symlink_to(outside)
    os.link(outside / "secret", root / "hardlink")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    if os.geteuid() == 0:
        os.mknod(root / "null", 0o20600, os.makedev(1, 3))
    (root / os.fsdecode(b"not\xfftext")).write_bytes(b"")
    entries, failures = await everything(make_share(root).select([""]))
    assert [entry.path for entry in entries] == ["plain"]
    told = {failure.path: failure for failure in failures}
    expected = {"link", "dirlink", "hardlink", "fifo", "socket", "not\ufffdtext"}
    assert set(told) - {"null"} == expected
    assert told["not\ufffdtext"].code is FileCode.NAME
    assert all(told[name].code is FileCode.DENIED for name in expected - {"not\ufffdtext"})
    assert "hard links" in told["hardlink"].message
    # Also when they are asked for by name, and when they take the place of what was listed.
    assert await everything(make_share(root).select(["dirlink/secret"])) == ([], [])
    for name in ("link", "hardlink", "fifo"):
        forged = replace(entries[0], origin=name)
        with pytest.raises(FileError) as caught:
            await make_share(root).open(forged)
        assert caught.value.code is FileCode.DENIED


async def test_a_directory_that_cannot_be_sorted_is_told(tmp_path: Path, make_share: MakeShare) -> None:
    make_tree(tmp_path, "big/1 big/2 big/3 big/4 big/5 other/1")
    entries, failures = await everything(make_share(tmp_path, max_names=5).select([""]))
    assert [entry.path for entry in entries] == ["big", "other", "other/1"]
    assert [(failure.path, failure.code) for failure in failures] == [("big", FileCode.LIMIT)]


async def test_a_missing_share_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="No such file"):
        Share(tmp_path / "none")


@pytest.mark.parametrize("patterns", [["../x"], ["["], ["a"] * 65])
async def test_hostile_patterns_are_refused(tmp_path: Path, make_share: MakeShare, patterns: list[str]) -> None:
    with pytest.raises(FileError) as caught:
        make_share(tmp_path).select(patterns)
    assert caught.value.code is FileCode.NAME


# Reading


async def the_file(share: Share, name: str = "file") -> FileEntry:
    entries, _ = await everything(share.select([name]))
    return entries[0]


async def read_all(source: OutgoingFile) -> bytes:
    data = bytearray()
    while not source.at_end:
        data += await source.read(300_000)
    await source.close()
    return bytes(data)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 5])
async def test_a_file_is_read_from_any_offset_with_the_hash_of_the_whole(
    tmp_path: Path, make_share: MakeShare, size: int
) -> None:
    data = content(size)
    (tmp_path / "file").write_bytes(data)
    share = make_share(tmp_path)
    entry = await the_file(share)
    assert (entry.size, entry.kind) == (size, EntryKind.FILE)
    for offset in {0, size // 2, size}:
        source = await share.open(entry, offset)
        assert await read_all(source) == data[offset:]
        assert source.digest() == sha256(data)
        assert await the_file(share) == entry


@pytest.mark.parametrize("offset", [-1, 11, 2**60])
async def test_an_offset_outside_the_file_is_refused(tmp_path: Path, make_share: MakeShare, offset: int) -> None:
    (tmp_path / "file").write_bytes(bytes(10))
    share = make_share(tmp_path)
    with pytest.raises(FileError) as caught:
        await share.open(await the_file(share), offset)
    assert caught.value.code is FileCode.VIOLATION


def touch(path: Path) -> None:
    os.utime(path, (1, 1))


def rewrite(path: Path) -> None:
    path.with_name("new").write_bytes(content(2 * CHUNK_BYTES, 2))
    path.with_name("new").rename(path)


def shrink(path: Path) -> None:
    os.truncate(path, 10)


@pytest.mark.parametrize("change", [touch, rewrite, shrink])
async def test_a_file_that_changes_is_noticed(
    tmp_path: Path, make_share: MakeShare, change: Callable[[Path], None]
) -> None:
    """Before it is opened, and (unless only its name leads elsewhere) while it is read."""
    path = tmp_path / "file"
    path.write_bytes(content(2 * CHUNK_BYTES))
    share = make_share(tmp_path)
    entry = await the_file(share)
    source = await share.open(entry)
    await source.read(1000)
    change(path)
    if change is rewrite:  # the old file is still there for who has it open; only its link count is another
        with pytest.raises(FileError, match="changed"):
            await read_all(source)
    else:
        with pytest.raises(FileError) as caught:
            await source.read(CHUNK_BYTES)
        assert caught.value.code is FileCode.CHANGED
        await source.close()
    await source.close()
    with pytest.raises(FileError) as caught:
        await share.open(entry)
    assert caught.value.code is FileCode.CHANGED


async def test_a_file_that_is_gone_is_said(tmp_path: Path, make_share: MakeShare) -> None:
    (tmp_path / "file").write_bytes(b"x")
    share = make_share(tmp_path)
    entry = await the_file(share)
    (tmp_path / "file").unlink()
    with pytest.raises(FileError) as caught:
        await share.open(entry)
    assert caught.value.code is FileCode.GONE


async def test_a_closed_file_gives_nothing(tmp_path: Path, make_share: MakeShare) -> None:
    (tmp_path / "file").write_bytes(b"x")
    share = make_share(tmp_path)
    source = await share.open(await the_file(share))
    await source.close()
    await source.close()
    with pytest.raises(FileError, match="closed"):
        await source.read(1)


@pytest.mark.parametrize(
    "path", [".env", "a/.hidden", ".git/config", ".git", ".mxrtc", ".mxrtc/ledger.jsonl", "./.env"]
)
async def test_listing_of_a_hidden_path_answers_alike_whether_it_is_there_or_not_and_asks_no_disk(
    tmp_path: Path, make_share: MakeShare, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    make_tree(tmp_path, TREE + " .env")
    share = make_share(tmp_path)
    asked: list[object] = []
    status = share._root.status
    monkeypatch.setattr(share._root, "status", lambda parts: asked.append(parts) or status(parts))
    answers: list[str] = []
    for each in (path, path + "-none", path.replace("/.", "/-none/.")):
        with pytest.raises(FileError) as caught:
            await share.list(each)
        assert caught.value.code is FileCode.UNKNOWN
        answers.append(str(caught.value))
    assert len(set(answers)) == 1
    assert [parts for parts in asked if any(part.startswith(".") for part in parts)] == []  # type: ignore[attr-defined]


async def test_fetching_a_hidden_path_asks_no_disk(
    tmp_path: Path, make_share: MakeShare, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path, TREE + " .env")
    share = make_share(tmp_path)
    asked: list[tuple[str, ...]] = []
    status = share._root.status
    monkeypatch.setattr(share._root, "status", lambda parts: asked.append(tuple(parts)) or status(parts))
    walk = share.select([".env", ".none", "a/.hidden", ".git/config", ".[e]nv", "**/.env"])
    assert await everything(walk) == ([], [])
    assert len(walk.unmatched()) == 6
    assert [parts for parts in asked if any(part.startswith(".") for part in parts)] == []

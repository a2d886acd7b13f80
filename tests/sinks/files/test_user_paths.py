"""The user's side: what the command line names, and the directory that things are fetched into."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import subprocess
import tempfile
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.files.messages import CHUNK_BYTES, EntryKind, FileEntry
from mxrtc_bridge.sinks.files.receive import partial_file, publisher
from mxrtc_bridge.sinks.files.receive.publisher import Published
from mxrtc_bridge.sinks.files.user_paths import Sources, UserDestination
from tests.other_user import needs_root
from tests.sinks.files.receive.senders import ALICE, begun, content, entry_of, files_in, finish, send, sha256, write
from tests.sinks.files.send.test_share import everything, make_tree
from tests.waiting import until


async def offered(sources: Sources) -> dict[str, bytes | None]:
    """What is offered, with the contents."""
    entries, failures = await everything(sources.walk())
    assert failures == []
    found: dict[str, bytes | None] = {}
    for entry in entries:
        found[entry.path] = await contents(sources, entry) if entry.kind is EntryKind.FILE else None
    return found


async def contents(sources: Sources, entry: FileEntry) -> bytes:
    source = await sources.open_file(entry)
    data = b""
    while not source.at_end:
        data += await source.read(1 << 20)
    assert source.digest() == sha256(data)
    await source.close()
    return data


async def test_files_and_directories_keep_their_own_names(tmp_path: Path) -> None:
    """Files first, then each directory under its name; hidden files and hard links are the user's own."""
    make_tree(tmp_path, "x/one x/dir/.git/config x/dir/b x/other/")
    os.link(tmp_path / "x/one", tmp_path / "x/dir/hard")
    sources = Sources([str(tmp_path / "x/dir"), f"{tmp_path}/x/one", f"{tmp_path}/x/other/"])
    await sources.open()
    assert await offered(sources) == {
        "dir": None,
        "one": b"x/one",
        "other": None,
        "dir/.git": None,
        "dir/.git/config": b"x/dir/.git/config",
        "dir/b": b"x/dir/b",
        "dir/hard": b"x/one",
    }
    sources.close()


async def test_a_link_is_followed_on_the_command_line_only(tmp_path: Path) -> None:
    make_tree(tmp_path, "real/file")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "inner").symlink_to("file")
    sources = Sources([str(tmp_path / "link")])
    await sources.open()
    entries, failures = await everything(sources.walk())
    assert [entry.path for entry in entries] == ["link", "link/file"]
    assert [failure.path for failure in failures] == ["link/inner"]
    sources.close()


async def test_the_directory_where_one_is_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tree(tmp_path, "dir/file")
    monkeypatch.chdir(tmp_path / "dir")
    for path in (".", "../dir", "../dir/."):
        sources = Sources([path])
        await sources.open()
        assert set(await offered(sources)) == {"dir", "dir/file"}
        sources.close()


async def test_standard_input_is_sent_under_the_name_given(tmp_path: Path) -> None:
    data = content(3 * CHUNK_BYTES)
    (tmp_path / "in").write_bytes(data)
    descriptor = os.open(tmp_path / "in", os.O_RDONLY)
    sources = Sources(["-"], name="dump.sql", stdin=descriptor)
    await sources.open()
    os.close(descriptor)
    assert await offered(sources) == {"dump.sql": data}
    assert await offered(sources) == {"dump.sql": data}
    sources.close()


async def test_standard_input_that_goes_on_for_ever_can_be_given_up() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"it begins")
    sources = Sources(["-"], name="dump.sql", stdin=reading)
    opening = asyncio.ensure_future(sources.open())
    await until(lambda: fcntl.ioctl(reading, termios.FIONREAD, bytes(4)) == bytes(4))
    opening.cancel()
    await asyncio.wait([opening], timeout=10)
    assert opening.cancelled()
    os.close(reading)
    os.close(writing)


@needs_root
@pytest.mark.parametrize("size", [1, 10_000_000])
async def test_a_full_disk_is_told_with_what_chooses_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (tmp_path / "in").write_bytes(bytes(size))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", full], check=True)
    try:
        with pytest.raises(OSError, match="No space"):
            (full / "filling").write_bytes(bytes(1_000_000))
        # Python looks for a directory that it can write to, and would take another one.
        monkeypatch.setattr(tempfile, "tempdir", str(full))
        with open(tmp_path / "in", "rb") as given:
            sources = Sources(["-"], name="dump.sql", stdin=given.fileno())
            with pytest.raises(LocalError, match="No space left on device; TMPDIR chooses where its copy is kept"):
                await sources.open()
    finally:
        subprocess.run(["umount", full], check=True)


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ([], "0 paths"),
        (["none"], "No such file"),
        (["-"], "--name"),
        (["/dev/null"], "neither a file nor a directory"),
        (["a/same", "b/same"], "two of the paths"),
        (["."] * 1025, "1025 paths"),
    ],
)
async def test_what_cannot_be_sent_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[str], words: str
) -> None:
    make_tree(tmp_path, "a/same b/same")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LocalError, match=words) as caught:
        await Sources(paths).open()
    assert "\n" not in str(caught.value)


# Destination


async def test_a_finished_fetch_leaves_only_what_was_fetched(tmp_path: Path) -> None:
    destination = UserDestination(tmp_path / "new")
    await destination.open()
    await send(destination, "docs/a.txt", b"a")
    await send(destination, "docs/big", content(CHUNK_BYTES))
    await destination.close(tidy=True)
    assert sorted(each.name for each in (tmp_path / "new").iterdir()) == ["docs"]
    assert files_in(tmp_path / "new") == {"docs/a.txt": b"a", "docs/big": content(CHUNK_BYTES)}


async def test_an_unfinished_fetch_goes_on_and_fetches_nothing_twice(tmp_path: Path) -> None:
    data = content(3 * CHUNK_BYTES)
    first = UserDestination(tmp_path)
    await first.open()
    await send(first, "small", b"small")
    await write(await begun(first, "big", len(data)), data, upto=CHUNK_BYTES + 1)
    await first.close(tidy=True)
    assert files_in(tmp_path) == {"small": b"small"}
    second = UserDestination(tmp_path)
    await second.open()
    assert (await send(second, "small", b"small")).before
    again = await begun(second, "big", len(data))
    assert again.offset == CHUNK_BYTES
    await finish(again, data)
    await second.close(tidy=True)
    assert files_in(tmp_path) == {"small": b"small", "big": data}
    assert not (tmp_path / ".mxrtc").exists()


@pytest.mark.parametrize("size", [0, 10, 2 * CHUNK_BYTES])
async def test_what_is_there_already_is_not_kept_twice_though_nothing_is_written_down_of_it(
    tmp_path: Path, size: int
) -> None:
    """The command before was killed between its last step and its end."""
    data = content(size)
    other = bytes(reversed(data)) if size else b"x"
    for round_ in ("first", "second", "third"):
        destination = UserDestination(tmp_path)
        await destination.open()
        published = await send(destination, "dir/name", data)
        # A file of the user's own has the first name.
        (tmp_path / "own").write_bytes(other)
        numbered = await send(destination, "own", data)
        await destination.close(tidy=True)
        assert (published.name, numbered.name) == ("dir/name", "own (2)")
        assert published.before == numbered.before == (round_ != "first")
        assert files_in(tmp_path) == {"dir/name": data, "own": other, "own (2)": data}
        assert not (tmp_path / ".mxrtc").exists()


async def test_what_others_could_change_is_not_taken_for_what_was_fetched(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"data")
    (tmp_path / "hard").hardlink_to(tmp_path / "elsewhere")
    (tmp_path / "soft").symlink_to("elsewhere")
    os.mkfifo(tmp_path / "pipe")
    destination = UserDestination(tmp_path)
    await destination.open()
    for name in ("hard", "soft", "pipe"):
        assert (await send(destination, name, b"data")).name == f"{name} (2)"
    await destination.close(tidy=True)


async def test_many_files_that_become_one_name_are_not_all_read_for_each_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share may have as many as it likes, of one size: each would cost as much as all before it."""
    read: list[int] = []

    def hash_range(descriptor: int, offset: int, size: int, also: Callable[[bytes], None]) -> bytes:
        read.append(size)
        return partial_file.hash_range(descriptor, offset, size, also)

    monkeypatch.setattr(publisher, "hash_range", hash_range)
    destination = UserDestination(tmp_path)
    await destination.open()
    for number in range(1, 32):
        await send(destination, f"a{chr(number)}", number.to_bytes(4, "big"))
    await destination.close(tidy=True)
    assert len(list(tmp_path.iterdir())) == 31
    assert len(read) <= 8 * 31


async def test_pipe_of_the_user_is_not_opened_to_be_compared(tmp_path: Path) -> None:
    """Whoever waits until somebody reads from it would go on, and write to nobody."""
    os.mkfifo(tmp_path / "pipe")
    # Ends when somebody opens the pipe to read.
    writer = asyncio.create_task(asyncio.to_thread(os.open, tmp_path / "pipe", os.O_WRONLY))
    destination = UserDestination(tmp_path)
    await destination.open()
    assert (await send(destination, "pipe", b"")).name == "pipe (2)"
    await destination.close(tidy=True)
    assert not writer.done()
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    os.close(await writer)
    os.close(reader)


async def test_an_unfinished_fetch_finds_again_what_it_has_found(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"small")
    first = UserDestination(tmp_path)
    await first.open()
    assert (await send(first, "small", b"small")).before
    await write(await begun(first, "big", 3 * CHUNK_BYTES), content(3 * CHUNK_BYTES), upto=CHUNK_BYTES + 1)
    await first.close(tidy=True)
    second = UserDestination(tmp_path)
    await second.open()
    again = await second.begin(ALICE, entry_of("small", 5))
    assert isinstance(again, Published)
    await second.close()


async def test_without_resume_everything_begins_anew(tmp_path: Path) -> None:
    data = content(3 * CHUNK_BYTES)
    first = UserDestination(tmp_path)
    await first.open()
    await write(await begun(first, "big", len(data)), data, upto=CHUNK_BYTES)
    await send(first, "small", b"x")
    await first.close()
    second = UserDestination(tmp_path, resume=False)
    await second.open()
    assert (await begun(second, "big", len(data))).offset == 0
    assert (await send(second, "small", b"x")).name == "small (2)"
    await second.close()


@pytest.mark.parametrize("size", [10, 2 * CHUNK_BYTES])
async def test_force_replaces_a_file_in_one_step(tmp_path: Path, size: int) -> None:
    """Until then the old one is whole; a link is replaced, not followed; a directory is not."""
    (tmp_path / "name").write_bytes(b"old")
    (tmp_path / "elsewhere").write_bytes(b"kept")
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / "dir").mkdir()
    data = content(size)
    destination = UserDestination(tmp_path, force=True)
    await destination.open()
    reception = await begun(destination, "name", size)
    await write(reception, data)
    assert (tmp_path / "name").read_bytes() == b"old"
    assert (await reception.publish(sha256(data))).name == "name"
    await send(destination, "link", data)
    with pytest.raises(LocalError, match="a directory of this name"):
        await send(destination, "dir", data)
    await destination.close(tidy=True)
    assert (tmp_path / "name").read_bytes() == data
    assert (tmp_path / "elsewhere").read_bytes() == b"kept"
    assert stat.S_ISREG((tmp_path / "link").lstat().st_mode)


async def test_two_programs_may_fetch_into_one_directory(tmp_path: Path) -> None:
    """Not the same file, and the first to finish does not tidy up under the other."""
    data = content(2 * CHUNK_BYTES)
    one, other = UserDestination(tmp_path), UserDestination(tmp_path)
    await one.open()
    await other.open()
    reception = await begun(one, "big", len(data))
    await write(reception, data, upto=CHUNK_BYTES)
    second = await begun(other, "big", len(data))
    with pytest.raises(LocalError, match="another process"):
        await write(second, data)
    await second.suspend()
    await send(other, "small", b"x")
    await other.close(tidy=True)
    await reception.write(data[CHUNK_BYTES:])
    await reception.publish(sha256(data))
    await one.close(tidy=True)
    assert files_in(tmp_path) == {"big": data, "small": b"x"}
    assert not (tmp_path / ".mxrtc").exists()


async def test_without_resuming_a_receiver_sees_versions_that_it_has_never_seen(tmp_path: Path) -> None:
    """One object keeps them, so that a lost connection costs nothing; another has others. Contents can be read."""
    make_tree(tmp_path, "dir/a one")
    named = [str(tmp_path / "dir"), str(tmp_path / "one")]
    seen: list[dict[str, str]] = []
    for resume in (True, False, False):
        sources = Sources(named, resume=resume)
        await sources.open()
        walks = [{entry.path: entry.version for entry in (await everything(sources.walk()))[0]} for _ in range(2)]
        assert walks[0] == walks[1]
        assert await offered(sources) == {"dir": None, "dir/a": b"dir/a", "one": b"one"}
        seen.append(walks[0])
        sources.close()
    for path in ("dir/a", "one"):
        assert len({versions[path] for versions in seen}) == 3
        assert all(len(versions[path]) <= 64 for versions in seen)

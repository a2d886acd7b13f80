"""What a drop box takes, under which names, and what it goes on with later."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.files.messages import CHUNK_BYTES, FileCode, FileError
from mxrtc_bridge.core.files.names import NamePolicy
from mxrtc_bridge.core.files.patterns import parse_name_pattern
from mxrtc_bridge.sinks.files.receive import publisher
from mxrtc_bridge.sinks.files.receive.drop_box import DropBox, read_box
from mxrtc_bridge.sinks.files.receive.incoming_file import SMALL_FILE_BYTES
from mxrtc_bridge.sinks.files.receive.partial_file import PartialFileKey
from mxrtc_bridge.sinks.files.receive.publisher import Naming, Published
from mxrtc_bridge.sinks.files.receive.receipts import Receipt
from mxrtc_bridge.sinks.files.receive.receiver import DirectoryReceiver, Expired, ReceivePolicy
from mxrtc_bridge.sinks.files.receive.state_dir import StateDirectory
from mxrtc_bridge.sinks.files.threads import FileThreads
from tests.sinks.files.receive.senders import (
    ALICE,
    BOB,
    MTIME_MS,
    ROOMY,
    begun,
    content,
    directory_of,
    entry_of,
    files_in,
    opened,
    partials_in,
    send,
    sha256,
    write,
)

SIZES = [
    0,
    1,
    SMALL_FILE_BYTES - 1,
    SMALL_FILE_BYTES,
    SMALL_FILE_BYTES + 1,
    CHUNK_BYTES - 1,
    CHUNK_BYTES,
    CHUNK_BYTES + 1,
    3 * CHUNK_BYTES,
]


async def refusal(awaitable: object) -> FileError:
    with pytest.raises(FileError) as caught:
        await awaitable  # type: ignore[misc]
    return caught.value


@pytest.mark.posix
@pytest.mark.parametrize("size", SIZES)
async def test_a_file_arrives_as_it_was(tmp_path: Path, size: int) -> None:
    """Bytes, modification time and mode, and nothing is left beside it."""
    data = content(size)
    async with opened(tmp_path / "box") as box:
        published = await send(box, "a/b/name.ext", data)
        assert published == Published("a/b/name.ext", size, sha256(data), directories=2)
        assert partials_in(tmp_path / "box") == []
        assert box.books.usage(ALICE) == box.books.usage()
        assert (box.books.usage(ALICE).size, box.books.usage(ALICE).files, len(box.books.live)) == (size, 3, 0)
    found = tmp_path / "box" / "a" / "b" / "name.ext"
    assert found.read_bytes() == data
    status = found.stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_mtime_ns == MTIME_MS * 1_000_000
    assert stat.S_IMODE(found.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "box").stat().st_mode) == 0o700


@pytest.mark.parametrize("size", [10, 2 * CHUNK_BYTES])
async def test_nothing_can_be_seen_before_it_is_whole(tmp_path: Path, size: int) -> None:
    data = content(size)
    async with opened(tmp_path) as box:
        reception = await begun(box, "name", size)
        await write(reception, data, upto=size - 1)
        assert files_in(tmp_path) == {}
        await reception.write(data[-1:])
        assert files_in(tmp_path) == {}
        await reception.publish(sha256(data))
        assert files_in(tmp_path) == {"name": data}


async def test_a_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    """Nothing is overwritten, whoever made it."""
    (tmp_path / "x.tar.gz").write_bytes(b"mine")
    async with opened(tmp_path) as box:
        assert (await send(box, "x.tar.gz", b"1", version="1")).name == "x (2).tar.gz"
        assert (await send(box, "x.tar.gz", b"2", version="2", sender=BOB)).name == "x (3).tar.gz"
        (tmp_path / "x (4).tar.gz").mkdir()
        assert (await send(box, "x.tar.gz", b"3", version="3")).name == "x (5).tar.gz"
    assert files_in(tmp_path) == {"x.tar.gz": b"mine", "x (2).tar.gz": b"1", "x (3).tar.gz": b"2", "x (5).tar.gz": b"3"}


async def test_files_of_one_name_at_the_same_time_all_arrive(tmp_path: Path) -> None:
    """In one batch, small and large ones together."""
    contents = {f"v{number}": content(10 + number % 3 * SMALL_FILE_BYTES, number) for number in range(20)}
    async with opened(tmp_path) as box:
        sent = (send(box, "same", data, version=version) for version, data in contents.items())
        published = await asyncio.gather(*sent)
    assert len({each.name for each in published}) == 20
    assert sorted(files_in(tmp_path).values()) == sorted(contents.values())


async def test_a_thousand_small_files_arrive_in_their_directories(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        await asyncio.gather(*(send(box, f"d{n % 7}/e{n % 11}/{n}", b"%d" % n) for n in range(1000)))
    assert files_in(tmp_path) == {f"d{n % 7}/e{n % 11}/{n}": b"%d" % n for n in range(1000)}


async def test_small_files_go_to_the_disk_when_there_is_no_memory_for_them(tmp_path: Path) -> None:
    async with opened(tmp_path, max_memory_bytes=100) as box:
        first, second = await begun(box, "first", 90), await begun(box, "second", 90)
        data = content(90)
        for at in range(0, 90, 30):
            await first.write(data[at : at + 30])
            await second.write(data[at : at + 30])
        assert ".part" in partials_in(tmp_path)
        await first.publish(sha256(data))
        await second.publish(sha256(data))
    assert files_in(tmp_path) == {"first": data, "second": data}


# Going on


async def test_a_transfer_goes_on_from_the_last_verified_chunk(tmp_path: Path) -> None:
    data = content(3 * CHUNK_BYTES + 5)
    async with opened(tmp_path) as box:
        reception = await begun(box, "name", len(data))
        await write(reception, data, upto=2 * CHUNK_BYTES + 77)
        await reception.suspend()
        again = await begun(box, "name", len(data))
        assert (again.offset, again.restarted) == (2 * CHUNK_BYTES, False)
        await write(again, data)
        await again.publish(sha256(data))
        assert partials_in(tmp_path) == []
    assert files_in(tmp_path) == {"name": data}


async def test_a_transfer_goes_on_after_a_restart_and_others_cannot_have_it(tmp_path: Path) -> None:
    data = content(2 * CHUNK_BYTES + 5)
    async with opened(tmp_path) as box:
        await write(await begun(box, "name", len(data)), data, upto=CHUNK_BYTES)
    async with opened(tmp_path) as box:
        assert box.books.usage(ALICE).size == CHUNK_BYTES
        assert (await begun(box, "name", len(data), sender=BOB)).offset == 0
        assert (await begun(box, "other", len(data))).offset == 0
        again = await begun(box, "name", len(data))
        assert again.offset == CHUNK_BYTES
        await write(again, data)
        await again.publish(sha256(data))
    assert files_in(tmp_path) == {"name": data}


async def test_a_link_that_dies_before_the_disk_was_looked_at_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is gone while the name is checked; the next one finds what was there, in the same process."""
    data = content(2 * CHUNK_BYTES)
    async with opened(tmp_path) as box:
        await write(await begun(box, "name", len(data)), data, upto=CHUNK_BYTES)
    async with opened(tmp_path) as box:
        entered, leave = threading.Event(), threading.Event()

        def check_place(parts: tuple[str, ...]) -> None:
            entered.set()
            assert leave.wait(30)

        with monkeypatch.context() as patch:
            patch.setattr(box.box.publisher, "check_place", check_place)
            beginning = asyncio.create_task(begun(box, "name", len(data)))
            await asyncio.to_thread(entered.wait)
            beginning.cancel()
            leave.set()
            with pytest.raises(asyncio.CancelledError):
                await beginning
        assert box.books.usage(ALICE).size == CHUNK_BYTES
        assert (await begun(box, "name", len(data))).offset == CHUNK_BYTES


async def test_bytes_that_the_disk_has_lost_are_received_again(tmp_path: Path) -> None:
    """After a power failure the map may know more than the file has, and the file may have zeros."""
    data = content(4 * CHUNK_BYTES)
    async with opened(tmp_path) as box:
        await write(await begun(box, "name", len(data)), data, upto=3 * CHUNK_BYTES)
    [part] = (tmp_path / ".mxrtc" / "partial").glob("*.part")
    with part.open("r+b") as file:
        file.seek(2 * CHUNK_BYTES + 1000)
        file.write(bytes(4096))
    async with opened(tmp_path) as box:
        assert (await begun(box, "name", len(data))).offset == 2 * CHUNK_BYTES
    os.truncate(part, CHUNK_BYTES + 1)
    async with opened(tmp_path) as box:
        again = await begun(box, "name", len(data))
        assert again.offset == CHUNK_BYTES
        await write(again, data)
        await again.publish(sha256(data))
    assert files_in(tmp_path) == {"name": data}


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"[1]\n", b"x" * 100_000, b'{"sender": 1}\n'])
async def test_a_map_that_is_none_means_from_the_beginning(tmp_path: Path, damage: bytes) -> None:
    data = content(2 * CHUNK_BYTES)
    async with opened(tmp_path) as box:
        await write(await begun(box, "name", len(data)), data, upto=CHUNK_BYTES)
    [known] = (tmp_path / ".mxrtc" / "partial").glob("*.map")
    known.write_bytes(damage)
    async with opened(tmp_path) as box:
        assert partials_in(tmp_path) == []
        assert (await begun(box, "name", len(data))).offset == 0


@pytest.mark.parametrize("change", ["version", "size"])
async def test_a_changed_source_begins_anew_and_says_so(tmp_path: Path, change: str) -> None:
    data = content(3 * CHUNK_BYTES)
    async with opened(tmp_path) as box:
        reception = await begun(box, "name", len(data))
        await write(reception, data, upto=2 * CHUNK_BYTES)
        await reception.suspend()
        if change == "version":
            again = await begun(box, "name", len(data), version="v2")
        else:
            again = await begun(box, "name", len(data) - 1)
        assert (again.offset, again.restarted) == (0, True)
        assert box.books.usage(ALICE).size == again.identity.size


async def test_a_new_session_takes_over_what_a_dead_one_still_holds(tmp_path: Path) -> None:
    """The old one learns it at its next step, and nothing of what it verified is lost."""
    data = content(3 * CHUNK_BYTES)
    async with opened(tmp_path) as box:
        old = await begun(box, "name", len(data))
        await write(old, data, upto=CHUNK_BYTES + 1)
        new = await begun(box, "name", len(data))
        assert new.offset == CHUNK_BYTES
        assert (await refusal(old.write(b"x"))).code is FileCode.INTERRUPTED
        await old.suspend()
        await write(new, data)
        await new.publish(sha256(data))
        assert (box.books.usage(ALICE).size, box.books.usage(ALICE).files) == (len(data), 1)
    assert files_in(tmp_path) == {"name": data}


async def test_what_was_received_before_is_not_received_again(tmp_path: Path) -> None:
    """The answer "got" may have been lost with the link; a second copy would be wrong."""
    async with opened(tmp_path) as box:
        first = await send(box, "name", b"data")
        assert not first.before
        again = await send(box, "name", b"data")
        assert (again.before, again.name, again.digest) == (True, "name", first.digest)
    async with opened(tmp_path) as box:
        assert (await send(box, "name", b"data")).before
        assert not (await send(box, "name", b"data", sender=BOB)).before
        (tmp_path / "name").unlink()
        assert not (await send(box, "name", b"data")).before
    assert files_in(tmp_path) == {"name (2)": b"data", "name": b"data"}


async def test_files_that_were_received_before_are_looked_up_in_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock and a trip to a thread for each cost more than to send a small file again; a bad one costs no other."""
    names, trips, run, find = (
        [f"file{number}" for number in range(100)],
        0,
        FileThreads.run,
        StateDirectory.received_before,
    )

    async def counted(threads: FileThreads, job: Callable[[], Any], **options: bool) -> Any:
        nonlocal trips
        trips += 1
        return await run(threads, job, **options)

    def failing(box: StateDirectory, identity: PartialFileKey) -> Receipt | None:
        if identity.path == "file7":
            raise OSError(errno.EIO, "a bad block")
        return find(box, identity)

    async with opened(tmp_path) as box:
        await asyncio.gather(*(send(box, name, b"data") for name in names))
        monkeypatch.setattr(FileThreads, "run", counted)
        monkeypatch.setattr(StateDirectory, "received_before", failing)
        again = await asyncio.gather(*(box.begin(ALICE, entry_of(name, 4)) for name in names), return_exceptions=True)
        assert trips == 1
    assert [name for name, each in zip(names, again, strict=True) if isinstance(each, FileError)] == ["file7"]
    assert sum(isinstance(each, Published) and each.before for each in again) == 99


async def test_a_discarded_file_leaves_nothing(tmp_path: Path) -> None:
    data = content(2 * CHUNK_BYTES)
    async with opened(tmp_path) as box:
        reception = await begun(box, "name", len(data))
        await write(reception, data, upto=CHUNK_BYTES + 1)
        await reception.discard()
        assert partials_in(tmp_path) == []
        assert (box.books.usage().size, box.books.usage().files, len(box.books.live)) == (0, 0, 0)
        assert (await refusal(reception.write(b"x"))).code is FileCode.INTERRUPTED


async def test_partial_files_expire(tmp_path: Path) -> None:
    data = content(2 * CHUNK_BYTES)
    now = [1000.0]
    box = DirectoryReceiver(tmp_path, ReceivePolicy(Naming(), ROOMY), clock=lambda: now[0])
    await box.open()
    reception = await begun(box, "name", len(data))
    await write(reception, data, upto=CHUNK_BYTES)
    await reception.suspend()
    now[0] += ROOMY.partial_age_s
    assert await box.expire() == Expired(0, 0)
    now[0] += 1
    assert await box.expire() == Expired(1, CHUNK_BYTES)
    assert partials_in(tmp_path) == []
    assert box.books.usage().size == 0
    await box.close()


# Lies


@pytest.mark.parametrize("size", [10, 3 * CHUNK_BYTES])
async def test_more_bytes_than_announced_are_refused(tmp_path: Path, size: int) -> None:
    async with opened(tmp_path) as box:
        reception = await begun(box, "name", size)
        data = content(size)
        await write(reception, data)
        assert (await refusal(reception.write(b"x"))).code is FileCode.VIOLATION
        assert (await refusal(reception.publish(sha256(data)))).code is FileCode.VIOLATION
        await reception.suspend()
    assert files_in(tmp_path) == {}


@pytest.mark.parametrize("size", [10, 3 * CHUNK_BYTES])
async def test_fewer_bytes_than_announced_are_not_a_file(tmp_path: Path, size: int) -> None:
    async with opened(tmp_path) as box:
        reception = await begun(box, "name", size)
        data = content(size)
        await write(reception, data, upto=size - 1)
        error = await refusal(reception.publish(sha256(data[:-1])))
        assert error.code is FileCode.INTEGRITY
        assert f"{size - 1} of {size} bytes" in str(error)
    assert files_in(tmp_path) == {}


@pytest.mark.parametrize("size", [10, 3 * CHUNK_BYTES])
async def test_a_wrong_hash_is_not_a_file_and_leaves_nothing(tmp_path: Path, size: int) -> None:
    async with opened(tmp_path) as box:
        reception = await begun(box, "name", size)
        await write(reception, content(size))
        assert (await refusal(reception.publish(sha256(b"other")))).code is FileCode.INTEGRITY
        assert partials_in(tmp_path) == []
        assert box.books.usage().size == 0
        assert (await begun(box, "name", size)).offset == 0
    assert files_in(tmp_path) == {}


async def test_a_wrong_chunk_stops_the_file_and_costs_only_itself(tmp_path: Path) -> None:
    data = content(3 * CHUNK_BYTES)
    async with opened(tmp_path) as box:
        reception = await begun(box, "name", len(data))
        await write(reception, data, upto=CHUNK_BYTES)
        await reception.write(bytes(CHUNK_BYTES))
        error = await refusal(reception.verify_chunk(1, sha256(data[CHUNK_BYTES : 2 * CHUNK_BYTES])))
        assert error.code is FileCode.INTEGRITY
        assert (await refusal(reception.write(b"x"))).code is FileCode.INTEGRITY
        await reception.suspend()
        again = await begun(box, "name", len(data))
        assert again.offset == CHUNK_BYTES
        await write(again, data)
        await again.publish(sha256(data))
    assert files_in(tmp_path) == {"name": data}


@pytest.mark.parametrize(("number", "digest"), [(1, "00" * 32), (0, "00" * 32), (0, "no hex"), (2**60, "")])
async def test_a_chunk_named_out_of_its_turn_stops_the_file(tmp_path: Path, number: int, digest: str) -> None:
    async with opened(tmp_path) as box:
        for size in (10, 3 * CHUNK_BYTES):
            reception = await begun(box, f"name{size}", size)
            await reception.write(b"12345")
            assert (await refusal(reception.verify_chunk(number, digest))).code is FileCode.VIOLATION
            await reception.suspend()


# Names


@pytest.mark.parametrize("path", ["../up", "/abs", ".mxrtc/ledger.jsonl", "a/../../b", "-rf", "con", "a\u202eb", ""])
async def test_a_hostile_name_is_refused_or_made_safe(tmp_path: Path, path: str) -> None:
    async with opened(tmp_path / "strict", names=NamePolicy.REFUSE) as box:
        assert (await refusal(box.begin(ALICE, entry_of(path, 1)))).code is FileCode.NAME
    async with opened(tmp_path / "safe", names=NamePolicy.SANITISE) as box:
        published = await send(box, path, b"x")
    assert files_in(tmp_path / "safe") == {published.name: b"x"}
    assert {each.name for each in tmp_path.iterdir()} == {"strict", "safe"}


async def test_half_a_surrogate_pair_breaks_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, names=NamePolicy.SANITISE) as box:
        assert (await send(box, "a\ud800b", b"x")).name == "a_b"
        assert (await send(box, "a\ud800b", b"x")).before
    assert [each.receipt.path for each in read_box(tmp_path)] == ["a\ud800b"]


async def test_a_name_that_differs_only_in_case_is_refused_or_numbered(tmp_path: Path) -> None:
    for size in (1, SMALL_FILE_BYTES + 1):
        box_path = tmp_path / f"strict{size}"
        async with opened(box_path, names=NamePolicy.REFUSE) as box:
            await send(box, "Docs/README", b"x")
            for path in ("Docs/readme", "docs/other", "DOCS/README/x"):
                with pytest.raises(FileError, match="only in case") as caught:
                    await send(box, path, content(size))
                assert caught.value.code is FileCode.NAME
            assert len(box.books.live) == 0
        assert list(files_in(box_path)) == ["Docs/README"]
    async with opened(tmp_path / "safe", names=NamePolicy.SANITISE) as box:
        await send(box, "Docs/README", b"x")
        assert (await send(box, "docs/readme", b"y")).name == "Docs/readme (2)"


async def test_only_allowed_names_are_taken(tmp_path: Path) -> None:
    box = DropBox(tmp_path, ROOMY, allowed=(parse_name_pattern("*.pdf"),))
    await box.open()
    await send(box, "dir.x/a.pdf", b"x")
    with pytest.raises(FileError, match=r"\*\.pdf"):
        await send(box, "a.pdf.exe", b"x")
    await box.close()
    assert list(files_in(tmp_path)) == ["dir.x/a.pdf"]


async def test_directories_are_made_once_and_kept_when_empty(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        first = await box.begin(ALICE, directory_of("a/b"))
        assert first == Published("a/b", 0, "", directories=2)
        assert await box.begin(ALICE, directory_of("a/b")) == Published("a/b", 0, "")
        await send(box, "a/file", b"x")
        error = await refusal(box.begin(ALICE, directory_of("a/file")))
        assert error.code is FileCode.DENIED
        assert box.books.usage(ALICE).files == 3
    assert (tmp_path / "a" / "b").is_dir()


# Who


async def test_the_ledger_tells_who_put_what(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        await send(box, "a", b"1")
        await send(box, "a", b"22", sender=BOB)
        listed = [(each.receipt.sender, each.receipt.name, each.receipt.size) for each in read_box(tmp_path)]
        assert listed == [(ALICE, "a", 1), (BOB, "a (2)", 2)]
        (tmp_path / "a").unlink()
        assert [each.present for each in read_box(tmp_path)] == [False, True]
        assert [each.receipt.digest for each in read_box(tmp_path)] == [sha256(b"1"), sha256(b"22")]


async def test_a_torn_line_in_the_ledger_costs_only_itself(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        await send(box, "a", b"1")
    with (tmp_path / ".mxrtc" / "ledger.jsonl").open("ab") as ledger:
        ledger.write(b"\xff" * 100_000 + b'\n{"t": 1, "u": "@al')
    async with opened(tmp_path) as box:
        assert (await send(box, "a", b"1")).before
        await send(box, "b", b"2")
    assert [each.receipt.name for each in read_box(tmp_path)] == ["a", "b"]


async def test_a_box_belongs_to_one_bridge(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(LocalError, match="belongs to one bridge"):
            await DropBox(tmp_path).open()
    async with opened(tmp_path):
        pass


async def test_a_directory_that_is_no_box_says_so(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="no ledger"):
        list(read_box(tmp_path))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LocalError, match="cannot be used"):
        await DropBox(tmp_path / "file").open()


async def test_a_closed_box_takes_nothing_and_keeps_what_is_verified(tmp_path: Path) -> None:
    data = content(2 * CHUNK_BYTES)
    async with opened(tmp_path) as box:
        reception = await begun(box, "name", len(data))
        await write(reception, data, upto=CHUNK_BYTES)
    assert partials_in(tmp_path) == [".map", ".part"]
    assert (await refusal(box.begin(ALICE, entry_of("b", 1)))).code is FileCode.UNAVAILABLE


async def test_a_cancelled_publication_is_still_counted(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        reception = await begun(box, "name", 4)
        await reception.write(b"data")
        task = asyncio.create_task(reception.publish(sha256(b"data")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (box.books.usage(ALICE).size, len(box.books.live)) == (4, 0)
        assert (await send(box, "name", b"data")).before


async def test_a_defect_at_one_file_of_a_batch_costs_that_file_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the locale of the process cannot hold a name: that is no error of the system."""
    renaming = publisher.rename_new

    def rename(source_directory: int, source: str, directory: int, name: str) -> None:
        if name == "odd":
            raise UnicodeEncodeError("latin-1", "\u200c", 0, 1, "ordinal not in range(256)")
        renaming(source_directory, source, directory, name)

    monkeypatch.setattr(publisher, "rename_new", rename)
    async with opened(tmp_path) as box:
        names = [f"file{number}" for number in range(20)]
        sent = await asyncio.gather(*(send(box, name, b"x") for name in [*names, "odd"]), return_exceptions=True)
    assert isinstance(sent[-1], FileError)
    assert all(isinstance(each, Published) for each in sent[:-1])
    assert sorted(files_in(tmp_path)) == sorted(names)


@pytest.mark.parametrize("piece", [16 * 1024, 100_000, 512 * 1024, CHUNK_BYTES])
async def test_zeros_take_no_room_on_the_disk_and_nothing_is_lost(tmp_path: Path, piece: int) -> None:
    """Also at the end, and where it goes on later."""
    size = 9 * CHUNK_BYTES + 5000
    data = bytearray(size)
    for at in (0, CHUNK_BYTES + 70_000, 5 * CHUNK_BYTES - 1):
        data[at : at + 1000] = content(1000, at)
    for name, whole in (("image", bytes(data)), ("empty image", bytes(size))):
        async with opened(tmp_path / "box") as box:
            reception = await begun(box, name, size)
            await write(reception, whole, upto=6 * CHUNK_BYTES + 100_000, piece=piece)
        async with opened(tmp_path / "box") as box:
            reception = await begun(box, name, size)
            assert reception.offset == 6 * CHUNK_BYTES
            await write(reception, whole, piece=piece)
            await reception.publish(sha256(whole))
        found = tmp_path / "box" / name
        assert found.read_bytes() == whole
        if piece >= 64 * 1024:
            assert found.stat().st_blocks * 512 < CHUNK_BYTES

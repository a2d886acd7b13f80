"""Both sides of a session joined in memory, with real directories behind them: files move, stop, and go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mxrtc_bridge.core.access.targets import Direction, FilesTarget, TcpTarget
from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files.messages import (
    NO_FILES,
    NO_INBOX,
    NO_SHARE,
    PROTOCOL_FILE,
    FileCode,
    FileEntry,
    FileError,
    Get,
    Ls,
    Put,
)
from mxrtc_bridge.core.ids import ServiceName
from mxrtc_bridge.engine.call_ports import ServiceGrant
from mxrtc_bridge.engine.client_channels import OpenedTransfer
from mxrtc_bridge.engine.file_transfer import INTERNAL_ERROR
from mxrtc_bridge.sinks.files.receive.drop_box import DropBox
from mxrtc_bridge.sinks.files.send.outgoing_file import OutgoingFile
from mxrtc_bridge.sinks.files.send.share import Share
from mxrtc_bridge.sinks.files.transfer_ports import ReceivedFrom, Selected
from mxrtc_bridge.sinks.files.user_paths import Sources, UserDestination
from tests.engine.test_session_channels import Session, open_stream
from tests.fakes import FakeSink
from tests.sinks.files.receive.senders import ALICE, ROOMY, content, files_in, partials_in

MIB = 1024 * 1024


class Services:
    """A drop box and a share of a test."""

    def __init__(self, folder: Path) -> None:
        (folder / "share").mkdir()
        self.box = DropBox(folder / "box", ROOMY)
        self.share = Share(folder / "share")
        self.failure: FileError | None = None

    async def source(self, _target: FilesTarget, job: Get | Ls) -> Selected:
        if self.failure is not None:
            raise self.failure
        return await Selected.open(self.share, job)

    def receiver(self, _target: FilesTarget) -> ReceivedFrom:
        if self.failure is not None:
            raise self.failure
        return ReceivedFrom(self.box, ALICE)


class World(Session):
    """A session with services for files; what is put and where things go on the user's side is below ``folder``."""

    def __init__(self, folder: Path, services: Services) -> None:
        super().__init__(services)
        self.folder = folder
        self.services = services
        self.tasks: set[asyncio.Task[None]] = set()
        self.records: list[tx.EntryDone | tx.EntryFailed] = []
        for name, direction in (("in", "receive"), ("out", "send"), ("both", "both")):
            target = FilesTarget(str(folder), Direction(direction))
            self.gate.services[name] = ServiceGrant(target, raw=True, max_streams=4)

    async def settle(self, *, upto: int | None = None) -> None:
        """Deliver everything until nothing moves any more, or until so many bytes of messages were delivered."""
        delivered = 0
        while self.network or self.work or self.tasks:
            for work in self.work:
                self.tasks.add(asyncio.ensure_future(work))
            self.work.clear()
            while self.network:
                self.network.popleft()()
                delivered += 1
                self.opener.send_space()
                self.acceptor.send_space()
                if upto is not None and delivered >= upto:
                    return
            if self.tasks and not self.work:
                done, self.tasks = await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()

    async def end(self) -> None:
        """End both sides as a session does: first the streams, then the tasks."""
        self.opener.ended()
        self.acceptor.ended()
        for work in self.work:
            work.close()
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    services = Services(tmp_path)
    await services.box.open()
    world = World(tmp_path, services)
    await world.settle()
    yield world
    await world.end()
    await services.box.close()
    services.share.close()


async def sources_of(world: World, files: dict[str, bytes]) -> Sources:
    for name, data in files.items():
        path = world.folder / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    sources = Sources([str(path) for path in sorted((world.folder / "mine").iterdir())])
    await sources.open()
    return sources


def put(world: World, sources: Sources, service: str = "in") -> OpenedTransfer:
    return world.opener.open_transfer(ServiceName(service), Put(), sources, world.records.append)


def outcome(opened: OpenedTransfer) -> tuple[tx.TransferOutcome, str]:
    how = opened.finished.result()
    return how.outcome, how.code


CLEAN = (tx.TransferOutcome.CLEAN, "")
TREE = {"a.bin": content(3 * MIB + 7, 1), "d/empty": b"", "d/e/small": b"small", "z.bin": content(MIB, 2)}


async def test_put_brings_a_tree_into_the_box_and_gives_all_memory_back(world: World) -> None:
    sources = await sources_of(world, TREE)
    opened = put(world, sources)
    await world.settle()
    assert outcome(opened) == CLEAN
    assert files_in(world.folder / "box") == TREE
    how = opened.finished.result()
    assert (how.progress.files_done, how.progress.failed) == (4, 0)
    assert how.sent == sum(map(len, TREE.values()))
    assert world.opener.totals() == (0, how.sent, 0)
    assert world.acceptor.totals() == (0, 0, how.sent)
    assert [channel.unconsumed for channel in world.near.channels + world.far.channels] == [0] * 4
    assert not world.services.box.books.live
    assert {type(record) for record in world.records} == {tx.EntryDone}
    assert sorted(record.entry.path for record in world.records) == sorted((*TREE, "d", "d/e"))
    sources.close()


async def test_put_of_the_same_again_moves_nothing(world: World) -> None:
    sources = await sources_of(world, TREE)
    put(world, sources)
    await world.settle()
    again = put(world, sources)
    await world.settle()
    assert outcome(again) == CLEAN
    assert again.finished.result().sent == 0
    assert files_in(world.folder / "box") == TREE
    sources.close()


async def test_hundreds_of_small_files_arrive(world: World) -> None:
    files = {f"many/{number:04}": content(number % 97, number) for number in range(700)}
    sources = await sources_of(world, files)
    opened = put(world, sources)
    await world.settle()
    assert outcome(opened) == CLEAN
    assert files_in(world.folder / "box") == files
    sources.close()


async def test_get_brings_what_is_selected_and_tells_of_a_pattern_without_match(world: World) -> None:
    shared = world.folder / "share"
    (shared / "docs").mkdir()
    (shared / "docs" / "big.bin").write_bytes(content(2 * MIB + 1))
    (shared / "docs" / "small.txt").write_bytes(b"text")
    (shared / ".hidden").write_bytes(b"secret")
    destination = UserDestination(world.folder / "got")
    await destination.open()
    receiver = ReceivedFrom(destination, "@rtc_build:example.org")
    opened = world.opener.open_transfer(ServiceName("out"), Get(("docs", "none*", ".hidden")), receiver)
    await world.settle()
    how = opened.finished.result()
    assert how.outcome is tx.TransferOutcome.PARTIAL
    assert how.progress.files_done == 2
    assert how.received == 2 * MIB + 5
    await destination.close(tidy=True)
    assert files_in(world.folder / "got") == {"docs/big.bin": content(2 * MIB + 1), "docs/small.txt": b"text"}


async def test_ls_shows_one_level(world: World) -> None:
    shared = world.folder / "share"
    (shared / "docs" / "deep").mkdir(parents=True)
    (shared / "docs" / "a").write_bytes(b"12345")
    shown: list[FileEntry] = []
    opened = world.opener.open_transfer(ServiceName("both"), Ls("docs"), shown.append)
    await world.settle()
    assert outcome(opened) == CLEAN
    assert [(entry.path, entry.size) for entry in shown] == [("docs/a", 5), ("docs/deep", 0)]


async def test_ls_of_what_is_not_there_is_refused(world: World) -> None:
    opened = world.opener.open_transfer(ServiceName("out"), Ls("nothing"), lambda _entry: None)
    await world.settle()
    assert outcome(opened) == (tx.TransferOutcome.REFUSED, "unknown")


async def test_cut_session_keeps_what_is_verified_and_the_next_goes_on(world: World) -> None:
    data = content(8 * MIB, 3)
    sources = await sources_of(world, {"big.bin": data})
    opened = put(world, sources)
    while opened.progress.bytes_done < 5 * MIB:
        await world.settle(upto=50)
    await world.end()
    assert opened.finished.result().outcome is tx.TransferOutcome.INTERRUPTED
    await world.services.box.close()
    assert partials_in(world.folder / "box") == [".map", ".part"]

    world.services.box = DropBox(world.folder / "box", ROOMY)
    await world.services.box.open()
    later = World(world.folder, world.services)
    await later.settle()
    again = put(later, sources)
    await later.settle()
    assert outcome(again) == CLEAN
    assert again.finished.result().sent <= 5 * MIB
    assert again.finished.result().progress.bytes_kept >= 3 * MIB
    assert files_in(world.folder / "box") == {"big.bin": data}
    await later.end()
    sources.close()


async def test_reset_ends_both_sides_and_lets_all_files_go(world: World) -> None:
    sources = await sources_of(world, {"big.bin": content(4 * MIB)})
    opened = put(world, sources)
    while opened.progress.bytes_done < MIB:
        await world.settle(upto=20)
    opened.reset("interrupted", "you pressed Ctrl-C")
    assert outcome(opened) == (tx.TransferOutcome.INTERRUPTED, "interrupted")
    opened.reset("interrupted", "again")
    await world.settle()
    assert ("transfer", "interrupted") in world.counters.counted
    await world.services.box.close()
    assert not world.services.box.books.live
    assert world.opener.totals()[0] == world.acceptor.totals()[0] == 0
    sources.close()


async def test_transfers_run_beside_a_stream(world: World) -> None:
    local, remote, _ = await open_stream(world)
    sources = await sources_of(world, {"big.bin": content(2 * MIB)})
    box = world.folder / "box"
    (world.folder / "share" / "other.bin").write_bytes(content(MIB, 5))
    destination = UserDestination(world.folder / "got")
    await destination.open()
    one = put(world, sources)
    two = world.opener.open_transfer(ServiceName("out"), Get(("*",)), ReceivedFrom(destination, "peer"))
    await world.settle(upto=40)
    local.listener.data_received(b"ping")
    await world.settle(upto=40)
    assert remote.written == b"ping", "a keystroke does not wait for the files"
    assert not one.finished.done()
    await world.settle()
    assert (outcome(one), outcome(two)) == (CLEAN, CLEAN)
    assert files_in(box) == {"big.bin": content(2 * MIB)}
    await destination.close()
    sources.close()


@pytest.mark.parametrize("service", ["out", "ssh", "unknown"])
async def test_put_without_a_right_to_it_is_refused_without_a_hint(world: World, service: str) -> None:
    sources = await sources_of(world, {"a": b"1"})
    opened = put(world, sources, service)
    await world.settle()
    assert outcome(opened) == (tx.TransferOutcome.REFUSED, "denied")
    assert ("refusal", "denied") in world.counters.counted
    assert world.connector.sinks == []
    sources.close()


@pytest.mark.parametrize("service", ["in", "ssh", "unknown"])
async def test_get_and_ls_without_a_right_to_them_are_refused(world: World, service: str) -> None:
    listing = world.opener.open_transfer(ServiceName(service), Ls(""), lambda _entry: None)
    getting = world.opener.open_transfer(ServiceName(service), Get(("*",)), ReceivedFrom(world.services.box, "x"))
    await world.settle()
    assert outcome(listing) == outcome(getting) == (tx.TransferOutcome.REFUSED, "denied")


@pytest.mark.parametrize("protocol", ["tcp.v1.mxrtc", "raw.mxrtc"])
async def test_stream_of_bytes_to_a_directory_is_refused(world: World, protocol: str) -> None:
    if protocol == "raw.mxrtc":
        channel = world.near.open_channel("both", protocol)
        await world.settle()
        assert channel.closed
    else:
        opened = world.opener.open_stream(ServiceName("both"), FakeSink())
        await world.settle()
        assert opened.finished.result().code == "denied"
    assert ("refusal", "denied") in world.counters.counted


async def test_service_that_is_not_available_says_so(world: World) -> None:
    world.services.failure = FileError(FileCode.UNAVAILABLE, "not at the moment")
    sources = await sources_of(world, {"a": b"1"})
    opened = put(world, sources)
    await world.settle()
    assert outcome(opened) == (tx.TransferOutcome.REFUSED, "unavailable")
    sources.close()


async def test_transfers_beyond_the_limit_of_the_service_are_refused(world: World) -> None:
    (world.folder / "share" / "a").write_bytes(b"1")
    channels = [world.near.open_channel("out", PROTOCOL_FILE) for _ in range(4)]
    for channel in channels:
        channel.set_listener(_Deaf())
        channel.send('{"t":"get","p":["*"]}')
    await world.settle()
    opened = world.opener.open_transfer(ServiceName("out"), Ls(""), lambda _entry: None)
    await world.settle()
    assert outcome(opened) == (tx.TransferOutcome.REFUSED, "limit")


async def test_transfers_count_for_the_limit_of_the_session(world: World) -> None:
    for _ in range(8):
        world.near.open_channel("out", PROTOCOL_FILE)
    await world.settle()
    late = world.near.open_channel("out", PROTOCOL_FILE)
    await world.settle()
    assert late.closed
    assert ("refusal", "limit") in world.counters.counted


@pytest.mark.parametrize("change", ["none", "send", "socket", "other settings"])
async def test_right_that_ends_resets_the_transfer(world: World, change: str) -> None:
    sources = await sources_of(world, {"big.bin": content(4 * MIB)})
    opened = put(world, sources, "both")
    while opened.progress.bytes_done < MIB:
        await world.settle(upto=20)
    world.acceptor.judge_again()
    assert not opened.finished.done()
    if change == "none":
        del world.gate.services["both"]
    elif change == "send":
        world.gate.services["both"] = world.gate.services["out"]
    elif change == "socket":
        world.gate.services["both"] = world.gate.services["ssh"]
    else:
        world.gate.services["both"] = ServiceGrant(FilesTarget("/srv/other", Direction.BOTH), raw=False)
    world.acceptor.judge_again()
    await world.settle()
    code = "interrupted" if change == "other settings" else "denied"
    assert outcome(opened) == (tx.TransferOutcome.INTERRUPTED, code)
    sources.close()


async def test_opener_that_says_nothing_is_given_up(world: World) -> None:
    channel = world.near.open_channel("in", PROTOCOL_FILE)
    await world.settle()
    world.clock.advance(16)
    await world.settle()
    assert channel.closed
    assert world.acceptor.totals()[0] == 0


async def test_transfer_after_the_end_of_the_session_is_interrupted_at_once(world: World) -> None:
    world.opener.ended()
    opened = world.opener.open_transfer(ServiceName("out"), Ls(""), lambda _entry: None)
    assert outcome(opened) == (tx.TransferOutcome.INTERRUPTED, "lost")
    assert opened.progress.files == 0


async def test_files_that_do_not_fit_the_job_are_a_mistake_of_the_caller(world: World) -> None:
    with pytest.raises(StateError, match="of no use for put"):
        world.opener.open_transfer(ServiceName("in"), Put(), lambda _entry: None)


async def test_file_that_changes_on_the_way_fails_alone(world: World) -> None:
    sources = await sources_of(world, {"a.bin": content(3 * MIB), "b.bin": b"other"})
    opened = put(world, sources)
    while opened.progress.bytes_done < MIB:
        await world.settle(upto=20)
    (world.folder / "mine" / "a.bin").write_bytes(b"rewritten")
    await world.settle()
    how = opened.finished.result()
    assert how.outcome is tx.TransferOutcome.PARTIAL
    assert [(failure.path, failure.code) for failure in how.progress.failures] == [("a.bin", FileCode.CHANGED)]
    assert files_in(world.folder / "box") == {"b.bin": b"other"}
    sources.close()


class _Deaf:
    """Hears a channel and does nothing."""

    def channel_opened(self) -> None: ...

    def text_received(self, text: str) -> None: ...

    def binary_received(self, data: bytes) -> None: ...

    def channel_closed(self) -> None: ...


LYING = Path("/sys/devices/system/cpu/possible")


async def test_file_shorter_than_its_size_fails_alone_and_the_rest_goes_on(world: World) -> None:
    (world.folder / "mine").mkdir()
    (world.folder / "mine" / "z.txt").write_bytes(b"behind it")
    sources = Sources([str(LYING), str(world.folder / "mine" / "z.txt")])
    await sources.open()
    opened = put(world, sources)
    await world.settle()
    assert outcome(opened)[0] is tx.TransferOutcome.PARTIAL
    (failure,) = opened.finished.result().progress.failures
    assert (failure.path, failure.code) == (LYING.name, FileCode.IO)
    assert files_in(world.folder / "box") == {"z.txt": b"behind it"}
    sources.close()


async def test_grown_file_arrives_as_long_as_it_was_and_both_sides_are_told(world: World) -> None:
    data = content(MIB, 3)
    sources = await sources_of(world, {"log": data})
    with (world.folder / "mine" / "log").open("ab") as file:
        file.write(b"later")
    opened = put(world, sources)
    await world.settle()
    assert outcome(opened) == CLEAN
    assert files_in(world.folder / "box") == {"log": data}
    (done,) = world.records
    assert isinstance(done, tx.EntryDone)
    assert done.grown_to == MIB + 5
    sources.close()
    # The other way the source is the bridge, and says it over the wire.
    (world.folder / "share" / "log").write_bytes(data)
    destination = UserDestination(world.folder / "got")
    await destination.open()
    got: list[tx.EntryDone | tx.EntryFailed] = []
    source_of = world.services.source

    async def growing(target: FilesTarget, job: Get | Ls) -> Selected:
        selected = await source_of(target, job)
        open_file = selected.open_file

        async def open_grown(entry: FileEntry, offset: int = 0) -> OutgoingFile:
            with (world.folder / "share" / "log").open("ab") as file:
                file.write(b"later")
            return await open_file(entry, offset)

        selected.open_file = open_grown  # type: ignore[method-assign]
        return selected

    world.services.source = growing  # type: ignore[method-assign]
    receiver = ReceivedFrom(destination, "peer")
    fetched = world.opener.open_transfer(ServiceName("out"), Get(("log",)), receiver, got.append)
    await world.settle()
    assert outcome(fetched) == CLEAN
    assert files_in(world.folder / "got") == {"log": data}
    (done,) = got
    assert isinstance(done, tx.EntryDone)
    assert done.grown_to == MIB + 5
    await destination.close(tidy=True)


class Babbling:
    """A source whose files give more than they were asked for: a defect of ours."""

    def __init__(self, sources: Sources) -> None:
        self.walk = sources.walk
        self._sources = sources

    async def open_file(self, entry: FileEntry, offset: int = 0) -> Any:
        source = await self._sources.open_file(entry, offset)
        read = source.read

        async def too_much(size: int) -> bytes:
            return await read(size) + b"!"

        source.read = too_much  # type: ignore[method-assign]
        return source


async def test_defect_ends_its_transfer_and_neither_the_session_nor_the_others_in_it(world: World) -> None:
    sources = await sources_of(world, {"a": content(MIB, 1)})
    babbling: Any = Babbling(sources)
    opened = put(world, babbling)
    await world.settle()
    assert outcome(opened) == (tx.TransferOutcome.INTERRUPTED, INTERNAL_ERROR)
    assert files_in(world.folder / "box") == {}
    second = put(world, sources)
    await world.settle()
    assert outcome(second) == CLEAN
    sources.close()


async def test_who_fetches_is_told_what_is_not_offered_and_why_and_how_many_names_are_hidden(world: World) -> None:
    shared = world.folder / "share"
    for name in ("index.html", ".htaccess", "twice"):
        (shared / name).write_bytes(b"x")
    (shared / "link").symlink_to("/etc/passwd")
    (shared / "other").hardlink_to(shared / "twice")
    destination = UserDestination(world.folder / "got")
    await destination.open()
    told: list[tx.Failure] = []

    def record(ended: tx.EntryDone | tx.EntryFailed | tx.EntrySkipped) -> None:
        if isinstance(ended, tx.EntrySkipped):
            told.append(ended.failure)

    fetched = world.opener.open_transfer(ServiceName("out"), Get(("*",)), ReceivedFrom(destination, "peer"), record)
    await world.settle()
    await destination.close(tidy=True)
    assert files_in(world.folder / "got") == {"index.html": b"x"}
    assert {failure.path for failure in told} == {"link", "twice", "other"}
    reasons = {failure.path: failure.message for failure in told}
    assert "symbolic link" in reasons["link"]
    assert "more than one name (hard links)" in reasons["other"]
    progress = fetched.finished.result().progress
    assert (progress.failed, progress.untold, progress.hidden) == (3, 0, 1)


async def test_who_has_a_right_to_another_kind_of_service_is_told_what_it_is_for(world: World) -> None:
    world.gate.services["ssh"] = ServiceGrant(TcpTarget("127.0.0.1", 22), raw=False)
    sources = await sources_of(world, {"a": b"x"})
    jobs = {
        "ssh": NO_FILES,
        "out": NO_INBOX,
        "nothing": "no such service for files, or no right to do this with it",
    }
    opened = {name: put(world, sources, name) for name in jobs}
    shown: list[FileEntry] = []
    opened["in"] = world.opener.open_transfer(ServiceName("in"), Ls(""), shown.append)
    await world.settle()
    told = {name: each.finished.result().message for name, each in opened.items()}
    assert told == {**jobs, "in": NO_SHARE}
    assert {outcome(each) for each in opened.values()} == {(tx.TransferOutcome.REFUSED, "denied")}
    sources.close()

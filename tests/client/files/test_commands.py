"""Pieces of the file commands: listings, and one file for standard output."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.files import commands as file_commands
from mxrtc_bridge.client.files.single_file import SingleFile, pour
from mxrtc_bridge.client.known_services import load_known
from mxrtc_bridge.client.options import CallOptions, Context
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.core.files.events import Held, Progress, TransferFinished, TransferOutcome
from mxrtc_bridge.core.files.messages import EntryKind, FileCode, FileEntry, FileError, Ls
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.sinks.files.user_paths import UserDestination


def entry(path: str, data: bytes = b"", kind: EntryKind = EntryKind.FILE) -> FileEntry:
    return FileEntry(path, kind, len(data), 0, "" if kind is EntryKind.DIRECTORY else "v")


async def test_one_file_and_nothing_else_is_taken(tmp_path: Path) -> None:
    destination = UserDestination(tmp_path)
    await destination.open()
    try:
        only = SingleFile(destination, "peer")
        with pytest.raises(FileError) as caught:
            await only.begin(entry("dir", kind=EntryKind.DIRECTORY))
        assert caught.value.code is FileCode.LIMIT
        begun = await only.begin(entry("a", b"data"))
        assert not isinstance(begun, Held)
        with pytest.raises(FileError):
            await only.begin(entry("b", b"data"))
        await begun.write(b"data")
        await begun.publish(hashlib.sha256(b"data").hexdigest())
        assert isinstance(await only.begin(entry("a", b"data")), Held), "the same one, over the next connection"
    finally:
        await destination.close()
    assert (tmp_path / "a").read_bytes() == b"data"


async def test_file_is_poured_into_a_pipe_that_is_read_slowly(tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    (tmp_path / "file").write_bytes(data)
    reading, writing = os.pipe()
    task = asyncio.create_task(pour(os.open(tmp_path / "file", os.O_RDONLY), writing))
    received = await asyncio.to_thread(_read, reading, len(data))
    await task
    os.close(writing)
    os.close(reading)
    assert received == data


async def test_output_that_another_program_has_made_non_blocking_is_waited_for(tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    (tmp_path / "file").write_bytes(data)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with open(reading, "rb") as file:
        received = asyncio.create_task(asyncio.to_thread(file.read))
        try:
            await pour(os.open(tmp_path / "file", os.O_RDONLY), writing)
        finally:
            os.close(writing)
            await received
    assert received.result() == data


def _read(descriptor: int, size: int) -> bytes:
    received = b""
    while len(received) < size:
        received += os.read(descriptor, 7001)
    return received


async def test_pipe_that_nobody_reads_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(OSError, match="pipe") as caught:
        await pour(os.open(tmp_path / "file", os.O_RDONLY), writing)
    os.close(writing)
    assert caught.value.errno == errno.EPIPE


async def test_blocked_output_keeps_nobody_from_ending(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    reading, writing = os.pipe()
    task = asyncio.create_task(pour(os.open(tmp_path / "file", os.O_RDONLY), writing))
    assert await asyncio.to_thread(os.read, reading, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(_read, reading, (1 << 20) - 1)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    ("modified_ms", "words"),
    [(0, "1970-01-01 00:00"), ((1 << 53) - 1, "-" * 16), (1_700_000_000_000, "2023-11-14 22:13")],
)
def test_times_of_a_listing(modified_ms: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    import time

    time.tzset()
    assert file_commands.modified_words(modified_ms) == words


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    folder = StateFolder(tmp_path / "state")
    folder.save_login(Login("http://localhost", UserId("@me:example.org"), "DEVICE", "token"))
    return folder


@pytest.mark.parametrize(
    ("name", "expected"), [("build", False), ("build:", False), ("build/share", True), ("build:docs", True)]
)
def test_when_files_are_meant(state: StateFolder, name: str, expected: bool) -> None:
    assert file_commands.names_files(state, name) is expected


async def test_no_bar_is_begun_where_nobody_can_be_called(
    state: StateFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.save_login(Login("http://localhost", UserId("@me:example.org"), "DEVICE", "to\u2028ken"))
    # What is begun there hides the cursor of the terminal, until it is ended.
    monkeypatch.setattr(file_commands, "make_view", lambda _report: pytest.fail("a bar is shown"))
    with pytest.raises(ConfigError, match="token"):
        await file_commands.get(
            Context(state, Report(), CallOptions()),
            "build/share:",
            output=str(tmp_path),
            force=False,
            resume=True,
            reconnect=False,
        )


class Opened:
    def __init__(self, finished: TransferFinished) -> None:
        self.finished: asyncio.Future[TransferFinished] = asyncio.get_running_loop().create_future()
        self.finished.set_result(finished)

    def reset(self, code: str, message: str) -> None:
        """Harmless after the end."""


class Links:
    entries: tuple[FileEntry, ...] = ()
    outcome = TransferOutcome.CLEAN
    code = ""

    def open_transfer(self, service: str, job: Any, take: Any) -> Opened:
        assert (service, job) == ("share", Ls("docs"))
        for each in self.entries:
            take(each)
        return Opened(TransferFinished(self.outcome, self.code, "a reason", 0, 0, Progress()))


class Caller:
    """Stands in for the class: the listing makes one itself."""

    links = Links()

    def __init__(self, *_: object) -> None: ...

    async def __aenter__(self) -> Caller:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    @contextlib.asynccontextmanager
    async def call(self, _peer: UserId) -> AsyncIterator[Caller]:
        yield self


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> Links:
    monkeypatch.setattr(Caller, "links", Links())
    monkeypatch.setattr(file_commands, "Calls", Caller)
    return Caller.links


async def test_listing_shows_names_in_a_displayable_form(
    state: StateFolder, links: Links, capsys: pytest.CaptureFixture[str]
) -> None:
    links.entries = (entry("docs/a\x1b[2J.txt", b"1234"), entry("docs/sub", kind=EntryKind.DIRECTORY))
    await file_commands.list_files(Context(state, Report()), "build/share:docs")
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[0] == "4"
    assert first.endswith(r"docs/a\x1b[2J.txt")
    assert second.endswith("docs/sub/")


async def test_names_of_a_listing_are_kept_for_completion(state: StateFolder, links: Links) -> None:
    links.entries = (
        entry("docs", kind=EntryKind.DIRECTORY), entry("docs/a b.txt"), entry("docs/sub", kind=EntryKind.DIRECTORY),
        entry("docs/sub/deep.txt"),
    )  # fmt: skip
    await file_commands.list_files(Context(state, Report()), "build/share:docs")
    known = load_known(state, state.load_login().user_id)
    assert list(known.listings.values()) == [("a b.txt", "sub/")]
    assert [(service, path) for _, service, path in known.listings] == [("share", "docs")]


async def test_listing_has_a_limit_and_says_so(
    state: StateFolder, links: Links, capsys: pytest.CaptureFixture[str]
) -> None:
    links.entries = tuple(entry(f"docs/{number}") for number in range(5))
    await file_commands.list_files(Context(state, Report()), "build/share:docs", max_listed=2)
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    assert captured.err == "3 more are not shown\n"


async def test_listing_that_was_refused_is_an_error(state: StateFolder, links: Links) -> None:
    links.outcome, links.code = TransferOutcome.REFUSED, "denied"
    with pytest.raises(ClientError) as caught:
        await file_commands.list_files(Context(state, Report()), "build/share:docs")
    assert caught.value.code == Exit.DENIED


@pytest.mark.parametrize(("path", "code"), [("nothing", Exit.LOCAL), ("-", Exit.USAGE)])
async def test_what_cannot_be_sent_is_told_before_anybody_is_called(
    state: StateFolder, tmp_path: Path, path: str, code: Exit
) -> None:
    named = path if path == "-" else str(tmp_path / path)
    with pytest.raises(ClientError) as caught:
        await file_commands.send(
            Context(state, Report()), [named], "build/inbox", name=None, resume=True, reconnect=True
        )
    assert caught.value.code == code


async def test_place_that_cannot_be_written_is_told_before_anybody_is_called(state: StateFolder) -> None:
    with pytest.raises(ClientError) as caught:
        await file_commands.get(
            Context(state, Report()),
            "build/share",
            output="/proc/nothing",
            force=False,
            resume=True,
            reconnect=True,
        )
    assert caught.value.code == Exit.LOCAL


async def test_path_at_the_other_side_is_no_place_to_send_to(state: StateFolder) -> None:
    with pytest.raises(ClientError, match="has no path at the other side"):
        await file_commands.send(
            Context(state, Report()), ["x"], "build/inbox:docs", name=None, resume=True, reconnect=True
        )


class Transfer:
    """Stands in for a transfer: the other side has one file, or none."""

    files: tuple[str, ...] = ("a.pdf",)
    interrupted = False

    def __init__(self, *arguments: Any) -> None:
        self._receiver = arguments[4]
        self.progress = Progress()

    async def run(self, *, reconnect: bool) -> None:
        assert reconnect
        for name in self.files:
            begun = await self._receiver.begin(entry(name, b"data"))
            await begun.write(b"data")
            await begun.publish(hashlib.sha256(b"data").hexdigest())
        if self.interrupted:
            raise asyncio.CancelledError


@pytest.fixture
def transfer(
    links: Links, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> type[Transfer]:
    monkeypatch.setattr(file_commands, "FileTransfer", Transfer)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(Transfer, "files", Transfer.files)
    monkeypatch.setattr(Transfer, "interrupted", False)
    return Transfer


async def test_one_file_goes_to_the_output_and_leaves_nothing(
    state: StateFolder, transfer: type[Transfer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(tmp_path.iterdir())
    with (tmp_path / "output").open("wb") as output:
        monkeypatch.setattr("sys.stdout", output)
        await file_commands.get_to_output(Context(state, Report()), "build/share:a.pdf", reconnect=True)
    assert (tmp_path / "output").read_bytes() == b"data"
    assert set(tmp_path.iterdir()) == {*before, tmp_path / "output"}


async def test_file_that_is_not_there_is_told_and_leaves_nothing(
    state: StateFolder, transfer: type[Transfer], tmp_path: Path
) -> None:
    transfer.files = ()
    before = set(tmp_path.iterdir())
    with pytest.raises(ClientError, match="there is no such file") as caught:
        await file_commands.get_to_output(Context(state, Report()), "build/share:a.pdf", reconnect=True)
    assert caught.value.code == Exit.DENIED
    assert set(tmp_path.iterdir()) == before


async def test_output_that_is_full_is_told(
    state: StateFolder, transfer: type[Transfer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("wb", buffering=0) as output:
        monkeypatch.setattr("sys.stdout", output)
        with pytest.raises(ClientError, match="the output cannot be written: No space left") as caught:
            await file_commands.get_to_output(Context(state, Report()), "build/share:a.pdf", reconnect=True)
    assert caught.value.code == Exit.LOCAL


@pytest.mark.parametrize(("output", "name"), [("b", "b"), ("papers/", "papers/a.pdf")])
async def test_interrupted_one_says_how_to_go_on(
    state: StateFolder, transfer: type[Transfer], tmp_path: Path, output: str, name: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    transfer.interrupted = True
    monkeypatch.setattr("sys.argv", ["mxrtc", "get", "build/share:a.pdf", "-o", output])
    with pytest.raises(asyncio.CancelledError):
        await file_commands.get(
            Context(state, Report()), "build/share:a.pdf", output=f"{tmp_path}/{output}",
            force=False, resume=True, reconnect=True,
        )  # fmt: skip
    assert f"mxrtc get build/share:a.pdf -o {output}" in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == b"data"

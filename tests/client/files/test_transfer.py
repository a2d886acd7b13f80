"""One job over several calls, with the caller and the other side faked."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.files.progress_view import Meter
from mxrtc_bridge.client.files.transfer import MAX_VAIN_ATTEMPTS, FileTransfer
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.state import Login
from mxrtc_bridge.core.access.peer_names import PeerName
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.files.events import EntryDone, Failure, Progress, TransferFinished, TransferOutcome
from mxrtc_bridge.core.files.messages import EntryKind, FileCode, FileEntry, Put
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.stream.messages import ServiceKind
from mxrtc_bridge.core.webrtc.ice import Path as IcePath
from mxrtc_bridge.core.webrtc.ice import PathKind
from mxrtc_bridge.engine.file_transfer import INTERNAL_ERROR

PEER = UserId("@rtc_build:example.org")
SHA = "ab" * 32
ENTRY = FileEntry("a.txt", EntryKind.FILE, 1000, 0, "v")


def progress(done: int, kept: int = 0, failures: tuple[Failure, ...] = ()) -> Progress:
    return Progress(
        files=1,
        directories=0,
        size=1000,
        listed=True,
        files_done=int(done == 1000),
        directories_done=0,
        bytes_done=done,
        bytes_kept=kept,
        failed=len(failures),
        failures=failures,
        current="",
    )


def ended(outcome: TransferOutcome, code: str = "", *, at: Progress | None = None) -> TransferFinished:
    return TransferFinished(outcome, code, code and f"because of {code}", 0, 0, at or progress(1000))


class Opened:
    def __init__(self, finished: TransferFinished | None) -> None:
        self.finished: asyncio.Future[TransferFinished] = asyncio.get_running_loop().create_future()
        self.progress = progress(300)
        self.resets: list[str] = []
        if finished is not None:
            self.finished.set_result(finished)
            self.progress = finished.progress

    def reset(self, code: str, message: str) -> None:
        self.resets.append(code)
        self.finished.set_result(ended(TransferOutcome.INTERRUPTED, code, at=self.progress))


class Links:
    def __init__(self, finished: TransferFinished | None, *, lost: bool) -> None:
        self.lost = asyncio.Event()
        if lost:
            self.lost.set()
        self.kinds = {
            (PEER, ServiceName("ssh")): ServiceKind.STREAM,
            (PEER, ServiceName("inbox")): ServiceKind.INBOX,
            (PEER, ServiceName("share")): ServiceKind.SHARE,
        }
        self.finished = finished
        self.digests = [SHA] if finished is not None and finished.outcome is TransferOutcome.CLEAN else []
        self.opened: Opened | None = None

    def open_transfer(self, service: ServiceName, job: Any, files: Any, *, record: Callable[..., None]) -> Opened:
        assert (service, job, files) == ("inbox", Put(), "files")
        self.opened = Opened(self.finished)
        for sha256 in self.digests:
            record(EntryDone(0, ENTRY, "a.txt", sha256, False))
        return self.opened

    async def list_services(self, *, states: bool = False) -> dict[UserId, tuple[ServiceName, ...]]:
        return {PEER: (ServiceName("ssh"), ServiceName("inbox"), ServiceName("share"))}


class Connection:
    path = IcePath(PathKind.DIRECT, "host", "host", "ipv4")
    peer = PEER
    setup_s = 0.1
    why_by_room = ""
    device = None

    def __init__(self, finished: TransferFinished | None = None, *, lost: Exit | None = None) -> None:
        self.links = Links(finished, lost=lost is not None)
        self.code = lost

    def lost(self, name: str) -> ClientError:
        assert self.code is not None
        return ClientError(self.code, f"{name}: the peer hung up")


class Caller:
    """Gives prepared connections and failures, one a call."""

    login = Login("https://example.org", UserId("@alice:example.org"), "DEVICE", "token")

    def __init__(self, *answers: Connection | Exception) -> None:
        self.answers = list(answers)

    @contextlib.asynccontextmanager
    async def call(self, _peer: UserId) -> AsyncIterator[Connection]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        yield answer


class Said:
    def __init__(self) -> None:
        self.out = io.StringIO()
        self.report = Report(as_json=True, objects=self.out)

    def objects(self, kind: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.out.getvalue().splitlines()]
        return [each for each in found if each["kind"] == kind]


@pytest.fixture
def said() -> Said:
    return Said()


def transferring(said: Said, *answers: Connection | Exception, service: str | None = "inbox") -> FileTransfer:
    name = PeerName(PEER, None if service is None else ServiceName(service))
    caller: Any = Caller(*answers)
    files: Any = "files"
    return FileTransfer(caller, said.report, name, Put(), files, Meter(None), pause=lambda _failures: 0.0)


@pytest.mark.parametrize("service", ["inbox", None])
async def test_clean_end_is_summed_up_with_the_digest(said: Said, service: str | None) -> None:
    await transferring(said, Connection(ended(TransferOutcome.CLEAN)), service=service).run(reconnect=True)
    (done,) = said.objects("transferred")
    assert (done["name"], done["files"], done["bytes"], done["moved"]) == ("build/inbox", 1, 1000, 1000)
    assert done["sha256"] == SHA
    (entry,) = said.objects("entry")
    assert (entry["path"], entry["sha256"], entry["type"]) == ("a.txt", SHA, "file")


async def test_digest_is_that_of_the_last_attempt_where_the_file_was_changed_meanwhile(said: Said) -> None:
    first = Connection(ended(TransferOutcome.INTERRUPTED, "closed"), lost=Exit.RETRY)
    first.links.digests = ["cd" * 32]
    await transferring(said, first, Connection(ended(TransferOutcome.CLEAN))).run(reconnect=True)
    (done,) = said.objects("transferred")
    assert done["sha256"] == SHA


class View:
    every_s = 3600.0

    def __init__(self, said: Said) -> None:
        self.said = said
        self.said_before: list[int] = []

    def show(self, progress: Progress, rate: float, path: str) -> None: ...

    def close(self) -> None:
        self.said_before.append(len(self.said.objects("transferred")))


async def test_bar_is_gone_when_the_digest_is_shown(said: Said) -> None:
    view = View(said)
    caller: Any = Caller(Connection(ended(TransferOutcome.CLEAN)))
    files: Any = "files"
    meter = Meter(view)
    name = PeerName(PEER, ServiceName("inbox"))
    await FileTransfer(caller, said.report, name, Put(), files, meter).run(reconnect=True)
    meter.close()
    assert view.said_before == [0]


async def test_lost_connection_is_made_again_and_what_was_moved_before_counts(said: Said) -> None:
    job = transferring(
        said,
        Connection(ended(TransferOutcome.INTERRUPTED, "unavailable", at=progress(400)), lost=Exit.RETRY),
        ClientError(Exit.OFFLINE, "no answer"),
        HomeserverError("away"),
        Connection(ended(TransferOutcome.CLEAN, at=progress(1000, kept=400))),
    )
    await job.run(reconnect=True)
    assert [each["code"] for each in said.objects("lost")] == [1, 4, 1]
    (done,) = said.objects("transferred")
    assert (done["bytes"], done["moved"]) == (1000, 1000)


async def test_without_reconnecting_the_error_says_that_the_same_command_goes_on(said: Said) -> None:
    job = transferring(said, Connection(ended(TransferOutcome.INTERRUPTED, "unavailable"), lost=Exit.RETRY))
    with pytest.raises(ClientError, match="the same command goes on") as caught:
        await job.run(reconnect=False)
    assert caught.value.code == Exit.RETRY


def cut(done: int, kept: int) -> Connection:
    at = progress(done, kept=kept)
    return Connection(ended(TransferOutcome.INTERRUPTED, "unavailable", at=at), lost=Exit.RETRY)


async def test_connections_that_bring_nothing_further_come_to_an_end(said: Said) -> None:
    """As where the other side fails at one file, each time at the same place, although bytes move each time."""
    job = transferring(said, *(cut(400, kept=0) for _ in range(MAX_VAIN_ATTEMPTS + 5)))
    with pytest.raises(ClientError, match="brought nothing further") as caught:
        await job.run(reconnect=True)
    assert caught.value.code == Exit.RETRY
    assert len(said.objects("lost")) == MAX_VAIN_ATTEMPTS - 1


async def test_a_bad_line_over_which_each_connection_brings_a_little_is_used_to_the_end(said: Said) -> None:
    rounds = 3 * MAX_VAIN_ATTEMPTS
    lost = [cut(100 + number, kept=number) for number in range(rounds)]
    await transferring(said, *lost, Connection(ended(TransferOutcome.CLEAN))).run(reconnect=True)
    assert len(said.objects("lost")) == rounds


async def test_calls_that_do_not_get_through_are_repeated_as_long_as_it_takes(said: Said) -> None:
    away = [ClientError(Exit.OFFLINE, "no answer")] * (3 * MAX_VAIN_ATTEMPTS)
    await transferring(said, cut(400, kept=0), *away, Connection(ended(TransferOutcome.CLEAN))).run(reconnect=True)


async def test_calls_that_a_defect_of_ours_ends_come_to_an_end(said: Said) -> None:
    defect = ClientError(Exit.RETRY, "the connection failed (internal_error)", defect=True)
    job = transferring(said, cut(400, kept=0), *([defect] * 3 * MAX_VAIN_ATTEMPTS))
    with pytest.raises(ClientError, match="brought nothing further"):
        await job.run(reconnect=True)
    assert len(said.objects("lost")) == MAX_VAIN_ATTEMPTS - 1


async def test_defect_of_ours_is_not_called_a_lost_connection(said: Said) -> None:
    finished = replace(ended(TransferOutcome.INTERRUPTED, INTERNAL_ERROR), message="a defect of this program")
    with pytest.raises(ClientError, match="defect of this program") as caught:
        await transferring(said, Connection(finished)).run(reconnect=True)
    assert caught.value.code == Exit.RETRY
    assert said.objects("lost") == []


@pytest.mark.parametrize("first", [ClientError(Exit.OFFLINE, "no answer"), HomeserverError("away")])
async def test_first_call_is_not_repeated(said: Said, first: Exception) -> None:
    with pytest.raises(type(first)):
        await transferring(said, first).run(reconnect=True)


@pytest.mark.parametrize("code", [Exit.DENIED, Exit.USAGE, Exit.LOCAL])
async def test_what_no_repetition_cures_ends_it(said: Said, code: Exit) -> None:
    lost = Connection(ended(TransferOutcome.INTERRUPTED, "unavailable"), lost=Exit.RETRY)
    with pytest.raises(ClientError) as caught:
        await transferring(said, lost, ClientError(code, "for good")).run(reconnect=True)
    assert caught.value.code == code


async def test_right_that_has_ended_ends_it(said: Said) -> None:
    job = transferring(said, Connection(ended(TransferOutcome.INTERRUPTED, "unavailable"), lost=Exit.DENIED))
    with pytest.raises(ClientError) as caught:
        await job.run(reconnect=True)
    assert caught.value.code == Exit.DENIED


@pytest.mark.parametrize(
    ("finished", "code"),
    [
        (ended(TransferOutcome.REFUSED, "denied"), Exit.DENIED),
        (ended(TransferOutcome.VIOLATION, "bad-index"), Exit.INTEGRITY),
        (
            ended(TransferOutcome.PARTIAL, at=progress(0, failures=(Failure("a.txt", FileCode.INTEGRITY, "damaged"),))),
            Exit.INTEGRITY,
        ),
        (
            ended(TransferOutcome.PARTIAL, at=progress(0, failures=(Failure("a.txt", FileCode.QUOTA, "full"),))),
            Exit.RETRY,
        ),
    ],
)
async def test_bad_end_is_the_exit_code(said: Said, finished: TransferFinished, code: Exit) -> None:
    with pytest.raises(ClientError) as caught:
        await transferring(said, Connection(finished)).run(reconnect=True)
    assert caught.value.code == code
    assert len(said.objects("transferred")) == (finished.outcome is TransferOutcome.PARTIAL)


async def test_cancelled_transfer_ends_in_its_own_order_and_is_known_how_far(said: Said) -> None:
    connection = Connection()
    job = transferring(said, connection)
    task = asyncio.create_task(job.run(reconnect=True))
    async with asyncio.timeout(5):
        while connection.links.opened is None:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert connection.links.opened.resets == ["interrupted"]
    assert job.progress is not None
    assert job.progress.bytes_done == 300

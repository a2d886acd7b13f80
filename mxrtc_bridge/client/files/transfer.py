"""One job with files, over as many calls as it takes.

A lost connection costs nothing but time: what was verified is kept by the side that receives, so the same job over the
next connection goes on where it was cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mxrtc_bridge.client.calls.connection import Connection, Use, only_service, report_connected
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.files.outcomes import Outcomes
from mxrtc_bridge.client.files.progress_view import Meter
from mxrtc_bridge.client.files.sentences import (
    TransferDirection,
    failure_fields,
    judge,
    moved,
    other_sentences,
    summary_sentence,
)
from mxrtc_bridge.client.forwarding import pause_s, wait_to_call_again
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.sharing.calls import Calls
from mxrtc_bridge.core.access.peer_names import PeerName
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.files.events import (
    EntryDone,
    EntryFailed,
    EntrySkipped,
    Failure,
    Progress,
    TransferFinished,
    TransferOutcome,
)
from mxrtc_bridge.core.files.messages import Job, Put
from mxrtc_bridge.core.ids import ServiceName
from mxrtc_bridge.engine.client_channels import OpenedTransfer
from mxrtc_bridge.engine.file_ports import FileReceiver, FileSource

MAX_VAIN_ATTEMPTS = 10
"""Connections in a row that worked, or ended by a defect of our own, and brought nothing further: not a file, and not a
verified mebibyte of one."""
GOODBYE_S = 3.0
"""How long an interrupted transfer may take to keep what it has."""


class FileTransfer:
    """One ``send`` or ``get``.

    Args:
        caller: makes connections.
        report: where to say what happens.
        name: the peer, and the service if it was named.
        job: what the other side is asked for.
        files: what is sent, or where it is put; open.
        meter: shows the progress.
        pause: seconds before another call, after so many failures in a row.
    """

    def __init__(
        self,
        caller: Calls,
        report: Report,
        name: PeerName,
        job: Job,
        files: FileSource | FileReceiver,
        meter: Meter,
        *,
        pause: Callable[[int], float] = pause_s,
    ) -> None:
        self._pause = pause
        self.progress: Progress | None = None
        """Of the last attempt."""
        self._caller = caller
        self._report = report
        self._name = name
        self._short = caller.login.name_of(name.peer)
        self._direction = TransferDirection.SEND if isinstance(job, Put) else TransferDirection.GET
        self._job = job
        self._files = files
        self._meter = meter
        self._service = name.service
        self._sha256 = ""
        """Of the file that was done last."""
        self._outcomes = Outcomes(sending=self._direction is TransferDirection.SEND)
        self._moved = 0
        self._began: float | None = None

    async def run(self, *, reconnect: bool) -> None:
        """Transfer until everything is where it should be; says what was done.

        Raises:
            ClientError: the first connection failed, something was refused or failed, or the connection was lost and
                is not to be made again.
            HomeserverError: the homeserver refuses us.
        """
        failures = vain = 0
        furthest = (0, 0)
        while True:
            moved_before = self._moved
            error = await self._attempt()
            if error is None:
                return
            if not reconnect:
                raise ClientError(error.code, f"{error}; the same command goes on")
            # What an attempt has brought to stay is seen by the next one, which finds it there.
            progress = self.progress
            there = (0, 0) if progress is None else (progress.files_done, progress.bytes_kept)
            if there > furthest:
                furthest, failures, vain = there, 0, 0
            elif self._moved > moved_before or error.defect:
                vain += 1
            if vain >= MAX_VAIN_ATTEMPTS:
                raise ClientError(error.code, f"{error}; {vain} connections in a row brought nothing further")
            failures += 1
            await wait_to_call_again(self._report, error, failures, self._pause)

    async def _attempt(self) -> ClientError | None:
        """Call and do the job; returns None when all is done, or why another call may go on with it.

        Raises:
            ClientError: why no other call would.
            HomeserverError: the homeserver refuses us, or is away at the first call.
        """
        try:
            async with self._caller.call(self._name.peer) as connection:
                if self._service is None:
                    use = Use.PUT if self._direction is TransferDirection.SEND else Use.GET
                    self._service = await only_service(self._short, connection, use)
                report_connected(self._report, self._full_name, connection)
                if self._began is None:
                    self._began = asyncio.get_running_loop().time()
                finished = await self._transfer(connection, self._service)
                lost = connection.links.lost.is_set()
        except HomeserverError as failed:
            # Away at the same time as the bridge, as after a power cut: calling again is the remedy.
            if self._began is None or not failed.retryable:
                raise
            return ClientError(Exit.RETRY, str(failed))
        except ClientError as failed:
            if self._began is None or failed.code in (Exit.DENIED, Exit.USAGE, Exit.LOCAL):
                raise
            return failed
        return self._judge(connection, finished, lost=lost)

    def _judge(self, connection: Connection, finished: TransferFinished, *, lost: bool) -> ClientError | None:
        """Say how an attempt has ended; see :meth:`_attempt`."""
        outcome = judge(self._full_name, self._direction, finished)
        if outcome.again and lost:
            error = connection.lost(self._short)
            again = error.code is not Exit.DENIED
        else:
            error, again = ClientError(outcome.code, outcome.sentence), outcome.again
            if finished.outcome in (TransferOutcome.CLEAN, TransferOutcome.PARTIAL):
                self._tell_summary(finished)
            if outcome.code is Exit.DONE:
                return None
        if not again:
            raise error
        return error

    @property
    def _full_name(self) -> str:
        return f"{self._short}/{self._service}"

    async def _transfer(self, connection: Connection, service: ServiceName) -> TransferFinished:
        self._outcomes.forget()
        self._outcomes = Outcomes(sending=self._direction is TransferDirection.SEND)
        opened = connection.links.open_transfer(service, self._job, self._files, record=self._entry_ended)
        try:
            async with self._meter.watching(lambda: opened.progress, str(connection.path)):
                # Not awaited itself: when this task is cancelled, the transfer is to end in its own order.
                await asyncio.wait([opened.finished])
        finally:
            await self._end(opened)
        return opened.finished.result()

    async def _end(self, opened: OpenedTransfer) -> None:
        if not opened.finished.done():
            opened.reset("interrupted", "ended by the user")
            await asyncio.wait([opened.finished], timeout=GOODBYE_S)
        self.progress = opened.finished.result().progress if opened.finished.done() else opened.progress
        self._moved += moved(self.progress)

    def _entry_ended(self, ended: EntryDone | EntryFailed | EntrySkipped) -> None:
        if isinstance(ended, EntryDone):
            self._sha256 = ended.sha256 or self._sha256
            self._outcomes.done(ended)
            self._report.say(
                "entry",
                "",
                path=ended.entry.path,
                type=ended.entry.kind.name.lower(),
                name=ended.name,
                size=ended.entry.size,
                sha256=ended.sha256 or None,
                kept=ended.kept,
                grown_to=ended.grown_to or None,
            )
            return
        failure = (
            ended.failure
            if isinstance(ended, EntrySkipped)
            else Failure(ended.entry.path, ended.code, ended.message, ended.here)
        )
        self._outcomes.failed(failure)
        self._report.say("failure", "", **failure_fields(failure))

    def _tell_summary(self, finished: TransferFinished) -> None:
        assert self._began is not None
        # Beside a bar, a digest would be broken into two lines where the terminal is narrow.
        self._meter.close()
        progress = finished.progress
        seconds = asyncio.get_running_loop().time() - self._began
        sha256 = self._sha256 if progress.files == 1 else ""
        sentence = summary_sentence(self._full_name, self._direction, progress, self._moved, seconds, sha256)
        lines = [] if self._report.as_json else self._outcomes.sentences()
        sentence = "\n".join([*lines, *other_sentences(progress), sentence])
        self._report.say(
            "transferred",
            sentence,
            name=self._full_name,
            direction=self._direction.value,
            files=progress.files_done,
            directories=progress.directories_done,
            bytes=progress.bytes_done,
            moved=self._moved,
            failed=progress.failed,
            untold=progress.untold,
            hidden=progress.hidden,
            renamed=self._outcomes.renamed,
            seconds=round(seconds, 3),
            rate=round(self._moved / max(seconds, 0.001)),
            sha256=sha256 or None,
        )

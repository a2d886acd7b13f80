"""One transfer of files: a data channel on one side, a disk on the other, a pure machine between them.

What the machine asks of the disk goes to :class:`~mxrtc_bridge.engine.file_operations.FileWork`, which holds it and
reports what came of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files.acceptor import AcceptedTransfer
from mxrtc_bridge.core.files.messages import FileCode, Job
from mxrtc_bridge.core.files.receiver import ReceiverMachine
from mxrtc_bridge.core.files.sender import SenderMachine
from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.engine.clock import Clock
from mxrtc_bridge.engine.driver import ChannelDriver
from mxrtc_bridge.engine.file_operations import FileExecutor, FileWork, Spawn
from mxrtc_bridge.engine.file_ports import Lister
from mxrtc_bridge.engine.ports import Channel
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog

TransferMachine = SenderMachine | ReceiverMachine | AcceptedTransfer
log = logging.getLogger(__name__)
_SELDOM = RateLimitedLog(log)

INTERNAL_ERROR = "internal_error"
"""How a transfer ends by a defect of ours; the other side is told that it does not work at the moment."""

Record = Callable[[tx.EntryEnd], None]
"""Told what became of each entry; must not block and not raise."""


class Transfer(ChannelDriver[tx.Event, tx.OtherEffect]):
    """Joins ``channel`` and a disk by ``machine``.

    Args:
        machine: a fresh machine; its role says which side opened the channel.
        channel: the data channel; the transfer becomes its listener.
        clock: where time comes from.
        spawn: starts a task that ends with the session.
        ready: called when the machine has payload that may be sent.
        finished: called exactly once, with how the transfer ended.
        heard: called for every message: a sign of life.
        job_received: called with what the opener wants; then :meth:`serve` or :meth:`refuse` must be called.
        record: told what became of each entry.
    """

    def __init__(
        self,
        machine: TransferMachine,
        channel: Channel,
        *,
        clock: Clock,
        spawn: Spawn,
        ready: Callable[[Transfer, int], None],
        finished: Callable[[Transfer, tx.TransferFinished], None],
        heard: Callable[[], None],
        job_received: Callable[[Job], None] | None = None,
        record: Record | None = None,
    ) -> None:
        super().__init__(machine, channel, clock=clock, heard=heard)
        self._machine = machine
        self._spawn = spawn
        self._ready = ready
        self._finished = finished
        self._job_received = job_received
        self._record = record
        self._work: FileWork | None = None
        self._lister: Lister | None = None

    @property
    def progress(self) -> tx.Progress:
        """How far it is."""
        return self._machine.progress

    @property
    def carried(self) -> tuple[int, int]:
        """Payload bytes sent and received so far."""
        return self._machine.sent, self._machine.received

    @property
    def job(self) -> Job | None:
        """What it is for; None while an opener has not said so."""
        return self._machine.job

    def begin(self, files: FileExecutor | Lister | None = None) -> None:
        """Listen to the channel; what came before is taken now.

        Args:
            files: the disk's side, if we are the opener; a function for a listing.
        """
        if files is not None:
            self._join(files)
        if isinstance(self._machine, AcceptedTransfer):
            # The channel was offered to us, so it is open; nobody else says so.
            self._driver.feed(stream.DataChannelOpened())
        self.channel.set_listener(self)

    def serve(self, files: FileExecutor) -> None:
        """Acceptor: the job may begin."""
        self._join(files)
        self._driver.feed(tx.ServiceReady())

    def refuse(self, code: FileCode, message: str) -> None:
        """Acceptor: there will be no transfer."""
        self._driver.feed(tx.ServiceRefused(code, message))

    def turn(self, limit: int) -> None:
        """It is this transfer's turn to send up to ``limit`` bytes of payload."""
        self._driver.feed(stream.Turn(limit))

    def reset(self, code: str, message: str) -> None:
        """End the transfer at once, on both sides; what is verified is kept."""
        self._driver.feed(stream.Reset(code, message))

    # Effects

    def _work_done(self, outcome: tx.Outcome) -> None:
        try:
            self._driver.feed(outcome)
        except Exception as error:  # noqa: BLE001 - a defect of ours ends this transfer, and no other, nor the session
            _SELDOM.exception(type(outcome).__name__, "! a transfer cannot go on", error=error)
            self.reset(INTERNAL_ERROR, "a defect of this program, and its log says which")

    def _join(self, files: FileExecutor | Lister) -> None:
        if isinstance(files, FileExecutor):
            self._work = FileWork(files, spawn=self._spawn, report=self._work_done)
        else:
            self._lister = files

    def _perform_other(self, effect: tx.OtherEffect) -> None:
        match effect:
            case stream.ReadyToSend(pending=pending):
                self._ready(self, pending)
            case tx.JobReceived(job=job):
                assert self._job_received is not None
                self._job_received(job)
            case tx.TransferFinished():
                if self._work is not None:
                    self._work.close()
                self._finished(self, effect)
            case stream.Accepted():
                pass
            case tx.EntryDone() | tx.EntryFailed() | tx.EntrySkipped():
                if self._record is not None:
                    self._record(effect)
            case tx.CloseFile(index=index):
                if self._work is not None:
                    self._work.drop(index)
            case _:
                self._work_on(effect)

    def _work_on(self, operation: tx.Operation) -> None:
        if self._work is not None:
            self._work.add(operation)
        elif self._lister is not None and isinstance(operation, tx.CheckEntry):
            self._lister(operation.entry)
            self._driver.feed(tx.EntryChecked(operation.index, tx.Listed()))

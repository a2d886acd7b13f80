"""A transfer of files, whichever side we are: the machine of a ``file.v1.mxrtc`` channel.

:func:`opened_transfer` is for a channel that we open, :class:`AcceptedTransfer` for one that was offered to us: which
end of the transfer we are then depends on the first message. From there on it is the machine of that end.
"""

from __future__ import annotations

from mxrtc_bridge.core.errors import StateError, WireError
from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files import messages as file_messages
from mxrtc_bridge.core.files.events import Progress, TransferOutcome
from mxrtc_bridge.core.files.machine import ANSWER_TIMEOUT_S, known_code
from mxrtc_bridge.core.files.messages import FileCode, Get, Job, Ls, Put
from mxrtc_bridge.core.files.receiver import ReceiverMachine
from mxrtc_bridge.core.files.sender import SenderMachine
from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream import messages
from mxrtc_bridge.core.stream.events import StreamRole
from mxrtc_bridge.core.stream.halves import checked_window, consumed_by

JOB_TIMEOUT_S = ANSWER_TIMEOUT_S
"""How long an acceptor waits to be told what the channel is for."""


def opened_transfer(job: Job, *, window: int = messages.DEFAULT_WINDOW) -> SenderMachine | ReceiverMachine:
    """Return the machine of the opener of a channel for ``job``.

    Raises:
        StateError: the job cannot be sent, or ``window`` is out of range.
    """
    if isinstance(job, Put):
        return SenderMachine(StreamRole.OPENER, job)
    return ReceiverMachine(StreamRole.OPENER, job, window=window)


class AcceptedTransfer:
    """The machine of the acceptor of a channel; feed ChannelOpened as soon as the channel is offered.

    It reports ``JobReceived`` and waits for ``ServiceReady`` or ``ServiceRefused``.

    Args:
        window: the credit that we offer if we are the receiver, in bytes, 16 KiB to 16 MiB.

    Raises:
        StateError: ``window`` is out of range.
    """

    def __init__(self, *, window: int = messages.DEFAULT_WINDOW) -> None:
        self._window = checked_window(window)
        self.machine: SenderMachine | ReceiverMachine | None = None
        """The end of the transfer that we are, as soon as it is known."""
        self._job_by: float | None = None
        self._heard = 0
        self._finished = False
        self._effects: list[tx.Effect] = []

    @property
    def job(self) -> Job | None:
        """What the opener wants, as soon as it is known."""
        return None if self.machine is None else self.machine.job

    @property
    def progress(self) -> Progress:
        """How far it is, at any time."""
        return Progress() if self.machine is None else self.machine.progress

    @property
    def sent(self) -> int:
        """Payload bytes that were sent so far."""
        return 0 if self.machine is None else self.machine.sent

    @property
    def received(self) -> int:
        """Payload bytes that came so far."""
        return self._heard if self.machine is None else self.machine.received

    def set_window(self, window: int) -> None:
        """Offer ``window`` bytes from the next answer or acknowledgement on.

        Raises:
            StateError: ``window`` is out of range.
        """
        self._window = checked_window(window)
        if isinstance(self.machine, ReceiverMachine):
            self.machine.set_window(window)

    def poll_effect(self) -> tx.Effect | None:
        """Return the next thing to be done, or None."""
        if self._effects:
            return self._effects.pop(0)
        return None if self.machine is None else self.machine.poll_effect()

    def next_deadline(self) -> float | None:
        """Return when a Tick is due, or None."""
        return self._job_by if self.machine is None else self.machine.next_deadline()

    def handle(self, now: float, event: tx.Event) -> None:
        """Take in what happened; then poll all effects.

        Args:
            now: monotonic seconds.
            event: what happened.

        Raises:
            StateError: an event that the driver may not report now; nothing has changed.
        """
        if self.machine is not None:
            self.machine.handle(now, event)
            return
        self._effects.extend(consumed_by(event))
        if self._finished:
            return
        if self._job_by is None:
            self._job_by = now + JOB_TIMEOUT_S
        try:
            self._await_job(now, event)
        except WireError as error:
            self._give_up(TransferOutcome.VIOLATION, error.code, str(error), FileCode.VIOLATION)

    def _await_job(self, now: float, event: tx.Event) -> None:
        match event:
            case stream.TextReceived(text=text):
                self._read_job(text)
            case stream.BinaryReceived(data=data):
                self._heard += len(data)
                if data:
                    raise WireError("out_of_turn", "payload came before a job")
            case stream.DataChannelClosed():
                self._give_up(TransferOutcome.INTERRUPTED, "interrupted", "the channel closed before a job came", None)
            case stream.Reset(code=code, message=message):
                self._give_up(TransferOutcome.INTERRUPTED, code, message, known_code(code))
            case stream.Tick():
                if self._job_by is not None and now >= self._job_by:
                    message = f"no job came within {JOB_TIMEOUT_S:.0f} s"
                    self._give_up(TransferOutcome.INTERRUPTED, "timeout", message, FileCode.TIMEOUT)
            case stream.DataChannelOpened() | stream.Turn():
                pass
            case _:
                raise StateError(f"{type(event).__name__} is not allowed before a job has come")

    def _read_job(self, text: str) -> None:
        match file_messages.decode(text):
            case None:
                pass
            case Put() as job:
                self._begin(ReceiverMachine(StreamRole.ACCEPTOR, job, window=self._window))
            case Get() | Ls() as job:
                self._begin(SenderMachine(StreamRole.ACCEPTOR, job))
            case file_messages.FileRst(code=code):
                self._give_up(TransferOutcome.INTERRUPTED, code.value, "the other side ended the transfer", None)
            case message:
                raise WireError("out_of_turn", f"{file_messages.name_of(message)} came before a job")

    def _begin(self, machine: SenderMachine | ReceiverMachine) -> None:
        self.machine = machine
        self._effects.append(tx.JobReceived(machine.job))

    def _give_up(self, outcome: TransferOutcome, code: str, message: str, tell: FileCode | None) -> None:
        self._finished = True
        self._job_by = None
        if tell is not None:
            self._effects.append(stream.SendText(file_messages.encode(file_messages.FileRst(tell))))
        self._effects.append(stream.CloseChannel())
        self._effects.append(tx.TransferFinished(outcome, code, message, 0, self._heard, Progress()))

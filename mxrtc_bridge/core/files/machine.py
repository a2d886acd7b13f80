"""What both ends of a transfer have in common: opening, answers, silence, and one end for everything.

:class:`TransferMachine` is the frame; :mod:`mxrtc_bridge.core.files.sender` and
:mod:`mxrtc_bridge.core.files.receiver` fill it. docs/reference/file-protocol.md, sections 4 and 8, is the
specification of what stands here.

How it works: the phase decides by a table which messages the other side may send. One outside its row is a violation
and ends the transfer. An event that our own driver may not report now is :class:`StateError`, and nothing has changed.
After the end every event is allowed and does nothing, except that late messages are reported as consumed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum

from mxrtc_bridge.core.errors import StateError, WireError
from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files import messages as file_messages
from mxrtc_bridge.core.files.events import Progress, TransferOutcome
from mxrtc_bridge.core.files.messages import FileCode, Job
from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream.events import StreamRole
from mxrtc_bridge.core.stream.halves import consumed_by, text_size

ANSWER_TIMEOUT_S = 15.0
"""How long an opener waits for ``ok``."""
BYE_TIMEOUT_S = 30.0
"""How long the source waits for the answer to ``bye``; by then nothing is missing."""
BUSY_AFTER_S = 30.0
"""A side whose disk works and that has said nothing for so long says that it is alive."""
SILENCE_S = 180.0
"""A side that waits for the other and has heard nothing for so long gives up."""


class TransferPhase(Enum):
    """Where a transfer is."""

    OPENING = "opening"
    """Opener: the channel is not open yet."""
    AWAITING_OK = "awaiting ok"
    """Opener: the acceptor has not answered."""
    PREPARING = "preparing"
    """Acceptor: our own side has not allowed the job yet."""
    FLOWING = "flowing"
    """Entries and their content move."""
    LEAVING = "leaving"
    """Source: everything is answered; the other side's ``bye`` is awaited."""
    FINISHED = "finished"


Messages = Mapping[TransferPhase, frozenset[type[file_messages.Message]]]
ALWAYS = frozenset[type[file_messages.Message]]({file_messages.Busy, file_messages.FileRst})
OPENING_MESSAGES: Messages = {
    TransferPhase.AWAITING_OK: frozenset({file_messages.FileOk, file_messages.FileErr, file_messages.FileRst}),
}


class TransferMachine(ABC):
    """One job of ``file.v1.mxrtc``.

    Args:
        role: which side of the channel we are.
        job: what the opener wants; an acceptor has received it already.
        messages: what the other side may send, in the phases that have messages.

    Raises:
        StateError: the job cannot be sent.
    """

    def __init__(self, role: StreamRole, job: Job, messages: Messages) -> None:
        self.role = role
        self.job = job
        self._messages = messages
        self.phase = TransferPhase.OPENING if role is StreamRole.OPENER else TransferPhase.PREPARING
        self._job_text = _opening_text(job) if role is StreamRole.OPENER else ""
        self._progress = Progress()
        self._sent = 0
        self._received = 0
        self._answer_by: float | None = None
        self._said_at = 0.0
        self._active_at = 0.0
        self._now = 0.0
        self._effects: deque[tx.Effect] = deque()

    @property
    def progress(self) -> Progress:
        """How far it is, at any time."""
        return replace(self._progress)

    @property
    def sent(self) -> int:
        """Payload bytes that were sent so far."""
        return self._sent

    @property
    def received(self) -> int:
        """Payload bytes that came so far."""
        return self._received

    def poll_effect(self) -> tx.Effect | None:
        """Return the next thing to be done, or None."""
        return self._effects.popleft() if self._effects else None

    def next_deadline(self) -> float | None:
        """Return when a Tick is due, or None."""
        if self.phase is TransferPhase.FLOWING:
            return self._said_at + BUSY_AFTER_S if self._is_working() else self._active_at + SILENCE_S
        return self._answer_by

    def handle(self, now: float, event: tx.Event) -> None:
        """Take in what happened; then poll all effects.

        Args:
            now: monotonic seconds.
            event: what happened.

        Raises:
            StateError: an event that the driver may not report now; nothing has changed.
        """
        self._now = now
        if self.phase is TransferPhase.FINISHED:
            self._effects.extend(consumed_by(event))
            return
        if not isinstance(event, stream.Tick):
            self._active_at = now
        try:
            self._dispatch(event)
        except WireError as error:
            self._break(TransferOutcome.VIOLATION, error.code, str(error), FileCode.VIOLATION)

    def _dispatch(self, event: tx.Event) -> None:
        match event:
            case stream.TextReceived(text=text):
                self._text_received(text)
            case stream.BinaryReceived(data=data):
                self._channel_opened()
                if data:
                    self._binary_received(data)
            case stream.DataChannelOpened():
                self._channel_opened()
            case stream.DataChannelClosed():
                self._channel_closed()
            case tx.ServiceReady():
                self._service_ready()
            case tx.ServiceRefused(code=code, message=message):
                self._check_preparing(event)
                self._break(TransferOutcome.REFUSED, code.value, message, code)
            case stream.Reset(code=code_text, message=message):
                self._reset(code_text, message)
            case stream.Tick():
                self._tick()
            case _:
                self._handle_work(event)

    # What the two sides fill in

    @abstractmethod
    def _begin(self, window: int) -> None:
        """The job was accepted; ``window`` is what the acceptor offers (0 when we are the acceptor)."""

    @abstractmethod
    def _offered_window(self) -> int:
        """What our ``ok`` says."""

    @abstractmethod
    def _message_received(self, message: file_messages.Message) -> None:
        """A message that the table allows."""

    @abstractmethod
    def _binary_received(self, data: bytes) -> None: ...

    @abstractmethod
    def _handle_work(self, event: tx.Event) -> None:
        """Anything that only one of the sides knows."""

    @abstractmethod
    def _is_working(self) -> bool:
        """Whether an outcome from our own driver is awaited."""

    @abstractmethod
    def _lacks_nothing(self) -> bool:
        """Whether everything is announced and answered."""

    @abstractmethod
    def _release(self) -> None:
        """The transfer ends: close files, free memory."""

    @abstractmethod
    def _greet(self) -> None:
        """Say what follows the job of an opener at once."""

    # Opening

    def _channel_opened(self) -> None:
        if self.phase is not TransferPhase.OPENING:
            return
        self.phase = TransferPhase.AWAITING_OK
        self._said_at = self._now
        self._answer_by = self._now + ANSWER_TIMEOUT_S
        self._emit(stream.SendText(self._job_text))
        self._greet()

    def _service_ready(self) -> None:
        self._check_preparing(tx.ServiceReady())
        self.phase = TransferPhase.FLOWING
        self._say(file_messages.FileOk(self._offered_window()))
        self._begin(0)

    def _check_preparing(self, event: tx.Event) -> None:
        if self.phase is not TransferPhase.PREPARING:
            raise StateError(f"{type(event).__name__} is not allowed while {self.phase.value}")

    def _text_received(self, text: str) -> None:
        if text:
            self._emit(stream.Consumed(text_size(text)))
        # The other side answers only after it saw the channel open, whatever our transport has told us so far.
        self._channel_opened()
        message = file_messages.decode(text)
        if message is None:
            return
        if type(message) not in self._messages[self.phase]:
            raise WireError("out_of_turn", f"{file_messages.name_of(message)} came while {self.phase.value}")
        match message:
            case file_messages.Busy():
                pass
            case file_messages.FileRst(code=code):
                self._interrupted(code.value, "the other side ended the transfer", stream.CloseChannel())
            case file_messages.FileErr(code=code, message=reason):
                self._end(TransferOutcome.REFUSED, code.value, reason, stream.CloseChannel())
            case file_messages.FileOk(window=window):
                self.phase = TransferPhase.FLOWING
                self._answer_by = None
                self._emit(stream.Accepted())
                self._begin(window)
            case _:
                self._message_received(message)

    # The end

    def _channel_closed(self) -> None:
        self._interrupted(FileCode.INTERRUPTED.value, "the channel closed before the transfer had ended")

    def _reset(self, code: str, message: str) -> None:
        if self._lacks_nothing():
            self._say(file_messages.FileRst(known_code(code)))
            self._end_in_order(stream.CloseChannel())
        else:
            self._break(TransferOutcome.INTERRUPTED, code, message, known_code(code))

    def _interrupted(self, code: str, message: str, *effects: tx.Effect) -> None:
        """Somebody ended it early; that is no loss if only the farewell is missing."""
        if self._lacks_nothing():
            self._end_in_order(*effects)
        else:
            self._end(TransferOutcome.INTERRUPTED, code, message, *effects)

    def _tick(self) -> None:
        due = self.next_deadline()
        if due is None or self._now < due:
            return
        if self.phase is TransferPhase.LEAVING:
            self._end_in_order(stream.CloseChannel())
        elif self.phase is TransferPhase.FLOWING and self._is_working():
            self._say(file_messages.Busy())
        else:
            waited = ANSWER_TIMEOUT_S if self.phase is TransferPhase.AWAITING_OK else SILENCE_S
            message = f"the other side did not answer within {waited:.0f} s"
            self._break(TransferOutcome.INTERRUPTED, FileCode.TIMEOUT.value, message, FileCode.TIMEOUT)

    def _end_in_order(self, *effects: tx.Effect) -> None:
        progress = self._progress
        if progress.failed == 0:
            self._end(TransferOutcome.CLEAN, "", "everything was transferred", *effects)
            return
        code = progress.failures[0].code if progress.failures else FileCode.DENIED
        entries = max(progress.files + progress.directories, progress.failed)
        message = f"{progress.failed} of {entries} entries were not transferred"
        self._end(TransferOutcome.PARTIAL, code.value, message, *effects)

    def _break(self, outcome: TransferOutcome, code: str, message: str, tell: FileCode) -> None:
        """End the transfer out of order, and say so."""
        if self.phase is TransferPhase.PREPARING and outcome is not TransferOutcome.VIOLATION:
            self._say(file_messages.FileErr(tell, message if outcome is TransferOutcome.REFUSED else ""))
        elif self.phase is not TransferPhase.OPENING:
            self._say(file_messages.FileRst(tell))
        self._end(outcome, code, message, stream.CloseChannel())

    def _end(self, outcome: TransferOutcome, code: str, message: str, *effects: tx.Effect) -> None:
        self._release()
        self._effects.extend(effects)
        self.phase = TransferPhase.FINISHED
        self._answer_by = None
        self._progress.current = ""
        self._emit(tx.TransferFinished(outcome, code, message, self._sent, self._received, replace(self._progress)))

    def _say(self, message: file_messages.Message) -> None:
        self._say_text(file_messages.encode(message))

    def _say_text(self, text: str) -> None:
        self._said_at = self._now
        self._emit(stream.SendText(text))

    def _send(self, data: bytes) -> None:
        self._said_at = self._now
        self._sent += len(data)
        self._emit(stream.SendBinary(data))

    def _emit(self, effect: tx.Effect) -> None:
        self._effects.append(effect)


def known_code(code: str) -> FileCode:
    """Return ``code`` as one of the wire; what has no word there is an interruption."""
    try:
        return FileCode(code)
    except ValueError:
        return FileCode.INTERRUPTED


def _opening_text(job: Job) -> str:
    try:
        return file_messages.encode(job)
    except WireError as error:
        raise StateError(f"the job cannot be sent: {error}") from error

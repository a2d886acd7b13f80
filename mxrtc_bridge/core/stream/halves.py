"""The two halves of a stream, as offsets, credits and a bounded buffer; and what its machines have in common.

Which message or event leads to which transition is decided in :mod:`mxrtc_bridge.core.stream.machine` and
:mod:`mxrtc_bridge.core.stream.raw_machine`, whose limit for sending is out of reach.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import assert_never

from mxrtc_bridge.core.errors import StateError, WireError
from mxrtc_bridge.core.stream import events, messages
from mxrtc_bridge.core.stream.events import StreamOutcome, StreamRole

PAUSE_AT_BYTES = 64 * messages.KIB
"""Unsent bytes at which the sink is not read any more."""
RESUME_BELOW_BYTES = 32 * messages.KIB


class SendState(Enum):
    """The direction from our sink to the other side."""

    OPEN = "open"
    DRAINING = "draining"
    """The sink has ended; the rest is still to be sent."""
    FIN_SENT = "fin sent"
    DONE = "done"
    """The other side has written everything and has passed the end on."""


class ReceiveState(Enum):
    """The direction from the other side to our sink."""

    OPEN = "open"
    DRAINING = "draining"
    """The other side has ended; the sink has not taken everything yet."""
    DONE = "done"
    """Everything is written, the end was passed on and acknowledged."""


class SinkState(Enum):
    """The local side."""

    ABSENT = "absent"
    PRESENT = "present"
    GONE = "gone"


SINK_EVENTS: Mapping[SinkState, frozenset[type[events.Event]]] = {
    SinkState.ABSENT: frozenset({events.SinkConnected, events.SinkRefused}),
    SinkState.PRESENT: frozenset({events.SinkData, events.SinkEof, events.SinkWritten, events.SinkClosed}),
    SinkState.GONE: frozenset(),
}
"""What the local side may do."""

_ANY_SINK_EVENT = frozenset[type[events.Event]]().union(*SINK_EVENTS.values())


def check_sink_event(sink: SinkState, event: events.Event) -> None:
    """Raise StateError for a sink event that has no row; events of other kinds pass."""
    if type(event) in _ANY_SINK_EVENT and type(event) not in SINK_EVENTS[sink]:
        raise StateError(f"{type(event).__name__} is not allowed while the sink is {sink.value}")


def consumed_by(event: object) -> list[events.Consumed]:
    """What is given back of a message that nobody keeps."""
    match event:
        case events.BinaryReceived(data=data) if data:
            return [events.Consumed(len(data))]
        case events.TextReceived(text=text) if text:
            return [events.Consumed(text_size(text))]
    return []


def late_effects(sink: SinkState, event: events.Event) -> Sequence[events.Effect]:
    """Answer an event that comes after the end: nothing may pile up, and no sink may be left open."""
    if isinstance(event, events.SinkConnected) and sink is SinkState.ABSENT:
        return [events.ResetSink()]
    return consumed_by(event)


def text_size(text: str) -> int:
    """The size of a text message in bytes."""
    return len(text.encode("utf-8", "surrogatepass"))


def checked_window(window: int) -> int:
    """Return ``window``.

    Raises:
        StateError: it is not in 16 KiB to 16 MiB.
    """
    if not messages.MIN_WINDOW <= window <= messages.MAX_WINDOW:
        raise StateError(f"window of {window} bytes; {messages.MIN_WINDOW} to {messages.MAX_WINDOW} are allowed")
    return window


@dataclass(slots=True)
class SendHalf:
    """From the sink to the channel."""

    limit: int
    """The offset up to which we may send."""
    state: SendState = SendState.OPEN
    unsent: bytearray = field(default_factory=bytearray)
    sent: int = 0
    acked: int = 0
    announced: int = 0
    """What the last Ready said, or 0 when no turn is due."""
    paused: bool = False

    @property
    def sendable(self) -> int:
        return min(len(self.unsent), self.limit - self.sent)

    def add(self, data: bytes) -> list[events.Effect]:
        """Take in what the sink wrote; one read may exceed the mark, then the sink is paused."""
        self.unsent += data
        if len(self.unsent) < PAUSE_AT_BYTES or self.paused:
            return []
        self.paused = True
        return [events.PauseSink()]

    def turn(self, limit: int) -> list[events.Effect]:
        """Send up to ``limit`` bytes, in messages of at most 16 KiB."""
        self.announced = 0
        effects: list[events.Effect] = []
        while (size := min(limit, self.sendable, messages.MAX_PAYLOAD_BYTES)) > 0:
            limit -= size
            effects.append(events.SendBinary(self._take(size)))
        if self.paused and self.state is SendState.OPEN and len(self.unsent) < RESUME_BELOW_BYTES:
            self.paused = False
            effects.append(events.ResumeSink())
        return effects

    def announce(self) -> list[events.Effect]:
        """Ask for a turn if one is needed, and again while what waits is still less than one message."""
        if self.sendable <= self.announced or self.announced >= messages.MAX_PAYLOAD_BYTES:
            return []
        self.announced = self.sendable
        return [events.ReadyToSend(self.announced)]

    def _take(self, size: int) -> bytes:
        with memoryview(self.unsent) as view:
            data = bytes(view[:size])
        del self.unsent[:size]
        self.sent += size
        return data


@dataclass(slots=True)
class ReceiveHalf:
    """From the channel to the sink, under a credit."""

    window: int
    """What the next acknowledgement offers."""
    state: ReceiveState = ReceiveState.OPEN
    held: deque[bytes] = field(default_factory=deque)
    """Came before the sink was there."""
    received: int = 0
    given: int = 0
    """Handed to the sink."""
    written: int = 0
    """Taken by the sink."""
    promised: int = 0
    """The greatest offset that an ``ok`` or ``ack`` of ours allowed."""
    acked: int = 0
    """The offset of our last ``ack``."""
    consumed: int = 0
    """Reported as consumed."""

    @property
    def limit(self) -> int:
        return max(messages.INITIAL_CREDIT, self.promised)

    @property
    def ack_due(self) -> bool:
        # Measured by the credit that is really open, not by the window: after a larger window was set, the other
        # side still stands at the smaller one, and would wait for an acknowledgement that never comes due.
        return self.written - self.acked >= min((self.limit - self.acked) // 4, messages.ACK_EVERY_BYTES)

    def promise(self) -> None:
        """Count an ``ok`` or ``ack`` that is about to be sent."""
        self.acked = self.written
        self.promised = max(self.promised, self.written + self.window)

    def take_written(self, size: int) -> None:
        """Count what the sink has taken.

        Raises:
            StateError: it was not given so much; nothing has changed.
        """
        if not 0 < size <= self.given - self.written:
            raise StateError(f"SinkWritten({size}), but {self.given - self.written} bytes are with the sink")
        self.written += size


class ByteStreamMachine(ABC):
    """What the machines of both protocols have in common: the way of their events, and the side of the sink.

    Args:
        role: which side of the channel we are.
        send_limit: the offset up to which we may send at first.
        window: what we offer; 0 where the protocol knows none.
    """

    def __init__(self, role: StreamRole, *, send_limit: int, window: int = 0) -> None:
        self.role = role
        self._finished = False
        self._sink = SinkState.ABSENT
        self._send = SendHalf(send_limit)
        self._receive = ReceiveHalf(window)
        self._effects: deque[events.Effect] = deque()

    @property
    def sent(self) -> int:
        """Payload bytes that were sent so far."""
        return self._send.sent

    @property
    def received(self) -> int:
        """Payload bytes that came so far."""
        return self._receive.received

    @property
    def unsent(self) -> int:
        """Bytes from the sink that are not sent yet."""
        return len(self._send.unsent)

    @property
    def unwritten(self) -> int:
        """Bytes from the other side that the sink has not taken yet."""
        return self._receive.received - self._receive.written

    def poll_effect(self) -> events.Effect | None:
        """Return the next thing to be done, or None."""
        return self._effects.popleft() if self._effects else None

    def handle(self, now: float, event: events.Event) -> None:
        """Take in what happened; then poll all effects.

        Args:
            now: monotonic seconds.
            event: what happened.

        Raises:
            StateError: a sink event that the state of the sink does not allow; nothing has changed.
        """
        if self._finished:
            self._effects.extend(late_effects(self._sink, event))
            if isinstance(event, events.SinkConnected):
                self._sink = SinkState.GONE
            return
        check_sink_event(self._sink, event)
        try:
            self._dispatch(now, event)
        except WireError as error:
            self._violated(error)

    def _dispatch(self, now: float, event: events.Event) -> None:  # noqa: C901, PLR0912 - one row for each event
        match event:
            case events.DataChannelOpened():
                self._channel_opened(now)
            case events.TextReceived(text=text):
                self._text_received(now, text)
            case events.BinaryReceived(data=data):
                self._binary_received(now, data)
            case events.DataChannelClosed():
                self._channel_closed(now)
            case events.SinkConnected():
                self._sink_connected(now)
            case events.SinkRefused(code=code, message=message):
                self._sink_refused(code, message)
            case events.SinkData(data=data):
                self._sink_data(data)
            case events.SinkEof():
                self._sink_eof(now)
            case events.SinkWritten(size=size):
                self._sink_written(size)
            case events.SinkClosed(error=error):
                self._sink_closed(now, error)
            case events.Turn(limit=limit):
                self._effects.extend(self._send.turn(limit if self._may_send else 0))
                self._continue_sending(now)
            case events.Reset(code=code, message=message):
                self._reset(code, message)
            case events.Tick():
                self._tick(now)
            case _:
                assert_never(event)

    @property
    @abstractmethod
    def _may_send(self) -> bool: ...

    @abstractmethod
    def _channel_opened(self, now: float) -> None: ...

    @abstractmethod
    def _text_received(self, now: float, text: str) -> None: ...

    @abstractmethod
    def _binary_received(self, now: float, data: bytes) -> None: ...

    @abstractmethod
    def _channel_closed(self, now: float) -> None: ...

    @abstractmethod
    def _sink_connected(self, now: float) -> None: ...

    @abstractmethod
    def _sink_refused(self, code: str, message: str) -> None: ...

    @abstractmethod
    def _sink_written(self, size: int) -> None: ...

    @abstractmethod
    def _sink_closed(self, now: float, error: str | None) -> None: ...

    @abstractmethod
    def _continue_sending(self, now: float) -> None: ...

    @abstractmethod
    def _reset(self, code: str, message: str) -> None: ...

    @abstractmethod
    def _tick(self, now: float) -> None: ...

    @abstractmethod
    def _violated(self, error: WireError) -> None: ...

    def _sink_data(self, data: bytes) -> None:
        if self._send.state is not SendState.OPEN:
            raise StateError("SinkData is not allowed after SinkEof")
        self._effects.extend(self._send.add(data))
        self._announce()

    def _sink_eof(self, now: float) -> None:
        # A sink may say it twice: once when it read the end, once more when it closes.
        if self._send.state is SendState.OPEN:
            self._send.state = SendState.DRAINING
            self._continue_sending(now)

    def _announce(self) -> None:
        if self._may_send:
            self._effects.extend(self._send.announce())

    def _give_held(self) -> None:
        half = self._receive
        while half.held:
            data = half.held.popleft()
            half.given += len(data)
            self._effects.append(events.WriteSink(data))

    def _finish(self, outcome: StreamOutcome, code: str, message: str) -> None:
        self._finished = True
        self._send.unsent.clear()
        self._receive.held.clear()
        self._effects.append(events.StreamFinished(outcome, code, message, self._send.sent, self._receive.received))

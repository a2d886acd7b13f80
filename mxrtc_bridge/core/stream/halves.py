"""The two halves of a stream, as offsets, credits and a bounded buffer; and the rules for its local side.

The accounts only; which message or event changes them is decided in :mod:`mxrtc_bridge.core.stream.machine`. The
sending half and the rules for the sink serve :mod:`mxrtc_bridge.core.stream.raw_machine` as well, whose sending limit
is out of reach.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.core.stream import events, messages

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


def late_effects(sink: SinkState, event: events.Event) -> list[events.Effect]:
    """Answer an event that comes after the end: nothing may pile up, and no sink may be left open."""
    match event:
        case events.BinaryReceived(data=data) if data:
            return [events.Consumed(len(data))]
        case events.TextReceived(text=text) if text:
            return [events.Consumed(text_size(text))]
        case events.SinkConnected() if sink is SinkState.ABSENT:
            return [events.ResetSink()]
    return []


def text_size(text: str) -> int:
    """The size of a text message in bytes."""
    return len(text.encode("utf-8", "surrogatepass"))


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

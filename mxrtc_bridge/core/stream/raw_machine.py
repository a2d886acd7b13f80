"""One byte stream without control: the machine of ``raw.mxrtc`` and of channels that name no protocol, both roles.

Everything that affects its transitions is in this file; docs/reference/protocol.md section 4 is its specification. It
has the events and effects of :mod:`mxrtc_bridge.core.stream.machine`, so that the same driver serves both.

What it guards against: a page that sends more than the service takes. Bytes are reported as consumed only when the sink
took them, so that the SCTP receive window slows the page down; one that gets past it is cut off at 4 MiB.

What it cannot know is whether everything arrived: a channel that closes means the end of the stream, as a page has no
other way to say it. The driver must therefore say Reset, and not ChannelClosed, when the connection itself was lost.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import assert_never

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.core.stream import events, messages
from mxrtc_bridge.core.stream.events import StreamOutcome, StreamRole
from mxrtc_bridge.core.stream.halves import SendHalf, SendState, SinkState, check_sink_event, late_effects
from mxrtc_bridge.core.stream.json_message import MAX_COUNT

MAX_UNWRITTEN_BYTES = 4 * messages.KIB * messages.KIB
"""What may wait for the sink; an honest sender is stopped by the receive window (1 MiB) long before."""
CLOSE_TIMEOUT_S = 30.0
"""How long the other side may take to answer the closing of the channel, and a sink to appear after it."""


class RawChannelState(Enum):
    """The data channel."""

    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"
    """Our sink has ended and all of it was sent; what still comes is written."""
    CLOSED = "closed"
    """The other side has ended; only a sink that is not there yet keeps the stream."""
    FINISHED = "finished"


class RawStreamMachine:
    """One stream of ``raw.mxrtc``.

    Args:
        role: which side of the channel we are.
    """

    def __init__(self, role: StreamRole) -> None:
        self.role = role
        self._channel = RawChannelState.OPENING if role is StreamRole.OPENER else RawChannelState.OPEN
        self._sink = SinkState.ABSENT
        self._send = SendHalf(limit=MAX_COUNT)
        self._held: deque[bytes] = deque()
        self._received = 0
        self._given = 0
        self._written = 0
        self._deadline: float | None = None
        self._effects: deque[events.Effect] = deque()

    @property
    def channel_state(self) -> RawChannelState:
        return self._channel

    @property
    def unsent(self) -> int:
        """Bytes from the sink that are not sent yet."""
        return len(self._send.unsent)

    @property
    def unwritten(self) -> int:
        """Bytes from the other side that the sink has not taken yet."""
        return self._received - self._written

    def poll_effect(self) -> events.Effect | None:
        """Return the next thing to be done, or None."""
        return self._effects.popleft() if self._effects else None

    def next_deadline(self) -> float | None:
        """Return when a Tick is due, or None."""
        return self._deadline

    def handle(self, now: float, event: events.Event) -> None:
        """Take in what happened; then poll all effects.

        Args:
            now: monotonic seconds.
            event: what happened.

        Raises:
            StateError: a sink event that the state of the sink does not allow; nothing has changed.
        """
        if self._channel is RawChannelState.FINISHED:
            self._handle_late(event)
            return
        check_sink_event(self._sink, event)
        self._dispatch(now, event)

    def _dispatch(self, now: float, event: events.Event) -> None:  # noqa: C901, PLR0912 - one row for each event
        match event:
            case events.DataChannelOpened():
                self._channel_opened(now)
            case events.TextReceived(text=text):
                self._text_received(now, text)
            case events.BinaryReceived(data=data):
                self._payload_received(now, data)
            case events.DataChannelClosed():
                self._channel_closed(now)
            case events.SinkConnected():
                self._sink_connected(now)
            case events.SinkRefused(code=code, message=message):
                self._end(StreamOutcome.REFUSED, code, message, events.CloseChannel())
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
                self._end(StreamOutcome.RESET, code, message, events.CloseChannel(), events.ResetSink())
            case events.Tick():
                self._tick(now)
            case _:
                assert_never(event)

    # The channel

    def _channel_opened(self, now: float) -> None:
        if self._channel is RawChannelState.OPENING:
            self._channel = RawChannelState.OPEN
            self._continue_sending(now)

    def _text_received(self, now: float, text: str) -> None:
        try:
            data = text.encode()
        except UnicodeEncodeError:
            self._effects.append(events.Consumed(len(text.encode("utf-8", "surrogatepass"))))
            message = "text that has no UTF-8"
            self._end(StreamOutcome.VIOLATION, "not_utf8", message, events.CloseChannel(), events.ResetSink())
        else:
            self._payload_received(now, data)

    def _payload_received(self, now: float, data: bytes) -> None:
        self._channel_opened(now)
        if not data:
            return
        self._received += len(data)
        if self.unwritten > MAX_UNWRITTEN_BYTES:
            message = f"{self.unwritten} bytes wait for the local side; the limit is {MAX_UNWRITTEN_BYTES}"
            self._end(StreamOutcome.VIOLATION, "over_limit", message, events.CloseChannel(), events.ResetSink())
            return
        self._held.append(data)
        self._write_held()

    def _channel_closed(self, now: float) -> None:
        if self._channel is RawChannelState.CLOSED:
            return
        if self._sink is not SinkState.ABSENT:
            self._end(StreamOutcome.CLEAN, "", "the channel ended", events.FinishSink(), events.CloseSink())
        elif self._held:
            # Whoever sends a line and leaves wants the line to arrive.
            self._channel = RawChannelState.CLOSED
            self._deadline = now + CLOSE_TIMEOUT_S
        else:
            self._end(StreamOutcome.LOST, "closed", "the channel closed before the local side was there")

    # The sink

    def _sink_connected(self, now: float) -> None:
        self._sink = SinkState.PRESENT
        self._write_held()
        if self._channel is RawChannelState.CLOSED:
            self._end(StreamOutcome.CLEAN, "", "the channel ended", events.FinishSink(), events.CloseSink())
        else:
            self._continue_sending(now)

    def _sink_data(self, data: bytes) -> None:
        if self._send.state is not SendState.OPEN:
            raise StateError("SinkData is not allowed after SinkEof")
        self._effects.extend(self._send.add(data))
        self._announce()

    def _sink_eof(self, now: float) -> None:
        if self._send.state is SendState.OPEN:
            self._send.state = SendState.DRAINING
            self._continue_sending(now)

    def _sink_written(self, size: int) -> None:
        if not 0 < size <= self._given - self._written:
            raise StateError(f"SinkWritten({size}), but {self._given - self._written} bytes are with the sink")
        self._written += size
        self._effects.append(events.Consumed(size))

    def _sink_closed(self, now: float, error: str | None) -> None:
        self._sink = SinkState.GONE
        if error is not None:
            self._end(StreamOutcome.RESET, "reset", error, events.CloseChannel())
        elif self._channel is RawChannelState.CLOSING:
            self._end(StreamOutcome.CLEAN, "", "the local side ended")
        else:
            # What it said before it went is still to be sent; nobody is left to take what comes.
            self._drop_unwritten()
            self._sink_eof(now)

    def _write_held(self) -> None:
        if self._sink is SinkState.PRESENT:
            while self._held:
                data = self._held.popleft()
                self._given += len(data)
                self._effects.append(events.WriteSink(data))
        elif self._sink is SinkState.GONE:
            self._held.clear()
            self._drop_unwritten()

    def _drop_unwritten(self) -> None:
        if self.unwritten:
            self._effects.append(events.Consumed(self.unwritten))
            self._written = self._given = self._received

    # Sending

    @property
    def _may_send(self) -> bool:
        return self._channel is RawChannelState.OPEN

    def _announce(self) -> None:
        if self._may_send:
            self._effects.extend(self._send.announce())

    def _continue_sending(self, now: float) -> None:
        self._announce()
        if self._send.state is not SendState.DRAINING or self._send.unsent or not self._may_send:
            return
        self._send.state = SendState.DONE
        if self._sink is SinkState.GONE:
            self._end(StreamOutcome.CLEAN, "", "the local side ended", events.CloseChannel())
        else:
            self._channel = RawChannelState.CLOSING
            self._deadline = now + CLOSE_TIMEOUT_S
            self._effects.append(events.CloseChannel())

    # The end

    def _tick(self, now: float) -> None:
        if self._deadline is None or now < self._deadline:
            return
        if self._channel is RawChannelState.CLOSING:
            self._end(StreamOutcome.CLEAN, "", "the local side ended", events.FinishSink(), events.CloseSink())
        else:
            self._end(StreamOutcome.LOST, "timeout", f"the local side was not there within {CLOSE_TIMEOUT_S:.0f} s")

    def _end(self, outcome: StreamOutcome, code: str, message: str, *effects: events.Effect) -> None:
        channel_open = self._channel in {RawChannelState.OPENING, RawChannelState.OPEN}
        for effect in effects:
            if channel_open if isinstance(effect, events.CloseChannel) else self._sink is SinkState.PRESENT:
                self._effects.append(effect)
        self._channel = RawChannelState.FINISHED
        self._deadline = None
        self._send.unsent.clear()
        self._held.clear()
        self._drop_unwritten()
        self._effects.append(events.StreamFinished(outcome, code, message, self._send.sent, self._received))

    def _handle_late(self, event: events.Event) -> None:
        self._effects.extend(late_effects(self._sink, event))
        if isinstance(event, events.SinkConnected):
            self._sink = SinkState.GONE

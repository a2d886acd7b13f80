"""One byte stream without control: the machine of ``raw.mxrtc`` and of channels that name no protocol, both roles.

Everything that affects its transitions is in this file, and what it has in common with the other one in
:mod:`mxrtc_bridge.core.stream.halves`; docs/reference/protocol.md section 4 is its specification. It
has the events and effects of :mod:`mxrtc_bridge.core.stream.machine`, so that the same driver serves both.

What it guards against: a page that sends more than the service takes. Bytes are reported as consumed only when the sink
took them, so that the SCTP receive window slows the page down; one that does not keep to the window is cut off
(:mod:`mxrtc_bridge.core.stream.windows`).

What it cannot know is whether everything arrived: a channel that closes means the end of the stream, as a page has no
other way to say it. The driver must therefore say Reset, and not ChannelClosed, when the connection itself was lost.
"""

from __future__ import annotations

from enum import Enum

from mxrtc_bridge.core.errors import WireError
from mxrtc_bridge.core.stream import events
from mxrtc_bridge.core.stream.events import StreamOutcome, StreamRole
from mxrtc_bridge.core.stream.halves import ByteStreamMachine, SendState, SinkState
from mxrtc_bridge.core.stream.json_message import MAX_COUNT
from mxrtc_bridge.core.stream.windows import MAX_UNWRITTEN

CLOSE_TIMEOUT_S = 30.0
"""How long the other side may take to answer the closing of the channel, and a sink to appear after it."""


class RawChannelState(Enum):
    """The data channel."""

    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"
    """Our sink has ended and all of it was sent; what still comes is written."""
    CLOSED = "closed"
    """The other side has ended; only the sink keeps the stream: it is not there yet, or has still to take the rest and
    to end. Until then the stream counts, or whoever opens and closes channels would have any number of sinks."""
    FINISHED = "finished"


class RawStreamMachine(ByteStreamMachine):
    """One stream of ``raw.mxrtc``.

    Args:
        role: which side of the channel we are.
    """

    def __init__(self, role: StreamRole) -> None:
        super().__init__(role, send_limit=MAX_COUNT)
        self.channel_state = RawChannelState.OPENING if role is StreamRole.OPENER else RawChannelState.OPEN
        self._deadline: float | None = None

    def next_deadline(self) -> float | None:
        """Return when a Tick is due, or None."""
        return self._deadline

    # The channel

    def _channel_opened(self, now: float) -> None:
        if self.channel_state is RawChannelState.OPENING:
            self.channel_state = RawChannelState.OPEN
            self._continue_sending(now)

    def _text_received(self, now: float, text: str) -> None:
        try:
            data = text.encode()
        except UnicodeEncodeError:
            self._effects.append(events.Consumed(len(text.encode("utf-8", "surrogatepass"))))
            raise WireError("not_utf8", "text that has no UTF-8") from None
        self._binary_received(now, data)

    def _binary_received(self, now: float, data: bytes) -> None:
        self._channel_opened(now)
        if not data:
            return
        self._receive.received += len(data)
        if self.unwritten > MAX_UNWRITTEN:
            message = f"{self.unwritten} bytes wait for the local side; the limit is {MAX_UNWRITTEN}"
            raise WireError("over_limit", message)
        self._receive.held.append(data)
        self._write_held()

    def _channel_closed(self, now: float) -> None:
        if self.channel_state is RawChannelState.CLOSED:
            return
        if self._sink is SinkState.PRESENT:
            self._leave_sink()
        elif self._sink is SinkState.GONE:
            self._end_with_channel()
        elif self._receive.held:
            # Whoever sends a line and leaves wants the line to arrive.
            self.channel_state = RawChannelState.CLOSED
            self._deadline = now + CLOSE_TIMEOUT_S
        else:
            self._end(StreamOutcome.LOST, "closed", "the channel closed before the local side was there")

    # The sink

    def _sink_connected(self, now: float) -> None:
        self._sink = SinkState.PRESENT
        self._write_held()
        if self.channel_state is RawChannelState.CLOSED:
            self._leave_sink()
        else:
            self._continue_sending(now)

    def _sink_refused(self, code: str, message: str) -> None:
        self._end(StreamOutcome.REFUSED, code, message, events.CloseChannel())

    def _sink_written(self, size: int) -> None:
        self._receive.take_written(size)
        self._effects.append(events.Consumed(size))

    def _sink_closed(self, now: float, error: str | None) -> None:
        self._sink = SinkState.GONE
        if self.channel_state is RawChannelState.CLOSED and (error is None or not self.unwritten):
            self._end_with_channel()
        elif error is not None:
            self._end(StreamOutcome.RESET, "reset", error, events.CloseChannel())
        elif self.channel_state is RawChannelState.CLOSING:
            self._end(StreamOutcome.CLEAN, "", "the local side ended")
        else:
            # What it said before it went is still to be sent; nobody is left to take what comes.
            self._drop_unwritten()
            self._sink_eof(now)

    def _write_held(self) -> None:
        if self._sink is SinkState.PRESENT:
            self._give_held()
        elif self._sink is SinkState.GONE:
            self._receive.held.clear()
            self._drop_unwritten()

    def _drop_unwritten(self) -> None:
        if self.unwritten:
            self._effects.append(events.Consumed(self.unwritten))
            self._receive.written = self._receive.given = self._receive.received

    # Sending

    @property
    def _may_send(self) -> bool:
        return self.channel_state is RawChannelState.OPEN

    def _continue_sending(self, now: float) -> None:
        self._announce()
        if self._send.state is not SendState.DRAINING or self._send.unsent or not self._may_send:
            return
        self._send.state = SendState.DONE
        if self._sink is SinkState.GONE:
            self._end(StreamOutcome.CLEAN, "", "the local side ended", events.CloseChannel())
        else:
            self.channel_state = RawChannelState.CLOSING
            self._deadline = now + CLOSE_TIMEOUT_S
            self._effects.append(events.CloseChannel())

    # The end

    def _leave_sink(self) -> None:
        """Nothing more comes for the sink, which says when it has ended."""
        self.channel_state = RawChannelState.CLOSED
        self._deadline = None
        self._effects += events.FinishSink(), events.CloseSink()

    def _end_with_channel(self) -> None:
        self._end(StreamOutcome.CLEAN, "", "the channel ended")

    def _tick(self, now: float) -> None:
        if self._deadline is None or now < self._deadline:
            return
        if self.channel_state is RawChannelState.CLOSING:
            self._end(StreamOutcome.CLEAN, "", "the local side ended", events.FinishSink(), events.CloseSink())
        else:
            self._end(StreamOutcome.LOST, "timeout", f"the local side was not there within {CLOSE_TIMEOUT_S:.0f} s")

    def _reset(self, code: str, message: str) -> None:
        if self.channel_state is RawChannelState.CLOSED and self._sink is SinkState.PRESENT:
            self._end_with_channel()  # what was sent before may still arrive, as that of a stream that has ended
        else:
            self._end(StreamOutcome.RESET, code, message, events.CloseChannel(), events.ResetSink())

    def _violated(self, error: WireError) -> None:
        self._end(StreamOutcome.VIOLATION, error.code, str(error), events.CloseChannel(), events.ResetSink())

    def _end(self, outcome: StreamOutcome, code: str, message: str, *effects: events.Effect) -> None:
        channel_open = self.channel_state in {RawChannelState.OPENING, RawChannelState.OPEN}
        for effect in effects:
            if channel_open if isinstance(effect, events.CloseChannel) else self._sink is SinkState.PRESENT:
                self._effects.append(effect)
        self.channel_state = RawChannelState.FINISHED
        self._deadline = None
        self._drop_unwritten()
        self._finish(outcome, code, message)

"""One stream: a data channel on one side, a local byte stream on the other, a pure machine between them.

The pipe holds no bytes of its own. What the machine has not been allowed to send stays in the machine (bounded, and
the sink is paused); what the sink has not taken stays in the sink (bounded by the credit that we gave).
"""

from __future__ import annotations

from collections.abc import Callable

from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream.machine import StreamMachine
from mxrtc_bridge.core.stream.raw_machine import RawStreamMachine
from mxrtc_bridge.engine.clock import Clock, Timer
from mxrtc_bridge.engine.driver import ChannelDriver
from mxrtc_bridge.engine.ports import Channel, Sink


class StreamForwarder(ChannelDriver[stream.Event, stream.OtherEffect]):
    """Joins ``channel`` and a sink by ``machine``.

    Args:
        machine: a fresh stream machine; its role says which side opened the channel.
        channel: the data channel; the pipe becomes its listener.
        clock: where time comes from.
        ready: called when the machine has payload that may be sent.
        finished: called exactly once, with how the stream ended.
        heard: called for every message: a sign of life.
        accepted: called when the acceptor said yes.
        hold_early: asked before payload is held for a local side that is not there yet; False refuses the stream.
        idle_s: reset the stream when no payload has moved for so many seconds.
    """

    def __init__(
        self,
        machine: StreamMachine | RawStreamMachine,
        channel: Channel,
        *,
        clock: Clock,
        ready: Callable[[StreamForwarder, int], None],
        finished: Callable[[StreamForwarder, stream.StreamFinished], None],
        heard: Callable[[], None],
        accepted: Callable[[], None] | None = None,
        hold_early: Callable[[int], bool] | None = None,
        idle_s: float | None = None,
    ) -> None:
        super().__init__(machine, channel, clock=clock, heard=heard)
        self._stream = machine
        self._is_over = False
        self._sink: Sink | None = None
        self._ready = ready
        self._finished = finished
        self._accepted = accepted
        self._hold_early = hold_early
        self._idle_s = idle_s
        self._moved_at = clock.monotonic()
        self._idle_timer: Timer | None = None

    @property
    def carried(self) -> tuple[int, int]:
        """Payload bytes sent and received so far."""
        return self._stream.sent, self._stream.received

    def begin(self) -> None:
        """Listen to the channel; what came before is taken now."""
        self._watch_idleness()
        self.channel.set_listener(self)

    def connect_sink(self, sink: Sink) -> None:
        """The local side is there: begin to move bytes."""
        self._sink = sink
        self._hold_early = None
        self._driver.feed(stream.SinkConnected())
        sink.set_listener(self)

    def refuse(self, code: str, message: str) -> None:
        """The local side cannot be had."""
        self._driver.feed(stream.SinkRefused(code, message))

    def turn(self, limit: int) -> None:
        """It is this stream's turn to send up to ``limit`` bytes of payload."""
        self._driver.feed(stream.Turn(limit))

    def reset(self, code: str, message: str) -> None:
        """End the stream at once, on both sides."""
        self._driver.feed(stream.Reset(code, message))

    def binary_received(self, data: bytes) -> None:
        self._moved_at = self._clock.monotonic()
        if self._hold_early is not None and not self._hold_early(len(data)):
            self.refuse("limit", "too many bytes wait for services that are not connected yet")
        super().binary_received(data)

    def channel_closed(self) -> None:
        super().channel_closed()
        if not self._is_over and (unwritten := self._stream.unwritten):
            self.channel.keep(unwritten)

    # SinkListener

    def data_received(self, data: bytes) -> None:
        self._moved_at = self._clock.monotonic()
        self._driver.feed(stream.SinkData(data))

    def eof_received(self) -> None:
        self._driver.feed(stream.SinkEof())

    def bytes_written(self, size: int) -> None:
        self._driver.feed(stream.SinkWritten(size))

    def sink_closed(self, error: str | None) -> None:
        self._driver.feed(stream.SinkClosed(error))

    # Idleness

    def _watch_idleness(self) -> None:
        if self._idle_s is None:
            return
        due = self._moved_at + self._idle_s
        if due <= self._clock.monotonic():
            self.reset("timeout", f"nothing has moved for {self._idle_s:g} s")
        else:
            self._idle_timer = self._clock.call_at(due, self._watch_idleness)

    # Effects

    def _perform_other(self, effect: stream.OtherEffect) -> None:
        match effect:
            case stream.ReadyToSend(pending=pending):
                self._ready(self, pending)
            case stream.Accepted():
                if self._accepted is not None:
                    self._accepted()
            case stream.StreamFinished():
                self._is_over = True
                if self._idle_timer is not None:
                    self._idle_timer.cancel()
                self._finished(self, effect)
            case _:
                self._perform_on_sink(effect)

    def _perform_on_sink(self, effect: stream.SinkEffect) -> None:
        if self._sink is None:
            return
        match effect:
            case stream.WriteSink(data=data):
                self._sink.write(data)
            case stream.FinishSink():
                self._sink.write_eof()
            case stream.ResetSink():
                self._sink.reset()
            case stream.CloseSink():
                self._sink.close()
            case stream.PauseSink():
                self._sink.pause_reading()
            case stream.ResumeSink():
                self._sink.resume_reading()

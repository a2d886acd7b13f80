"""The user's side of a session: opens the control channel, and one channel for each stream.

Many local connections at once (a browser, a test) wait in line rather than run into the limits that the other side has
for channels and for the rate at which they are opened.
"""

from __future__ import annotations

import asyncio
from collections import deque

from mxrtc_bridge.core import control, stream, wire
from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.engine.clock import Clock
from mxrtc_bridge.engine.control_link import ControlLink
from mxrtc_bridge.engine.links import Links, Spawn
from mxrtc_bridge.engine.pipe import Pipe
from mxrtc_bridge.engine.ports import Channel, Counters, Peer, Sink


class OpenedStream:
    """A stream that we opened."""

    def __init__(self, finished: asyncio.Future[stream.Finished]) -> None:
        self.finished = finished
        self.pipe: Pipe | None = None

    def reset(self, code: str, message: str) -> None:
        """End it at once; harmless after its end."""
        if self.pipe is not None and not self.finished.done():
            self.pipe.reset(code, message)


class NoCounters:
    """A user's process counts nothing."""

    def call(self, outcome: str) -> None: ...

    def sessions_live(self, count: int) -> None: ...

    def stream(self, outcome: str) -> None: ...

    def streams_live(self, change: int) -> None: ...

    def payload(self, direction: str, size: int) -> None: ...

    def refusal(self, code: str) -> None: ...


OPENINGS_BURST = 200
OPENINGS_PER_S = 25.0
"""Channel openings stay below what docs/reference/protocol.md section 6 lets an acceptor close."""


class OpenerLinks(Links):
    """The user's side of a session: opens the control channel and one channel for each stream."""

    def __init__(self, *, clock: Clock, counters: Counters, max_streams: int = 240) -> None:
        super().__init__(clock=clock, counters=counters, max_streams=max_streams)
        self._waiting: deque[tuple[ServiceName, Sink, OpenedStream]] = deque()
        self._openings = float(OPENINGS_BURST)
        self._openings_at = clock.monotonic()
        self._opening_timer_armed = False

    @property
    def bye(self) -> tuple[str, str] | None:
        """Why the other side ended the session, if it said so."""
        return None if self._control is None else self._control.bye

    def attach(self, peer: Peer, *, spawn: Spawn) -> None:
        super().attach(peer, spawn=spawn)
        self._control = ControlLink(
            control.Role.OPENER,
            peer.open_channel("", wire.PROTOCOL_CTL),
            clock=self._clock,
            listing=None,
            over=self._over,
        )

    def channel_offered(self, channel: Channel) -> None:
        """The peer opens nothing with us: a client offers no services."""
        channel.close()

    def open_stream(self, service: ServiceName, sink: Sink) -> OpenedStream:
        """Join ``sink`` to a service; opens wait in line where there are many at once."""
        opened = OpenedStream(asyncio.get_running_loop().create_future())
        if self._ended:
            sink.reset()
            opened.finished.set_result(stream.Finished(stream.Outcome.LOST, "lost", "the session has ended", 0, 0))
        else:
            self._waiting.append((service, sink, opened))
            self._open_waiting()
        return opened

    async def list_services(self) -> dict[UserId, tuple[ServiceName, ...]]:
        """Ask which services we may use.

        Raises:
            TransportError: the session ended before the answer.
        """
        assert self._control is not None
        return await self._control.list_services()

    async def ping(self) -> float:
        """Measure one round trip, in seconds.

        Raises:
            TransportError: the session ended before the answer.
        """
        assert self._control is not None
        return await self._control.ping()

    def ended(self) -> None:
        super().ended()
        while self._waiting:
            _, sink, opened = self._waiting.popleft()
            sink.reset()
            opened.finished.set_result(stream.Finished(stream.Outcome.LOST, "lost", "the session has ended", 0, 0))

    def _open_waiting(self) -> None:
        self._refill()
        while self._waiting and self._openings >= 1 and len(self._pipes) < self._max_streams:
            self._openings -= 1
            self._open_now(*self._waiting.popleft())
        if self._waiting and self._openings < 1 and not self._opening_timer_armed:
            self._opening_timer_armed = True
            self._clock.call_at(self._clock.monotonic() + 1 / OPENINGS_PER_S, self._opening_due)

    def _opening_due(self) -> None:
        self._opening_timer_armed = False
        self._open_waiting()

    def _refill(self) -> None:
        now = self._clock.monotonic()
        self._openings = min(float(OPENINGS_BURST), self._openings + (now - self._openings_at) * OPENINGS_PER_S)
        self._openings_at = now

    def _open_now(self, service: ServiceName, sink: Sink, opened: OpenedStream) -> None:
        assert self._peer is not None

        def finished(how: stream.Finished) -> None:
            if not opened.finished.done():
                opened.finished.set_result(how)
            self._open_waiting()

        try:
            channel = self._peer.open_channel(service, wire.PROTOCOL_TCP)
        except LocalError as error:
            # The connection has just ended, or has no number left for a channel: this stream's trouble alone.
            sink.reset()
            opened.finished.set_result(stream.Finished(stream.Outcome.LOST, "lost", str(error), 0, 0))
            return
        machine = stream.StreamMachine(stream.Role.OPENER)
        pipe = self._add(machine, channel, finished)
        machine.set_window(self._budget.take(pipe))
        opened.pipe = pipe
        pipe.connect_sink(sink)

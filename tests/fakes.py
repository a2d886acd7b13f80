"""Fakes for the engine's ports: a clock that is pushed, channels and sinks that record."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any

from mxrtc_bridge.core.call.events import CandidateLine
from mxrtc_bridge.core.call.route import Signalling
from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.errors import RefusalCode
from mxrtc_bridge.core.webrtc.gathering_report import GatheringReport
from mxrtc_bridge.core.webrtc.ice import PathKind
from mxrtc_bridge.engine.ports import NoCounters


class FakeTimer:
    """A callback that a test can let pass."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class FakeClock:
    """Virtual time: moves only when a test says so.

    The clocks of a machine disagree where a test says so: ``set_by`` is somebody who sets the wall clock, ``sleep`` a
    machine that slept, in which the monotonic clock stands still.
    """

    def __init__(self, now: float = 1000.0, wall_ms: int = 1_800_000_000_000) -> None:
        self.now = now
        self.start = now
        self.start_wall_ms = wall_ms
        self._slept = 0.0
        self._set_by_ms = 0
        self._order = count()
        self._timers: list[tuple[float, int, FakeTimer]] = []

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return self.start_wall_ms + self._set_by_ms + round((self.now + self._slept - self.start) * 1000)

    def elapsed_ms(self) -> int:
        return round((self.now + self._slept) * 1000)

    def set_by(self, seconds: float) -> None:
        """Somebody sets the wall clock, forward or back."""
        self._set_by_ms += round(seconds * 1000)

    def sleep(self, seconds: float) -> None:
        """The machine sleeps: no timer runs, and ``monotonic`` knows nothing of it."""
        self._slept += seconds

    def call_at(self, when: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass and run the timers that come due, in order."""
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            when, _, timer = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            if timer.callback is not None:
                timer.callback()
        self.now = end

    @property
    def armed(self) -> int:
        return sum(timer.callback is not None for _, _, timer in self._timers)


@dataclass
class VirtualTime:
    """A clock and a pause that only count."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class FakeChannel:
    """One end of a data channel in memory; messages wait until the test lets them pass."""

    def __init__(self, peer: FakePeer, label: str, protocol: str) -> None:
        self.label = label
        self.protocol = protocol
        self.other: FakeChannel
        self.sent: list[str | bytes] = []
        self.unconsumed = 0
        self.kept = 0
        self.closed = False
        self._peer = peer
        self._listener: Any = None
        self._early: list[Callable[[Any], None]] = []

    def set_listener(self, listener: Any) -> None:
        self._listener = listener
        early, self._early = self._early, []
        for call in early:
            call(listener)

    def send(self, message: str | bytes) -> None:
        if self.closed:
            return
        self.sent.append(message)
        self._peer.queued += len(message)
        size = len(message)

        def arrive() -> None:
            self._peer.queued -= size
            self.other.deliver(message)

        self._peer.network.append(arrive)

    def deliver(self, message: str | bytes) -> None:
        if self.closed:
            return
        self.unconsumed += len(message.encode()) if isinstance(message, str) else len(message)
        if isinstance(message, str):
            self.tell(lambda listener: listener.text_received(message))
        else:
            self.tell(lambda listener: listener.binary_received(message))

    def tell(self, call: Callable[[Any], None]) -> None:
        if self._listener is None:
            self._early.append(call)
        else:
            call(self._listener)

    def consumed(self, size: int) -> None:
        self.unconsumed -= size

    def keep(self, size: int) -> None:
        assert self.closed
        self.kept = size

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._peer.network.append(self.other.remote_closed)
        self._peer.network.append(lambda: self.tell(lambda listener: listener.channel_closed()))

    def remote_closed(self) -> None:
        if not self.closed:
            self.closed = True
            self.tell(lambda listener: listener.channel_closed())


class FakePeer:
    """One end of a peer connection in memory; ``network`` holds what is on its way, in order."""

    def __init__(self, network: deque[Callable[[], None]], mark: int = 65536) -> None:
        self.network = network
        self.mark = mark
        self.queued = 0
        self.listener: Any = None
        self.other: FakePeer
        self.channels: list[FakeChannel] = []

    def set_listener(self, listener: Any) -> None:
        self.listener = listener

    async def late_candidates(self) -> tuple[CandidateLine, ...]:
        return ()

    def gathering_is_over(self) -> bool:
        return True

    def gathering_report(self) -> GatheringReport:
        return GatheringReport()

    def open_channel(self, label: str, protocol: str) -> FakeChannel:
        ours, theirs = FakeChannel(self, label, protocol), FakeChannel(self.other, label, protocol)
        ours.other, theirs.other = theirs, ours
        self.channels.append(ours)
        self.other.channels.append(theirs)

        def arrive() -> None:
            self.other.listener.channel_offered(theirs)
            self.network.append(lambda: ours.tell(lambda listener: listener.channel_opened()))

        self.network.append(arrive)
        return ours

    def can_send(self) -> bool:
        return self.queued < self.mark

    def path(self) -> None:
        return None

    def packet_bytes(self) -> None:
        return None

    async def close(self) -> None: ...


def joined_peers() -> tuple[FakePeer, FakePeer, deque[Callable[[], None]]]:
    """Two ends of one connection, and the network between them."""
    network: deque[Callable[[], None]] = deque()
    one, two = FakePeer(network), FakePeer(network)
    one.other, two.other = two, one
    return one, two, network


class FakeSink:
    """A local byte stream: what is written is kept, and taken when the test says so."""

    def __init__(self, *, takes: bool = True) -> None:
        self.written = b""
        self.takes = takes
        self.untaken = 0
        self.events: list[str] = []
        self.paused = False
        self.closing = False
        self.listener: Any = None

    def set_listener(self, listener: Any) -> None:
        self.listener = listener

    def write(self, data: bytes) -> None:
        self.written += data
        self.untaken += len(data)
        if self.takes:
            self.take()

    def take(self) -> None:
        """The operating system takes all that was written."""
        size, self.untaken = self.untaken, 0
        if size:
            self.listener.bytes_written(size)
        if self.closing:
            self.listener.sink_closed(None)

    def write_eof(self) -> None:
        self.events.append("eof")

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def reset(self) -> None:
        self.events.append("reset")
        self.listener.sink_closed(None) if self.listener is not None else None

    def close(self) -> None:
        self.events.append("close")
        self.closing = True
        if not self.untaken:
            self.listener.sink_closed(None)


class RecordingCounters(NoCounters):
    """Keeps what was counted of outcomes and refusals."""

    def __init__(self) -> None:
        self.counted: list[tuple[str, str]] = []
        self.payloads: list[tuple[str, int]] = []
        self.sessions: list[tuple[PathKind, Signalling, float]] = []

    def call(self, outcome: str, signalling: Signalling) -> None:
        self.counted.append(("call", outcome))

    def session(self, path: PathKind, signalling: Signalling, setup_s: float) -> None:
        self.sessions.append((path, signalling, setup_s))

    def payload(self, direction: str, size: int) -> None:
        if size:
            self.payloads.append((direction, size))

    def stream(self, outcome: str) -> None:
        self.counted.append(("stream", outcome))

    def transfer(self, outcome: str) -> None:
        self.counted.append(("transfer", outcome))

    def refusal(self, code: RefusalCode) -> None:
        self.counted.append(("refusal", code))


class Records:
    """An audit that remembers."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self.durable = True

    async def record(self, record: Any) -> bool:
        self.all.append(record)
        return self.durable

    def note(self, record: Any) -> None:
        self.all.append(record)

    async def ready(self) -> bool:
        return self.durable


class DeviceConfig:
    """A :class:`mxrtc_bridge.bridge.current_config.CurrentConfig` as far as devices are judged by it."""

    def __init__(self, least: Trust = Trust.UNSIGNED) -> None:
        self.in_force = self.encryption = self
        self.homeserver = SimpleNamespace(domain="example.org")
        self.least = least

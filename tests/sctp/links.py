"""A simulated path between two associations, in virtual time and with a seed: the same seed gives the same story.

Each direction has a delay, random and burst loss, reordering (some packets are held back), duplication, and a
bottleneck: a rate with a queue of limited length in front of it.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass

from mxrtc_bridge.sctp.association import Association
from mxrtc_bridge.sctp.congestion import CongestionControl
from mxrtc_bridge.sctp.events import Ended, Established, Event, MessageReceived
from mxrtc_bridge.sctp.handshake import RandomValues
from mxrtc_bridge.sctp.settings import SctpSettings
from tests.sctp.newreno import NewReno


@dataclass(frozen=True, slots=True)
class Path:
    """One direction; times in seconds, rate in bytes per second, probabilities from 0 to 1."""

    delay: float = 0.01
    loss: float = 0.0
    burst: float = 0.0
    """Probability that a burst of loss begins; it lasts for 5 packets on average, 0.3 s at most."""
    reorder: float = 0.0
    hold: float = 0.02
    """How long a reordered packet is held back at most."""
    duplicate: float = 0.0
    rate: float = 0.0
    """0 for no bottleneck."""
    queue: int = 200_000
    mtu: int = 65_536
    """Larger probes are lost."""
    fragments: bool = False
    """Larger packets that are no probes arrive."""


class Direction:
    """Decides when, and whether, each packet arrives."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        self.path = path
        self._rng = rng
        self._in_burst = False
        self._burst_until = 0.0
        self._free_at = 0.0
        self.lost = 0
        self.carried = 0
        self.longest_queue_s = 0.0

    def arrivals(self, now: float, packet: bytes, *, probe: bool = False) -> list[float]:
        path, rng = self.path, self._rng
        if len(packet) > path.mtu and (probe or not path.fragments):
            self.lost += 1
            return []
        start = max(self._free_at, now)
        if path.rate:
            if (start - now) * path.rate > path.queue:
                self.lost += 1
                return []
            self.longest_queue_s = max(self.longest_queue_s, start - now)
            start += len(packet) / path.rate
            self._free_at = start
        if path.burst:
            lasts = self._in_burst and now < self._burst_until
            self._in_burst = rng.random() < (0.8 if lasts else path.burst)
            if self._in_burst and not lasts:
                self._burst_until = now + 0.3
        if self._in_burst or rng.random() < path.loss:
            self.lost += 1
            return []
        self.carried += len(packet)
        times = [start + path.delay]
        if path.reorder and rng.random() < path.reorder:
            times[0] += rng.random() * path.hold
        if path.duplicate and rng.random() < path.duplicate:
            times.append(times[0] + rng.random() * path.hold)
        return times


class End:
    """One association, what it said, and what its application does."""

    def __init__(self, association: Association) -> None:
        self.association = association
        self.events: list[Event] = []
        self.messages: list[MessageReceived] = []
        self.ended: Ended | None = None
        self.on_message: Callable[[MessageReceived], None] | None = None
        self.consume = True
        self.unread = 0

    @property
    def established(self) -> bool:
        return any(isinstance(event, Established) for event in self.events)

    def drain(self) -> None:
        while (event := self.association.poll_event()) is not None:
            if isinstance(event, MessageReceived):
                if self.consume:
                    self.association.consumed(len(event.data))
                else:
                    self.unread += len(event.data)
                if self.on_message is not None:
                    self.on_message(event)
                    continue
                self.messages.append(event)
            elif isinstance(event, Ended):
                self.ended = self.ended or event
            self.events.append(event)

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


def association(
    seed: int, settings: SctpSettings | None = None, congestion: CongestionControl | None = None
) -> Association:
    """Return an association whose random values come from ``seed``."""
    rng = random.Random(seed)
    settings = settings or SctpSettings()
    drawn = RandomValues(
        tag=rng.randrange(1, 1 << 32),
        initial_tsn=rng.choice([0, 1, 0xFFFFFFFF, 0xFFFFFF00, rng.randrange(1 << 32)]),
        cookie_key=rng.randbytes(32),
    )
    return Association(settings, drawn, congestion or NewReno(settings.packet_size - 12))


class World:
    """Two ends and the path between them."""

    def __init__(self, left: Association, right: Association, there: Path, back: Path, seed: int = 0) -> None:
        rng = random.Random(seed)
        self.now = 1000.0
        self.left = End(left)
        self.right = End(right)
        self.there = Direction(there, rng)
        self.back = Direction(back, rng)
        self._queue: list[tuple[float, int, End, bytes]] = []
        self._count = 0
        self.tap: Callable[[End, bytes], bytes | None] | None = None
        """Sees each packet with the end that sent it; what it returns goes on, None for nothing."""
        self.steps = 0

    def start(self) -> None:
        self.left.association.start(self.now)
        self.right.association.start(self.now)
        self.flush()

    def all_established(self) -> bool:
        return self.left.established and self.right.established

    def all_ended(self) -> bool:
        return self.left.ended is not None and self.right.ended is not None

    def flush(self) -> None:
        """Collect what both ends have to send, and give them their events."""
        for end, direction, other in ((self.left, self.there, self.right), (self.right, self.back, self.left)):
            end.drain()
            while True:
                packets = end.association.datagrams(self.now)
                probe = end.association.take_probe()
                for packet in packets:
                    self._carry(end, direction, other, packet)
                if probe is not None:
                    self._carry(end, direction, other, probe, probe=True)
                elif not packets:
                    break
            end.drain()

    def _carry(self, end: End, direction: Direction, other: End, packet: bytes, *, probe: bool = False) -> None:
        if self.tap is not None:
            changed = self.tap(end, packet)
            if changed is None:
                return
            packet = changed
        for at in direction.arrivals(self.now, packet, probe=probe):
            self._count += 1
            heapq.heappush(self._queue, (at, self._count, other, packet))

    def step(self, until: float) -> bool:
        """Go on to what happens next; False if that is later than ``until``, or nothing."""
        self.steps += 1
        ends = (self.left, self.right)
        deadlines = [end.association.next_deadline() for end in ends]
        known = [deadline for deadline in deadlines if deadline is not None]
        if self._queue:
            known.append(self._queue[0][0])
        if not known or min(known) > until:
            self.now = until
            return False
        self.now = max(self.now, min(known))
        received = set()
        while self._queue and self._queue[0][0] <= self.now:
            _, _, end, packet = heapq.heappop(self._queue)
            end.association.receive(self.now, packet)
            received.add(end)
        for end, before in zip(ends, deadlines, strict=True):
            deadline = end.association.next_deadline() if end in received else before
            if deadline is not None and deadline <= self.now:
                end.association.handle_timeout(self.now)
        self.flush()
        return True

    def run(self, seconds: float, done: Callable[[], bool] | None = None, max_steps: int = 2_000_000) -> bool:
        """Let time pass; True once ``done`` says so, False after ``seconds``."""
        until = self.now + seconds
        for _ in range(max_steps):
            if done is not None and done():
                return True
            if not self.step(until):
                return done is not None and done()
        raise AssertionError(f"{max_steps} steps without an end: something spins")


def pair(
    seed: int = 0,
    path: Path | None = None,
    settings: SctpSettings | None = None,
    right_settings: SctpSettings | None = None,
    congestion: Callable[[SctpSettings], CongestionControl] | None = None,
) -> World:
    """Return two associations with the same path in both directions."""
    settings = settings or SctpSettings()
    other = right_settings or settings
    path = path or Path()
    left = association(2 * seed, settings, congestion(settings) if congestion else None)
    right = association(2 * seed + 1, other, congestion(other) if congestion else None)
    return World(left, right, path, path, seed)


def established(world: World) -> World:
    """Start, and wait until both ends are up."""
    world.start()
    assert world.run(60.0, world.all_established)
    return world

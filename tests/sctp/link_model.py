"""A link in virtual time, packet by packet, with flows that a congestion control drives: what the tests of one run on.

No chunks and no handshake: a flow is an endless (or scripted) supply of packets of one size, so what is lost is simply
sent again as something new, and the bytes delivered are the goodput. What matters to a control is modelled: a rate
that may change, a drop-tail queue, propagation delay, random and burst loss, delayed and aggregated acknowledgements,
a sender whose timers are coarse and whose host stops for milliseconds, RACK-like loss detection, a retransmission
timer, and delivery-rate samples (draft-ietf-ccwg-bbr-06 section 4.1).
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from itertools import takewhile

from mxrtc_bridge.sctp.congestion import CongestionControl, RateSample, SentPacket

PACKET = 1160
MBIT = 125_000.0
"""Bytes per second in a megabit per second."""


class Clock:
    """Calls functions at their times, in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self._count = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, time: float, call: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (time, self._count, call))

    def run(self, until: float) -> None:
        queue = self._queue
        while queue and queue[0][0] <= until:
            time, _, call = heapq.heappop(queue)
            self.now = max(self.now, time)
            call()
        self.now = until


class Link:
    """One bottleneck with a drop-tail queue; several flows may share it.

    Args:
        clock: the time.
        rate: bytes per second.
        queue: bytes that may wait behind the packet under way.
        loss: probability that a packet is lost, after the queue.
        seed: for the losses.
    """

    def __init__(self, clock: Clock, rate: float, queue: float = math.inf, loss: float = 0.0, seed: int = 1) -> None:
        self.clock = clock
        self.rate = rate
        self.queue = queue
        self.loss = loss
        self.random = random.Random(seed)
        self.waiting = 0
        self.dropped = 0
        self.carried = 0
        self.busy = False
        self.down = False
        self.delays: list[tuple[float, float]] = []
        """When a packet entered the queue, and for how long it had to wait there."""
        self._packets: deque[tuple[Flow, SentPacket]] = deque()

    def send(self, flow: Flow, packet: SentPacket) -> None:
        if self.waiting + packet.size > self.queue + PACKET:
            self.dropped += 1
            return
        self.delays.append((self.clock.now, self.waiting / self.rate))
        self.waiting += packet.size
        self._packets.append((flow, packet))
        if not self.busy:
            self._serve()

    def _serve(self) -> None:
        if self._packets:
            self.busy = True
            self.clock.at(self.clock.now + self._packets[0][1].size / self.rate, self._served)
        else:
            self.busy = False

    def _served(self) -> None:
        flow, packet = self._packets.popleft()
        self.waiting -= packet.size
        self.carried += packet.size
        if not self.down and (not self.loss or self.random.random() >= self.loss):
            self.clock.at(self.clock.now + flow.delay, lambda: flow.arrived(packet))
        self._serve()

    def delay_mean(self, start: float, end: float) -> float:
        found = [delay for at, delay in self.delays if start <= at < end]
        return sum(found) / len(found)

    def delay_quantile(self, start: float, end: float, quantile: float) -> float:
        found = sorted(delay for at, delay in self.delays if start <= at < end)
        return found[min(int(len(found) * quantile), len(found) - 1)]


class Host:
    """When a process really runs: timers are late, and now and then nothing runs for a while.

    Args:
        clock: the time.
        seed: for the stalls.
        stall: the longest stall, in seconds; 0 for none.
        every: mean time between stalls.
        granularity: timers fire at multiples of this, in seconds; 0 for exact ones.
    """

    def __init__(
        self, clock: Clock, seed: int = 1, stall: float = 0.0, every: float = 0.02, granularity: float = 0.001
    ) -> None:
        self.clock = clock
        self.stall = stall
        self.every = every
        self.granularity = granularity
        self.random = random.Random(seed)
        self.stalled_until = 0.0
        self.next_stall = self.random.expovariate(1 / every) if stall else math.inf

    def when(self, time: float, timer: bool = False) -> float:
        """Return when something that happens at ``time`` gets attention."""
        if timer and self.granularity:
            time = math.ceil(time / self.granularity - 1e-9) * self.granularity
        while self.next_stall <= time:
            self.stalled_until = max(
                self.stalled_until, self.next_stall + self.random.uniform(self.stall / 4, self.stall)
            )
            self.next_stall += self.random.expovariate(1 / self.every)
        return max(time, self.stalled_until)


class Flow:
    """A sender with its control, and the receiver that acknowledges.

    Args:
        clock: the time.
        link: the bottleneck on the way to the receiver.
        control: under test.
        rtt: propagation delay both ways together, in seconds.
        start: when it begins.
        ack_every: packets per acknowledgement.
        ack_delay: how long the acknowledgement of a lone packet waits.
        ack_slot: acknowledgements leave at multiples of this only (aggregation); 0 for at once.
        sender, receiver: the hosts; perfect ones if not given.
    """

    def __init__(
        self,
        clock: Clock,
        link: Link,
        control: CongestionControl,
        rtt: float,
        *,
        start: float = 0.0,
        ack_every: int = 2,
        ack_delay: float = 0.025,
        ack_slot: float = 0.0,
        sender: Host | None = None,
        receiver: Host | None = None,
    ) -> None:
        self.clock = clock
        self.link = link
        self.control = control
        self.delay = rtt / 2
        self.ack_every = ack_every
        self.ack_delay = ack_delay
        self.ack_slot = ack_slot
        self.sender = sender or Host(clock, granularity=0.001)
        self.receiver = receiver or Host(clock, granularity=0.0)
        self.supply = math.inf
        """Bytes that the application still has to send."""
        self.delivered_at: list[tuple[float, int]] = []
        """When something was acknowledged, and how much had been in all."""
        self.windows: list[int] = []
        self.rates: list[float] = []

        self.delivered = 0
        self.lost = 0
        self.timeouts = 0
        self.sent_bytes = 0
        self._inflight = 0
        self._number = 0
        self._outstanding: dict[int, SentPacket] = {}
        self._delivered_time = 0.0
        self._first_sent = 0.0
        self._app_limited_until = 0
        self._paced_until = 0.0
        self._window_limited = False
        self._srtt = 0.0
        self._min_rtt = math.inf
        self._backoff = 1
        self._timer_at = math.inf
        self._rto_at = math.inf
        self._sample = RateSample()

        self._received: list[int] = []
        self._expected = 0
        self._ack_timer_for = -1
        self._ack_planned = False
        control.set_packet_size(PACKET)
        clock.at(start, self.wake)

    # Sender

    def provide(self, size: float) -> None:
        """Let the application add to its supply."""
        self.supply = size if self.supply == math.inf else self.supply + size
        self.wake()

    def wake(self) -> None:
        now = self.clock.now
        control = self.control
        rate = control.pacing_rate
        # A burst of a quantum, and as much more as the host was late; then the time that it takes at the pacing rate.
        quantum = control.send_quantum if rate is not None else 1 << 40
        if rate is not None:
            if self._paced_until > now + 1e-9:
                self._plan_timer(self._paced_until)
                return
            room = quantum + min((now - self._paced_until) * rate, quantum)
        else:
            room = quantum
        burst = 0
        while burst < room:
            if self._inflight + PACKET > control.window_bytes and self._inflight:
                self._window_limited = True
                break
            if self.supply < PACKET:
                self._app_limited_until = max(self.delivered + self._inflight, 1)
                break
            self._send(now)
            burst += PACKET
        if rate is not None and burst:
            self._paced_until = max(self._paced_until, now - quantum / rate) + burst / rate
            if burst >= room:
                self._plan_timer(self._paced_until)

    def _plan_timer(self, time: float) -> None:
        if time < self._timer_at - 1e-9:
            self._timer_at = time
            self.clock.at(self.sender.when(time, timer=True), lambda: self._timer(time))

    def _timer(self, time: float) -> None:
        if self._timer_at == time:
            self._timer_at = math.inf
        self.wake()

    def _send(self, now: float) -> None:
        if not self._inflight:
            self._first_sent = self._delivered_time = now
            self._plan_timeout(now)
        self._inflight += PACKET
        self.supply -= PACKET
        self.sent_bytes += PACKET
        packet = SentPacket(
            self._number,
            PACKET,
            now,
            self.delivered,
            self._delivered_time,
            self._first_sent,
            self._app_limited_until > 0,
            self._inflight,
            self.lost,
            [],
        )
        self._number += 1
        self._outstanding[packet.number] = packet
        self.control.on_sent(now, packet)
        self.link.send(self, packet)

    def _plan_timeout(self, now: float) -> None:
        due = now + max(0.2, 2 * self._srtt or 1.0) * self._backoff
        if self._rto_at == math.inf:
            self.clock.at(due, self._check_timeout)
        self._rto_at = due

    def _check_timeout(self) -> None:
        now = self.clock.now
        if not self._outstanding:
            self._rto_at = math.inf
        elif now < self._rto_at - 1e-9:
            self.clock.at(self._rto_at, self._check_timeout)
        else:
            self._rto_at = math.inf
            self.timeouts += 1
            self._backoff = min(self._backoff * 2, 16)
            lost = self._inflight
            self.lost += lost
            self.supply += lost
            self._inflight = 0
            self._outstanding.clear()
            self.control.on_timeout(now, lost)
            self._paced_until = now
            self.wake()

    def acknowledged(self, numbers: list[int]) -> None:
        now = self.clock.now
        outstanding = self._outstanding
        packets = [outstanding.pop(number) for number in numbers if number in outstanding]
        if not packets:
            return
        sample = self._sample
        sample.prior_inflight = self._inflight
        acked = sum(packet.size for packet in packets)
        self._inflight -= acked
        self.delivered += acked
        self._delivered_time = now
        self._backoff = 1
        newest = max(packets, key=lambda packet: packet.number)
        rtt = now - newest.sent_at
        self._srtt = rtt if not self._srtt else 0.875 * self._srtt + 0.125 * rtt
        self._min_rtt = min(self._min_rtt, rtt)
        if self._app_limited_until and self.delivered > self._app_limited_until:
            self._app_limited_until = 0
        lost_before = self.lost
        # They stand in the order in which they were sent.
        for number in list(takewhile((newest.number - 2).__gt__, outstanding)):
            packet = outstanding.pop(number)
            self._inflight -= packet.size
            self.lost += packet.size
            self.supply += packet.size
            self.control.on_loss(now, packet, packet.size, self._inflight)
        sample.rtt = rtt
        sample.delivered = self.delivered - newest.delivered
        sample.prior_delivered = newest.delivered
        sample.total_delivered = self.delivered
        sample.interval = max(newest.sent_at - newest.first_sent_at, now - newest.delivered_at)
        if sample.interval < self._min_rtt:
            sample.interval = 0.0
        sample.app_limited = newest.app_limited
        sample.newly_acked = acked
        sample.newly_lost = self.lost - lost_before
        sample.inflight = self._inflight
        sample.sent_inflight = newest.inflight
        sample.lost = self.lost - newest.lost
        sample.window_limited = self._window_limited
        self._window_limited = False
        self._first_sent = newest.sent_at
        self._plan_timeout(now)
        self.control.on_ack(now, sample)
        self.delivered_at.append((now, self.delivered))
        self.windows.append(self.control.window_bytes)
        self.rates.append(self.control.pacing_rate or 0.0)
        self.wake()

    # Receiver

    def arrived(self, packet: SentPacket) -> None:
        now = self.clock.now
        at = self.receiver.when(now)
        if at > now:
            self.clock.at(at, lambda: self._take(packet))
        else:
            self._take(packet)

    def _take(self, packet: SentPacket) -> None:
        gap = packet.number != self._expected
        self._expected = packet.number + 1
        self._received.append(packet.number)
        if self._ack_planned:
            return
        if gap or len(self._received) >= self.ack_every:
            self._plan_ack()
        elif self._ack_timer_for < 0:
            self._ack_timer_for = packet.number
            self.clock.at(self.clock.now + self.ack_delay, lambda: self._delayed(packet.number))

    def _delayed(self, number: int) -> None:
        if self._ack_timer_for == number:
            self._ack_timer_for = -1
            if self._received and not self._ack_planned:
                self._plan_ack()

    def _plan_ack(self) -> None:
        now = self.clock.now
        self._ack_timer_for = -1
        if self.ack_slot:
            at = (math.floor(now / self.ack_slot) + 1) * self.ack_slot
            self._ack_planned = True
            self.clock.at(at, self._send_ack)
        else:
            self._send_ack()

    def _send_ack(self) -> None:
        self._ack_planned = False
        numbers, self._received = self._received, []
        back = self.clock.now + self.delay
        self.clock.at(back, lambda: self._ack_arrives(numbers))

    def _ack_arrives(self, numbers: list[int]) -> None:
        now = self.clock.now
        at = self.sender.when(now)
        if at > now:
            self.clock.at(at, lambda: self.acknowledged(numbers))
        else:
            self.acknowledged(numbers)

    # Measurements

    def rate(self, start: float, end: float) -> float:
        """Return the bytes per second that were delivered between two times."""
        return (self.delivered_by(end) - self.delivered_by(start)) / (end - start)

    def delivered_by(self, time: float) -> int:
        found = 0
        low, high = 0, len(self.delivered_at)
        while low < high:
            middle = (low + high) // 2
            if self.delivered_at[middle][0] <= time:
                found = self.delivered_at[middle][1]
                low = middle + 1
            else:
                high = middle
        return found

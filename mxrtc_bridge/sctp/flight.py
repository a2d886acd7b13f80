"""What is on its way: chunks by TSN, packets by the order of sending, acknowledgement, loss by time (RACK).

Two views of the same bytes. A SACK speaks of TSNs, so chunks are found by theirs; loss and rate are matters of
packets, so each transmission is a packet with its own time. A packet is lost when one that was sent after it has
arrived, and a reordering window on top of the round trip has passed since (RFC 8985 section 6.2): a packet count would
take reordering for loss, and miss the loss of a retransmission.

Work is amortised: a TSN is acknowledged once, a packet leaves the queue once, and of the gap blocks of a SACK only
what was not known before is looked at.

What it guards against: acknowledgements of what was never sent (a violation), and a receiver that takes back what it
acknowledged in a gap block (section 6.2.1 allows it): such chunks are sent again. It may do so for once the flight, and
for as many chunks as it has acknowledged for good; more is a violation, as each costs a look and another transmission.
"""

from __future__ import annotations

from collections import deque
from typing import cast

from mxrtc_bridge.sctp.chunks import MalformedError
from mxrtc_bridge.sctp.congestion import CongestionControl, RateSample, SentPacket
from mxrtc_bridge.sctp.numbers import Ranges
from mxrtc_bridge.sctp.outbound_queue import ABANDONED, ACKED, IN_FLIGHT, LOST, OutChunk
from mxrtc_bridge.sctp.rtt import RoundTrip

_MAX_REORDERING_STEPS = 16
MAX_TAKEN_BACK = 32_768
"""Chunks whose acknowledgement may be taken back beyond those acknowledged for good: the largest flight once."""
_NO_CHUNKS: list[object] = []
"""Breaks the cycle between a packet that is done and its chunks: they go away without the garbage collector."""


class Flight:
    """Everything that has a TSN and is not acknowledged cumulatively.

    Attributes:
        cumulative: the highest TSN that the other side acknowledged with all before it.
        outstanding: chunks after that, by TSN, without a gap.
        inflight: bytes of chunks that are neither acknowledged nor lost.
        unacked_payload: bytes of payload that the other side's window has to hold.
        lost: chunks to be sent again; those whose state is no longer LOST are skipped.
        reordering_at: when a packet that is overdue will count as lost; infinity for none.
    """

    def __init__(self, initial_tsn: int, congestion: CongestionControl, rtt: RoundTrip) -> None:
        self.congestion = congestion
        self.rtt = rtt
        self.next_tsn = initial_tsn
        self.cumulative = initial_tsn - 1
        self.outstanding: dict[int, OutChunk] = {}
        self.inflight = 0
        self.unacked_payload = 0
        self.pending_payload = 0
        self.lost: deque[OutChunk] = deque()
        self.lost_bytes = 0
        self.delivered = 0
        self.delivered_at = 0.0
        self.first_sent_at = 0.0
        self.app_limited_until = 0
        self.window_limited = False
        self.reordering_at = float("inf")
        self.last_progress_at = 0.0
        self.last_sent_at = 0.0
        self.packets: deque[SentPacket] = deque()
        self.sent_packets = 0
        self.retransmitted_chunks = 0
        self.taken_back = 0
        self.spurious = 0
        self._first_tsn = initial_tsn
        self._gaps = Ranges()
        self._sample = RateSample()
        self._newest_unambiguous = False
        self._newly_acked = 0
        self._rack_number = -1
        self._rack_rtt = 0.0
        self._reordering_steps = 1
        self._sober_episodes = 0
        self._episode_open = 0
        self._episode_end = -1

    # Sending

    def sent(self, now: float, chunks: list[OutChunk], size: int) -> None:
        """Account for a packet with ``chunks`` that leaves now."""
        if not self.inflight:
            self.first_sent_at = self.delivered_at = self.last_progress_at = now
        self.inflight += size
        number = self.sent_packets
        self.sent_packets = number + 1
        packet = SentPacket(
            number,
            size,
            now,
            self.delivered,
            self.delivered_at,
            self.first_sent_at,
            self.app_limited_until > 0,
            self.inflight,
            self.lost_bytes,
            cast("list[object]", chunks),
        )
        for chunk in chunks:
            chunk.packet = packet
            chunk.transmissions += 1
        self.packets.append(packet)
        self.last_sent_at = now
        self.congestion.on_sent(now, packet)

    # Acknowledgement

    def receive_sack(self, now: float, cumulative: int, blocks: list[tuple[int, int]], duplicates: list[int]) -> bool:  # noqa: C901 - one pass
        """Take a SACK whose numbers were widened; False if it is older than one before.

        Raises:
            MalformedError: it acknowledges what was never sent, or too much was taken back.
        """
        if cumulative < self.cumulative:
            return False
        if cumulative >= self.next_tsn or (blocks and blocks[-1][1] >= self.next_tsn):
            raise MalformedError("an acknowledgement of a TSN that was never sent")
        prior_inflight = self.inflight
        prior_lost = self.lost_bytes
        self._newly_acked = 0
        advanced = cumulative > self.cumulative
        newest = self._acknowledge_to(cumulative) if advanced else None
        if blocks:
            newest = self._acknowledge_blocks(blocks, newest)
        if len(self._gaps):
            self._find_reneging()
        if duplicates:
            self._count_duplicates(duplicates)
        sample = self._sample
        sample.rtt = None
        sample.interval = 0.0
        if newest is not None:
            self._measure(now, newest)
        packets = self.packets
        while packets and not packets[0].pending:
            packets.popleft().chunks = _NO_CHUNKS
        if self._newly_acked or advanced:
            self.last_progress_at = now
        self.detect_losses(now)
        if self._newly_acked or self.lost_bytes != prior_lost:
            sample.newly_acked = self._newly_acked
            sample.newly_lost = self.lost_bytes - prior_lost
            sample.inflight = self.inflight
            sample.prior_inflight = prior_inflight
            sample.total_delivered = self.delivered
            sample.window_limited = self.window_limited
            self.congestion.on_ack(now, sample)
        if self._episode_end >= 0 and not self._episode_open:
            self._undo(now)
        return True

    def _acknowledge_to(self, cumulative: int) -> SentPacket | None:
        """Acknowledge everything up to ``cumulative``; return the packet among it that was sent last."""
        outstanding = self.outstanding
        newest: SentPacket | None = None
        newest_number = -1
        inflight = payload = pending = acked = 0
        for tsn in range(self.cumulative + 1, cumulative + 1):
            chunk = outstanding.pop(tsn)
            pending += chunk.payload_size
            state = chunk.state
            if state == IN_FLIGHT:
                packet = chunk.packet
                packet.pending -= 1
                acked += chunk.size
                inflight += chunk.size
                payload += chunk.payload_size
                chunk.state = ACKED
                if packet.number > newest_number:
                    newest, newest_number = packet, packet.number
                    self._newest_unambiguous = chunk.transmissions == 1
            elif state == LOST:
                acked += chunk.size
                payload += chunk.payload_size
                chunk.state = ACKED
                self._was_not_lost()
        self.inflight -= inflight
        self.unacked_payload -= payload
        self.pending_payload -= pending
        self.delivered += acked
        self._newly_acked += acked
        self.cumulative = cumulative
        if len(self._gaps):
            self._gaps.discard_to(cumulative)
        return newest

    def _acknowledge_blocks(self, blocks: list[tuple[int, int]], newest: SentPacket | None) -> SentPacket | None:
        """Acknowledge gap blocks; return the packet that was sent last, among these and ``newest``."""
        known = self._gaps
        for start, end in blocks:
            for first, last in known.add_range(start, end):
                for tsn in range(first, last + 1):
                    chunk = self.outstanding[tsn]
                    if chunk.state == IN_FLIGHT:
                        packet = chunk.packet
                        packet.pending -= 1
                        self.inflight -= chunk.size
                        if newest is None or packet.number > newest.number:
                            newest = packet
                            self._newest_unambiguous = chunk.transmissions == 1
                    elif chunk.state == LOST:
                        self._was_not_lost()
                    else:
                        continue
                    chunk.state = ACKED
                    self.unacked_payload -= chunk.payload_size
                    self.delivered += chunk.size
                    self._newly_acked += chunk.size
        return newest

    def _find_reneging(self) -> None:
        # The chunk after the cumulative acknowledgement cannot be in a gap block: if it was in one, it was dropped.
        first = self.cumulative + 1
        if self._gaps.starts[0] > first:
            return
        last = self._gaps.drop_to(first)
        self.taken_back += last + 1 - first
        if self.taken_back > MAX_TAKEN_BACK + first - self._first_tsn:
            raise MalformedError(f"acknowledgements of {self.taken_back} chunks were taken back")
        for tsn in range(first, last + 1):
            chunk = self.outstanding[tsn]
            if chunk.state == ACKED:
                chunk.state = LOST
                self.unacked_payload += chunk.payload_size
                self._queue_lost(chunk)

    def _measure(self, now: float, newest: SentPacket) -> None:
        """Make the rate sample, and remember the packet for loss detection (RFC 8985 section 6.2, step 2)."""
        rtt = now - newest.sent_at
        sample = self._sample
        if self._newest_unambiguous:
            sample.rtt = rtt
            self.rtt.sample(now, rtt)
        elif rtt < self.rtt.minimum:
            return  # too soon for the retransmission: the first transmission has arrived
        if newest.number > self._rack_number:
            self._rack_number = newest.number
            self._rack_rtt = rtt
        if self.app_limited_until and self.delivered > self.app_limited_until:
            self.app_limited_until = 0
        sample.prior_delivered = newest.delivered
        sample.delivered = self.delivered - newest.delivered
        sample.app_limited = newest.app_limited
        sample.sent_inflight = newest.inflight
        sample.lost = self.lost_bytes - newest.lost
        interval = max(newest.sent_at - newest.first_sent_at, now - newest.delivered_at)
        if interval >= self.rtt.minimum:
            sample.interval = interval
        self.first_sent_at = newest.sent_at
        self.delivered_at = now

    # Loss

    @property
    def measured(self) -> bool:
        """Whether the last SACK told a round-trip time: it was for something that was sent once."""
        return self._sample.rtt is not None

    @property
    def reordering_window(self) -> float:
        """How long a packet may be overtaken before it counts as lost, in seconds."""
        return min(self._reordering_steps * max(self.rtt.minimum / 4, 0.001), max(self.rtt.smoothed, 0.001))

    def detect_losses(self, now: float) -> None:
        """Declare packets lost that were overtaken for longer than the reordering window."""
        packets = self.packets
        self.reordering_at = float("inf")
        if not packets or packets[0].number >= self._rack_number:
            return
        patience = self._rack_rtt + self.reordering_window
        while packets:
            packet = packets[0]
            if packet.pending:
                if packet.number >= self._rack_number:
                    return
                if packet.sent_at + patience > now:
                    self.reordering_at = packet.sent_at + patience
                    return
                self._lose(now, packet)
            packets.popleft().chunks = _NO_CHUNKS

    def _lose(self, now: float, packet: SentPacket) -> None:
        if self.cumulative + 1 >= self._episode_end:
            self._begin_episode()
        size = self._mark_lost(packet)
        self.congestion.on_loss(now, packet, size, self.inflight)

    def _mark_lost(self, packet: SentPacket) -> int:
        size = 0
        for chunk in cast("list[OutChunk]", packet.chunks):
            if chunk.packet is packet and chunk.state == IN_FLIGHT:
                chunk.state = LOST
                self._queue_lost(chunk)
                self._episode_open += 1
                size += chunk.size
        packet.pending = 0
        self.inflight -= size
        self.lost_bytes += size
        return size

    def _queue_lost(self, chunk: OutChunk) -> None:
        # One that was acknowledged while it waited is still there, and may wait again.
        if not chunk.waits:
            chunk.waits = True
            self.lost.append(chunk)

    def next_lost(self) -> OutChunk | None:
        """Return the chunk that is to be sent again first, without taking it; None if there is none."""
        lost = self.lost
        while lost:
            if lost[0].state == LOST:
                return lost[0]
            lost.popleft().waits = False
        return None

    def take_lost(self) -> None:
        """Take what :meth:`next_lost` returned: it is on its way again."""
        chunk = self.lost.popleft()
        chunk.waits = False
        chunk.state = IN_FLIGHT
        self.retransmitted_chunks += 1

    def lose_all(self, now: float) -> None:
        """The retransmission timer expired: whatever is in flight is lost (RFC 9260 section 6.3.3)."""
        inflight = self.inflight
        if self.cumulative + 1 >= self._episode_end:
            self._begin_episode()
        while self.packets:
            packet = self.packets.popleft()
            if packet.pending:
                self._mark_lost(packet)
            packet.chunks = _NO_CHUNKS
        # In the order of the TSNs: the oldest chunk holds up everything behind it.
        self.lost = deque(sorted(self.lost, key=lambda chunk: chunk.tsn))
        self.reordering_at = float("inf")
        self.congestion.on_timeout(now, inflight)

    # Losses that were none

    def _begin_episode(self) -> None:
        """Losses from here to the acknowledgement of all that was sent until now are answered, and undone, together."""
        self._episode_end = self.next_tsn
        self._episode_open = 0
        self._sober_episodes += 1
        if self._sober_episodes > _MAX_REORDERING_STEPS:
            self._reordering_steps = 1

    def _was_not_lost(self) -> None:
        """A chunk was acknowledged before it was sent again, or received twice after."""
        self.spurious += 1
        self._episode_open = max(0, self._episode_open - 1)
        self._reordering_steps = min(self._reordering_steps + 1, _MAX_REORDERING_STEPS)
        self._sober_episodes = 0

    def _count_duplicates(self, duplicates: list[int]) -> None:
        """The other side received these twice: a retransmission was not needed."""
        if self._episode_end < 0:
            return
        for tsn in duplicates:
            if tsn < self._episode_end:
                self._was_not_lost()

    def _undo(self, now: float) -> None:
        self._episode_end = -1
        self.congestion.on_spurious(now)

    # Special cases

    def recall(self, chunk: OutChunk) -> None:
        """Take a chunk out of the packet that carries it: it will be sent in another one, or not at all."""
        chunk.packet.pending -= 1
        self.inflight -= chunk.size

    def abandon(self, chunk: OutChunk) -> None:
        """Take a chunk out of flight for good; its TSN stays until the other side was told to skip it."""
        if chunk.state == IN_FLIGHT:
            self.recall(chunk)
        if chunk.state != ACKED:
            self.unacked_payload -= chunk.payload_size
        chunk.state = ABANDONED

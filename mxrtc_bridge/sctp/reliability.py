"""Partial reliability (RFC 3758, RFC 7496): messages that are given up after a time or a number of retransmissions.

A message is given up as a whole. Its chunks keep their TSNs, and a FORWARD-TSN tells the other side to count them as
received; it is repeated until acknowledged. A message of which a part was never sent gets one more TSN for the rest:
without it the other side could have acknowledged all there is, and would wait for the rest for ever.
"""

from __future__ import annotations

from math import inf

from mxrtc_bridge.sctp import chunks
from mxrtc_bridge.sctp.chunks import UNORDERED
from mxrtc_bridge.sctp.flight import Flight
from mxrtc_bridge.sctp.numbers import MASK16, MASK32
from mxrtc_bridge.sctp.outbound_queue import ABANDONED, OutboundScheduler, OutChunk, OutMessage

_MAX_SKIPPED = 64
"""Streams named in one FORWARD-TSN; the rest of what is given up waits for the next."""


class Abandonment:
    """Gives messages up.

    Attributes:
        allowed: the other side understands FORWARD-TSN; if not, every message is reliable.
        forward_due: a FORWARD-TSN is to be sent.
        forward_at: when it is to be repeated; infinity for never.
    """

    def __init__(self, flight: Flight, scheduler: OutboundScheduler) -> None:
        self._flight = flight
        self._scheduler = scheduler
        self.allowed = False
        self.forward_due = False
        self.forward_at = inf

    def gives_up(self, now: float, chunk: OutChunk) -> bool:
        """Whether a lost chunk is not worth sending again; if so, its whole message is given up."""
        message = chunk.message
        expired = 0.0 < message.expires_at <= now
        used_up = 0 <= message.max_retransmissions < chunk.transmissions
        if not self.allowed or not (expired or used_up):
            return False
        self._abandon(message)
        return True

    def _abandon(self, message: OutMessage) -> None:
        flight = self._flight
        assert message.chunks is not None
        for chunk in message.chunks:
            if chunk.tsn > flight.cumulative:
                flight.abandon(chunk)
        if message.offset < message.size:
            self._scheduler.drop(message)
            tsn = flight.next_tsn
            flight.outstanding[tsn] = self._scheduler.placeholder(message, tsn)
            flight.next_tsn = tsn + 1
        message.chunks = []
        self.forward_due = True

    def acknowledged(self, cumulative: int) -> None:
        """The other side acknowledged up to ``cumulative``: is there more to skip?"""
        head = self._flight.outstanding.get(cumulative + 1)
        if head is not None and head.state == ABANDONED:
            if self.forward_at == inf:
                self.forward_due = True
        else:
            self.forward_at = inf

    def chunk(self, now: float, *, interleaving: bool) -> bytes | None:
        """Return the FORWARD-TSN that is due, or None if there is nothing to skip."""
        self.forward_due = False
        flight = self._flight
        tsn = flight.cumulative
        ordered: dict[int, int] = {}
        unordered: set[tuple[int, int]] = set()
        while (chunk := flight.outstanding.get(tsn + 1)) is not None and chunk.state == ABANDONED:
            if len(ordered) + len(unordered) >= _MAX_SKIPPED:
                break
            message = chunk.message
            if message.flags & UNORDERED:
                unordered.add((message.stream.id, message.number & MASK32))
            else:
                ordered[message.stream.id] = message.number
            tsn += 1
        if tsn == flight.cumulative:
            return None
        self.forward_at = now + flight.rtt.timeout
        if interleaving:
            skipped = [(stream, 0, number & MASK32) for stream, number in ordered.items()]
            skipped += [(stream, 1, number) for stream, number in sorted(unordered)]
            return chunks.i_forward_tsn(tsn & MASK32, skipped)
        return chunks.forward_tsn(tsn & MASK32, [(stream, number & MASK16) for stream, number in ordered.items()])

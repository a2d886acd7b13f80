"""The interface between the association and its congestion control, and the delivery-rate sample between them.

The association owns everything that is measured: which packet was sent when, what was acknowledged, what is lost. The
control owns what follows from it: how much may be in flight (``window_bytes``) and how fast it may leave
(``pacing_rate``). A control must never look at chunks, streams or sequence numbers.

How a sample is made (draft-ietf-ccwg-bbr section 4.1, the idea of Linux ``tcp_rate.c``): every packet remembers how
much had been delivered, and when, at the moment it was sent. Its acknowledgement then spans an interval in which a
known number of bytes arrived. The interval is the longer one of the sending and the acknowledging phase, so that
neither a burst of the sender nor one of the acknowledgements makes the path look faster than it is.

Bytes are those of DATA chunks with headers and padding: what the packet costs, less the common header.
Order of the calls for one SACK: ``on_loss`` for each packet newly lost, then one ``on_ack``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class SentPacket:
    """One packet with user data that has left and is not yet accounted for.

    Written out, as one is made for each packet: in a compiled build the constructor of a dataclass stays slow.

    Attributes:
        number: counts packets in the order of sending, retransmissions included.
        size: bytes of the DATA chunks in it.
        sent_at: when it left, in seconds.
        delivered: bytes delivered in all when it left.
        delivered_at: when the last of those were acknowledged.
        first_sent_at: when the packet left whose acknowledgement began the present sending phase.
        app_limited: there was not enough to send at that time; its rate says nothing about the path's limit.
        inflight: bytes in flight just after it left, itself included.
        lost: bytes declared lost in all when it left.
        chunks: what is in it, for the association only.
        pending: how many of the chunks are still in flight with this packet, for the association only.
    """

    __slots__ = (
        "app_limited",
        "chunks",
        "delivered",
        "delivered_at",
        "first_sent_at",
        "inflight",
        "lost",
        "number",
        "pending",
        "sent_at",
        "size",
    )

    def __init__(
        self,
        number: int,
        size: int,
        sent_at: float,
        delivered: int,
        delivered_at: float,
        first_sent_at: float,
        app_limited: bool,
        inflight: int,
        lost: int,
        chunks: list[object],
    ) -> None:
        self.number = number
        self.size = size
        self.sent_at = sent_at
        self.delivered = delivered
        self.delivered_at = delivered_at
        self.first_sent_at = first_sent_at
        self.app_limited = app_limited
        self.inflight = inflight
        self.lost = lost
        self.chunks = chunks
        self.pending = len(chunks)


@dataclass(slots=True, eq=False)
class RateSample:
    """What one SACK says about the path.

    Attributes:
        delivered: bytes delivered during ``interval``.
        prior_delivered: bytes delivered in all when the newest acknowledged packet left: it starts the interval, and a
            round trip ends when it reaches the total that the last round ended with.
        total_delivered: bytes delivered in all, this SACK included.
        interval: seconds that ``delivered`` took; 0.0 when this SACK gives no rate.
        app_limited: the rate may be lower than what the path could carry.
        rtt: seconds from sending the newest acknowledged packet to now; None when it was sent more than once.
        newly_acked: bytes acknowledged by this SACK for the first time.
        newly_lost: bytes declared lost by this SACK.
        inflight: bytes in flight after it.
        prior_inflight: bytes in flight before it.
        sent_inflight: ``SentPacket.inflight`` of the newest acknowledged packet.
        lost: bytes declared lost between the sending of that packet and now.
        window_limited: the congestion window, and not the application or the peer, was the limit on sending before
            this SACK.
    """

    delivered: int = 0
    prior_delivered: int = 0
    total_delivered: int = 0
    interval: float = 0.0
    app_limited: bool = False
    rtt: float | None = None
    newly_acked: int = 0
    newly_lost: int = 0
    inflight: int = 0
    prior_inflight: int = 0
    sent_inflight: int = 0
    lost: int = 0
    window_limited: bool = False

    @property
    def delivery_rate(self) -> float:
        """Bytes per second, 0.0 when this sample gives none."""
        return self.delivered / self.interval if self.interval > 0.0 else 0.0


class CongestionControl(Protocol):
    """How much may be in flight, and how fast it may leave."""

    @property
    def window_bytes(self) -> int:
        """The congestion window: a packet may leave while less than this is in flight (RFC 9260 section 6.1)."""
        ...

    @property
    def pacing_rate(self) -> float | None:
        """Bytes per second at which packets leave; None for as fast as the window allows."""
        ...

    @property
    def send_quantum(self) -> int:
        """Bytes that may leave in one burst when paced: large enough for the timers of an event loop."""
        ...

    def set_packet_size(self, size: int) -> None:
        """Say how many bytes of DATA chunks a full packet carries; called at the start and when path MTU changes."""
        ...

    def on_sent(self, now: float, packet: SentPacket) -> None:
        """A packet has left; ``packet.inflight == packet.size`` says that nothing was in flight before."""
        ...

    def on_ack(self, now: float, sample: RateSample) -> None:
        """A SACK acknowledged something new, or found something lost.

        The sample is valid during the call only: the association uses the same object again.
        """
        ...

    def on_loss(self, now: float, packet: SentPacket, lost_bytes: int, inflight: int) -> None:
        """``lost_bytes`` of a packet are declared lost, leaving ``inflight``; ``packet`` is as it was when sent."""
        ...

    def on_timeout(self, now: float, inflight: int) -> None:
        """The retransmission timer expired: everything that was in flight (``inflight`` bytes) counts as lost.

        ``on_loss`` is not called for these packets.
        """
        ...

    def on_spurious(self, now: float) -> None:
        """Every loss since the last reduction turned out not to be one: take the reduction back."""
        ...

"""The sending half: what may leave now, and what happens when no acknowledgement comes.

Four limits hold a packet back: the congestion window, pacing, the window of the other side, and the number of TSNs that
a SACK can speak of. Timers (none of them is set per packet; deadlines are computed from when things happened):

- reordering: a packet that was overtaken becomes a lost one (:mod:`flight`);
- tail loss probe (RFC 8985 section 7): two round trips after the last packet one more is sent, so that the loss of the
  end of a burst costs two round trips and not a timeout;
- retransmission timeout with exponential back-off, and the failure of the association after too many in a row;
- window probe: one chunk, while the other side's window is closed and everything is acknowledged;
- FORWARD-TSN, until it is acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from mxrtc_bridge.sctp import pieces
from mxrtc_bridge.sctp.chunks import MalformedError
from mxrtc_bridge.sctp.congestion import CongestionControl
from mxrtc_bridge.sctp.flight import Flight
from mxrtc_bridge.sctp.numbers import MASK32, unwrap
from mxrtc_bridge.sctp.outbound_queue import IN_FLIGHT, OutboundScheduler, OutChunk, write
from mxrtc_bridge.sctp.reliability import Abandonment
from mxrtc_bridge.sctp.rtt import RoundTrip
from mxrtc_bridge.sctp.settings import SctpSettings

_MAX_OUTSTANDING = 32_768
"""TSNs in flight at most: gap blocks reach 65,535 beyond the cumulative acknowledgement."""
_MAX_PROBE_INTERVAL_S = 2.0
_PEER_ACK_DELAY_S = 0.03
"""How long we expect the acknowledgement of a chunk that asks for it at once to be held back."""
_MIN_PROBE_TIMEOUT_S = 0.01


class Sender:
    """Fills packets with user data.

    Args:
        settings: limits and times.
        initial_tsn: ours.
        congestion: decides the window and the pacing.

    Attributes:
        failed: too many timeouts in a row: the association is to be ended.
    """

    def __init__(self, settings: SctpSettings, initial_tsn: int, congestion: CongestionControl) -> None:
        self._settings = settings
        self._congestion = congestion
        self.rtt = RoundTrip(settings.rto_initial, settings.rto_min, settings.rto_max)
        self.flight = Flight(initial_tsn, congestion, self.rtt)
        self.scheduler = OutboundScheduler()
        self.abandonment = Abandonment(self.flight, self.scheduler)
        self.peer_window = 0
        self.failed = False
        self.timeouts = 0
        """In a row, without progress."""
        self._backoff = 0
        self._timed_out = False  # since a round trip was measured last
        self._timed_out_early = False
        self._probe_due = False
        self._probing_from = -1
        self._probe_window_at = inf
        self._paced_until = 0.0
        self._pacing_blocked = False
        self._last_blocks: tuple[int, tuple[int, ...]] = (-1, ())
        self.in_pieces = False
        """The other side takes chunks in pieces."""
        self.ahead: list[bytes] = []
        """Pieces that :meth:`fill` wants to go out before the packet that it has filled, each in one of its own."""
        self.on_blackhole: Callable[[], None] | None = None

    # Filling packets

    def pacing_allows(self, now: float) -> bool:
        """Whether a packet may leave now; if not, ``deadline`` says when."""
        self._pacing_blocked = self._paced_until > now and not self._probe_due
        return not self._pacing_blocked

    def begin_burst(self, now: float) -> int:
        """Return how many bytes may leave in one go, now that pacing allows some."""
        rate = self._congestion.pacing_rate
        if rate is None:
            return 1 << 30
        quantum = self._congestion.send_quantum
        late = min(max(now - self._paced_until, 0.0) * rate, quantum)
        return int(quantum + late)

    def end_burst(self, now: float, size: int) -> None:
        """Say how many bytes the burst had: the time that they take at the pacing rate must pass before the next."""
        rate = self._congestion.pacing_rate
        if rate is None or not size:
            return
        slack = self._congestion.send_quantum / rate
        self._paced_until = max(self._paced_until, now - slack) + size / rate
        self._pacing_blocked = self._paced_until > now and not self._probe_due

    def fill(self, now: float, parts: list[bytes], room: int, fresh: bool) -> int:
        """Append chunks that may leave now to ``parts``; return their size in bytes, 0 for none.

        Args:
            now: seconds.
            parts: of a packet.
            room: bytes left in it.
            fresh: nothing but the common header is in it.
        """
        flight = self.flight
        probe = self._probe_due
        if flight.inflight >= self._congestion.window_bytes and not probe and flight.inflight:
            flight.window_limited = True
            return 0
        flight.window_limited = False
        chunks: list[OutChunk] = []
        size = self._fill_lost(now, parts, room, fresh, chunks) if flight.lost else 0
        if not flight.lost:
            size = self._fill_new(now, parts, room, size, fresh, chunks)
        if not size and probe and fresh:
            size = self._fill_last(parts, chunks, room)
        if not size:
            return 0
        flight.sent(now, chunks, size)
        if probe:
            self._probe_due = False
        return size

    def _fill_lost(self, now: float, parts: list[bytes], room: int, fresh: bool, chunks: list[OutChunk]) -> int:
        flight = self.flight
        size = 0
        while (chunk := flight.next_lost()) is not None:
            if chunk.message.chunks is not None and self.abandonment.gives_up(now, chunk):
                continue
            # A chunk cannot be divided again: after a smaller path MTU it may be larger than a packet should be.
            if chunk.size > room - size and (size or not fresh):
                break
            flight.take_lost()
            self._write(chunk, parts, room - size)
            chunks.append(chunk)
            size += chunk.size
        return size

    def _write(self, chunk: OutChunk, parts: list[bytes], room: int) -> None:
        """Append a chunk to the parts of a packet; of one that is too large its last piece, and the others go ahead."""
        if chunk.size <= room or not self.in_pieces:
            write(chunk, parts)
            return
        *ahead, last = pieces.cut(chunk.tsn & MASK32, chunk.header + chunk.payload, room)
        self.ahead += ahead
        parts.append(last)

    def is_stuck(self, size: int) -> bool:
        """Whether the next chunk to be sent again does not fit into packets of ``size`` bytes, nor may go in pieces."""
        chunk = self.flight.next_lost()
        return chunk is not None and chunk.size > size and not self.in_pieces

    def _fill_new(
        self, now: float, parts: list[bytes], room: int, size: int, fresh: bool, chunks: list[OutChunk]
    ) -> int:
        flight, scheduler = self.flight, self.scheduler
        if scheduler.empty:
            if not size:
                flight.app_limited_until = max(flight.delivered + flight.inflight, 1)
            return size
        if not self._peer_has_room(room) or len(flight.outstanding) >= _MAX_OUTSTANDING:
            flight.app_limited_until = max(flight.delivered + flight.inflight, 1)
            return size
        tsn = flight.next_tsn
        payload = 0
        while True:
            chunk = scheduler.cut(now, tsn, room - size, fresh and not size)
            if chunk is None:
                break
            flight.outstanding[tsn] = chunk
            tsn += 1
            parts.append(chunk.header)
            parts.append(chunk.payload)
            taken = chunk.payload_size
            if taken & 3:
                parts.append(bytes(-taken & 3))
            payload += taken
            chunks.append(chunk)
            size += chunk.size
            if room - size < 32:
                break
        flight.next_tsn = tsn
        flight.unacked_payload += payload
        flight.pending_payload += payload
        return size

    def _peer_has_room(self, room: int) -> bool:
        """Whether new data may go out under the other side's window (RFC 9260 section 6.1, rule A)."""
        flight = self.flight
        left = self.peer_window - flight.unacked_payload
        if left >= room or (left > 0 and (self.scheduler.queued <= left or not flight.unacked_payload)):
            self._probe_window_at = inf
            return True
        if flight.unacked_payload:
            self._probe_window_at = inf
            return False
        if self._probe_window_at == inf:
            self._probe_window_at = flight.last_progress_at + self._probe_interval()
        return self._probe_due

    def _probe_interval(self) -> float:
        return self.rtt.backed_off(self._backoff, _MAX_PROBE_INTERVAL_S)

    def _fill_last(self, parts: list[bytes], chunks: list[OutChunk], room: int) -> int:
        """Send the newest unacknowledged packet's first chunk again, as a tail loss probe without new data."""
        flight = self.flight
        for packet in reversed(flight.packets):
            if not packet.pending:
                continue
            for chunk in packet.chunks:
                assert isinstance(chunk, OutChunk)
                if chunk.state == IN_FLIGHT and chunk.packet is packet:
                    flight.recall(chunk)
                    self._write(chunk, parts, room)
                    chunks.append(chunk)
                    flight.retransmitted_chunks += 1
                    return chunk.size
        return 0

    # Acknowledgements

    def receive_sack(
        self, now: float, cumulative: int, window: int, offsets: tuple[int, ...], repeated: tuple[int, ...]
    ) -> None:
        """Take a SACK as it was read from the wire.

        Raises:
            MalformedError: it acknowledges what was never sent, or its gap blocks are not in order.
        """
        flight = self.flight
        number = unwrap(cumulative, flight.cumulative)
        blocks = self._new_blocks(number, offsets) if offsets else []
        before, acknowledged = flight.delivered, flight.cumulative
        duplicates = [unwrap(tsn, acknowledged) for tsn in repeated] if repeated else []
        if not flight.receive_sack(now, number, blocks, duplicates):
            return
        self.peer_window = window
        if flight.delivered != before or not window:
            self.timeouts = 0
        if self._timed_out and duplicates and min(duplicates) <= acknowledged:
            self._timed_out_early = True
        if flight.delivered != before:
            self._settle_backoff()
            self._probing_from = -1
            self._probe_due = False
        self.abandonment.acknowledged(number)

    def _settle_backoff(self) -> None:
        """Take back the back-off after progress, unless the timeout is still too short as far as we know.

        A round trip that is longer than the timeout is never measured: all has been sent twice by the time that it is
        acknowledged. So the back-off stays until something was in time (RFC 6298 section 5, rules 5.5 to 5.7), but only
        if nothing was measured yet, or a repeated chunk came twice after its acknowledgement: where packets are
        merely lost, waiting longer helps nobody.
        """
        if self.flight.measured:
            self._timed_out = self._timed_out_early = False
        elif self._timed_out_early or not self.rtt.smoothed:
            return
        self._backoff = 0

    def _new_blocks(self, cumulative: int, offsets: tuple[int, ...]) -> list[tuple[int, int]]:
        """Return the gap blocks as ranges of TSNs, without those that the SACK before this one began with as well.

        While a hole is open, one SACK differs from the next in its last block only, and may have a hundred.
        """
        known = 0
        last_cumulative, last_offsets = self._last_blocks
        if last_cumulative == cumulative:
            shared = min(len(offsets), len(last_offsets)) - 2
            if shared > 0 and offsets[:shared] == last_offsets[:shared]:
                known = shared
        end = offsets[known - 1] if known else 0
        blocks = []
        for index in range(known, len(offsets), 2):
            start = offsets[index]
            if start <= end or offsets[index + 1] < start:
                raise MalformedError("gap blocks out of order")
            end = offsets[index + 1]
            # The chunk behind the cumulative acknowledgement cannot have arrived, or it would be part of it.
            if end > 1 or cumulative + end >= self.flight.next_tsn:
                blocks.append((cumulative + min(max(start, 2), end), cumulative + end))
        self._last_blocks = (cumulative, offsets)
        return blocks

    # Time

    @property
    def _timeout(self) -> float:
        # RFC 9260 section 6.3.3 rule E2, bounded. A closed window is asked about more often: it may be open again.
        limit = self._settings.backoff_max if self.peer_window else _MAX_PROBE_INTERVAL_S
        return self.rtt.backed_off(self._backoff, limit)

    def _tail_probe_at(self) -> float:
        flight, smoothed = self.flight, self.rtt.smoothed
        if not smoothed or self._backoff or self._probing_from >= 0 or flight.lost or self._probe_due:
            return inf
        patience = max(2 * smoothed, _MIN_PROBE_TIMEOUT_S)
        if len(flight.packets) <= 1:
            patience += _PEER_ACK_DELAY_S
        return max(flight.last_sent_at, flight.last_progress_at) + patience

    def deadline(self) -> float:
        """When :meth:`handle_timeout` has something to do, or a packet may leave; infinity for never."""
        flight = self.flight
        at = min(self.abandonment.forward_at, self._probe_window_at, flight.reordering_at)
        if flight.inflight:
            at = min(at, flight.last_progress_at + self._timeout, self._tail_probe_at())
        if self._pacing_blocked and (flight.lost or not self.scheduler.empty):
            at = min(at, self._paced_until)
        return at

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        flight = self.flight
        if flight.reordering_at <= now:
            flight.detect_losses(now)
        if self.abandonment.forward_at <= now:
            self.abandonment.forward_due = True
            self.abandonment.forward_at = inf
        if self._probe_window_at <= now:
            self._probe_window_at = inf
            self._probe_due = True
        if not flight.inflight:
            return
        if flight.last_progress_at + self._timeout <= now:
            self._time_out(now)
        elif self._tail_probe_at() <= now:
            self._probing_from = flight.next_tsn
            self._probe_due = True
            flight.last_progress_at = now

    def _time_out(self, now: float) -> None:
        flight = self.flight
        if self.peer_window or flight.unacked_payload > self._settings.packet_size:
            self.timeouts += 1
        self._backoff += 1
        self._timed_out = True
        self._probing_from = -1
        self._probe_due = False
        if self.timeouts > self._settings.max_retransmissions:
            self.failed = True
            return
        if self.timeouts == 2 and self.on_blackhole is not None:
            self.on_blackhole()
        flight.lose_all(now)
        flight.last_progress_at = now
        self._paced_until = now

    @property
    def has_work(self) -> bool:
        """Whether there is anything to send, whatever the limits say."""
        return bool(self.flight.lost) or not self.scheduler.empty

    @property
    def idle(self) -> bool:
        """Whether everything that was queued is acknowledged, or given up and skipped."""
        return self.scheduler.empty and not self.flight.outstanding

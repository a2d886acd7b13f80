"""The sending half of the association: the queue, the window of the other side, retransmission.

Differences to aiortc: the peer's receive window bounds what is in flight, and a closed one is probed (RFC 9260
section 6.1); the congestion window does not grow into a standing queue; the sent queue is only searched for
retransmissions after something was marked; the retransmission timer has a lower floor and backs off. A SACK for what
was never sent ends the association.
"""

from __future__ import annotations

import asyncio
import time
from typing import cast

from aiortc.rtcdatachannel import RTCDataChannel
from aiortc.rtcsctptransport import (
    SCTP_DATA_FIRST_FRAG,
    SCTP_DATA_LAST_FRAG,
    USERDATA_MAX_LENGTH,
    WEBRTC_BINARY,
    WEBRTC_BINARY_EMPTY,
    WEBRTC_STRING,
    WEBRTC_STRING_EMPTY,
    DataChunk,
    SackChunk,
)

from mxrtc_bridge.core.errors import StateError, WireError
from mxrtc_bridge.rtc.dtls import DtlsTransport
from mxrtc_bridge.rtc.sctp_base import GuardedTransport
from mxrtc_bridge.rtc.sctp_delay import QueueingDelay
from mxrtc_bridge.rtc.sctp_stream import SctpStream
from mxrtc_bridge.rtc.settings import RtcSettings

RTO_MIN_S = 0.2
"""RFC 9260 proposes 1 s; TCP and other data-channel stacks use less. A lost keystroke is felt for this long."""
RTO_MAX_S = 5.0
"""Longest back-off: a path that comes back after an outage is used again within this time."""
INITIAL_WINDOW = 10 * USERDATA_MAX_LENGTH
"""As TCP (RFC 6928)."""
MAX_BURST = 10 * USERDATA_MAX_LENGTH
RECOVERY_BURST = 2 * USERDATA_MAX_LENGTH
UNWATCHED_WINDOW = 128 * 1024
"""Up to here the window grows whatever the delay: on a path that others have filled there must be something left."""
PROBE_S = (1.0, 15.0)
"""First and longest pause between probes of a closed window."""
MAX_ROUND_TRIP_S = 60.0
TSN_MASK = 0xFFFFFFFF


class SendingTransport(GuardedTransport):
    """Sends messages on streams within the limits of both sides."""

    def __init__(self, dtls: DtlsTransport, settings: RtcSettings) -> None:
        super().__init__(dtls, settings)
        self._cwnd = INITIAL_WINDOW
        self._queued = 0
        self._above_mark = False
        self._flush_due = False
        self._marked = False
        self._peer_window = 0
        self._probe_timer: asyncio.TimerHandle | None = None
        self._probe_pause = PROBE_S[0]
        self._queueing = QueueingDelay()

    # For the association

    def _assign_id(self, stream: SctpStream) -> bool:
        raise NotImplementedError

    def _space_found(self) -> None:
        raise NotImplementedError

    # Sending

    def can_send(self) -> bool:
        """Whether the send queue is below its mark."""
        return self._queued < self._settings.send_mark

    def send_message(self, stream: SctpStream, message: str | bytes) -> None:
        """Queue a message.

        Raises:
            StateError: it is larger than either side allows.
        """
        if not stream.live:
            return
        if isinstance(message, str):
            kind, data = (WEBRTC_STRING, message.encode()) if message else (WEBRTC_STRING_EMPTY, b"\0")
        else:
            kind, data = (WEBRTC_BINARY, message) if message else (WEBRTC_BINARY_EMPTY, b"\0")
        limit = min(self._settings.max_message, self._remote_max_message_size or self._settings.max_message)
        if len(data) > limit:
            raise StateError(f"a message of {len(data)} bytes is larger than the limit of {limit}")
        self._queue(stream, kind, data)

    def _recount(self) -> None:
        """Messages of a stream were taken out of the queue."""
        self._queued = sum(len(data) for _, _, data in self._data_channel_queue)
        self._queued += sum(chunk._book_size for chunk in self._outbound_queue)

    def _queue(self, stream: SctpStream, kind: int, data: bytes) -> None:
        self._data_channel_queue.append((cast(RTCDataChannel, stream), kind, data))
        self._queued += len(data)
        if self._queued >= self._settings.send_mark:
            self._above_mark = True
        if self._queued > self._settings.send_limit:
            self.abort("the send queue overflowed")
        else:
            self._schedule_flush()

    def _schedule_flush(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._running_loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Turn queued messages into chunks while the chunks go out, then reset the streams that are done."""
        self._flush_due = False
        if not self.established:
            return
        self._transmit_now()
        while self._data_channel_queue and not self._outbound_queue:
            channel, kind, data = self._data_channel_queue.popleft()
            if channel.id is None and not self._assign_id(cast(SctpStream, channel)):
                self._queued -= len(data)
                channel._setReadyState("closed")
                continue
            assert channel.id is not None
            self._fragment(channel.id, kind, data)
            self._transmit_now()
        if self._reconfig_queue and self._reconfig_request is None:
            self._spawn(self._transmit_reconfig())
        if self._above_mark and self.can_send():
            self._above_mark = False
            self._space_found()

    def _fragment(self, stream_id: int, kind: int, data: bytes) -> None:
        sequence = self._outbound_stream_seq.get(stream_id, 0)
        self._outbound_stream_seq[stream_id] = (sequence + 1) & 0xFFFF
        last = max(0, len(data) - 1) // USERDATA_MAX_LENGTH * USERDATA_MAX_LENGTH
        for position in range(0, len(data), USERDATA_MAX_LENGTH):
            chunk = DataChunk()
            chunk.flags = (SCTP_DATA_FIRST_FRAG if position == 0 else 0) | (
                SCTP_DATA_LAST_FRAG if position == last else 0
            )
            chunk.tsn = self._local_tsn
            chunk.stream_id = stream_id
            chunk.stream_seq = sequence
            chunk.protocol = kind
            chunk.user_data = data[position : position + USERDATA_MAX_LENGTH]
            chunk._abandoned = chunk._acked = chunk._in_flight = chunk._retransmit = False
            chunk._book_size = len(chunk.user_data)
            chunk._expiry = chunk._max_retransmits = chunk._sent_time = None
            chunk._misses = chunk._sent_count = 0
            self._local_tsn = (self._local_tsn + 1) & TSN_MASK
            self._outbound_queue.append(chunk)

    def _transmit_now(self) -> None:
        if not self.established:
            return
        recovering = cast(int | None, self._fast_recovery_exit) is not None  # the base class declares None only
        burst = RECOVERY_BURST if recovering else MAX_BURST
        window = min(self._flight_size + burst, self._cwnd)
        if self._marked and not self._retransmit(window):
            return
        while self._outbound_queue and self._flight_size < window:
            if self._flight_size + self._outbound_queue[0]._book_size > self._peer_window:
                break
            self._send_next()
        if self._outbound_queue and not self._sent_queue and self._probe_timer is None:
            self._probe_timer = self._running_loop.call_later(self._probe_pause, self._probe)

    def _send_next(self) -> None:
        chunk = self._outbound_queue.popleft()
        self._sent_queue.append(chunk)
        self._queued -= chunk._book_size
        self._flight_size_increase(chunk)
        chunk._sent_count += 1
        chunk._sent_time = time.time()  # the base class takes its round trip from the same clock
        self._send_now(chunk)
        if self._t3_handle is None:
            self._t3_start()

    def _retransmit(self, window: int) -> bool:
        """Send what is marked for it; False when the window is used up before the end."""
        first = True
        for chunk in self._sent_queue:
            if chunk._retransmit:
                if self._fast_recovery_transmit:
                    self._fast_recovery_transmit = False
                elif self._flight_size >= window:
                    return False
                self._flight_size_increase(chunk)
                chunk._misses = 0
                chunk._retransmit = False
                chunk._sent_count += 1
                self._send_now(chunk)
                if first:
                    self._t3_restart()
            first = False
        self._marked = False
        return True

    def _probe(self) -> None:
        """Send one chunk into a closed window: the SACK that opened it may have been lost (RFC 9260 section 6.1)."""
        self._probe_timer = None
        self._probe_pause = min(2 * self._probe_pause, PROBE_S[1])
        if self.established and self._outbound_queue and not self._sent_queue:
            self._send_next()

    async def _transmit(self) -> None:
        self._transmit_now()

    async def _data_channel_flush(self) -> None:
        self._flush()

    def _t3_expired(self) -> None:
        self._marked = True
        super()._t3_expired()
        self._rto = min(2 * self._rto, RTO_MAX_S)  # RFC 9260 section 6.3.3, rule E2

    def _update_rto(self, R: float) -> None:  # noqa: N803 - name of the base class
        if not 0 <= R <= MAX_ROUND_TRIP_S:
            return  # the base class measures with the wall clock, and somebody has set it
        super()._update_rto(R)
        assert self._srtt is not None
        assert self._rttvar is not None
        self._rto = max(RTO_MIN_S, min(self._srtt + 4 * self._rttvar, RTO_MAX_S))
        self._queueing.add(self._running_loop.time(), R)

    async def _receive_sack_chunk(self, chunk: SackChunk) -> None:
        self._check_sack(chunk)
        if (chunk.cumulative_tsn - self._last_sacked_tsn) & TSN_MASK <= TSN_MASK >> 1:
            self._peer_window = chunk.advertised_rwnd
            if self._peer_window:
                self._probe_pause = PROBE_S[0]
        if chunk.gaps:
            self._marked = True  # the base class may mark chunks as lost
        before = self._cwnd
        await super()._receive_sack_chunk(chunk)
        grown = self._cwnd > max(before, UNWATCHED_WINDOW)
        if grown and self._srtt is not None and self._queueing.is_high(self._srtt):
            self._cwnd = max(before, UNWATCHED_WINDOW)

    def _check_sack(self, chunk: SackChunk) -> None:
        """Refuse what acknowledges more than was sent; it also bounds the work for gap blocks by our own flight."""
        outstanding = (self._local_tsn - 1 - chunk.cumulative_tsn) & TSN_MASK
        if outstanding > TSN_MASK >> 1:
            raise WireError("bad_sack", "a SACK acknowledges data that was never sent")
        spans = sum(last - first + 1 for first, last in chunk.gaps)
        if spans > outstanding or any(last > outstanding for _, last in chunk.gaps):
            raise WireError("bad_sack", "the gap blocks of a SACK cover data that was never sent")

    def _stop_sending(self) -> None:
        """The association is over: nothing may start again."""
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        for channel, _, _ in self._data_channel_queue:
            if channel.id is None:
                channel._setReadyState("closed")  # nobody else knows it
        self._data_channel_queue.clear()
        self._outbound_queue.clear()
        self._sent_queue.clear()
        self._queued = 0

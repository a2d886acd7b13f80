"""The receiving half of the association: bounded reassembly, a true receive window, and acknowledgements.

Differences to aiortc: what the application has not consumed closes the window (RFC 9260 section 6.2), what lies beyond
it or waits for missing chunks is bounded, one SACK may answer several packets, and the books about misordered chunks
are kept without sorting. Only reliable, ordered channels are served, so unordered data and FORWARD-TSN do not occur.
"""

from __future__ import annotations

import asyncio

from aiortc.rtcsctptransport import (
    SCTP_DATA_FIRST_FRAG,
    SCTP_DATA_LAST_FRAG,
    SCTP_DATA_UNORDERED,
    USERDATA_MAX_LENGTH,
    DataChunk,
    InboundStream,
    SackChunk,
)

from mxrtc_bridge.core.errors import WireError
from mxrtc_bridge.rtc.dtls import DtlsTransport
from mxrtc_bridge.rtc.sctp_base import GuardedTransport, State
from mxrtc_bridge.rtc.sctp_stream import SctpStream
from mxrtc_bridge.rtc.settings import RtcSettings

PACKETS_PER_SACK = 4
"""At most, and only while more packets wait to be read; RFC 9260 section 6.2 asks for every second packet."""
SHUT_WINDOW_SACK_S = 0.15
"""With a closed window a SACK is delayed: senders keep one packet in flight for each. Below the usual minimal RTO."""
MAX_SACK_GAPS = 250
MAX_SACK_DUPLICATES = 20
MAX_HELD_CHUNKS = 2048
"""Chunks that may wait for missing ones; a full window of full packets has about 900."""
MAX_TSN_AHEAD = 8192
"""How far beyond the last TSN in order one may be."""
TRICKLE_S = 10.0
"""Beyond all limits one packet is still taken this often: a sender whose every packet is lost gives the association
up after about ten tries, and a consumer that rests is no reason for that."""
TRICKLE_LIMIT = 1024 * 1024
"""How much may gather in that way; it takes hours."""
TSN_MASK = 0xFFFFFFFF

_WHOLE = SCTP_DATA_FIRST_FRAG | SCTP_DATA_LAST_FRAG


class ReceivingTransport(GuardedTransport):
    """Puts messages together and says how much more may come."""

    def __init__(self, dtls: DtlsTransport, settings: RtcSettings) -> None:
        super().__init__(dtls, settings)
        self._local_partial_reliability = False
        self._advertised_rwnd = settings.receive_window
        self._unread = 0
        self._held_bytes = 0
        self._held_chunks = 0
        self._unsacked = 0
        self._window_low = False
        self._shut_timer: asyncio.TimerHandle | None = None
        self._trickled_at = 0.0

    # Window

    def credit(self, stream: SctpStream, size: int) -> None:
        """The application is done with ``size`` bytes of ``stream``: they count as free again."""
        size = min(size, stream.unread)
        stream.unread -= size
        self._unread -= size
        if self._window_low and self._window() >= self._settings.receive_window // 2:
            self._write_sack()

    def _window(self) -> int:
        free = self._settings.receive_window - self._unread - self._held_bytes
        # Less than a packet is advertised as nothing (silly window, RFC 9260 section 6.2.1).
        return free if free >= USERDATA_MAX_LENGTH else 0

    # Chunks

    async def _receive_data_chunk(self, chunk: DataChunk) -> None:
        self._sack_needed = True
        self._unsacked += 1
        if not self._has_room(chunk) or self._mark_received(chunk.tsn):
            return
        if chunk.flags & SCTP_DATA_UNORDERED:
            return  # on a channel that we refused
        await self._store(chunk)
        await self._reset_deferred_streams()

    def _has_room(self, chunk: DataChunk) -> bool:
        """Whether to take the chunk; one that is not taken is not acknowledged, so it comes again.

        Raises:
            WireError: chunks in order exceed what reassembly can ever need.
        """
        size = len(chunk.user_data)
        settings = self._settings
        ahead = (chunk.tsn - self._received_tsn()) & TSN_MASK
        excess = self._unread + size - settings.receive_window - settings.reassembly_limit
        if excess > 0 and not (ahead == 1 and self._trickle(excess)):
            return False
        if ahead == 1:
            # The next in order is always taken, or the ones behind it would be stuck.
            if self._held_bytes + size > settings.reassembly_limit + settings.max_message:
                raise WireError("too_much_unfinished", "the fragments of unfinished messages exceed the limit")
            return True
        if ahead > TSN_MASK >> 1 or ahead == 0:
            return True  # a duplicate, to be counted as one
        full = self._held_bytes + size > settings.reassembly_limit or self._held_chunks >= MAX_HELD_CHUNKS
        return not full and ahead <= MAX_TSN_AHEAD and len(self._sack_misordered) < MAX_HELD_CHUNKS

    def _trickle(self, excess: int) -> bool:
        now = self._running_loop.time()
        if excess > TRICKLE_LIMIT or now - self._trickled_at < TRICKLE_S:
            return False
        self._trickled_at = now
        return True

    def _received_tsn(self) -> int:
        assert self._last_received_tsn is not None
        return self._last_received_tsn

    def _mark_received(self, tsn: int) -> bool:
        last = self._received_tsn()
        misordered = self._sack_misordered
        if (tsn - last) & TSN_MASK == 1:
            last = tsn
            while misordered:
                following = (last + 1) & TSN_MASK
                if following not in misordered:
                    break
                misordered.discard(following)
                last = following
            self._last_received_tsn = last
            return False
        if (last - tsn) & TSN_MASK <= TSN_MASK >> 1 or tsn in misordered:
            if len(self._sack_duplicates) < MAX_SACK_DUPLICATES:
                self._sack_duplicates.append(tsn)
            return True
        misordered.add(tsn)
        return False

    async def _store(self, chunk: DataChunk) -> None:
        stream = self._inbound(chunk.stream_id)
        if chunk.flags & _WHOLE == _WHOLE and not stream.reassembly and chunk.stream_seq == stream.sequence_number:
            stream.sequence_number = (stream.sequence_number + 1) & 0xFFFF
            await self._receive(chunk.stream_id, chunk.protocol, chunk.user_data)
            return
        stream.add_chunk(chunk)
        self._held_bytes += len(chunk.user_data)
        self._held_chunks += 1
        # Nothing can be complete before the last fragment, unless this one filled a hole.
        if not chunk.flags & SCTP_DATA_LAST_FRAG and stream.reassembly[-1] is chunk:
            return
        before = len(stream.reassembly)
        messages = list(stream.pop_messages())
        self._held_chunks -= before - len(stream.reassembly)
        for stream_id, protocol, data in messages:
            self._held_bytes -= len(data)
            await self._receive(stream_id, protocol, data)

    def _inbound(self, stream_id: int) -> InboundStream:
        stream = self._inbound_streams.get(stream_id)
        if stream is None:
            if len(self._inbound_streams) >= 4 * self._settings.max_channels:
                raise WireError("too_many_streams", "data arrives on more streams than there can be channels")
            stream = self._inbound_streams[stream_id] = InboundStream()
        return stream

    async def _reset_deferred_streams(self) -> None:
        pending = self._reconfig_deferred
        await super()._reset_deferred_streams()
        if pending is not None and self._reconfig_deferred is None:
            # Fragments of unfinished messages went with their streams.
            held = [chunk for stream in self._inbound_streams.values() for chunk in stream.reassembly]
            self._held_chunks = len(held)
            self._held_bytes = sum(len(chunk.user_data) for chunk in held)

    # Acknowledgements

    async def _send_sack(self) -> None:
        """Acknowledge after a packet, unless the next one is there already and nothing is missing."""
        missing = self._sack_misordered or self._sack_duplicates
        if missing or self._unsacked >= PACKETS_PER_SACK or not self._dtls.input_pending:
            self._acknowledge()

    def input_drained(self) -> None:
        """No further packet waits: what was put off is due."""
        if self._sack_needed:
            self._acknowledge()

    def _acknowledge(self) -> None:
        if self._window():
            self._write_sack()
        elif self._shut_timer is None:
            self._shut_timer = self._running_loop.call_later(SHUT_WINDOW_SACK_S, self._write_sack)

    def _write_sack(self) -> None:
        self._cancel_shut_timer()
        if self._association_state not in (State.ESTABLISHED, State.COOKIE_ECHOED):
            return
        window = self._window()
        sack = SackChunk()
        sack.cumulative_tsn = self._received_tsn()
        sack.advertised_rwnd = window
        sack.gaps = self._gap_blocks()
        sack.duplicates = self._sack_duplicates[:]
        self._sack_duplicates.clear()
        self._sack_needed = False
        self._unsacked = 0
        self._window_low = window < self._settings.receive_window // 2
        self._send_now(sack)

    def _gap_blocks(self) -> list[tuple[int, int]]:
        base = self._received_tsn()
        blocks: list[tuple[int, int]] = []
        for offset in sorted((tsn - base) & TSN_MASK for tsn in self._sack_misordered):
            if blocks and offset == blocks[-1][1] + 1:
                blocks[-1] = (blocks[-1][0], offset)
            elif len(blocks) == MAX_SACK_GAPS:
                break
            else:
                blocks.append((offset, offset))
        return blocks

    def _cancel_shut_timer(self) -> None:
        if self._shut_timer is not None:
            self._shut_timer.cancel()
            self._shut_timer = None

    def _stop_receiving(self) -> None:
        """The association is over: free what it held."""
        self._cancel_shut_timer()
        self._inbound_streams.clear()
        self._sack_misordered.clear()
        self._held_bytes = self._held_chunks = 0

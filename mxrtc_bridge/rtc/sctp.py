"""The SCTP association of a peer connection: aiortc's, with the bounds and the flow control that it lacks.

All that is specific to that implementation lives in the ``sctp*`` modules and :mod:`dcep`; the peer sees streams, a
send mark and an end. Every packet passes :func:`check_packet` first, and whatever breaks the protocol aborts this
association and nothing else: nothing in here raises into the task that reads packets.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from typing import Protocol, cast

from aiortc.rtcdatachannel import RTCDataChannel
from aiortc.rtcsctptransport import (
    WEBRTC_BINARY,
    WEBRTC_BINARY_EMPTY,
    WEBRTC_DCEP,
    WEBRTC_STRING,
    WEBRTC_STRING_EMPTY,
    AbortChunk,
    Chunk,
    DataChunk,
    ForwardTsnChunk,
    InitAckChunk,
    InitChunk,
    RTCSctpCapabilities,
    SackChunk,
    ShutdownChunk,
)

from mxrtc_bridge.core.errors import StateError, TransportError, WireError
from mxrtc_bridge.rtc import dcep
from mxrtc_bridge.rtc.dtls import DtlsTransport
from mxrtc_bridge.rtc.sctp_base import State
from mxrtc_bridge.rtc.sctp_guard import check_packet
from mxrtc_bridge.rtc.sctp_receive import ReceivingTransport
from mxrtc_bridge.rtc.sctp_send import SendingTransport
from mxrtc_bridge.rtc.sctp_stream import SctpStream
from mxrtc_bridge.rtc.settings import RtcSettings

log = logging.getLogger("mxrtc_bridge.rtc")

MIN_REMOTE_MESSAGE = 16 * 1024
"""Payload travels in messages of this size: a peer that takes less is of no use."""

_LIBRARY_ERRORS = (AssertionError, ValueError, LookupError, TypeError, AttributeError, OverflowError, struct.error)
"""What the library raises when a peer does what it did not expect."""


class AssociationListener(Protocol):
    """Receives what happens on an association; methods must not raise."""

    def stream_offered(self, stream: SctpStream) -> None:
        """The other side opened ``stream``: attach a listener or close it, now."""
        ...

    def send_space(self) -> None:
        """The send queue fell below its mark."""
        ...

    def association_ended(self, reason: str) -> None:
        """The association has ended; no more calls follow."""
        ...


class Association(SendingTransport, ReceivingTransport):
    """One association over a DTLS transport.

    Args:
        dtls: an open transport.
        settings: limits and the send mark.
        listener: called in order, never from inside a method of this class.
    """

    def __init__(self, dtls: DtlsTransport, settings: RtcSettings, listener: AssociationListener) -> None:
        super().__init__(dtls, settings)
        self._listener = listener
        self._settled = asyncio.Event()
        self._open_tokens = float(settings.max_channels)
        self._open_tokens_at = self._running_loop.time()

    # Life

    async def establish(self, *, port: int, max_message_size: int, timeout_s: float) -> None:
        """Set the association up.

        Args:
            port: SCTP port of the other side.
            max_message_size: what the other side takes; 0 is without a limit.
            timeout_s: for all of it.

        Raises:
            TransportError: ``sctp_failed``.
        """
        if 0 < max_message_size < MIN_REMOTE_MESSAGE:
            text = f"the other side takes messages of {max_message_size} bytes; {MIN_REMOTE_MESSAGE} are needed"
            raise TransportError("sctp_failed", text)
        await self.start(RTCSctpCapabilities(maxMessageSize=max_message_size), port)
        try:
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        except TimeoutError:
            raise TransportError("sctp_failed", f"no SCTP association within {timeout_s:g} s") from None
        if not self.established:
            raise TransportError("sctp_failed", f"no SCTP association: {self._end_reason}")

    def _set_state(self, state: State) -> None:
        before = self._association_state
        super()._set_state(state)
        if state is before:
            return
        if state is State.ESTABLISHED:
            self._settled.set()
            self._schedule_flush()
        elif state is State.CLOSED:
            self._stop_receiving()
            self._stop_sending()
            self._settled.set()
            self.post(lambda: self._listener.association_ended(self._end_reason))

    # Packets

    async def _handle_data(self, data: bytes) -> None:
        if self._settled.is_set() and not self.established:
            return  # over: not even a valid cookie brings it back
        self._handling = True
        try:
            check_packet(data)
            await super()._handle_data(data)
        except WireError as error:
            log.debug("! association aborted: %s", error)
            self.abort(f"protocol violation: {error}")
        except _LIBRARY_ERRORS as error:
            log.debug("! association aborted: %s in the library", type(error).__name__)
            self.abort("protocol violation: a packet that makes no sense in the present state")
        finally:
            self._handling = False
        self._deliver()

    async def _receive_chunk(self, chunk: Chunk) -> None:
        state = self._association_state
        if isinstance(chunk, (DataChunk, SackChunk)):
            if state not in (State.ESTABLISHED, State.COOKIE_ECHOED):
                return
        elif isinstance(chunk, InitChunk):
            if state not in (State.COOKIE_WAIT, State.COOKIE_ECHOED):
                # A late duplicate; a restart (RFC 9260 section 5.2.2) is not for us, DTLS would have to restart too.
                return
            self._peer_window = chunk.advertised_rwnd
        elif isinstance(chunk, InitAckChunk):
            if state is State.COOKIE_WAIT:
                self._peer_window = chunk.advertised_rwnd
        elif isinstance(chunk, ForwardTsnChunk):
            raise WireError("bad_sctp", "FORWARD-TSN without partial reliability")
        elif isinstance(chunk, AbortChunk):
            self._end_reason = "the other side ended the association"
        await super()._receive_chunk(chunk)
        if isinstance(chunk, ShutdownChunk):
            self._end_reason = "the other side shut the association down"
            self._set_state(State.CLOSED)

    # Streams

    def open_stream(self, label: str, protocol: str) -> SctpStream:
        """Open a stream; what is sent on it before the association is up is sent afterwards.

        Raises:
            StateError: the name is too long or not ASCII, there are too many channels, or the association is over.
        """
        # aiortc and others count characters where RFC 8832 counts bytes: ASCII makes no difference.
        if not (label + protocol).isascii() or len(label) + len(protocol) > self._settings.max_channel_name:
            limit = self._settings.max_channel_name
            raise StateError(f"channel name {label[:40]!a} is not ASCII, or longer than {limit} with its protocol")
        unannounced = sum(stream.id is None for stream, kind, _ in self._data_channel_queue if kind == WEBRTC_DCEP)
        if len(self._data_channels) + unannounced >= self._settings.max_channels:
            raise StateError(f"{self._settings.max_channels} channels are open; that is the limit for one connection")
        if self._settled.is_set() and not self.established:
            raise StateError("the connection has ended")
        stream = SctpStream(self, label, protocol)
        if self.established and not self._assign_id(stream):
            raise StateError("the other side takes no more channels")
        self._queue(stream, WEBRTC_DCEP, dcep.format_open(dcep.Open(label, protocol)))
        return stream

    def _assign_id(self, stream: SctpStream) -> bool:
        """Give a free identifier of our parity (RFC 8832 section 6)."""
        assert self._data_channel_id is not None
        number = self._data_channel_id
        while number in self._data_channels:
            number += 2
        if number >= self._outbound_streams_count:
            return False
        self._register(stream, number)
        return True

    def _register(self, stream: SctpStream, number: int) -> None:
        stream.id = number
        self._data_channels[number] = cast(RTCDataChannel, stream)

    def close_stream(self, stream: SctpStream) -> None:
        """Reset a stream once its queued messages are sent; at once if the other side never heard of it."""
        self._data_channel_close(cast(RTCDataChannel, stream))
        self._recount()

    def _data_channel_closed(self, stream_id: int) -> None:
        # The reset of a stream can be reported more than once.
        if stream_id in self._data_channels:
            super()._data_channel_closed(stream_id)

    def _space_found(self) -> None:
        self.post(self._listener.send_space)

    async def _data_channel_receive(self, stream_id: int, pp_id: int, data: bytes) -> None:
        if len(data) > self._settings.max_message:
            text = f"a message of {len(data)} bytes; the limit is {self._settings.max_message}"
            raise WireError("message_too_large", text)
        if pp_id == WEBRTC_DCEP:
            self._receive_dcep(stream_id, data)
            return
        stream = cast(SctpStream | None, self._data_channels.get(stream_id))
        if stream is None:
            return  # on a stream that no channel uses: refused, or already closed
        if pp_id == WEBRTC_BINARY:
            self._unread += len(data)
            stream.deliver(data)
        elif pp_id == WEBRTC_STRING:
            stream.deliver(data.decode())
        elif pp_id == WEBRTC_BINARY_EMPTY:
            stream.deliver(b"")
        elif pp_id == WEBRTC_STRING_EMPTY:
            stream.deliver("")

    def _receive_dcep(self, stream_id: int, data: bytes) -> None:
        message = dcep.parse_message(data, self._settings.max_channel_name)
        stream = cast(SctpStream | None, self._data_channels.get(stream_id))
        if message is None:
            if stream is None:
                raise WireError("bad_dcep", "an ACK for a channel that was never opened")
            if stream.readyState == "connecting":
                stream._setReadyState("open")
            return
        assert self._data_channel_id is not None
        if stream is not None or stream_id % 2 == self._data_channel_id % 2:
            raise WireError("bad_dcep", "an OPEN for a stream that is not free")
        if len(self._data_channels) >= 2 * self._settings.max_channels:
            raise WireError("too_many_channels", "channels are opened faster than refusals can be told")
        self._offer(stream_id, message)

    def _offer(self, stream_id: int, message: dcep.Open) -> None:
        stream = SctpStream(self, message.label, message.protocol)
        self._register(stream, stream_id)
        room = len(self._data_channels) <= self._settings.max_channels
        if not room or not message.reliable_ordered or not self._take_open_token():
            log.debug("! channel refused: %s", "limit" if message.reliable_ordered else "not reliable and ordered")
            stream._setReadyState("open")
            stream.close()
            return
        self._queue(stream, WEBRTC_DCEP, dcep.ACK)
        stream._setReadyState("open")
        self.post(lambda: self._listener.stream_offered(stream))

    def _take_open_token(self) -> bool:
        now = self._running_loop.time()
        earned = (now - self._open_tokens_at) * self._settings.opens_per_second
        self._open_tokens = min(self._open_tokens + earned, float(self._settings.max_channels))
        self._open_tokens_at = now
        if self._open_tokens < 1:
            return False
        self._open_tokens -= 1
        return True

"""Packets from the other side: checked, taken apart, and each chunk handed to whom it concerns.

What it must never do: raise because of what is in a packet. One that cannot belong to the association is dropped and
counted; one that breaks the protocol aborts the association.
"""

from __future__ import annotations

from math import inf

from mxrtc_bridge.sctp import chunks
from mxrtc_bridge.sctp.chunks import HEADER, HEADER_SIZE, MalformedError
from mxrtc_bridge.sctp.congestion import CongestionControl
from mxrtc_bridge.sctp.events import MessageReceived, ResetDone, StreamReset
from mxrtc_bridge.sctp.handshake import Proposal, RandomValues
from mxrtc_bridge.sctp.lifecycle import DATA_STATES, OPEN_STATES, AssociationState, Lifecycle
from mxrtc_bridge.sctp.outbound_queue import OutStream
from mxrtc_bridge.sctp.packets import checksum_matches
from mxrtc_bridge.sctp.path_mtu import PathMtu
from mxrtc_bridge.sctp.pieces import Pieces
from mxrtc_bridge.sctp.reassembly import InStream
from mxrtc_bridge.sctp.receiver import Receiver
from mxrtc_bridge.sctp.reconfig import Reconfiguration
from mxrtc_bridge.sctp.settings import SctpSettings

HEARTBEAT_INFO = 1
ARE_YOU_THERE = chunks.chunk(chunks.HEARTBEAT, chunks.parameter(HEARTBEAT_INFO, b"alive   "))
_MAX_SACKS = 2
"""SACKs of one packet that are looked at; one is usual (RFC 9260 section 6.2), and each costs more than its bytes."""
_MAX_SACKS_APART = 7
"""SACKs of a batch beside its last one, where it has several."""
_DATA_CHUNKS = frozenset({chunks.DATA, chunks.I_DATA})
_SETUP_CHUNKS = frozenset({chunks.INIT, chunks.INIT_ACK, chunks.COOKIE_ECHO, chunks.COOKIE_ACK})
_EXTENSIONS = frozenset({chunks.RE_CONFIG, chunks.FORWARD_TSN, chunks.I_FORWARD_TSN, chunks.PAD})


class Inbound(Lifecycle):
    """The receiving side of an association; the arguments are those of :class:`Lifecycle`."""

    def __init__(self, settings: SctpSettings, drawn: RandomValues, congestion: CongestionControl) -> None:
        super().__init__(settings, drawn, congestion)
        self._congestion = congestion
        self._streams: dict[int, OutStream] = {}
        self._path = PathMtu(settings.packet_size, settings.packet_size_ceiling, settings.packet_size_floor)
        self._pieces = Pieces()
        self._reconfiguration: Reconfiguration | None = None
        self._peer_resets = False
        self._resets_untold = 0
        self._awaited: dict[int, float] = {}  # streams that they have yet to reset, and until when, the earliest first
        self._heartbeats_unanswered = 0
        self._heartbeat_at = inf
        self.packets_received = 0
        self._tell_packet_size()

    def _tell_packet_size(self) -> None:
        self._congestion.set_packet_size(self._path.size - HEADER_SIZE)

    # What Lifecycle asks for

    def _peer_learned(self, theirs: Proposal) -> None:
        self._peer_resets = theirs.reconfiguration
        self._sender.in_pieces = theirs.pieces
        if not theirs.skips_unknown:
            self._path = PathMtu(self._path.size, self._path.size, self._path.size)  # a probe has PAD in it
        self._reconfiguration = Reconfiguration(
            self._drawn.initial_tsn, theirs.initial_tsn, self._reply, self._streams_reset
        )

    def _established(self, now: float) -> None:
        self._path.begin(now)
        self._tell_packet_size()
        self._set_heartbeat(now)

    def _message_received(self, message: MessageReceived | InStream) -> None:
        self._events.append(message)
        if type(message) is MessageReceived:
            assert self._receiver is not None
            self._receiver.unread_messages += 1

    def _set_heartbeat(self, now: float) -> None:
        interval = self._settings.heartbeat_interval
        if interval:
            self._heartbeat_at = now + interval

    # What becomes of messages that were received

    def set_aside(self, count: int) -> None:
        """Say that so many messages more (or less) wait after they were polled: each costs memory beyond its bytes."""
        if self._receiver is not None:
            self._receiver.set_aside(count)

    def consumed(self, size: int) -> None:
        """Say that ``size`` bytes of received messages have left the memory of the application."""
        if self._receiver is not None:
            self._receiver.consumed(size)

    def keep(self, size: int) -> None:
        """Say that ``size`` bytes that were given back are in the memory of the application all the same."""
        if self._receiver is not None:
            self._receiver.keep(size)

    # Packets from the other side

    def receive(self, now: float, packet: bytes) -> None:
        """Take a packet; whatever is in it, nothing is raised."""
        if self._state is AssociationState.ENDED:
            return
        self.packets_received += 1
        size = len(packet)
        if size < 16:
            self._drop("short")
            return
        source, destination, tag, checksum = HEADER.unpack_from(packet)
        if destination != self._settings.local_port or source != self._settings.remote_port:
            self._drop("port")
            return
        if (checksum or not self._settings.zero_checksum or not tag) and not checksum_matches(packet):
            self._drop("checksum")
            return
        if tag != self._drawn.tag and not self._is_tag_allowed(tag, packet):
            self._drop("tag")
            return
        self._last_received_at = now
        self._heartbeats_unanswered = 0
        receiver = self._receiver
        if receiver is not None and receiver.ack_at < 0 and receiver.apart_for:
            self._acknowledge_apart(now, receiver)
        try:
            self._receive_chunks(now, packet, size)
            receiver = self._receiver
            if receiver is not None:
                receiver.packet_done(now)
                reconfiguration = self._reconfiguration
                if reconfiguration is not None and reconfiguration.waits_for_data:
                    reconfiguration.advance(receiver.cumulative)  # may break rules that hold for requests at once
        except MalformedError as error:
            self._break_off(error)

    def _acknowledge_apart(self, now: float, receiver: Receiver) -> None:
        """Write the SACK that is due before another packet is taken that would share it."""
        if len(self._packets) >= _MAX_SACKS_APART or self._writer is None or self._state not in OPEN_STATES:
            return
        if receiver.window:  # a closed one is told at intervals
            self._packets.append(self._writer.write([receiver.sack(now, self._path.size - HEADER_SIZE)]))

    def _is_tag_allowed(self, tag: int, packet: bytes) -> bool:
        """Whether a packet without our tag is allowed (RFC 9260 section 8.5.1)."""
        kind, flags = packet[12], packet[13]
        if kind == chunks.INIT:
            # Alone in its packet, and with a tag of zero.
            length = int.from_bytes(packet[14:16], "big")
            return tag == 0 and 12 + length + (-length & 3) >= len(packet)
        reflected = kind in (chunks.ABORT, chunks.SHUTDOWN_COMPLETE) and flags & chunks.REFLECTED_TAG
        return bool(reflected and self._peer_tag and tag == self._peer_tag)

    def _receive_chunks(self, now: float, packet: bytes, size: int) -> None:
        position = HEADER_SIZE
        sacks = 0
        while position + 4 <= size:
            kind = packet[position]
            length = packet[position + 2] << 8 | packet[position + 3]
            if length < 4 or position + length > size:
                self._drop("chunk_length")
                return
            if kind in _DATA_CHUNKS:
                if not self._receive_data(now, packet, position, length, kind):
                    return
            elif kind == chunks.SACK:
                sacks += 1
                self._receive_sack(now, packet, position, length, sacks)
            else:
                body = packet[position + 4 : position + length]
                if not self._receive_control(now, kind, body):
                    return
                if self._state is AssociationState.ENDED:
                    return
            position += length + (-length & 3)
        if position < size:
            self._drop("trailing")

    def _receive_data(self, now: float, packet: bytes, position: int, length: int, kind: int) -> bool:
        receiver = self._receiver
        if self._state is AssociationState.COOKIE_ECHOED:
            self._establish(now)  # the other side is: only our COOKIE-ACK got lost, or overtaken
        if receiver is None or self._state not in DATA_STATES:
            self._drop("state")
            return True
        interleaved = kind == chunks.I_DATA
        if interleaved is not self._interleaving:
            if interleaved:
                return self._receive_unknown(kind, packet[position + 4 : position + length])
            raise MalformedError("DATA where I-DATA was agreed")
        missing = receiver.receive_data(packet, position, length, interleaved)
        if missing >= 0:
            cause = chunks.parameter(chunks.INVALID_STREAM, chunks.PAIR.pack(missing, 0))
            self._reply(chunks.chunk(chunks.ERROR, cause))
        if self._state is AssociationState.SHUTDOWN_SENT:
            receiver.acknowledge_now()
        return True

    def _receive_sack(self, now: float, packet: bytes, position: int, length: int, count: int) -> None:
        """Take the SACK that is so many in its packet."""
        if self._state not in OPEN_STATES:
            return
        if count > _MAX_SACKS:
            self._drop("sack")
            return
        limit = self._settings.max_gap_blocks
        self._sender.receive_sack(now, *chunks.read_sack(packet, position, length, limit))
        self._after_acknowledgement(now)

    def _after_acknowledgement(self, now: float) -> None:
        if self._state is not AssociationState.ESTABLISHED:
            self._progress_shutdown(now)

    def _receive_control(self, now: float, kind: int, body: bytes) -> bool:  # noqa: C901 - one case each
        """Take any other chunk; False if the rest of the packet must not be looked at."""
        if kind in _SETUP_CHUNKS:
            return self._receive_setup(now, kind, body)
        if kind == chunks.PIECE:
            return self._receive_piece(now, body)
        if kind in _EXTENSIONS:
            self._receive_extension(now, kind, body)
            return True
        match kind:
            case chunks.HEARTBEAT:
                self._reply(chunks.chunk(chunks.HEARTBEAT_ACK, body))
            case chunks.HEARTBEAT_ACK:
                self._receive_heartbeat_ack(now, body)
            case chunks.ABORT:
                self._receive_abort(body)
            case chunks.ERROR:
                self._receive_error(body)
            case chunks.SHUTDOWN:
                self._receive_shutdown(now, body)
                self._after_acknowledgement(now)
            case chunks.SHUTDOWN_ACK:
                self._receive_shutdown_ack()
            case chunks.SHUTDOWN_COMPLETE:
                self._receive_shutdown_complete()
            case _:
                return self._receive_unknown(kind, body)
        return True

    def _receive_piece(self, now: float, body: bytes) -> bool:
        if self._receiver is None:
            self._drop("state")
            return True
        whole = self._pieces.put(body)
        if whole is None:
            return True
        kind, length = whole[0], whole[2] << 8 | whole[3]
        if kind not in _DATA_CHUNKS or length != len(whole):
            raise MalformedError("pieces of something else than a chunk with user data")
        return self._receive_data(now, whole, 0, length, kind)

    def _receive_setup(self, now: float, kind: int, body: bytes) -> bool:
        if kind == chunks.INIT:
            self._receive_init(now, body)
        elif kind == chunks.INIT_ACK:
            self._receive_init_ack(now, body)
        elif kind == chunks.COOKIE_ECHO:
            self._receive_cookie_echo(now, body)
        elif self._state is AssociationState.COOKIE_ECHOED:
            self._establish(now)
        return kind not in (chunks.INIT, chunks.INIT_ACK)  # which must be alone in their packet

    def _receive_error(self, body: bytes) -> None:
        if self._state is AssociationState.COOKIE_ECHOED and body[:2] == chunks.STALE_COOKIE.to_bytes(2, "big"):
            self._end("refused", "the other side says that its cookie is too old")
        self._drop("peer_error")

    def _receive_heartbeat_ack(self, now: float, body: bytes) -> None:
        for kind, value in chunks.parameters(body):
            if kind == HEARTBEAT_INFO and self._path.acknowledged(now, value):
                self._tell_packet_size()

    def _receive_extension(self, now: float, kind: int, body: bytes) -> None:
        receiver, reconfiguration = self._receiver, self._reconfiguration
        if kind == chunks.PAD:
            return
        if receiver is None or reconfiguration is None or self._state not in OPEN_STATES:
            self._drop("state")
        elif kind == chunks.RE_CONFIG:
            timeout = self._sender.rtt.timeout
            done, accepted = reconfiguration.receive(now, body, receiver.cumulative, timeout)
            for stream in done:
                self._streams.pop(stream.id, None)
                self._events.append(ResetDone(stream.id, accepted))
        elif (kind == chunks.I_FORWARD_TSN) is not self._interleaving:
            raise MalformedError("a FORWARD-TSN of the kind that was not agreed")
        else:
            self._receive_forward_tsn(body, self._interleaving)

    def _receive_forward_tsn(self, body: bytes, interleaved: bool) -> None:
        receiver = self._receiver
        assert receiver is not None
        reassembly = receiver.reassembly
        if interleaved:
            tsn, messages = chunks.read_i_forward_tsn(body)
            if receiver.forward(tsn):
                for stream, unordered, number in messages:
                    if stream >= self._settings.max_streams:
                        continue
                    if unordered:
                        reassembly.skip_unordered(stream, number)
                    else:
                        reassembly.skip_ordered(stream, number, interleaved=True)
        else:
            tsn, streams = chunks.read_forward_tsn(body)
            if receiver.forward(tsn):
                for stream, number in streams:
                    if stream < self._settings.max_streams:
                        reassembly.skip_ordered(stream, number, interleaved=False)

    def _receive_unknown(self, kind: int, body: bytes) -> bool:
        """Act on an unknown chunk as its two highest bits say (RFC 9260 section 3.2)."""
        self._drop("unknown_chunk")
        if kind & 0x40 and self._writer is not None:
            cause = chunks.parameter(chunks.UNRECOGNIZED_CHUNK, chunks.chunk(kind, body[:64]))
            self._reply(chunks.chunk(chunks.ERROR, cause))
        return bool(kind & 0x80)

    def _streams_reset(self, streams: tuple[int, ...]) -> None:
        receiver = self._receiver
        assert receiver is not None
        for stream in streams or receiver.reassembly.stream_ids():
            if stream < self._settings.max_streams:
                receiver.reassembly.reset(stream)
                self._awaited.pop(stream, None)
                self._events.append(StreamReset(stream))
                self._resets_untold += 1
        if self._resets_untold > self._settings.max_used_streams:
            raise MalformedError("streams are reset faster than that can be told")

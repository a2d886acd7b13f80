"""One SCTP association: packets, calls and the time go in; packets, events and a deadline come out.

How to drive it: hand every packet that arrived to :meth:`Association.receive`, the whole batch; drain
:meth:`poll_event`; send what :meth:`datagrams` returns, and call it again while it returns as many as its limit; then
wait for the next packet, call, or :meth:`next_deadline`, on which :meth:`handle_timeout` and again the same.

What it must never do: raise because of what the other side sent. A packet that cannot belong to the association is
dropped and counted; one that breaks the protocol aborts the association, and ``Ended`` says why.
"""

from __future__ import annotations

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.sctp import chunks
from mxrtc_bridge.sctp.chunks import HEADER, HEADER_SIZE, MalformedError
from mxrtc_bridge.sctp.congestion import CongestionControl
from mxrtc_bridge.sctp.events import (
    BufferedLow,
    Event,
    Flushed,
    MessageReceived,
    ResetDone,
    SendSpace,
    StreamReset,
)
from mxrtc_bridge.sctp.handshake import Proposal
from mxrtc_bridge.sctp.lifecycle import OPEN_STATES, Lifecycle, State
from mxrtc_bridge.sctp.outgoing import OutMessage, OutStream
from mxrtc_bridge.sctp.packets import checksum_matches
from mxrtc_bridge.sctp.path_mtu import PathMtu
from mxrtc_bridge.sctp.reconfig import Reconfiguration
from mxrtc_bridge.sctp.settings import SctpSettings

_FOREVER = float("inf")
_DATA_STATES = frozenset({State.ESTABLISHED, State.SHUTDOWN_PENDING, State.SHUTDOWN_SENT})
_HEARTBEAT_INFO = 1


class Association(Lifecycle):
    """One association; the arguments are those of :class:`Lifecycle`."""

    def __init__(
        self,
        settings: SctpSettings,
        *,
        tag: int,
        initial_tsn: int,
        cookie_key: bytes,
        congestion: CongestionControl,
    ) -> None:
        super().__init__(settings, tag=tag, initial_tsn=initial_tsn, cookie_key=cookie_key, congestion=congestion)
        self._congestion = congestion
        self._streams: dict[int, OutStream] = {}
        self._path = PathMtu(settings.packet_size, settings.packet_size_ceiling)
        self._tell_packet_size()
        self._reconfiguration: Reconfiguration | None = None
        self._peer_resets = False
        self._heartbeats_unanswered = 0
        self._heartbeat_at = _FOREVER
        self._space_mark = 0
        self._space_armed = False
        self._more_at = _FOREVER
        self._black_hole = False
        self._sender.on_blackhole = self._suspect_black_hole
        self.packets_received = 0
        self.packets_sent = 0

    def _tell_packet_size(self) -> None:
        self._congestion.set_packet_size(self._path.size - HEADER_SIZE)

    def _suspect_black_hole(self) -> None:
        self._black_hole = True

    # What Lifecycle asks for

    def _peer_learned(self, theirs: Proposal) -> None:
        self._peer_resets = theirs.reconfiguration
        self._reconfiguration = Reconfiguration(self._initial_tsn, theirs.initial_tsn, self._reply, self._streams_reset)

    def _established(self, now: float) -> None:
        self._path.begin(now)
        self._set_heartbeat(now)

    def _message_received(self, message: MessageReceived) -> None:
        self._events.append(message)
        assert self._receiver is not None
        self._receiver.unread_messages += 1

    # Events

    def poll_event(self) -> Event | None:
        """Return the next event, or None."""
        if not self._events:
            return None
        event = self._events.popleft()
        if type(event) is MessageReceived:
            assert self._receiver is not None
            self._receiver.unread_messages -= 1
        return event

    # Packets from the other side

    def receive(self, now: float, packet: bytes) -> None:
        """Take a packet; whatever is in it, nothing is raised."""
        if self._state is State.ENDED:
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
        if tag != self._tag and not self._is_tag_allowed(tag, packet):
            self._drop("tag")
            return
        self._last_received_at = now
        self._heartbeats_unanswered = 0
        try:
            self._receive_chunks(now, packet, size)
        except MalformedError as error:
            self._abort("violation", f"the other side broke the protocol: {error}", chunks.PROTOCOL_VIOLATION)
            return
        receiver = self._receiver
        if receiver is not None:
            receiver.packet_done(now)
            reconfiguration = self._reconfiguration
            if reconfiguration is not None and reconfiguration.waits_for_data:
                reconfiguration.advance(receiver.cumulative)

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
        while position + 4 <= size:
            kind = packet[position]
            length = packet[position + 2] << 8 | packet[position + 3]
            if length < 4 or position + length > size:
                self._drop("chunk_length")
                return
            if kind == chunks.DATA or kind == chunks.I_DATA:
                if not self._receive_data(now, packet, position, length, kind):
                    return
            elif kind == chunks.SACK:
                if self._state in OPEN_STATES:
                    self._receive_sack(now, packet, position, length)
            else:
                body = packet[position + 4 : position + length]
                if not self._receive_control(now, kind, packet[position + 1], body):
                    return
                if self._state is State.ENDED:
                    return
            position += length + (-length & 3)
        if position < size:
            self._drop("trailing")

    def _receive_data(self, now: float, packet: bytes, position: int, length: int, kind: int) -> bool:
        receiver = self._receiver
        if self._state is State.COOKIE_ECHOED:
            self._establish(now)  # the other side is: only our COOKIE-ACK got lost, or overtaken
        if receiver is None or self._state not in _DATA_STATES:
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
        if self._state is State.SHUTDOWN_SENT:
            receiver.acknowledge_now()
        return True

    def _receive_sack(self, now: float, packet: bytes, position: int, length: int) -> None:
        limit = self._settings.max_gap_blocks
        self._sender.receive_sack(now, *chunks.read_sack(packet, position, length, limit))
        self._after_acknowledgement(now)

    def _after_acknowledgement(self, now: float) -> None:
        flushed = self._sender.flight.flushed
        if flushed:
            self._events.extend([Flushed(stream.id) for stream in flushed])
            flushed.clear()
        if self._state is not State.ESTABLISHED:
            self._progress_shutdown(now)

    def _receive_control(self, now: float, kind: int, flags: int, body: bytes) -> bool:
        """Take any other chunk; False if the rest of the packet must not be looked at."""
        match kind:
            case chunks.INIT:
                self._receive_init(now, body)
                return False
            case chunks.INIT_ACK:
                self._receive_init_ack(now, body)
                return False
            case chunks.COOKIE_ECHO:
                self._receive_cookie_echo(now, body)
            case chunks.COOKIE_ACK:
                if self._state is State.COOKIE_ECHOED:
                    self._establish(now)
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
            case chunks.HEARTBEAT:
                self._reply(chunks.chunk(chunks.HEARTBEAT_ACK, body))
            case chunks.HEARTBEAT_ACK:
                self._receive_heartbeat_ack(now, body)
            case chunks.RE_CONFIG | chunks.FORWARD_TSN | chunks.I_FORWARD_TSN:
                return self._receive_extension(now, kind, body)
            case chunks.PAD:
                pass
            case _:
                return self._receive_unknown(kind, body)
        return True

    def _receive_error(self, body: bytes) -> None:
        if self._state is State.COOKIE_ECHOED and body[:2] == chunks.STALE_COOKIE.to_bytes(2, "big"):
            self._end("refused", "the other side says that its cookie is too old")
        self._drop("peer_error")

    def _receive_heartbeat_ack(self, now: float, body: bytes) -> None:
        for kind, value in chunks.parameters(body):
            if kind == _HEARTBEAT_INFO and self._path.acknowledged(now, value):
                self._tell_packet_size()

    def _receive_extension(self, now: float, kind: int, body: bytes) -> bool:
        receiver, reconfiguration = self._receiver, self._reconfiguration
        if receiver is None or reconfiguration is None or self._state not in OPEN_STATES:
            self._drop("state")
            return True
        if kind == chunks.RE_CONFIG:
            timeout = self._sender.rtt.timeout
            done, accepted = reconfiguration.receive(now, body, receiver.cumulative, timeout)
            for stream in done:
                self._streams.pop(stream.id, None)
                self._events.append(ResetDone(stream.id, accepted))
            return True
        interleaved = kind == chunks.I_FORWARD_TSN
        if interleaved is not self._interleaving:
            raise MalformedError("a FORWARD-TSN of the kind that was not agreed")
        self._receive_forward_tsn(body, interleaved)
        return True

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
                self._events.append(StreamReset(stream))

    # Messages to the other side

    def _stream(self, number: int) -> OutStream:
        stream = self._streams.get(number)
        if stream is None:
            if not 0 <= number < self._outbound_streams:
                raise StateError(f"there is no stream {number}; the other side takes {self._outbound_streams}")
            stream = self._streams[number] = OutStream(number)
        return stream

    def send(
        self,
        now: float,
        stream: int,
        ppid: int,
        data: bytes,
        *,
        ordered: bool = True,
        lifetime: float | None = None,
        max_retransmissions: int | None = None,
    ) -> None:
        """Queue a message; before the association is established it waits.

        Args:
            now: seconds.
            stream: number.
            ppid: payload protocol identifier.
            data: at least one byte.
            ordered: after the messages before it on its stream.
            lifetime: seconds after which it is given up; None for never.
            max_retransmissions: after which it is given up; None for never.

        Raises:
            StateError: it is too large, the queue is full, the stream is being reset, or the association is over.
        """
        size = len(data)
        limits = self._settings
        if not 0 < size <= limits.max_remote_message:
            raise StateError(f"a message of {size} bytes; from 1 to {limits.max_remote_message} can be sent")
        if self._state not in _SENDING_STATES:
            raise StateError(f"the association is {self._state.value}: nothing more can be sent")
        sender = self._sender
        pending = sender.scheduler.queued + sender.flight.pending_payload
        if pending + size > limits.max_queued or sender.scheduler.message_count >= limits.max_queued_messages:
            raise StateError(f"{pending} bytes wait already; the limit is {limits.max_queued}")
        out = self._streams.get(stream)
        if out is None:
            out = self._stream(stream)
        if out.resetting:
            raise StateError(f"stream {stream} is being reset")
        message = OutMessage(out, ppid, data, ordered)
        if lifetime is not None or max_retransmissions is not None:
            message.chunks = []
            message.expires_at = now + lifetime if lifetime is not None else 0.0
            message.max_retransmissions = max_retransmissions if max_retransmissions is not None else -1
        sender.scheduler.push(message)
        if out.queued > out.low_mark:
            out.low_armed = True
        if sender.scheduler.queued > self._space_mark:
            self._space_armed = True

    def set_weight(self, stream: int, weight: float) -> None:
        """Give a stream a share of the path in proportion to ``weight``; 1.0 is that of all others."""
        self._stream(stream).weight = max(weight, 0.001)

    def set_low_mark(self, stream: int, size: int) -> None:
        """Report ``BufferedLow`` whenever what waits on a stream falls to ``size``."""
        self._stream(stream).low_mark = size

    def set_space_mark(self, size: int) -> None:
        """Report ``SendSpace`` whenever what waits on all streams falls to ``size``."""
        self._space_mark = size

    def buffered(self, stream: int | None = None) -> int:
        """Return the bytes that were queued and never sent, of one stream or of all."""
        if stream is None:
            return self._sender.scheduler.queued
        out = self._streams.get(stream)
        return out.queued if out is not None else 0

    def unacknowledged(self, stream: int) -> int:
        """Return the bytes of a stream that wait for sending or for acknowledgement."""
        out = self._streams.get(stream)
        return out.enqueued - out.acked if out is not None else 0

    def acknowledged(self, stream: int) -> int:
        """Return how many bytes of a stream are acknowledged, counted from its beginning."""
        out = self._streams.get(stream)
        return out.acked if out is not None else 0

    def flush(self, stream: int) -> None:
        """Report ``Flushed`` once everything that is queued on a stream now is acknowledged."""
        out = self._stream(stream)
        if out.acked >= out.enqueued:
            self._events.append(Flushed(stream))
        else:
            out.flush_mark = out.enqueued

    def reset(self, stream: int) -> None:
        """End what we send on a stream after what is queued on it; ``ResetDone`` follows (RFC 6525)."""
        if self._state is State.ENDED:
            return
        out = self._stream(stream)
        if out.resetting:
            return
        out.resetting = True
        if not out.active:
            self._sender.scheduler.drained.append(out)

    def consumed(self, size: int) -> None:
        """Say that ``size`` bytes of received messages have left the memory of the application."""
        if self._receiver is not None:
            self._receiver.consumed(size)

    # Packets to the other side

    def datagrams(self, now: float, limit: int = 64) -> list[bytes]:
        """Return the packets that may leave now, at most ``limit``; if that many, there may be more."""
        out: list[bytes] = []
        packets = self._packets
        while packets and len(out) < limit:
            out.append(packets.popleft())
        if self._writer is not None and self._state is not State.ENDED:
            self._fill_packets(now, limit, out)
        self._more_at = now if len(out) >= limit or packets else _FOREVER
        self.packets_sent += len(out)
        return out

    def _fill_packets(self, now: float, limit: int, out: list[bytes]) -> None:
        sender, receiver, writer = self._sender, self._receiver, self._writer
        assert receiver is not None
        assert writer is not None
        if self._state not in OPEN_STATES:
            if self._control and len(out) < limit:
                out.append(writer.write(self._take_control(self._path.size - HEADER_SIZE)))
            return
        self._queue_due_control(now)
        size = self._path.size - HEADER_SIZE
        while self._control and len(out) < limit:
            out.append(writer.write(self._take_control(size)))
        allowed = sender.pacing_allows(now)
        parts: list[bytes] = []
        taken = 0
        if receiver.ack_at <= now or (allowed and receiver.may_piggyback(now) and sender.has_work):
            chunk = receiver.sack(now, size)
            parts.append(chunk)
            taken = len(chunk)
        burst = sender.begin_burst(now) if allowed else 0
        sent = 0
        while sent < burst and len(out) < limit:
            added = sender.fill(now, parts, size - taken, not taken)
            if not added and not taken:
                break
            out.append(writer.write(parts))
            sent += added
            parts = []
            taken = 0
        if taken:
            out.append(writer.write(parts))
        sender.end_burst(now, sent)
        self._tell_space()

    def _take_control(self, room: int) -> list[bytes]:
        control = self._control
        parts: list[bytes] = []
        while control and (not parts or len(control[0]) <= room):
            chunk = control.popleft()
            self._control_bytes -= len(chunk)
            room -= len(chunk)
            parts.append(chunk)
        return parts

    def _queue_due_control(self, now: float) -> None:
        sender, reconfiguration = self._sender, self._reconfiguration
        assert reconfiguration is not None
        scheduler = sender.scheduler
        if scheduler.drained:
            self._begin_resets(scheduler.drained)
        if reconfiguration.ready:
            reconfiguration.request(now, sender.rtt.timeout, sender.flight.next_tsn - 1)
        if sender.abandonment.forward_due:
            chunk = sender.abandonment.chunk(now, interleaving=self._interleaving)
            if chunk is not None:
                self._reply(chunk)
        if self._path.probe_at <= now:
            probe = self._path.probe(now, sender.rtt.timeout)
            if probe is not None:
                assert self._writer is not None
                self._packets.append(self._writer.write(probe))

    def _begin_resets(self, drained: list[OutStream]) -> None:
        assert self._reconfiguration is not None
        if self._peer_resets:
            self._reconfiguration.drained(drained)
        else:
            for stream in drained:
                self._streams.pop(stream.id, None)
                self._events.append(ResetDone(stream.id, accepted=False))
        drained.clear()

    def _tell_space(self) -> None:
        scheduler = self._sender.scheduler
        if scheduler.lowered:
            self._events.extend([BufferedLow(stream.id) for stream in scheduler.lowered])
            scheduler.lowered.clear()
        if self._space_armed and scheduler.queued <= self._space_mark:
            self._space_armed = False
            self._events.append(SendSpace())

    # Time

    def next_deadline(self) -> float | None:
        """Return when :meth:`handle_timeout` is to be called, or None for never."""
        at = min(self._timer_at, self._more_at)
        if self._state in OPEN_STATES:
            assert self._receiver is not None
            assert self._reconfiguration is not None
            at = min(
                at,
                self._sender.deadline(),
                self._receiver.ack_at,
                self._reconfiguration.retry_at,
                self._path.probe_at,
                self._heartbeat_at,
            )
        return at if at < _FOREVER else None

    def handle_timeout(self, now: float) -> None:
        """Do what is due; call :meth:`datagrams` afterwards."""
        if self._timer_at <= now:
            self._timer_expired(now)
        if self._state not in OPEN_STATES:
            return
        sender, reconfiguration = self._sender, self._reconfiguration
        assert reconfiguration is not None
        sender.handle_timeout(now)
        if self._black_hole:
            self._black_hole = False
            if self._path.black_hole(now):
                self._tell_packet_size()
        if reconfiguration.retry_at <= now:
            reconfiguration.retry(now, sender.rtt.timeout)
        if self._heartbeat_at <= now:
            self._beat(now)
        gave_up = reconfiguration.failures > self._settings.max_retransmissions
        if sender.failed or gave_up or self._heartbeats_unanswered > self._settings.max_retransmissions // 2:
            self._abort("timeout", "the other side does not answer any more")

    def _set_heartbeat(self, now: float) -> None:
        interval = self._settings.heartbeat_interval
        if interval:
            self._heartbeat_at = now + interval

    def _beat(self, now: float) -> None:
        """Ask whether the other side is there, if nothing came for a while (RFC 9260 section 8.3)."""
        interval = self._settings.heartbeat_interval
        due = self._last_received_at + interval
        if due > now:
            self._heartbeat_at = due
            return
        self._heartbeats_unanswered += 1
        self._reply(chunks.chunk(chunks.HEARTBEAT, chunks.parameter(_HEARTBEAT_INFO, b"alive   ")))
        self._heartbeat_at = now + min(interval, 2 * self._sender.rtt.timeout)


_SENDING_STATES = frozenset({State.CLOSED, State.COOKIE_WAIT, State.COOKIE_ECHOED, State.ESTABLISHED})

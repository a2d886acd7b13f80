"""One SCTP association: packets, calls and the time go in; packets, events and a deadline come out.

How to drive it: hand every packet that arrived to :meth:`Association.receive`, the whole batch; drain
:meth:`poll_event`; send what :meth:`datagrams` and :meth:`take_probe` return, again until it is nothing; then
wait for the next packet, call, or :meth:`next_deadline`, on which :meth:`handle_timeout` and again the same.

What it must never do: raise because of what the other side sent. A packet that cannot belong to the association is
dropped and counted; one that breaks the protocol aborts the association, and ``Ended`` says why.

One file: what may leave now and what is due are both decided over all of its state.
"""

from __future__ import annotations

from math import inf

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.sctp.chunks import HEADER_SIZE, MalformedError
from mxrtc_bridge.sctp.congestion import CongestionControl
from mxrtc_bridge.sctp.events import Event, MessageReceived, ResetDone, SendSpace, StreamReset, StreamSilent
from mxrtc_bridge.sctp.handshake import RandomValues
from mxrtc_bridge.sctp.lifecycle import OPEN_STATES, SETUP_STATES, AssociationState
from mxrtc_bridge.sctp.outbound_queue import OutMessage, OutStream
from mxrtc_bridge.sctp.packet_reader import ARE_YOU_THERE, Inbound
from mxrtc_bridge.sctp.path_mtu import DeadEnd
from mxrtc_bridge.sctp.reassembly import InStream
from mxrtc_bridge.sctp.settings import SctpSettings

_MIN_AHEAD_S = 0.001
"""Batches of one packet cost too much to be made for every message."""


class Association(Inbound):
    """One association.

    Args:
        settings: ports, limits, times.
        drawn: what nobody can guess.
        congestion: decides how much may be in flight, and how fast it may leave.
    """

    def __init__(self, settings: SctpSettings, drawn: RandomValues, congestion: CongestionControl) -> None:
        super().__init__(settings, drawn, congestion)
        self._space_mark = 0
        self._space_armed = False
        self._more_at = inf
        self._ahead_at = 0.0
        self._black_hole = False
        self._dead_end = DeadEnd()
        self._probe: bytes | None = None
        self._sender.on_blackhole = self._suspect_black_hole
        self.packets_sent = 0

    def _suspect_black_hole(self) -> None:
        self._black_hole = True

    # Events

    def poll_event(self) -> Event | None:
        """Return the next event, or None."""
        while self._events:
            event = self._events.popleft()
            if type(event) is MessageReceived:
                assert self._receiver is not None
                self._receiver.unread_messages -= 1
            elif type(event) is StreamReset:
                self._resets_untold -= 1
            elif isinstance(event, InStream):
                message = self._take_from(event)
                if message is None:
                    continue
                return message
            return event
        return None

    def _take_from(self, stream: InStream) -> MessageReceived | None:
        """Return the next message of a stream that stood among the events, and put it back there if it has more."""
        assert self._receiver is not None
        try:
            message = self._receiver.reassembly.take(stream)
        except MalformedError as error:
            self._break_off(error)
            return None
        if stream.in_line:
            self._events.appendleft(stream)
        return message

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
        if sender.scheduler.queued > self._space_mark:
            self._space_armed = True

    def reply(self, stream: int, ppid: int, data: bytes) -> None:
        """Queue a small reliable message on a stream if that is possible; what stands in its way ends it anyway."""
        out = self._streams.get(stream)
        if (
            self._state is not AssociationState.ESTABLISHED
            or stream >= self._outbound_streams
            or (out and out.resetting)
        ):
            return
        self._sender.scheduler.push(OutMessage(self._stream(stream), ppid, data, True))

    @property
    def outbound_streams(self) -> int:
        """How many streams we may send on; of an association that is not established, how many we ask for."""
        return self._outbound_streams

    @property
    def peer_resets(self) -> bool:
        """Whether the other side can reset streams."""
        return self._peer_resets

    def set_space_mark(self, size: int) -> None:
        """Report ``SendSpace`` whenever what waits on all streams falls to ``size``."""
        self._space_mark = size

    def buffered(self) -> int:
        """Return the bytes that were queued and never sent, of all streams."""
        return self._sender.scheduler.queued

    def reset(self, stream: int) -> None:
        """End what we send on a stream after what is queued on it; ``ResetDone`` follows (RFC 6525)."""
        if self._state is AssociationState.ENDED:
            return
        if stream >= self._outbound_streams:
            self._events.append(ResetDone(stream, accepted=False))  # we can send nothing on it
            return
        out = self._stream(stream)
        if out.resetting:
            return
        out.resetting = True
        if not out.active:
            self._sender.scheduler.drained.append(out)

    def is_carried_out(self, stream: int) -> bool:
        """Take our reset of a stream for carried out, as the other side has shown; no ``ResetDone`` follows then.

        Returns:
            False if the other side was not asked yet, so that it can have shown nothing.
        """
        if self._reconfiguration is None or not self._reconfiguration.take_for_answered(stream):
            return False
        self._streams.pop(stream, None)
        return True

    def await_reset(self, stream: int) -> None:
        """Wait for the other side's reset of a stream, from the last packet on; ``StreamSilent`` says that none came.

        What is waited for already is waited for anew.
        """
        self._awaited.pop(stream, None)
        self._awaited[stream] = self._last_received_at + self._settings.reset_patience

    # Packets to the other side

    @property
    def packet_size(self) -> int | None:
        """The largest packet that arrives, in bytes; None as long as small ones are sent because it is not known."""
        return self._path.size if self._state in OPEN_STATES and self._path.is_known else None

    def datagrams(self, now: float, limit: int = 64) -> list[bytes]:
        """Return the packets that may leave now, at most ``limit``; if there may be more, the deadline is now.

        A small message that has begun to wait beside others leaves alone with what shares its packet: the caller would
        encrypt and send everything that is returned together, and it would wait for that.
        """
        scheduler = self._sender.scheduler
        ahead = scheduler.woken and now - self._ahead_at >= _MIN_AHEAD_S
        if ahead:
            limit = 1
        out: list[bytes] = []
        packets = self._packets
        while packets and len(out) < limit:
            out.append(packets.popleft())
        if self._writer is not None and self._state is not AssociationState.ENDED:
            self._fill_packets(now, limit, out)
        self._more_at = now if len(out) >= limit or packets else inf
        if out:
            scheduler.woken = False
            if ahead:
                self._ahead_at = now
            self.packets_sent += len(out)
        return out

    def take_probe(self) -> bytes | None:
        """Return the packet that is to be sent so that it is lost rather than fragmented, or None.

        Call it after :meth:`datagrams`, whose packets may be fragmented.
        """
        probe, self._probe = self._probe, None
        return probe

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
            if sender.ahead:
                out += [writer.write([piece]) for piece in sender.ahead]
                sender.ahead.clear()
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
        if self._path.is_due(now, sending=sender.flight.inflight > 0):
            size = self._path.size
            silent = self._path.is_silent(self._last_received_at)
            if silent:
                self._reply(ARE_YOU_THERE)
            probe = self._path.probe(now, sender.rtt.timeout, silent=silent)
            if self._path.size != size:
                self._tell_packet_size()
            if probe is not None:
                assert self._writer is not None
                self._probe = self._writer.write(probe)

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
            if self._receiver.reassembly.leftover:
                return -1.0
            at = min(
                at,
                self._sender.deadline(),
                self._receiver.ack_at,
                self._reconfiguration.retry_at,
                self._path.probe_at,
                self._heartbeat_at,
                next(iter(self._awaited.values()), inf),
            )
        return at if at < inf else None

    def handle_timeout(self, now: float) -> None:
        """Do what is due; call :meth:`datagrams` afterwards."""
        if self._timer_at <= now:
            self._timer_expired(now)
        if self._state not in OPEN_STATES:
            return
        sender, receiver, reconfiguration = self._sender, self._receiver, self._reconfiguration
        assert receiver is not None
        assert reconfiguration is not None
        sender.handle_timeout(now)
        if receiver.reassembly.leftover:
            receiver.forget_some()
        if self._black_hole:
            self._black_hole = False
            if self._path.black_hole(now):
                self._tell_packet_size()
        if self._awaited:
            self._tell_silence(now)
        if reconfiguration.retry_at <= now:
            timeout = sender.rtt.backed_off(reconfiguration.failures + 1, self._settings.backoff_max)
            reconfiguration.retry(now, timeout)
        if self._heartbeat_at <= now:
            self._beat(now)
        self._end_if_in_vain(now)

    def _end_if_in_vain(self, now: float) -> None:
        sender, reconfiguration = self._sender, self._reconfiguration
        assert reconfiguration is not None
        gave_up = reconfiguration.failures > self._settings.max_retransmissions
        if sender.failed or gave_up or self._heartbeats_unanswered > self._settings.max_retransmissions:
            self._abort("timeout", "the other side does not answer any more")
        elif self._dead_end.is_new(sender.timeouts) and sender.is_stuck(self._path.size):
            self._reply(ARE_YOU_THERE)
            if self._dead_end.is_reached(now, self._last_received_at):
                self._abort("narrow", "the path carries only smaller packets now than what was cut before")

    def _tell_silence(self, now: float) -> None:
        for stream, at in list(self._awaited.items()):
            if at > now:
                break
            del self._awaited[stream]
            self._events.append(StreamSilent(stream))

    def _beat(self, now: float) -> None:
        """Ask whether the other side is there, if nothing came for a while (RFC 9260 section 8.3)."""
        interval = self._settings.heartbeat_interval
        due = self._last_received_at + interval
        if due > now:
            self._heartbeat_at = due
            return
        self._heartbeats_unanswered += 1
        self._reply(ARE_YOU_THERE)
        patience = self._sender.rtt.timeout * 2.0 ** min(self._heartbeats_unanswered, 6)
        self._heartbeat_at = now + min(interval, patience, self._settings.rto_max)


_SENDING_STATES = SETUP_STATES | {AssociationState.ESTABLISHED}

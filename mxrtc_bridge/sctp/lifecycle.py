"""How an association begins and ends (RFC 9260 sections 5 and 9); everything that changes its state is in this file.

Both sides send an INIT at once. Whoever gets the other's COOKIE-ECHO or COOKIE-ACK first is established; the rules of
section 5.2.4 then only ever meet the case in which both tags match, as a restart of the other side cannot happen
without a new DTLS connection, which is a new association. An INIT that would be one is ignored.

The end is a SHUTDOWN, in which everything that was queued is delivered first, or an ABORT, in which nothing is.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from math import inf

from mxrtc_bridge.sctp import chunks, handshake
from mxrtc_bridge.sctp.chunks import MalformedError
from mxrtc_bridge.sctp.congestion import CongestionControl
from mxrtc_bridge.sctp.events import Ended, Established, Event, MessageReceived
from mxrtc_bridge.sctp.handshake import Proposal, RandomValues
from mxrtc_bridge.sctp.numbers import MASK32
from mxrtc_bridge.sctp.packets import PacketWriter
from mxrtc_bridge.sctp.reassembly import InStream
from mxrtc_bridge.sctp.receiver import Receiver
from mxrtc_bridge.sctp.sender import Sender
from mxrtc_bridge.sctp.settings import SctpSettings

_MAX_BACKOFF = 6
_MAX_PACKETS = 16
_MAX_SETUP_WAIT_S = 2.0
"""Between two repetitions in the set-up: a person waits, and there are few."""


class AssociationState(Enum):
    """Where an association is (RFC 9260 section 4)."""

    CLOSED = "closed"
    """Not started."""
    COOKIE_WAIT = "cookie wait"
    """INIT sent."""
    COOKIE_ECHOED = "cookie echoed"
    """COOKIE-ECHO sent; packets to us are accepted."""
    ESTABLISHED = "established"
    SHUTDOWN_PENDING = "shutdown pending"
    """We close, once everything is acknowledged."""
    SHUTDOWN_SENT = "shutdown sent"
    SHUTDOWN_RECEIVED = "shutdown received"
    """The other side closes; what we have sent is still to be acknowledged."""
    SHUTDOWN_ACK_SENT = "shutdown ack sent"
    ENDED = "ended"


SETUP_STATES = frozenset({AssociationState.CLOSED, AssociationState.COOKIE_WAIT, AssociationState.COOKIE_ECHOED})
DATA_STATES = frozenset(
    {AssociationState.ESTABLISHED, AssociationState.SHUTDOWN_PENDING, AssociationState.SHUTDOWN_SENT}
)
OPEN_STATES = DATA_STATES | {AssociationState.SHUTDOWN_RECEIVED}
"""Both halves exist, and may have something to say."""


class Lifecycle:
    """Set-up, shutdown and abort.

    Args:
        settings: ports, limits, times.
        drawn: what nobody can guess.
        congestion: for the sending half.
    """

    def __init__(self, settings: SctpSettings, drawn: RandomValues, congestion: CongestionControl) -> None:
        self._settings = settings
        self._drawn = drawn
        self._state = AssociationState.CLOSED
        self._events: deque[Event | InStream] = deque()
        self._packets: deque[bytes] = deque()
        self._control: deque[bytes] = deque()
        self._control_bytes = 0
        self._proposal = Proposal(
            drawn.tag,
            settings.receive_window,
            settings.max_streams,
            settings.max_streams,
            drawn.initial_tsn,
            interleaving=settings.interleaving,
            partial=True,
            reconfiguration=True,
            zero_checksum=settings.zero_checksum,
            skips_unknown=True,
            pieces=True,
        )
        self._peer_tag = 0
        self._writer: PacketWriter | None = None
        self._sender = Sender(settings, drawn.initial_tsn, congestion)
        self._receiver: Receiver | None = None
        self._interleaving = False
        self._outbound_streams = settings.max_streams
        self._setup_packet = b""
        self._shutdown_chunk = b""
        self._timer_at = inf
        self._timer_failures = 0
        self._last_received_at = 0.0
        self.dropped: dict[str, int] = {}
        """What was refused, by reason; the set of reasons is bounded."""

    @property
    def state(self) -> AssociationState:
        return self._state

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def _reply(self, chunk: bytes) -> None:
        """Queue a control chunk; one that exceeds the limit is not sent: nothing relies on a single answer."""
        if self._control_bytes + len(chunk) > self._settings.max_control_bytes:
            self._drop("control")
            return
        self._control.append(chunk)
        self._control_bytes += len(chunk)

    # Set-up

    def start(self, now: float) -> None:
        """Send the INIT; does nothing if an INIT of the other side was answered and led to an association already."""
        if self._state is not AssociationState.CLOSED:
            return
        self._state = AssociationState.COOKIE_WAIT
        self._last_received_at = now
        writer = PacketWriter(self._settings.local_port, self._settings.remote_port, 0)
        self._setup_packet = writer.write([handshake.format_greeting(chunks.INIT, self._proposal)])
        self._send_setup(now)

    def _send_setup(self, now: float) -> None:
        self._packets.append(self._setup_packet)
        self._set_timer(now, self._settings.setup_timeout)
        self._timer_at = min(self._timer_at, now + _MAX_SETUP_WAIT_S)

    def _set_timer(self, now: float, timeout: float) -> None:
        self._timer_at = now + min(timeout * 2.0 ** min(self._timer_failures, _MAX_BACKOFF), self._settings.rto_max)

    def _timer_expired(self, now: float) -> None:
        self._timer_failures += 1
        limits = self._settings
        setting_up = self._state in (AssociationState.COOKIE_WAIT, AssociationState.COOKIE_ECHOED)
        if self._timer_failures > (limits.max_init_retransmissions if setting_up else limits.max_retransmissions):
            what = "set-up" if setting_up else "shutdown"
            self._abort("timeout", f"no answer to the {what} of the association")
        elif setting_up:
            self._send_setup(now)
        else:
            self._reply(self._shutdown_chunk)
            self._set_timer(now, self._sender.rtt.timeout)

    def _receive_init(self, now: float, body: bytes) -> None:
        if self._state not in SETUP_STATES:
            self._drop("init")
            return
        greeting = handshake.read_greeting(body)
        theirs = greeting.proposal
        cookie = handshake.make_cookie(self._drawn.cookie_key, now, self._drawn.tag, theirs)
        writer = PacketWriter(self._settings.local_port, self._settings.remote_port, theirs.tag)
        answer = handshake.format_greeting(chunks.INIT_ACK, self._proposal, cookie, greeting.unrecognized)
        self._send_alone(writer.write([answer]))

    def _send_alone(self, packet: bytes) -> None:
        """Queue a packet with a tag of its own; one that the other side asks for too often is not sent."""
        if len(self._packets) < _MAX_PACKETS:
            self._packets.append(packet)
        else:
            self._drop("control")

    def _receive_init_ack(self, now: float, body: bytes) -> None:
        if self._state is not AssociationState.COOKIE_WAIT:
            return  # section 5.2.3: a late one
        greeting = handshake.read_greeting(body)
        if not greeting.cookie:
            raise MalformedError("an INIT-ACK without a cookie")
        self._learn(greeting.proposal)
        writer = PacketWriter(self._settings.local_port, self._settings.remote_port, self._peer_tag)
        self._setup_packet = writer.write([chunks.chunk(chunks.COOKIE_ECHO, greeting.cookie)])
        self._timer_failures = 0
        self._state = AssociationState.COOKIE_ECHOED
        self._send_setup(now)

    def _receive_cookie_echo(self, now: float, cookie: bytes) -> None:
        opened = handshake.open_cookie(self._drawn.cookie_key, self._drawn.tag, cookie)
        if opened is None:
            self._drop("cookie")
            return
        made_at, theirs = opened
        if self._state in OPEN_STATES:
            if theirs.tag == self._peer_tag:
                self._reply(chunks.chunk(chunks.COOKIE_ACK))  # section 5.2.4, case D: our COOKIE-ACK was lost
            return
        if self._state not in SETUP_STATES:
            return
        if now - made_at > self._settings.cookie_lifetime:
            writer = PacketWriter(self._settings.local_port, self._settings.remote_port, theirs.tag)
            staleness = int(min((now - made_at - self._settings.cookie_lifetime) * 1e6, MASK32)).to_bytes(4, "big")
            cause = chunks.parameter(chunks.STALE_COOKIE, staleness)
            self._send_alone(writer.write([chunks.chunk(chunks.ERROR, cause)]))
            return
        if self._receiver is None or theirs.tag != self._peer_tag:
            self._learn(theirs)
        self._reply(chunks.chunk(chunks.COOKIE_ACK))
        self._establish(now)

    def _learn(self, theirs: Proposal) -> None:
        """Take over what the other side said of itself."""
        ours = self._settings
        self._peer_tag = theirs.tag
        zero = ours.zero_checksum and theirs.zero_checksum
        self._writer = PacketWriter(ours.local_port, ours.remote_port, theirs.tag, zero_checksum=zero)
        self._interleaving = ours.interleaving and theirs.interleaving
        self._outbound_streams = min(ours.max_streams, theirs.inbound_streams)
        self._sender.scheduler.interleaving = self._interleaving
        self._sender.abandonment.allowed = theirs.partial
        self._sender.peer_window = theirs.window
        self._receiver = Receiver(ours, theirs.initial_tsn, self._message_received, self._drop)
        self._peer_learned(theirs)

    def _peer_learned(self, theirs: Proposal) -> None:
        """For the rest of the association."""
        raise NotImplementedError

    def _message_received(self, message: MessageReceived | InStream) -> None:
        raise NotImplementedError

    def _establish(self, now: float) -> None:
        if self._state not in SETUP_STATES:
            return
        self._state = AssociationState.ESTABLISHED
        self._timer_at = inf
        self._timer_failures = 0
        self._setup_packet = b""
        inbound = self._settings.max_streams
        self._events.append(Established(self._outbound_streams, inbound, self._interleaving))
        self._established(now)

    def _established(self, now: float) -> None:
        """For the rest of the association."""
        raise NotImplementedError

    # Shutdown

    def close(self, now: float) -> None:
        """End in order: what was queued is sent and acknowledged, then ``Ended`` with the code ``closed`` follows.

        An association that is not established yet ends at once.
        """
        if self._state is AssociationState.ESTABLISHED:
            self._state = AssociationState.SHUTDOWN_PENDING
            self._progress_shutdown(now)
        elif self._state in SETUP_STATES:
            self.abort("closed before it was established")

    def _progress_shutdown(self, now: float) -> None:
        """Take the next step once everything of ours is acknowledged."""
        if not self._sender.idle or self._receiver is None:
            return
        if self._state is AssociationState.SHUTDOWN_PENDING:
            self._state = AssociationState.SHUTDOWN_SENT
            self._say_shutdown(now, chunks.tsn_chunk(chunks.SHUTDOWN, self._receiver.cumulative & MASK32))
        elif self._state is AssociationState.SHUTDOWN_RECEIVED:
            self._state = AssociationState.SHUTDOWN_ACK_SENT
            self._say_shutdown(now, chunks.chunk(chunks.SHUTDOWN_ACK))

    def _say_shutdown(self, now: float, chunk: bytes) -> None:
        self._shutdown_chunk = chunk
        self._reply(chunk)
        self._timer_failures = 0
        self._set_timer(now, self._sender.rtt.timeout)

    def _receive_shutdown(self, now: float, body: bytes) -> None:
        if len(body) < 4:
            raise MalformedError(f"a SHUTDOWN of {len(body)} bytes")
        if self._state in (
            AssociationState.ESTABLISHED,
            AssociationState.SHUTDOWN_PENDING,
            AssociationState.SHUTDOWN_RECEIVED,
        ):
            sender = self._sender
            sender.receive_sack(now, int.from_bytes(body[:4], "big"), sender.peer_window, (), ())
            self._state = AssociationState.SHUTDOWN_RECEIVED
            self._progress_shutdown(now)
        elif self._state is AssociationState.SHUTDOWN_SENT:  # section 9.2: both at once
            self._state = AssociationState.SHUTDOWN_ACK_SENT
            self._say_shutdown(now, chunks.chunk(chunks.SHUTDOWN_ACK))

    def _receive_shutdown_ack(self) -> None:
        if self._state in (AssociationState.SHUTDOWN_SENT, AssociationState.SHUTDOWN_ACK_SENT):
            assert self._writer is not None
            self._packets.append(self._writer.write([chunks.chunk(chunks.SHUTDOWN_COMPLETE)]))
            self._end("closed", "the association was shut down")

    def _receive_shutdown_complete(self) -> None:
        if self._state is AssociationState.SHUTDOWN_ACK_SENT:
            self._end("closed", "the other side shut the association down")

    # Abort

    def abort(self, reason: str = "", code: str = "local") -> None:
        """End at once; the other side is told ``reason``, and nothing that was queued is delivered.

        Args:
            reason: a sentence.
            code: of the ``Ended`` that follows.
        """
        self._abort(code, reason or "ended by this side")

    def _abort(self, code: str, reason: str, cause: int = chunks.USER_ABORT) -> None:
        if self._state is AssociationState.ENDED:
            return
        if self._writer is not None:
            self._packets.append(self._writer.write([chunks.abort(cause, reason)]))
        self._end(code, reason)

    def _break_off(self, error: MalformedError) -> None:
        self._abort("violation", f"the other side broke the protocol: {error}", chunks.PROTOCOL_VIOLATION)

    def _receive_abort(self, body: bytes) -> None:
        refused = self._state in (AssociationState.COOKIE_WAIT, AssociationState.COOKIE_ECHOED)
        self._end("refused" if refused else "aborted", f"the other side ended it: {chunks.read_causes(body)}")

    def _end(self, code: str, reason: str) -> None:
        if self._state is AssociationState.ENDED:
            return
        self._state = AssociationState.ENDED
        self._timer_at = inf
        self._control.clear()
        self._control_bytes = 0
        self._events.append(Ended(code, reason))

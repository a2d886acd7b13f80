"""What the engine needs from the outside, as small protocols.

Each has two real users: the bridge (transactions, many sessions) and the ``mxrtc`` client (sync, one session).
The edges implement them without inheriting, and never see the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mxrtc_bridge.core.access.targets import Target
from mxrtc_bridge.core.call.events import CallMessage, CandidateLine
from mxrtc_bridge.core.call.route import CallRoute, Signalling
from mxrtc_bridge.core.errors import RefusalCode
from mxrtc_bridge.core.ids import CallId, EventId, PartyId, UserId
from mxrtc_bridge.core.webrtc.candidate import Candidate
from mxrtc_bridge.core.webrtc.gathering_report import GatheringReport
from mxrtc_bridge.core.webrtc.ice import Path, PathKind
from mxrtc_bridge.core.webrtc.sdp import Description


class Signaller(Protocol):
    """Sends the call events of our side."""

    async def send(self, route: CallRoute, sender: UserId, message: CallMessage, *, step: str) -> object:
        """Send a message; returns when the homeserver has it.

        Args:
            route: what the call goes by.
            sender: our side of the call.
            message: what to say.
            step: names this message within its call, so that a repeated send is the same transaction.

        Raises:
            HomeserverError: it was refused, or the homeserver did not answer in time.
        """
        ...


class ChannelListener(Protocol):
    """Receives what happens on one data channel; methods are called from the loop, must not block and not raise."""

    def channel_opened(self) -> None: ...

    def text_received(self, text: str) -> None: ...

    def binary_received(self, data: bytes) -> None: ...

    def channel_closed(self) -> None:
        """No more calls follow."""
        ...


class Channel(Protocol):
    """One data channel. Messages go out in order; nothing is ever silently dropped."""

    @property
    def label(self) -> str: ...

    @property
    def protocol(self) -> str: ...

    def set_listener(self, listener: ChannelListener) -> None:
        """Attach the receiver; messages that came before are delivered now, in order."""
        ...

    def send(self, message: str | bytes) -> None:
        """Queue a message (at most 64 KiB). Does nothing on a channel that is closed."""
        ...

    def consumed(self, size: int) -> None:
        """Say that ``size`` bytes of received payload have left our memory; reopens the SCTP receive window."""
        ...

    def keep(self, size: int) -> None:
        """Say, when the channel closes, that so many received bytes stay in our memory until they are consumed.

        All others count as consumed when it has closed.
        """
        ...

    def close(self) -> None:
        """Close after what was queued has been sent (RFC 8831 section 6.7)."""
        ...


ABORTED, SHUT_DOWN, DTLS_CLOSED = (
    "the other side ended the association",
    "the other side shut the association down",
    "the other side closed the connection",
)
ENDED_BY_PEER = frozenset({ABORTED, SHUT_DOWN, DTLS_CLOSED})
"""How a connection ends that the other side has closed; one that has died is told otherwise, and later."""


class PeerConnectionListener(Protocol):
    """Receives what happens on one peer connection; same rules as :class:`ChannelListener`."""

    def channel_offered(self, channel: Channel) -> None:
        """The remote side opened a channel: attach a listener or close it, now."""
        ...

    def send_space(self) -> None:
        """The send queue fell below its mark: payload may be queued again."""
        ...

    def connection_lost(self, reason: str) -> None:
        """The connection has ended by itself (consent expired, DTLS alert, SCTP abort); no more calls follow.

        Its channels have been closed just before. One of :data:`ENDED_BY_PEER` is the other side's own act.
        """
        ...


class ChannelOpener(Protocol):
    """What streams and transfers need of a peer connection, be it ours or that of another process."""

    def open_channel(self, label: str, protocol: str) -> Channel:
        """Open a channel, as :meth:`PeerConnection.open_channel` does."""
        ...

    def can_send(self) -> bool:
        """Whether payload may be queued, all channels together; :meth:`PeerConnectionListener.send_space` follows."""
        ...


class PeerConnection(Protocol):
    """One data-only WebRTC connection. The methods stand in the order of a call."""

    async def create_offer(self) -> str:
        """Gather candidates and return the SDP offer; candidates of slow servers are left for later."""
        ...

    async def create_answer(self, offer: Description) -> str:
        """Take the filtered offer, gather, and return the SDP answer."""
        ...

    async def late_candidates(self) -> tuple[CandidateLine, ...]:
        """Wait for candidates of ours that are in no description yet; none: there will be no more."""
        ...

    def gathering_is_over(self) -> bool:
        """Whether no candidate of ours can follow those that were returned."""
        ...

    def gathering_report(self) -> GatheringReport:
        """What came of asking the STUN and TURN servers, so far."""
        ...

    def apply_answer(self, answer: Description) -> None:
        """Take the filtered answer to our offer."""
        ...

    def add_candidates(self, candidates: Sequence[Candidate]) -> None:
        """Add filtered remote candidates; allowed from the first description on until the end."""
        ...

    async def connect(self) -> Path:
        """Run ICE, DTLS and SCTP to the end.

        Raises:
            TransportError: with the code ``ice_failed``, ``ice_timeout``, ``dtls_failed`` or ``sctp_failed``.
        """
        ...

    def set_listener(self, listener: PeerConnectionListener) -> None: ...

    def open_channel(self, label: str, protocol: str) -> Channel:
        """Open a reliable, ordered channel (RFC 8832). Messages queued before it is open are sent afterwards."""
        ...

    def can_send(self) -> bool:
        """Whether the transport's send queue is below its mark, all channels together."""
        ...

    def path(self) -> Path | None:
        """The nominated pair, or None while there is none."""
        ...

    def packet_bytes(self) -> int | None:
        """How large IP packets may be on the path; None while that is not known."""
        ...

    async def close(self) -> None:
        """End the connection and free everything; may be called at any time, any number of times."""
        ...


class PeerConnectionFactory(Protocol):
    """Makes peer connections; knows ICE servers, interfaces and the certificate of ``local``."""

    async def create(self, local: UserId) -> PeerConnection: ...


class SinkListener(Protocol):
    """Receives what a local byte stream does; same rules as :class:`ChannelListener`."""

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> None:
        """The local side will write no more; we may still write."""
        ...

    def bytes_written(self, size: int) -> None:
        """The operating system has taken ``size`` more bytes of what was written."""
        ...

    def sink_closed(self, error: str | None) -> None:
        """The stream is gone; ``error`` is None after an orderly end. No more calls follow."""
        ...


class Sink(Protocol):
    """A local byte stream: a socket that we connected or accepted, or standard input and output."""

    def set_listener(self, listener: SinkListener) -> None:
        """Attach the receiver and start to read."""
        ...

    def write(self, data: bytes) -> None: ...

    def write_eof(self) -> None:
        """Half-close after all that was written."""
        ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def reset(self) -> None:
        """End at once, so that the local side sees a reset and not an orderly end."""
        ...

    def close(self) -> None:
        """End in order, after all that was written."""
        ...


class Connector(Protocol):
    """Connects to the target of a service."""

    async def connect(self, target: Target) -> Sink:
        """Connect within the target's own time limit.

        Raises:
            TargetError: with the reason, in words for the admin's log.
        """
        ...


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call as the call directory keeps it."""

    route: CallRoute
    call_id: CallId
    local: UserId
    remote: UserId
    party_id: PartyId | None
    """Our own party id in the call: needed to hang it up after a restart."""


class CallDirectory(Protocol):
    """Remembers calls durably, so that nothing is acted on twice and nothing stays open after a crash."""

    async def claim(self, record: CallRecord, event_id: EventId, now_ms: int, *, again: bool = False) -> bool:
        """Store the call as open, before anything is done for it.

        Args:
            record: the call; its party id is new for each claim.
            event_id: the invite.
            now_ms: wall-clock milliseconds.
            again: the same claim was asked for before, and nobody knows whether it was stored.

        Returns:
            False if this (route, call, local) or this event was claimed before: a replay, to be ignored. What was
            claimed with the same party id is none, when it is asked for ``again``.

        Raises:
            UnknownOutcomeError: nobody knows whether it is stored.
        """
        ...

    async def end(self, record: CallRecord, reason: str, now_ms: int) -> None:
        """Mark the call as ended; ending twice is harmless."""
        ...

    async def open_calls(self) -> Sequence[CallRecord]:
        """Calls without an end: after a start, those that the last run left behind."""
        ...


class Counters(Protocol):
    """What is counted; every label comes from a bounded set, and nothing names a user."""

    def call(self, outcome: str, signalling: Signalling) -> None:
        """A call has ended."""
        ...

    def session(self, path: PathKind, signalling: Signalling, setup_s: float) -> None:
        """A connection has come up, so many seconds after the call began."""
        ...

    def sessions_live(self, count: int) -> None: ...

    def stream(self, outcome: str) -> None:
        """A stream has ended."""
        ...

    def transfer(self, outcome: str) -> None:
        """A transfer of files has ended."""
        ...

    def streams_live(self, change: int) -> None:
        """So many streams and transfers more, or fewer."""
        ...

    def payload(self, direction: str, size: int) -> None:
        """Payload of streams and transfers; ``direction`` is ``sent`` or ``received``."""
        ...

    def refusal(self, code: RefusalCode) -> None:
        """Something was refused or ignored."""
        ...


class NoCounters:
    """A user's process counts nothing."""

    def call(self, outcome: str, signalling: Signalling) -> None: ...

    def session(self, path: PathKind, signalling: Signalling, setup_s: float) -> None: ...

    def sessions_live(self, count: int) -> None: ...

    def stream(self, outcome: str) -> None: ...

    def transfer(self, outcome: str) -> None: ...

    def streams_live(self, change: int) -> None: ...

    def payload(self, direction: str, size: int) -> None: ...

    def refusal(self, code: RefusalCode) -> None: ...

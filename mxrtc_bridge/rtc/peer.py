"""One data-only peer connection (:class:`mxrtc_bridge.engine.ports.PeerConnection`): ICE, DTLS and SCTP in a row.

The order is fixed: describe, connect (ICE, then DTLS, then SCTP, each with its deadline), serve channels, end. The end
comes once: from :meth:`DataPeerConnection.close`, or by itself and is then reported. Whatever comes first frees
everything.

Must never hand anything of the other side to a library that has not passed the filter
(:mod:`mxrtc_bridge.core.webrtc.sdp`), and never write descriptions, candidates or addresses to the log above DEBUG.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from mxrtc_bridge.core.call.events import CandidateLine
from mxrtc_bridge.core.errors import StateError, TransportError
from mxrtc_bridge.core.webrtc.candidate import Candidate, format_candidate
from mxrtc_bridge.core.webrtc.gathering_report import GatheringReport
from mxrtc_bridge.core.webrtc.ice import Path
from mxrtc_bridge.core.webrtc.sdp import DEFAULT_MID, Description, DescriptionType, Setup, format_description
from mxrtc_bridge.engine.ports import Channel, PeerConnectionListener
from mxrtc_bridge.rtc.association import LOCAL_PORT, PeerAssociation
from mxrtc_bridge.rtc.certificates import DtlsCertificate, local_fingerprint
from mxrtc_bridge.rtc.datagrams import Drops
from mxrtc_bridge.rtc.dtls import RECORD_OVERHEAD, DtlsTransport
from mxrtc_bridge.rtc.ice import IPV4_HEADERS, IPV6_HEADERS, IceConnection, described_candidates, new_session_id
from mxrtc_bridge.rtc.ice_servers import ServerPlan
from mxrtc_bridge.rtc.openssl_dtls import OpensslDtls
from mxrtc_bridge.rtc.settings import RtcSettings

log = logging.getLogger(__name__)


class MakeDtls(Protocol):
    """Makes the DTLS part of a peer connection: an edge of :class:`mxrtc_bridge.rtc.dtls.DtlsTransport`."""

    def __call__(
        self, connection: IceConnection, certificate: DtlsCertificate, *, ended: Callable[[], None]
    ) -> DtlsTransport: ...


class PeerState(Enum):
    """Where a peer connection is in its life."""

    NEW = "new"
    """Nothing was described yet."""
    DESCRIBED = "described"
    """Our description exists or is being made."""
    CONNECTING = "connecting"
    """ICE, DTLS or SCTP is under way."""
    CONNECTED = "connected"
    """Channels may be used."""
    CLOSED = "closed"
    """Over, whether by us, by the other side or by silence."""


class DataPeerConnection:
    """A peer connection that carries data channels only.

    Args:
        settings: deadlines, limits, interfaces.
        certificate: the DTLS identity of our side.
        plan: STUN and TURN servers.
        dtls: makes the DTLS part.
    """

    def __init__(
        self, settings: RtcSettings, certificate: DtlsCertificate, plan: ServerPlan, dtls: MakeDtls = OpensslDtls
    ) -> None:
        self._settings = settings
        self._certificate = certificate
        self._ice = IceConnection(settings, plan, controlling=False)
        self._dtls = dtls(self._ice, certificate, ended=self._dtls_ended)
        self._association = PeerAssociation(self._dtls, settings, self)
        self._listener: PeerConnectionListener | None = None
        self._state = PeerState.NEW
        self._remote: Description | None = None
        self._dtls_server = False
        self._mid = DEFAULT_MID
        self._closing: asyncio.Task[None] | None = None

    @property
    def drops(self) -> Drops:
        """Counts of datagrams that were thrown away."""
        return self._ice.drops

    def set_listener(self, listener: PeerConnectionListener) -> None:
        self._listener = listener

    # Descriptions

    async def create_offer(self) -> str:
        """Gather candidates and return the SDP offer.

        Raises:
            ResourceError: there is no local candidate; the text says why.
            TransportError: ``ice_failed``, the connection was closed meanwhile.
        """
        self._expect(PeerState.NEW)
        self._state = PeerState.DESCRIBED
        self._ice.ice_controlling = True
        await self._gather(patient=True)
        return self._describe(DescriptionType.OFFER, Setup.ACTPASS)

    async def create_answer(self, offer: Description) -> str:
        """Take the filtered offer, gather, and return the SDP answer.

        Raises:
            ResourceError: there is no local candidate; the text says why.
            TransportError: ``ice_failed``, the connection was closed meanwhile.
        """
        self._expect(PeerState.NEW)
        self._state = PeerState.DESCRIBED
        self._mid = offer.mid
        # The answerer speaks first (RFC 8842 section 5.3) unless the offer insists.
        self._dtls_server = offer.setup is Setup.ACTIVE
        # A lite agent never controls (RFC 8445 section 6.1.1).
        self._ice.ice_controlling = offer.ice_lite
        self._apply_remote(offer)
        await self._gather(patient=False)
        return self._describe(DescriptionType.ANSWER, Setup.PASSIVE if self._dtls_server else Setup.ACTIVE)

    async def late_candidates(self) -> tuple[CandidateLine, ...]:
        """Wait for local candidates that are in no description yet; none: there will be no more."""
        found = described_candidates(await self._ice.late_candidates())
        return tuple(CandidateLine(format_candidate(each), self._mid, 0) for each in found)

    def gathering_is_over(self) -> bool:
        """Whether no local candidate can follow those that were returned."""
        return self._ice.gathering_is_over

    def gathering_report(self) -> GatheringReport:
        """What came of asking the STUN and TURN servers, so far."""
        return self._ice.gathering_report()

    def apply_answer(self, answer: Description) -> None:
        """Take the filtered answer to our offer."""
        if self._remote is not None:
            raise StateError("the answer was applied already, or this side has answered itself")
        self._dtls_server = answer.setup is not Setup.PASSIVE
        self._apply_remote(answer)

    def add_candidates(self, candidates: Sequence[Candidate]) -> None:
        """Add filtered remote candidates; ignored after the end."""
        for candidate in candidates:
            self._ice.add_candidate(candidate)

    def _apply_remote(self, remote: Description) -> None:
        self._remote = remote
        self._ice.remote_is_lite = remote.ice_lite
        self._ice.remote_username = remote.ufrag
        self._ice.remote_password = remote.password
        self.add_candidates(remote.candidates)

    async def _gather(self, *, patient: bool) -> None:
        await self._ice.gather_candidates(patient=patient)
        if self._state is PeerState.CLOSED:
            raise TransportError("ice_failed", "the connection was closed while candidates were gathered")

    def _describe(self, kind: DescriptionType, setup: Setup) -> str:
        description = Description(
            mid=self._mid,
            ufrag=self._ice.local_username,
            password=self._ice.local_password,
            ice_lite=False,
            fingerprints=(local_fingerprint(self._certificate),),
            setup=setup,
            sctp_port=LOCAL_PORT,
            max_message_size=self._settings.max_message,
            candidates=described_candidates(self._ice.local_candidates),
            end_of_candidates=self._ice.gathering_is_over,
        )
        return format_description(description, kind, session_id=new_session_id())

    # Connecting

    async def connect(self) -> Path:
        """Run ICE, DTLS and SCTP to the end.

        Raises:
            TransportError: with the code ``ice_failed``, ``ice_timeout``, ``dtls_failed`` or ``sctp_failed``.
        """
        self._expect(PeerState.DESCRIBED)
        remote = self._remote
        if remote is None:
            raise StateError("there is no answer to connect to")
        self._state = PeerState.CONNECTING
        await self._connect_ice()
        await self._dtls.handshake(
            server=self._dtls_server,
            fingerprints=remote.fingerprints,
            timeout_s=self._settings.dtls_timeout_s,
        )
        await self._association.establish(
            dtls_client=not self._dtls_server,
            port=remote.sctp_port,
            max_message_size=remote.max_message_size,
            timeout_s=self._settings.sctp_timeout_s,
        )
        path = self._ice.path()
        # close() may have run meanwhile, in another task.
        if path is None or self._is_closed():
            raise TransportError("ice_failed", "the connection was closed while it was set up")
        self._state = PeerState.CONNECTED
        log.debug("= peer connection open, %s", path)
        return path

    async def _connect_ice(self) -> None:
        timeout_s = self._settings.ice_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._ice.connect()
        except TimeoutError:
            text = f"no path to the other side was found within {timeout_s:g} s"
            raise TransportError("ice_timeout", text) from None
        except ConnectionError as error:
            raise TransportError("ice_failed", "no path to the other side was found") from error

    def path(self) -> Path | None:
        """The nominated pair, or None while there is none."""
        return self._ice.path()

    def packet_bytes(self) -> int | None:
        """How large IP packets may be on the path, as far as that has been looked for; None while it is not known."""
        size, path = self._association.packet_size(), self._ice.path()
        if size is None or path is None:
            return None
        return size + RECORD_OVERHEAD + (IPV6_HEADERS if path.family == "ipv6" else IPV4_HEADERS)

    # Channels

    def open_channel(self, label: str, protocol: str) -> Channel:
        """Open a reliable, ordered channel; what is sent before it is open is sent afterwards.

        Raises:
            StateError: the name is not ASCII or too long, there are too many channels, or the connection has ended.
        """
        if self._is_closed():
            raise StateError("the connection has ended")
        return self._association.open_channel(label, protocol)

    def can_send(self) -> bool:
        """Whether the send queue is below its mark, all channels together."""
        return self._association.can_send()

    # What the association tells (PeerConnectionListener)

    def channel_offered(self, channel: Channel) -> None:
        """The other side has opened a channel."""
        if self._listener is None:
            channel.close()
        else:
            self._listener.channel_offered(channel)

    def send_space(self) -> None:
        """The send queue fell below its mark."""
        if self._listener is not None and not self._is_closed():
            self._listener.send_space()

    def _dtls_ended(self) -> None:
        # Called from the task that reads packets, as its last act; the association is told, and tells us.
        self._association.abort(self._dtls.end_reason)

    # The end

    def connection_lost(self, reason: str) -> None:
        """SCTP has ended by itself."""
        if self._state is not PeerState.CONNECTED:
            return  # connect() reports it, or close() was called
        self._state = PeerState.CLOSED
        log.debug("x peer connection lost: %s", reason)
        self._start_closing()
        if self._listener is not None:
            self._listener.connection_lost(reason)

    async def close(self) -> None:
        """End the connection and free everything; may be called at any time, any number of times."""
        self._state = PeerState.CLOSED
        await asyncio.shield(self._start_closing())

    def _start_closing(self) -> asyncio.Task[None]:
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._shut_down())
        return self._closing

    async def _shut_down(self) -> None:
        await self._association.stop()
        await self._dtls.stop()
        await self._ice.close()

    def _is_closed(self) -> bool:
        return self._state is PeerState.CLOSED

    def _expect(self, state: PeerState) -> None:
        if self._state is not state:
            raise StateError(f"the peer connection is {self._state.value}, not {state.value}")

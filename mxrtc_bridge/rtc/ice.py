"""An ICE connection for the open internet: aioice's agent with bounds where it trusts the network.

What aioice does stays with it: checks, roles, nomination, STUN. What is ours:

- payload is accepted only from addresses with a successful, authenticated check
  (:mod:`mxrtc_bridge.rtc.incoming_payload`);
- candidates, pairs and checked addresses are counted and limited;
- gathering with deadlines, port range, interfaces and several servers (:mod:`mxrtc_bridge.rtc.gathering`);
- consent that survives a slow path, and signs that a path is gone for good (:mod:`mxrtc_bridge.rtc.consent`).

The end of candidates is never declared: `connect` is bounded by its caller's deadline, and a candidate that comes
late, or a peer that only we can be reached by, still gets its chance.

One file: one class that overrides one of aioice, whose inner order its methods follow.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
from collections import Counter
from collections.abc import Iterable

from aioice import stun
from aioice.candidate import Candidate as AioiceCandidate
from aioice.ice import CandidatePair, Connection, StunProtocol, TransportPolicy
from aioice.utils import random_string

from mxrtc_bridge.core.webrtc.candidate import MAX_CANDIDATES, MAX_RELAYED, Candidate
from mxrtc_bridge.core.webrtc.gathering_report import GatheringReport
from mxrtc_bridge.core.webrtc.ice import IcePolicy, Path, PathKind
from mxrtc_bridge.rtc.consent import Consent, PathEnd, Reflexive
from mxrtc_bridge.rtc.datagrams import Address, Drops, GuardedStun
from mxrtc_bridge.rtc.gathering import COMPONENT, Gathering
from mxrtc_bridge.rtc.ice_servers import ServerPlan
from mxrtc_bridge.rtc.incoming_payload import IncomingPayload, RunSink
from mxrtc_bridge.rtc.interfaces import allow_fragments
from mxrtc_bridge.rtc.settings import RtcSettings
from mxrtc_bridge.rtc.udp import UdpTransport

log = logging.getLogger(__name__)

# aioice writes addresses at INFO, and formats every packet at DEBUG.
logging.getLogger("aioice").setLevel(logging.WARNING)

MAX_PAIRS = {("host", "host"): 200, ("host", "srflx"): 64}
"""RFC 8445 section 6.1.2.5 recommends a limit and proposes 100. Each two kinds have places of their own, as those that
lead out of a network come last, and hosts of containers and tunnels can be more than all places."""
MAX_OTHER_PAIRS = 24

SAFE_DATAGRAM = 1200
"""UDP payload that passes almost everywhere (RFC 8831 section 5)."""
SMALLEST_DATAGRAM = 548
"""UDP payload that passes everywhere: an IPv4 host must take 576 bytes (RFC 8899 section 5.1.2, MIN_PLPMTU)."""
ETHERNET_MTU = 1500
"""Larger packets exist, but other implementations have buffers of little more than this."""
IPV4_HEADERS, IPV6_HEADERS = 28, 48

RELAY_CLOSE_S = 1.5
"""How long a TURN server may take to confirm that an allocation ends; then it expires there by itself."""

FIRST_WAIT_S, LONGEST_FIRST_WAIT_S = 0.25, 0.5
"""How long the first answer of a handshake is waited for. What takes longer is no round trip for sure: the check itself
was repeated then."""

CHECK_PACE_S = 0.05
"""For each pair: with many of them checks are repeated later, and not all at once (RFC 8445 section 14.3)."""

MAX_ROLE_CONFLICTS = 3
"""Of one check, before it has failed. One is usual; aioice would go on for as long as the other side says so."""


class IceConnection(Connection):
    """One ICE agent with one component.

    Args:
        settings: policy, interfaces, ports, deadlines.
        plan: STUN and TURN servers.
        controlling: the initial role; the offerer's is controlling (RFC 8445 section 6.1.1).
    """

    def __init__(self, settings: RtcSettings, plan: ServerPlan, *, controlling: bool) -> None:
        relay_only = settings.policy is IcePolicy.RELAY
        super().__init__(
            ice_controlling=controlling,
            transport_policy=TransportPolicy.RELAY if relay_only else TransportPolicy.ALL,
            local_username=random_string(8),
            local_password=random_string(24),
        )
        self.drops = Drops()
        self.path_end: PathEnd | None = None
        """Why the path has ended by itself, if it has."""
        self._settings = settings
        self._gathering = Gathering(self, settings, plan)
        self._payload = IncomingPayload(
            self._queue, self.drops, lambda address: any(source == address for _, source, _ in self._early_checks)
        )
        self._consent = Consent(self, settings)
        self._giving_back: asyncio.Task[None] | None = None
        self._check_s = LONGEST_FIRST_WAIT_S
        self._conflicts: dict[CandidatePair, int] = {}  # of the checks that are under way
        self._loop = asyncio.get_running_loop()

    @property
    def role(self) -> str:
        """``controlling`` or ``controlled``: what aiortc's DTLS transport asks its ICE transport for."""
        return "controlling" if self.ice_controlling else "controlled"

    # Gathering and candidates

    async def gather_candidates(self, *, patient: bool = True) -> None:
        """Gather local candidates; call once.

        Args:
            patient: see :meth:`mxrtc_bridge.rtc.gathering.Gathering.run`.

        Raises:
            ResourceError: there is none; the text says why.
        """
        if self._local_candidates_start:
            return
        self._local_candidates_start = True
        try:
            self._local_candidates += await self._gathering.run(patient=patient)
        finally:
            if self._closing:
                await self.close()
        self._local_candidates_end = True

    async def late_candidates(self) -> list[AioiceCandidate]:
        """Wait for local candidates that come after the others were described; none: there will be no more."""
        return await self._gathering.late()

    @property
    def gathering_is_over(self) -> bool:
        """Whether the local candidates are all that there will be."""
        return self._gathering.is_over

    def gathering_report(self) -> GatheringReport:
        """What came of asking the servers, so far."""
        return self._gathering.report()

    def add_protocol(self, protocol: GuardedStun) -> None:
        """Take a socket into the connection; one that comes late is paired with the candidates that are known."""
        self._protocols.append(protocol)
        if hasattr(protocol, "local_candidate"):
            for candidate in self._remote_candidates:
                self._pair_remote_candidate(candidate)
            self.sort_check_list()

    async def connect(self) -> None:
        """Find a path; once there is one, no server is asked any more.

        Raises:
            ConnectionError: there is none, or the connection was closed meanwhile.
        """
        await super().connect()
        if self._closing and self._query_consent_task is not None:
            self._query_consent_task.cancel()  # begun after the end, which has not seen it
            raise ConnectionError("the connection was closed while a path was looked for")
        await self._gathering.stop()

    def add_candidate(self, candidate: Candidate) -> None:
        """Add a remote candidate that passed the filter; beyond the limit of its kind and family it is dropped."""
        if self._closing:
            return
        host = str(candidate.address)
        relayed = candidate.type == "relay"
        like_it = [
            known
            for known in self._remote_candidates
            if (known.type == "relay") == relayed and (":" in known.host) == (":" in host)
        ]
        if len(like_it) >= (MAX_RELAYED if relayed else MAX_CANDIDATES):
            self.drops.excess += 1
            return
        self._payload.expect((host, candidate.port))
        self._add_remote_candidate(
            AioiceCandidate(
                foundation=candidate.foundation,
                component=COMPONENT,
                transport="udp",
                priority=candidate.priority,
                host=host,
                port=candidate.port,
                type=candidate.type,
            ),
            host,
        )

    def _pair_remote_candidate(self, remote_candidate: AioiceCandidate) -> None:
        taken = Counter((pair.protocol.local_candidate.type, pair.remote_candidate.type) for pair in self._check_list)
        for protocol in self._protocols:
            local = protocol.local_candidate
            if not local.can_pair_with(remote_candidate) or self._find_pair(protocol, remote_candidate):
                continue
            kinds = local.type, remote_candidate.type
            if taken[kinds] < MAX_PAIRS.get(kinds, MAX_OTHER_PAIRS):
                taken[kinds] += 1
                self._check_list.append(CandidatePair(protocol, remote_candidate))
            else:
                self.drops.excess += 1

    # Checks

    def check_incoming(self, message: stun.Message, addr: Address, protocol: StunProtocol) -> None:
        """Handle a check of the other side, already authenticated with our password."""
        if "PRIORITY" not in message.attributes or not self._payload.may_trust(addr):
            self.drops.excess += 1
            return
        self._payload.trust(addr)
        self.note_alive()
        self._repeat_check(protocol, addr)
        super().check_incoming(message, addr, protocol)

    def _repeat_check(self, protocol: StunProtocol, address: Address) -> None:
        """Send our check again, if it has no answer; so whoever asks us is asked at once (RFC 8445 section 7.3.1.4).

        aioice leaves it to the timer, which doubles each time.
        """
        if any(
            pair.protocol is protocol and pair.remote_addr == address and pair.state == CandidatePair.State.IN_PROGRESS
            for pair in self._check_list
        ):
            for transaction in protocol.transactions.values():
                if getattr(transaction, "_Transaction__addr") == address:  # noqa: B009 - private to its class
                    protocol.send_stun(getattr(transaction, "_Transaction__request"), address)  # noqa: B009

    def check_complete(self, pair: CandidatePair) -> None:
        """Handle the end of one of our checks."""
        if pair.state == CandidatePair.State.SUCCEEDED:
            self._payload.trust(pair.remote_addr)
        super().check_complete(pair)

    async def check_start(self, pair: CandidatePair) -> None:
        """Run one check; a socket that cannot send fails the pair and not the task."""
        conflicts = self._conflicts.get(pair)
        if conflicts is not None:
            # The same check once more, in the other role, as the answer to it was a role conflict.
            self._conflicts[pair] = conflicts + 1
            if conflicts < MAX_ROLE_CONFLICTS:
                await super().check_start(pair)
            else:
                self.check_state(pair, CandidatePair.State.FAILED)
                self.check_complete(pair)
            return
        began = self._loop.time()
        self._conflicts[pair] = 0
        asking = asyncio.create_task(self._keep_asking(pair))
        try:
            await super().check_start(pair)
            if pair.state == CandidatePair.State.SUCCEEDED:
                self._check_s = min(self._check_s, self._loop.time() - began)
        except (OSError, ValueError) as error:
            log.debug("check failed: %s", type(error).__name__)
            self.check_state(pair, CandidatePair.State.FAILED)
            self.check_complete(pair)
        finally:
            asking.cancel()
            self._conflicts.pop(pair, None)

    async def _keep_asking(self, pair: CandidatePair) -> None:
        """Repeat a check at the rate of RFC 8445 section 14.3 for as long as it lasts, without doubling the pause."""
        while True:
            await asyncio.sleep(max(self._settings.check_again_s, CHECK_PACE_S * len(self._check_list)))
            self._repeat_check(pair.protocol, pair.remote_addr)

    # Payload

    def data_received(self, data: bytes, component: int) -> None:  # noqa: ARG002 - called by aioice for what is not STUN
        """Drop what has the first byte of STUN and is none: nothing else of ours begins so (RFC 7983)."""
        self.drops.malformed += 1

    def run_received(self, data: bytes, size: int, address: Address) -> None:
        """Take payload that a socket has read."""
        self._payload.run_received(data, size, address)

    def runs_ended(self) -> None:
        """The socket has read a batch."""
        self._payload.runs_ended()

    def payload_received(self, data: bytes, address: Address) -> None:
        """Take one datagram that came through a relay."""
        self._payload.one_received(data, address)

    def attach(self, sink: RunSink) -> None:
        """DTLS is up: hand it what was queued, and everything from now on.

        The queue then only says, by waking whoever reads from it, that the connection has ended.
        """
        self._payload.attach(sink)

    def detach(self) -> None:
        """Hand out nothing any more."""
        self._payload.detach()

    def wake(self) -> None:
        """End the wait of whoever reads from the queue, with a ConnectionError."""
        self._queue.put_nowait(None)

    def send_now(self, data: bytes) -> None:
        """Send a datagram on the nominated pair.

        Raises:
            ConnectionError: there is none.
        """
        self.send_run(data, len(data))

    def send_run(self, data: bytes, size: int) -> None:
        """Send datagrams of ``size`` bytes each, of which the last may be shorter, on the nominated pair.

        Raises:
            ConnectionError: there is none.
        """
        pair = self._nominated.get(COMPONENT)
        if pair is None:
            raise ConnectionError("no nominated pair")
        transport = pair.protocol.transport
        if isinstance(transport, UdpTransport):
            transport.send_run(data, size, pair.remote_addr)
        else:
            for start in range(0, len(data), size):
                transport.sendto(data[start : start + size], pair.remote_addr)

    def send_whole(self, data: bytes) -> None:
        """Send a datagram on the nominated pair that is lost where it would have to be fragmented.

        Raises:
            ConnectionError: there is none.
        """
        pair = self._nominated.get(COMPONENT)
        transport = pair.protocol.transport if pair is not None else None
        if pair is not None and isinstance(transport, UdpTransport):
            transport.send_whole(data, pair.remote_addr)
        else:
            self.send_now(data)  # the socket of a relay is not ours; what it carries is small

    def largest_datagram(self) -> int:
        """How large datagrams may be that are worth a probe on the nominated pair, in bytes of UDP payload."""
        pair = self._nominated.get(COMPONENT)
        if pair is None or not isinstance(pair.protocol.transport, UdpTransport):
            return SAFE_DATAGRAM  # a relay adds a header of its own, and its socket is not ours
        if not allow_fragments(pair.protocol.transport.get_extra_info("socket"), allowed=True):
            return SAFE_DATAGRAM
        return ETHERNET_MTU - (IPV6_HEADERS if ":" in pair.remote_addr[0] else IPV4_HEADERS)

    @property
    def first_wait_s(self) -> float:
        """How long to wait for the first answer of a handshake before it is asked for again."""
        return min(self.timeout_s, LONGEST_FIRST_WAIT_S)

    @property
    def timeout_s(self) -> float:
        """How long an answer may take, as far as the checks say: a second (RFC 6298 section 2) at most."""
        return min(max(3 * self._check_s, FIRST_WAIT_S), 1.0)

    def path(self) -> Path | None:
        """The nominated pair in words, or None."""
        pair = self._nominated.get(COMPONENT)
        if pair is None:
            return None
        local, remote = pair.local_candidate, pair.remote_candidate
        relayed = "relay" in (local.type, remote.type)
        return Path(
            kind=PathKind.RELAYED if relayed else PathKind.DIRECT,
            local=local.type,
            remote=remote.type,
            family="ipv6" if ":" in local.host else "ipv4",
        )

    # Consent

    def note_alive(self) -> None:
        """An authenticated packet came from the other side."""
        self._consent.note_alive()

    def port_refused(self, address: Address) -> None:
        """It was said that nobody has the port at ``address``."""
        self._consent.note_refused(address)

    async def query_consent(self) -> None:
        """Watch over the path until it ends."""
        spare = self._loop.call_later(self._settings.spare_relay_s, self._give_back_spare_relays)
        try:
            self.path_end = await self._consent.watch()
        finally:
            spare.cancel()
        self.wake()

    def _give_back_spare_relays(self) -> None:
        """End the allocations that the path does not need: a server has a limited number of them, and so has a user."""
        used = {pair.protocol for pair in self._nominated.values()}
        spare = [each for each in self._protocols if each.local_candidate.type == "relay" and each not in used]
        for protocol in spare:
            self._protocols.remove(protocol)
        if spare:
            self._giving_back = asyncio.create_task(_close_relays(spare), name="spare-relays")

    def nominated_pairs(self) -> list[CandidatePair]:
        """Return the pairs that are in use."""
        return list(self._nominated.values())

    def reflexive(self, protocol: StunProtocol) -> Reflexive | None:
        """Return what a STUN server has said of a socket."""
        return self._gathering.reflexive.get(protocol)

    async def ask_consent(self, pair: CandidatePair, retransmissions: int) -> stun.Message:
        """Ask whether we may send on a pair; return the authenticated answer.

        Raises:
            TransactionError: there is none.
        """
        assert self.remote_password is not None
        answer, _ = await pair.protocol.request(
            # Nominated again each time: after a NAT has forgotten us it comes from another port, and the other side
            # goes on there once its own check of that has been answered.
            self.build_request(pair, nominate=self.ice_controlling),
            pair.remote_addr,
            integrity_key=self.remote_password.encode(),
            retransmissions=retransmissions,
        )
        return answer

    # End

    async def close(self) -> None:
        """Close all sockets and end all tasks; relayed ones are given a moment to say goodbye to their server."""
        self._closing = True
        self._payload.detach()
        await self._gathering.stop()
        relays = [p for p in self._protocols if p.local_candidate.type == "relay"]
        for protocol in relays:
            self._protocols.remove(protocol)
        await super().close()
        if relays:
            await _close_relays(relays)
        if self._giving_back is not None:
            await self._giving_back


async def _close_relays(relays: list[StunProtocol]) -> None:
    closing = [asyncio.create_task(protocol.close()) for protocol in relays]
    _, late = await asyncio.wait(closing, timeout=RELAY_CLOSE_S)
    for protocol in relays:
        # A server that is gone would hold these tasks for a minute; aioice offers no other way to end them.
        leftovers = set(getattr(protocol.transport, "_TurnTransport__send_tasks"))  # noqa: B009
        close_task = getattr(protocol.transport, "_TurnTransport__close_task")  # noqa: B009
        if close_task is not None:
            leftovers.add(close_task)
        for task in leftovers:
            task.cancel()
        await asyncio.gather(*leftovers, return_exceptions=True)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)


def described_candidates(candidates: Iterable[AioiceCandidate]) -> tuple[Candidate, ...]:
    """Return local candidates as values for a description."""
    return tuple(
        Candidate(
            foundation=c.foundation,
            component=c.component,
            priority=c.priority,
            address=ipaddress.ip_address(c.host),
            port=c.port,
            type=c.type,
            related_address=c.related_address,
            related_port=c.related_port,
        )
        for c in candidates
    )


def new_session_id() -> int:
    """Return a session id for the origin line: 63 random bits (RFC 9429 section 5.2.1)."""
    return secrets.randbits(63)

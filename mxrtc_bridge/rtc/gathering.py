"""Gathers local candidates: host, server-reflexive and relayed (RFC 8445 section 5.1.1).

All servers are asked at once, each at all of its addresses. The description waits for one candidate of every kind that
may be expected, up to ``gather_timeout_s``; what a slow server gives after that follows by itself (RFC 8838). As soon
as every kind is there, the slow rest gets only a moment: a container bridge without a route to the STUN server must
not delay every answer. A server that does not answer costs time, never the call; only where there is nothing else to
offer it is waited for as long as it is asked.

Related addresses are not shown: nothing uses them, and they would carry local addresses into the room's history.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from typing import Protocol

from aioice import stun
from aioice.candidate import Candidate, candidate_foundation, candidate_priority
from aioice.ice import StunProtocol

from mxrtc_bridge.core.errors import Lack, ResourceError, TransportError, lack_of
from mxrtc_bridge.core.webrtc.address_policy import is_nearer
from mxrtc_bridge.core.webrtc.gathering_report import GatheringReport, ServerAttempt, ServerOutcome
from mxrtc_bridge.core.webrtc.ice import IcePolicy, IpAddress
from mxrtc_bridge.rtc.consent import Reflexive
from mxrtc_bridge.rtc.datagrams import Address, DatagramReceiver, GuardedStun
from mxrtc_bridge.rtc.happy_eyeballs import ADDRESS_HEAD_START_S, first_to_succeed, resolve
from mxrtc_bridge.rtc.ice_servers import ServerPlan, StunServer, TurnServer
from mxrtc_bridge.rtc.interfaces import allowed_addresses, bind_udp, choose_addresses, local_addresses, shown_address
from mxrtc_bridge.rtc.settings import RtcSettings
from mxrtc_bridge.rtc.turn import SERVER_ERRORS, allocate, detail_of, forbids_all, outcome_of, without_addresses
from mxrtc_bridge.rtc.udp import RunReceiver, UdpTransport

log = logging.getLogger(__name__)

STRAGGLER_S = 0.15
"""How long answers that add nothing new in kind are waited for."""

TURN_HEAD_START_S = 0.3
"""Of a TURN server, before the next one in the list is tried beside it. Short, as TLS comes third and needs five round
trips; not shorter, as each server that is asked in vain has work with it."""

BATCH_S = 0.1
"""How long a late candidate waits for others, so that they go out in one event."""

COMPONENT = 1
"""Data channels have one component: everything is multiplexed on it."""


class CandidateOwner(DatagramReceiver, RunReceiver, Protocol):
    """The connection that candidates are gathered for; it owns the sockets from the moment they exist."""

    def add_protocol(self, protocol: GuardedStun) -> None: ...


class Gathering:
    """One run of gathering: :meth:`run` once, then :meth:`late` until it returns nothing; :meth:`stop` at any time.

    Args:
        owner: gets every socket at once, so that closing it in the middle leaks nothing.
        settings: interfaces, ports, policy and the deadlines.
        plan: the servers to ask.
    """

    def __init__(self, owner: CandidateOwner, settings: RtcSettings, plan: ServerPlan) -> None:
        self._owner = owner
        self._settings = settings
        self._plan = plan
        self._found: dict[Address, Candidate] = {}
        self._told = 0
        self._left_out = 0
        self._missing: set[str] = set()
        self._changed = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None
        self._attempts: dict[str, ServerAttempt] = {}
        self._ways_told: set[tuple[str, bool]] = set()
        self._relays: dict[str, asyncio.BaseTransport] = {}
        self.reflexive: dict[StunProtocol, Reflexive] = {}
        """What the first STUN server to answer has said of each socket."""

    @property
    def is_over(self) -> bool:
        """Whether no further candidate can come."""
        return self._asking is None or self._asking.done()

    def report(self) -> GatheringReport:
        """What has come of it so far."""
        forbid = {uri for uri, transport in self._relays.items() if forbids_all(transport)}
        return GatheringReport(
            attempts=tuple(
                replace(each, outcome=ServerOutcome.FORBIDS) if each.uri in forbid else each
                for each in self._attempts.values()
            ),
            kinds=tuple(dict.fromkeys(candidate.type for candidate in self._found.values())),
            addresses_left_out=self._left_out,
            unusable=self._plan.ignored,
        )

    async def run(self, *, patient: bool = True) -> list[Candidate]:
        """Return the local candidates for the description; afterwards servers may still be asked.

        Args:
            patient: whether a description without any waits for the first as long as servers are asked. That of an
                answer must not, as callers take silence for somebody who is not there: then it has none.

        Raises:
            ResourceError: there is not a single one; the text says why.
        """
        problem: ResourceError | None = None
        hosts: list[GuardedStun] = []
        if self._settings.policy is IcePolicy.ALL:
            try:
                hosts = self._open_host_sockets()
            except ResourceError as error:
                problem = error
        self._ask_servers(hosts)
        try:
            await self._wait(lambda: not self._missing or self.is_over, self._settings.gather_timeout_s)
            if not self._missing:
                await self._wait(lambda: self.is_over, STRAGGLER_S)
            if patient and problem is None:
                await self._wait(lambda: bool(self._found) or self.is_over, self._settings.servers_timeout_s)
        except BaseException:
            await self.stop()
            raise
        if not self._missing or problem is not None or self.is_over:
            await self._finish()
        if not self._found and self.is_over:
            raise problem or ResourceError(Lack.RELAY, self._no_relay_text())
        return self._untold()

    async def late(self) -> list[Candidate]:
        """Wait for candidates that :meth:`run` did not return, nor this method before; none: there will be no more.

        Raises:
            TransportError: ``ice_failed``, there is not a single one in the end.
        """
        longest_s = 2 * self._settings.servers_timeout_s  # for the list of servers, and for the servers themselves
        await self._wait(lambda: len(self._found) > self._told or self.is_over, longest_s)
        await self._wait(lambda: self.is_over, BATCH_S)
        if not self._missing or self.is_over:
            await self._finish()
        if not self._found and self._asking is not None and not self._asking.cancelled():
            raise TransportError("ice_failed", self._no_relay_text())
        return self._untold()

    async def _finish(self) -> None:
        await self.stop()
        if self._asking is not None and not self._asking.cancelled():
            self._asking.result()  # a defect of ours

    async def stop(self) -> None:
        """Ask no server any more."""
        if self._plan.later is not None:
            self._plan.later.cancel()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _untold(self) -> list[Candidate]:
        candidates = list(self._found.values())[self._told :]
        self._told += len(candidates)
        return candidates

    async def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()

    def _no_relay_text(self) -> str:
        if not self._plan.turn:
            return "the policy allows relayed candidates only, but no usable TURN server is configured"
        faults = dict.fromkeys(each.outcome.value for each in self._attempts.values() if each.relays)
        return f"none of {len(self._plan.turn)} TURN servers gave a relayed address ({', '.join(faults)})"

    def _add(self, candidate: Candidate) -> None:
        key = (candidate.host, candidate.port)
        # A reflexive address equal to the host's own is redundant (RFC 8445 section 5.1.3).
        self._found.setdefault(key, candidate)
        self._no_longer_missing(candidate.type)

    def _no_longer_missing(self, kind: str) -> None:
        self._missing.discard(kind)
        self._changed.set()

    # Host candidates

    def _open_host_sockets(self) -> list[GuardedStun]:
        available = local_addresses()
        addresses = choose_addresses(available, self._settings.interfaces)
        self._left_out = len(allowed_addresses(available, self._settings.interfaces)) - len(addresses)
        protocols: list[GuardedStun] = []
        failure: OSError | None = None
        for index, address in enumerate(addresses):
            try:
                protocols.append(self._open_host_socket(address, 65535 - index))
            except OSError as error:
                failure = failure if failure is not None and failure.errno == errno.EADDRINUSE else error
                log.debug("could not bind a UDP socket: %s", without_addresses(error))
        if not protocols:
            raise self._no_socket(failure) from failure
        return protocols

    def _no_socket(self, failure: OSError | None) -> ResourceError:
        ports = self._settings.port_range
        if ports is not None and failure is not None and failure.errno == errno.EADDRINUSE:
            free = f"no free UDP port within {ports[0]}-{ports[1]}"
            return ResourceError(Lack.PORTS, f"{free}; every call takes one port per address: widen port_range")
        text = f"no UDP socket could be opened: {failure.strerror if failure else 'no address'}"
        return ResourceError(lack_of(failure) or Lack.SOCKETS, text)

    def _open_host_socket(self, address: IpAddress, preference: int) -> GuardedStun:
        protocol = GuardedStun(self._owner)
        transport = UdpTransport(bind_udp(address, self._settings.port_range), protocol, self._owner)
        host, port = transport.get_extra_info("sockname")[:2]
        priority = candidate_priority(COMPONENT, "host", preference)
        protocol.local_candidate = _candidate("host", host, port, priority)
        self._owner.add_protocol(protocol)
        shown = shown_address(address, self._settings)
        self._add(_candidate("host", str(shown), port, priority))
        return protocol

    # Servers

    def _ask_servers(self, hosts: list[GuardedStun]) -> None:
        self._expect(hosts)
        if self._plan.later is not None:
            self._missing.add("servers")
        if self._plan.turn or (hosts and self._plan.stun) or self._plan.later is not None:
            self._asking = asyncio.create_task(self._ask(hosts), name="ask-ice-servers")
            self._asking.add_done_callback(lambda _task: self._changed.set())

    def _expect(self, hosts: list[GuardedStun]) -> None:
        if hosts and any(server.expected for server in self._plan.stun):
            self._missing.add("srflx")
        if self._plan.turn:
            self._missing.add("relay")

    async def _ask(self, hosts: list[GuardedStun]) -> None:
        if self._plan.later is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.servers_timeout_s):
                    self._plan = await self._plan.later
            self._expect(hosts)
            self._no_longer_missing("servers")
        try:
            async with asyncio.timeout(self._settings.servers_timeout_s), asyncio.TaskGroup() as asking:
                asking.create_task(self._ask_all_stun(hosts))
                asking.create_task(self._ask_turn())
        except TimeoutError:
            for attempt in list(self._attempts.values()):
                self._note(attempt.uri, ServerOutcome.TIMED_OUT)

    def _note(self, uri: str, outcome: ServerOutcome, detail: str = "") -> None:
        """Remember what came of a server: the first failure of its addresses counts, unless another works."""
        known = self._attempts.get(uri)
        if known is None or known.outcome is ServerOutcome.PENDING or outcome is ServerOutcome.OK:
            self._attempts[uri] = ServerAttempt(uri, outcome, detail)

    def _note_failure(self, server: StunServer | TurnServer, error: BaseException) -> None:
        self._note(server.uri, outcome_of(error), detail_of(error))

    async def _ask_all_stun(self, hosts: list[GuardedStun]) -> None:
        async with asyncio.TaskGroup() as asking:
            for server in self._plan.stun if hosts else ():
                asking.create_task(self._ask_stun(server, hosts))
        self._no_longer_missing("srflx")

    async def _ask_stun(self, server: StunServer, hosts: list[GuardedStun]) -> None:
        self._note(server.uri, ServerOutcome.PENDING)
        try:
            addresses = await resolve(server.host, server.port)
        except SERVER_ERRORS as error:
            log.debug("STUN server not resolved: %s", without_addresses(error))
            self._note_failure(server, error)
            return
        async with asyncio.TaskGroup() as asking:
            for host in hosts:
                near = [address for address in addresses if _same_family(host, address)]
                attempts = [partial(self._ask_stun_from, host, server, address) for address in near]
                asking.create_task(first_to_succeed(attempts, ADDRESS_HEAD_START_S))
        self._note(server.uri, ServerOutcome.UNREACHABLE)  # no address of ours has its family

    async def _ask_stun_from(self, protocol: GuardedStun, server: StunServer, address: Address) -> bool:
        request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
        again = asyncio.create_task(self._ask_again(protocol, request, address))
        try:
            response, _ = await protocol.request(request, address)
            host, port = response.attributes["XOR-MAPPED-ADDRESS"]
        except SERVER_ERRORS as error:
            log.debug("STUN server gave no address: %s", type(error).__name__)
            self._note_failure(server, error)
            return False
        finally:
            again.cancel()
        self._note(server.uri, _given(host, address))
        self.reflexive.setdefault(protocol, Reflexive(address, (host, port)))
        base = protocol.local_candidate
        priority = candidate_priority(COMPONENT, "srflx", base.priority >> 8 & 0xFFFF)
        self._add(_candidate("srflx", host, port, priority, base=base.host))
        return True

    async def _ask_again(self, protocol: GuardedStun, request: stun.Message, address: Address) -> None:
        """Ask at a steady pace, as STUN itself doubles the pause (RFC 8489 section 6.2.1).

        Where a fifth is lost each way, all its four questions are lost in one of sixty calls.
        """
        while True:
            await asyncio.sleep(self._settings.check_again_s)
            protocol.send_stun(request, address)

    async def _ask_turn(self) -> None:
        """Try the TURN servers in order, each with a head start, until one has given a relayed address."""
        await first_to_succeed([partial(self._allocate, server) for server in self._plan.turn], TURN_HEAD_START_S)
        self._no_longer_missing("relay")

    async def _allocate(self, server: TurnServer) -> bool:
        self._note(server.uri, ServerOutcome.PENDING)
        try:
            addresses = await resolve(server.host, server.port)
        except SERVER_ERRORS as error:
            self._log_no_relay(server, error)
            return False
        return await first_to_succeed(
            [partial(self._allocate_at, server, address) for address in addresses],
            ADDRESS_HEAD_START_S,
        )

    async def _allocate_at(self, server: TurnServer, address: Address) -> bool:
        protocol = GuardedStun(self._owner)
        try:
            await allocate(server, address, protocol, channel_refresh_s=self._settings.channel_refresh_s)
        except SERVER_ERRORS as error:
            self._log_no_relay(server, error)
            return False
        host, port = protocol.transport.get_extra_info("sockname")
        self._note(server.uri, _given(host, address))
        candidate = _candidate("relay", host, port, candidate_priority(COMPONENT, "relay"))
        protocol.local_candidate = candidate
        self._relays[server.uri] = protocol.transport
        self._owner.add_protocol(protocol)
        self._add(candidate)
        return True

    def _log_no_relay(self, server: TurnServer, error: BaseException) -> None:
        # Once for each way: each of twelve servers may have six addresses, and a caller may call again and again.
        way, words = (server.transport, server.tls), without_addresses(error)
        if way not in self._ways_told:
            self._ways_told.add(way)
            log.info("TURN server over %s gave no relayed address: %s", server.transport, words)
        else:
            log.debug("another TURN server over %s gave no relayed address: %s", server.transport, words)
        self._note_failure(server, error)


def _candidate(kind: str, host: str, port: int, priority: int, *, base: str | None = None) -> Candidate:
    """Describe an address; ``base`` is the one of ours that it leads to, if that is another."""
    related = None
    if kind != "host":
        related = "0.0.0.0" if _version(host) == 4 else "::"  # noqa: S104 - hidden, RFC 8839 section 5.1
    return Candidate(
        foundation=candidate_foundation(kind, "udp", base or host),
        component=COMPONENT,
        transport="udp",
        priority=priority,
        host=host,
        port=port,
        type=kind,
        related_address=related,
        related_port=None if related is None else 9,
    )


def _given(host: str, server: Address) -> ServerOutcome:
    """What it means that a server gives an address."""
    nearer = is_nearer(ip_address(host), ip_address(server[0]))
    return ServerOutcome.PRIVATE if nearer else ServerOutcome.OK


def _version(host: str) -> int:
    return 6 if ":" in host else 4


def _same_family(protocol: GuardedStun, address: Address) -> bool:
    return _version(protocol.local_candidate.host) == _version(address[0])

"""Gathers local candidates: host, server-reflexive and relayed (RFC 8445 section 5.1.1).

All servers are asked at once and bounded by one deadline. As soon as every kind of candidate that may be expected is
there, the slow rest gets only a moment: a container bridge without a route to the STUN server must not delay every
answer. A server that does not answer costs time, never the call.

Related addresses are not shown: nothing uses them, and they would carry local addresses into the room's history.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Coroutine
from typing import Protocol

from aioice import stun, turn
from aioice.candidate import Candidate, candidate_foundation, candidate_priority

from mxrtc_bridge.core.errors import TransportError
from mxrtc_bridge.core.webrtc.ice import IcePolicy, IpAddress
from mxrtc_bridge.engine.outside import in_one_thread
from mxrtc_bridge.rtc.datagrams import Address, DatagramReceiver, GuardedStun
from mxrtc_bridge.rtc.ice_servers import ServerPlan, StunServer, TurnServer
from mxrtc_bridge.rtc.interfaces import bind_udp, choose_addresses, local_addresses, shown_address
from mxrtc_bridge.rtc.settings import RtcSettings
from mxrtc_bridge.rtc.udp import RunReceiver, UdpTransport

log = logging.getLogger(__name__)

STRAGGLER_S = 0.3
"""How long answers that add nothing new in kind are waited for."""

TURN_STAGGER_S = 0.7
"""Head start of a TURN server before the next one in the list is tried beside it."""

COMPONENT = 1
"""Data channels have one component: everything is multiplexed on it."""

_SERVER_ERRORS = (OSError, ValueError, LookupError, stun.TransactionError, asyncio.IncompleteReadError)


class CandidateOwner(DatagramReceiver, RunReceiver, Protocol):
    """The connection that candidates are gathered for; it owns the sockets from the moment they exist."""

    def add_protocol(self, protocol: GuardedStun) -> None: ...


class Gathering:
    """One run of gathering.

    Args:
        owner: gets every socket at once, so that closing it in the middle leaks nothing.
        settings: interfaces, ports, policy and the deadline.
        plan: the servers to ask.
    """

    def __init__(self, owner: CandidateOwner, settings: RtcSettings, plan: ServerPlan) -> None:
        self._owner = owner
        self._settings = settings
        self._plan = plan
        self._found: dict[Address, Candidate] = {}
        self._missing: set[str] = set()
        self._complete = asyncio.Event()

    async def run(self) -> list[Candidate]:
        """Return the local candidates.

        Raises:
            TransportError: ``ice_failed``, when there is not a single one; the text says why.
        """
        problem: TransportError | None = None
        hosts: list[GuardedStun] = []
        if self._settings.policy is IcePolicy.ALL:
            try:
                hosts = self._open_host_sockets()
            except TransportError as error:
                problem = error
        await self._ask_servers(hosts)
        if not self._found:
            raise problem or TransportError("ice_failed", self._no_relay_text())
        return list(self._found.values())

    def _no_relay_text(self) -> str:
        if not self._plan.turn:
            return "the policy allows relayed candidates only, but no usable TURN server is configured"
        seconds = self._settings.gather_timeout_s
        return f"none of {len(self._plan.turn)} TURN servers gave a relayed address within {seconds:g} s"

    def _add(self, candidate: Candidate) -> None:
        key = (candidate.host, candidate.port)
        # A reflexive address equal to the host's own is redundant (RFC 8445 section 5.1.3).
        self._found.setdefault(key, candidate)
        self._no_longer_missing(candidate.type)

    def _no_longer_missing(self, kind: str) -> None:
        # Told by the last one that goes, never by an empty set: that is empty too before it is known what to expect.
        if kind in self._missing:
            self._missing.remove(kind)
            if not self._missing:
                self._complete.set()

    # Host candidates

    def _open_host_sockets(self) -> list[GuardedStun]:
        addresses = choose_addresses(local_addresses(), self._settings.interfaces)
        protocols: list[GuardedStun] = []
        failure: OSError | None = None
        for index, address in enumerate(addresses):
            try:
                protocols.append(self._open_host_socket(address, 65535 - index))
            except OSError as error:
                failure = error
                log.debug("could not bind a UDP socket: %s", _without_addresses(error))
        if not protocols:
            raise TransportError("ice_failed", self._bind_text(failure)) from failure
        return protocols

    def _bind_text(self, failure: OSError | None) -> str:
        if self._settings.port_range is not None:
            first, last = self._settings.port_range
            return f"no free UDP port within {first}-{last}; every call takes one port per address: widen port_range"
        return f"no UDP socket could be opened: {failure.strerror if failure else 'no address'}"

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

    async def _ask_servers(self, hosts: list[GuardedStun]) -> None:
        jobs: list[Coroutine[None, None, None]] = []
        if hosts and self._plan.stun:
            jobs.append(self._ask_all_stun(hosts))
            if any(server.expected for server in self._plan.stun):
                self._missing.add("srflx")
        if self._plan.turn:
            jobs.append(self._ask_turn())
            self._missing.add("relay")
        if not jobs:
            return
        tasks = [asyncio.create_task(job) for job in jobs]
        finished = asyncio.create_task(asyncio.wait(tasks))
        complete = asyncio.create_task(self._complete.wait())
        try:
            await asyncio.wait(
                {finished, complete},
                timeout=self._settings.gather_timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if complete.done():
                await asyncio.wait({finished}, timeout=STRAGGLER_S)
        finally:
            late = [task for task in (*tasks, finished, complete) if not task.done()]
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for task in tasks:
            if not task.cancelled():
                task.result()

    async def _ask_all_stun(self, hosts: list[GuardedStun]) -> None:
        await asyncio.gather(*(self._ask_stun(server, hosts) for server in self._plan.stun))
        self._no_longer_missing("srflx")

    async def _ask_stun(self, server: StunServer, hosts: list[GuardedStun]) -> None:
        try:
            addresses = await _resolve(server.host, server.port)
        except OSError as error:
            log.debug("STUN server not resolved: %s", _without_addresses(error))
            return
        await asyncio.gather(
            *(
                self._ask_stun_from(host, address)
                for host in hosts
                for address in addresses
                if _same_family(host, address)
            )
        )

    async def _ask_stun_from(self, protocol: GuardedStun, server: Address) -> None:
        request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
        try:
            response, _ = await protocol.request(request, server)
            host, port = response.attributes["XOR-MAPPED-ADDRESS"]
        except _SERVER_ERRORS as error:
            log.debug("STUN server gave no address: %s", type(error).__name__)
            return
        base = protocol.local_candidate
        priority = candidate_priority(COMPONENT, "srflx", base.priority >> 8 & 0xFFFF)
        self._add(_candidate("srflx", host, port, priority, base=base.host))

    async def _ask_turn(self) -> None:
        """Try the TURN servers in order, each with a head start, until one has given a relayed address."""
        allocations: set[asyncio.Task[bool]] = set()
        waiting = list(self._plan.turn)
        try:
            while waiting or allocations:
                if waiting:
                    allocations.add(asyncio.create_task(self._allocate(waiting.pop(0))))
                done, allocations = await asyncio.wait(
                    allocations,
                    timeout=TURN_STAGGER_S if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if any(task.result() for task in done):
                    return
        finally:
            for task in allocations:
                task.cancel()
            await asyncio.gather(*allocations, return_exceptions=True)
            self._no_longer_missing("relay")

    async def _allocate(self, server: TurnServer) -> bool:
        try:
            _, protocol = await turn.create_turn_endpoint(
                lambda: GuardedStun(self._owner),
                server_addr=(server.host, server.port),
                username=server.username,
                password=server.credential,
                ssl=True if server.tls else None,
                transport=server.transport,
            )
        except _SERVER_ERRORS as error:
            log.info("TURN server over %s gave no relayed address: %s", server.transport, _without_addresses(error))
            return False
        host, port = protocol.transport.get_extra_info("sockname")
        candidate = _candidate("relay", host, port, candidate_priority(COMPONENT, "relay"))
        protocol.local_candidate = candidate
        self._owner.add_protocol(protocol)
        self._add(candidate)
        return True


async def _resolve(host: str, port: int) -> list[Address]:
    """Resolve in a thread; at most one address of each family."""
    infos = await in_one_thread(socket.getaddrinfo, host, port, 0, socket.SOCK_DGRAM)
    by_family: dict[int, Address] = {}
    for family, _, _, _, address in infos:
        by_family.setdefault(family, (str(address[0]), int(address[1])))
    return list(by_family.values())


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


def _version(host: str) -> int:
    return 6 if ":" in host else 4


def _same_family(protocol: GuardedStun, address: Address) -> bool:
    return _version(protocol.local_candidate.host) == _version(address[0])


def _without_addresses(error: BaseException) -> str:
    """What is known about a failure, without what may hold an address."""
    if isinstance(error, stun.TransactionFailed):
        return f"error {error.response.error_code}"
    if isinstance(error, socket.gaierror):
        return "its name does not resolve"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return type(error).__name__

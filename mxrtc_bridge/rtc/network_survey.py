"""Asks each STUN and TURN server for itself, and sees which packets pass: ``mxrtc netcheck``, ``mxrtc-bridge check``.

A call asks servers until one relays; this asks all of them, by the same way, so that what fails is found before it is
needed. Nothing is left behind: each allocation is given back.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from mxrtc_bridge.core.errors import ResourceError
from mxrtc_bridge.core.webrtc.gathering_report import ServerAttempt, ServerOutcome
from mxrtc_bridge.core.webrtc.ice import IcePolicy
from mxrtc_bridge.core.webrtc.network import Network, ServerSeen
from mxrtc_bridge.rtc.datagrams import Address
from mxrtc_bridge.rtc.happy_eyeballs import resolve
from mxrtc_bridge.rtc.ice import IceConnection
from mxrtc_bridge.rtc.ice_servers import ServerPlan, StunServer, TurnServer
from mxrtc_bridge.rtc.interfaces import MTU_DISCOVER, PROBE
from mxrtc_bridge.rtc.settings import RtcSettings
from mxrtc_bridge.system import PORTABLE

SERVER_S = 6.0
"""How long one server may take; all are asked at once."""

PACKET_SIZES = (1500, 1492, 1420, 1400, 1280, 1228, 1000, 576)
"""IP packets that are tried: Ethernet, PPPoE, WireGuard, tunnels, the least of IPv6, and what is smaller."""

PACKET_TRIES, PACKET_TRY_S = 4, 0.4
"""How often each size is sent, as packets get lost, and how long answers are waited for."""

_ROUTES = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses of nobody (RFC 5737, RFC 3849): nothing is sent there."""

_BINDING, _COOKIE, _PADDING = 0x0001, 0x2112A442, 0xFFF0
"""A STUN request (RFC 8489), and an attribute that no server knows, which it must ignore."""


async def survey(plan: ServerPlan, interfaces: tuple[str, ...] = (), *, timeout_s: float = SERVER_S) -> Network:
    """Ask every server of ``plan``, and find out how large packets may be.

    Args:
        plan: the servers.
        interfaces: as in :class:`~mxrtc_bridge.rtc.settings.RtcSettings`.
        timeout_s: how long each server may take.

    Raises:
        ConfigError: no interface is up, or none that is named.
    """
    asked: list[StunServer | TurnServer] = [*plan.stun, *plan.turn]
    plans = [ServerPlan(stun=(replace(server, expected=True),)) for server in plan.stun]
    plans += [ServerPlan(turn=(server,)) for server in plan.turn]
    servers = await asyncio.gather(
        *(_ask(one, each.uri, interfaces, timeout_s) for one, each in zip(plans, asked, strict=True))
    )
    packet_bytes = None
    for server, seen in zip(asked, servers, strict=True):
        if seen.works and seen.by_udp:
            packet_bytes = await largest_packet(server)
            break
    return Network(
        servers=tuple(servers),
        unusable=plan.ignored,
        ipv4=_has_route(socket.AF_INET),
        ipv6=_has_route(socket.AF_INET6),
        packet_bytes=packet_bytes,
    )


async def _ask(plan: ServerPlan, uri: str, interfaces: tuple[str, ...], timeout_s: float) -> ServerSeen:
    settings = RtcSettings(
        policy=IcePolicy.RELAY if plan.turn else IcePolicy.ALL,
        interfaces=interfaces,
        gather_timeout_s=timeout_s,
        servers_timeout_s=timeout_s,
    )
    connection = IceConnection(settings, plan, controlling=True)
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        with suppress(ResourceError):  # the report says why
            await connection.gather_candidates()
        seconds = loop.time() - began
        attempts = connection.gathering_report().attempts
    finally:
        await connection.close()
    attempt = attempts[0] if attempts else ServerAttempt(uri, ServerOutcome.UNREACHABLE)
    if attempt.outcome is ServerOutcome.PENDING:
        attempt = replace(attempt, outcome=ServerOutcome.TIMED_OUT)
    return ServerSeen(attempt, seconds)


async def largest_packet(
    server: StunServer | TurnServer, *, sizes: Sequence[int] = PACKET_SIZES, try_s: float = PACKET_TRY_S
) -> int | None:
    """The largest IP packet, of ``sizes`` in bytes, that the server answers.

    None if it answers none of them, or where the system cannot be told not to divide what is too large.
    """
    if PORTABLE:
        return None
    try:
        address = (await resolve(server.host, server.port))[0]
        return await _largest_packet(address, sizes, try_s)
    except (OSError, IndexError):
        return None


async def _largest_packet(address: Address, sizes: Sequence[int], try_s: float) -> int | None:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    headers = 8 + (40 if family == socket.AF_INET6 else 20)
    waiting = {secrets.token_bytes(12): size for size in sorted(sizes, reverse=True)}
    answered = 0
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.setsockopt(*MTU_DISCOVER[family], PROBE)
        await loop.sock_connect(sock, address)
        for _ in range(PACKET_TRIES):
            for transaction, size in waiting.items():
                with suppress(OSError):  # larger than the interface lets out, or refused by ICMP
                    sock.send(_padded_request(transaction, size - headers))
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(try_s):
                    while waiting:
                        size = waiting.pop((await loop.sock_recv(sock, 2048))[8:20], 0)
                        answered = max(answered, size)
                        waiting = {each: size for each, size in waiting.items() if size > answered}
            if not waiting:
                break
    return answered or None


def _padded_request(transaction: bytes, size: int) -> bytes:
    padding = (size - 24) // 4 * 4
    header = struct.pack("!HHI", _BINDING, padding + 4, _COOKIE) + transaction
    return header + struct.pack("!HH", _PADDING, padding) + bytes(padding)


def _has_route(family: socket.AddressFamily) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((_ROUTES[family], 9))
    except OSError:
        return False
    return True

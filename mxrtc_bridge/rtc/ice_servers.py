"""STUN and TURN URIs (RFC 7064, RFC 7065) as a homeserver lists them, put into the order in which we try them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mxrtc_bridge.core.webrtc.ice import IceServer

MAX_STUN_SERVERS = 3
MAX_TURN_SERVERS = 6

_URI = re.compile(
    r"(?P<scheme>stuns?|turns?):"
    r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?:\?transport=(?P<transport>udp|tcp))?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class StunServer:
    """A server to ask for our address as it sees it, over UDP."""

    host: str
    port: int
    expected: bool = True
    """False for a TURN server that is asked on the chance: nobody waits for its answer."""


@dataclass(frozen=True, slots=True)
class TurnServer:
    """A server to ask for a relayed address."""

    host: str
    port: int
    transport: str
    """``udp`` or ``tcp``: how we reach the server; towards the other side it is always UDP."""
    tls: bool
    username: str
    credential: str

    def __repr__(self) -> str:
        return f"TurnServer({self.transport}, tls={self.tls}, credential=<hidden>)"


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """Which servers are asked, in order."""

    stun: tuple[StunServer, ...] = ()
    turn: tuple[TurnServer, ...] = ()
    ignored: tuple[str, ...] = ()
    """URIs that we cannot use, for the log."""


def plan_servers(servers: Iterable[IceServer]) -> ServerPlan:
    """Sort the servers of a homeserver: TURN over UDP first, then TCP, then TLS; duplicates and excess are dropped.

    A homeserver that has TURN rarely names STUN servers, although a TURN server answers STUN requests as well: so a
    ``turn:`` server over UDP is also asked for the reflexive address.
    """
    stun: list[StunServer] = []
    turn: list[TurnServer] = []
    ignored: list[str] = []
    for server in servers:
        for uri in server.urls:
            parsed = _parse(uri, server)
            if parsed is None:
                ignored.append(uri[:128])
            elif isinstance(parsed, StunServer):
                stun.append(parsed)
            else:
                turn.append(parsed)
    # sorted() is stable: within one transport the homeserver's order stays.
    turn.sort(key=lambda item: (item.tls, item.transport == "tcp"))
    if not stun:
        stun = [StunServer(item.host, item.port, expected=False) for item in turn if item.transport == "udp"]
    return ServerPlan(
        stun=tuple(dict.fromkeys(stun))[:MAX_STUN_SERVERS],
        turn=tuple(dict.fromkeys(turn))[:MAX_TURN_SERVERS],
        ignored=tuple(ignored),
    )


def _parse(uri: str, server: IceServer) -> StunServer | TurnServer | None:
    match = _URI.fullmatch(uri)
    if match is None:
        return None
    scheme = match["scheme"].lower()
    host = match["host"].strip("[]")
    port = int(match["port"]) if match["port"] else (5349 if scheme.endswith("s") else 3478)
    transport = match["transport"].lower() if match["transport"] else None
    if not 1 <= port <= 65535:
        return None
    if scheme == "stun":
        return StunServer(host, port) if transport in (None, "udp") else None
    if scheme == "turn":
        return TurnServer(host, port, transport or "udp", False, server.username, server.credential)
    if scheme == "turns" and transport in (None, "tcp"):
        return TurnServer(host, port, "tcp", True, server.username, server.credential)
    return None  # stuns: and TURN over DTLS: no library of ours speaks them

"""STUN and TURN URIs (RFC 7064, RFC 7065) as a homeserver lists them, put into the order in which we try them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mxrtc_bridge.core.webrtc.ice_servers import IceServer, parse_ice_uri

MAX_STUN_SERVERS = 3
MAX_TURN_SERVERS = 6


@dataclass(frozen=True, slots=True)
class StunServer:
    """A server to ask for our address as it sees it, over UDP."""

    host: str
    port: int
    expected: bool = True
    """False for a TURN server that is asked on the chance: nobody waits for its answer."""

    @property
    def uri(self) -> str:
        return f"stun:{_bracketed(self.host)}:{self.port}"


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

    @property
    def uri(self) -> str:
        """Names the server in reports; the credential is no part of it (RFC 7065)."""
        return f"turn{'s' * self.tls}:{_bracketed(self.host)}:{self.port}?transport={self.transport}"

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


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _parse(text: str, server: IceServer) -> StunServer | TurnServer | None:
    uri = parse_ice_uri(text)
    if uri is None or not 1 <= uri.port <= 65535:
        return None
    if uri.scheme == "stun":
        return StunServer(uri.host, uri.port) if uri.transport in (None, "udp") else None
    if uri.scheme == "turn":
        return TurnServer(uri.host, uri.port, uri.transport or "udp", False, server.username, server.credential)
    if uri.scheme == "turns" and uri.transport in (None, "tcp"):
        return TurnServer(uri.host, uri.port, "tcp", True, server.username, server.credential)
    return None  # stuns: and TURN over DTLS: no library of ours speaks them

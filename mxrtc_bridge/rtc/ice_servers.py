"""STUN and TURN URIs (RFC 7064, RFC 7065) as a homeserver lists them, put into the order in which we try them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import zip_longest

from mxrtc_bridge.core.text.display import display
from mxrtc_bridge.core.webrtc.ice_servers import IceServer, parse_ice_uri

MAX_STUN_SERVERS = 6
MAX_TURN_SERVERS = 12
"""They begin one after the other, so that the last of them still has most of the time that servers are given."""


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
    later: asyncio.Task[ServerPlan] | None = field(default=None, compare=False)
    """Ends with the plan that takes this one's place, where the homeserver has not named its servers yet."""


def plan_servers(servers: Iterable[IceServer]) -> ServerPlan:
    """Sort the servers of a homeserver; duplicates and excess are dropped.

    One TURN server over UDP comes first, then one over TCP and one over TLS, then the second of each: where a firewall
    lets nothing but TLS out, no number of servers over UDP may keep it from its turn.

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
                ignored.append(_shown(uri))
            elif isinstance(parsed, StunServer):
                stun.append(parsed)
            else:
                turn.append(parsed)
    turn = _taking_turns(dict.fromkeys(turn))
    if not stun:
        stun = [StunServer(item.host, item.port, expected=False) for item in turn if item.transport == "udp"]
    return ServerPlan(
        stun=tuple(dict.fromkeys(stun))[:MAX_STUN_SERVERS],
        turn=tuple(turn[:MAX_TURN_SERVERS]),
        ignored=tuple(ignored),
    )


def _taking_turns(servers: Iterable[TurnServer]) -> list[TurnServer]:
    ways: dict[tuple[bool, str], list[TurnServer]] = {(False, "udp"): [], (False, "tcp"): [], (True, "tcp"): []}
    for server in servers:
        ways[server.tls, server.transport].append(server)
    return [server for turn in zip_longest(*ways.values()) for server in turn if server is not None]


def _shown(uri: str) -> str:
    """A URI that is none, for a person; what stands before an ``@`` in it may be a user name and a password."""
    _, at, rest = uri.rpartition("@")
    return display(f"...@{rest}" if at else uri)


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

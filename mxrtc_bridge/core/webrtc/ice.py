"""ICE settings and results as values; :mod:`~mxrtc_bridge.core.webrtc.address_policy` judges remote addresses."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import Enum

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_URI = re.compile(
    r"(?P<scheme>stuns?|turns?):"
    r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?:\?transport=(?P<transport>udp|tcp))?",
    re.IGNORECASE | re.ASCII,
)


@dataclass(frozen=True, slots=True)
class IceServer:
    """A STUN or TURN server as a homeserver names it (client-server API, ``/voip/turnServer``)."""

    urls: tuple[str, ...]
    username: str = ""
    credential: str = ""

    def __repr__(self) -> str:
        return f"IceServer(urls={self.urls!r}, credential=<hidden>)"


@dataclass(frozen=True, slots=True)
class IceUri:
    """Where a STUN or TURN server is (RFC 7064, RFC 7065)."""

    scheme: str
    """``stun``, ``stuns``, ``turn`` or ``turns``."""
    host: str
    port: int
    """As it is written, or else that of the scheme; perhaps none that exists."""
    transport: str | None
    """``udp`` or ``tcp``, if it is written."""


def parse_ice_uri(text: str) -> IceUri | None:
    """Read the URI of a STUN or TURN server; None where it is none."""
    match = _URI.fullmatch(text)
    if match is None:
        return None
    scheme = match["scheme"].lower()
    port = int(match["port"] or (5349 if scheme.endswith("s") else 3478))
    return IceUri(scheme, match["host"].strip("[]"), port, match["transport"] and match["transport"].lower())


@dataclass(frozen=True, slots=True)
class Advertised:
    """An external address of a one-to-one NAT, and the local address behind it if that was named."""

    external: IpAddress
    local: IpAddress | None = None

    def __str__(self) -> str:
        return str(self.external) if self.local is None else f"{self.external}/{self.local}"


def parse_advertised(text: str) -> Advertised:
    """Read ``EXTERNAL`` or ``EXTERNAL/LOCAL``.

    Raises:
        ValueError: with a phrase that says what is wrong.
    """
    try:
        external, *local = (ipaddress.ip_address(part) for part in text.partition("/")[::2] if part or "/" in text)
    except ValueError:
        raise ValueError(f"{text[:80]!a} is neither an IP address nor EXTERNAL/LOCAL") from None
    if any(address.is_unspecified or address.is_multicast for address in (external, *local)):
        raise ValueError(f"{text[:80]!a} is not an address that callers can reach")
    if any(address.version != external.version for address in local):
        raise ValueError(f"{text[:80]!a} joins an IPv4 address with an IPv6 address")
    return Advertised(external, *local)


class IcePolicy(Enum):
    """Which local candidates may be used (RFC 8828 calls this the IP handling mode)."""

    ALL = "all"
    RELAY = "relay"


class PathKind(Enum):
    """How the packets of a session travel."""

    DIRECT = "direct"
    RELAYED = "relayed"


@dataclass(frozen=True, slots=True)
class Path:
    """The nominated candidate pair, without addresses: fit for logs."""

    kind: PathKind
    local: str
    """Type of the local candidate: ``host``, ``srflx``, ``prflx`` or ``relay``."""
    remote: str
    """Type of the remote candidate."""
    family: str
    """``ipv4`` or ``ipv6``."""

    def __str__(self) -> str:
        return f"{self.kind.value} ({self.local} to {self.remote}, {self.family})"

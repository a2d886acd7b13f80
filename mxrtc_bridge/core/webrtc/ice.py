"""ICE settings and results as values; :mod:`~mxrtc_bridge.core.webrtc.address_policy` judges remote addresses."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import Enum

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


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

"""Where a service leads: values that only the configuration can make, never a peer."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class TcpTarget:
    """A TCP service."""

    host: str
    port: int
    expect: tuple[IpNetwork, ...] = ()
    """Networks that the resolved address must lie in; empty means any (a name may be rebound, a network may not)."""
    connect_timeout_s: float = 10.0

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp:{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixTarget:
    """A unix stream socket."""

    path: str
    connect_timeout_s: float = 10.0

    def __str__(self) -> str:
        return f"unix:{self.path}"


Target = TcpTarget | UnixTarget

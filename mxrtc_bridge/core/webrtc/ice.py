"""ICE settings and results as values; :mod:`~mxrtc_bridge.core.webrtc.address_policy` judges remote addresses."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class IceServer:
    """A STUN or TURN server as a homeserver names it (client-server API, ``/voip/turnServer``)."""

    urls: tuple[str, ...]
    username: str = ""
    credential: str = ""

    def __repr__(self) -> str:
        return f"IceServer(urls={self.urls!r}, credential=<hidden>)"


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

"""STUN and TURN servers as values: where they are, as the configuration or a homeserver names them."""

from __future__ import annotations

import re
from dataclasses import dataclass

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

    @property
    def turn_urls(self) -> tuple[str, ...]:
        """Those by which it relays."""
        return tuple(url for url in self.urls if (uri := parse_ice_uri(url)) and uri.scheme in ("turn", "turns"))

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

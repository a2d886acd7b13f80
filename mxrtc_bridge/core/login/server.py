"""The authorization server of a homeserver, as it describes itself (RFC 8414, and "OAuth 2.0 API" of Matrix).

Everything that will be sent goes to an address from here, so each is checked once, at this border: TLS, or loopback
where the homeserver is on loopback itself.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from mxrtc_bridge.core.errors import LoginError

MAX_URL_CHARS = 2048
MAX_GRANTS = 32
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
AUTHORIZATION_CODE = "authorization_code"


@dataclass(frozen=True, slots=True)
class AuthorizationServer:
    """What we use of it; an empty address is one that it does not offer."""

    issuer: str
    """Its name, compared letter by letter (RFC 9207, section 2.4)."""
    token_endpoint: str
    registration_endpoint: str
    authorization_endpoint: str = ""
    device_endpoint: str = ""
    revocation_endpoint: str = ""
    grants: frozenset[str] = frozenset()
    """The kinds of grant that it says it supports."""
    names_itself: bool = False
    """Whether it says that it names itself in each answer that a browser brings (RFC 9207, section 3)."""

    @property
    def has_device_code(self) -> bool:
        """Whether one may log in with a code that is typed elsewhere (RFC 8628)."""
        return bool(self.device_endpoint) and DEVICE_CODE in self.grants

    @property
    def has_authorization_code(self) -> bool:
        """Whether one may log in with a browser on this machine (RFC 8252)."""
        return bool(self.authorization_endpoint) and AUTHORIZATION_CODE in self.grants


def read_authorization_server(answer: Mapping[str, object], *, loopback: bool) -> AuthorizationServer:
    """Read the metadata of an authorization server.

    Args:
        answer: to ``/auth_metadata``.
        loopback: whether addresses on this machine need no TLS, as the homeserver is one.

    Raises:
        LoginError: something that is needed is missing, or cannot be trusted.
    """

    def address(key: str, *, needed: bool = False) -> str:
        value = answer.get(key)
        if value is None and not needed:
            return ""
        return checked_address(value, f"{key} of the authorization server", loopback=loopback)

    grants = answer.get("grant_types_supported")
    # RFC 8414, section 2: what is meant where nothing is said.
    listed = grants if isinstance(grants, list) else [AUTHORIZATION_CODE]
    return AuthorizationServer(
        issuer=address("issuer", needed=True),
        token_endpoint=address("token_endpoint", needed=True),
        registration_endpoint=address("registration_endpoint", needed=True),
        authorization_endpoint=address("authorization_endpoint"),
        device_endpoint=address("device_authorization_endpoint"),
        revocation_endpoint=address("revocation_endpoint"),
        grants=frozenset(grant for grant in listed[:MAX_GRANTS] if isinstance(grant, str)),
        names_itself=answer.get("authorization_response_iss_parameter_supported") is True,
    )


def checked_address(value: object, what: str, *, loopback: bool) -> str:
    """An address to which secrets, or a person, may be sent.

    Args:
        value: what was read.
        what: its name, for the error.
        loopback: whether addresses on this machine need no TLS.

    Raises:
        LoginError: it is no such address.
    """
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= MAX_URL_CHARS
        or not (value.isascii() and value.isprintable())
    ):
        raise LoginError(f"the {what} is no address")
    try:
        parts = urlsplit(value)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise LoginError(f"the {what} is no address") from None
    if " " in value or "\\" in value or parts.username is not None or parts.fragment or not host or port == 0:
        raise LoginError(f"the {what} is no address")
    if parts.scheme != "https" and not (loopback and parts.scheme == "http" and is_loopback(host)):
        raise LoginError(f"the {what} does not begin with https://, so it cannot be trusted")
    return value


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its address or by the name that is kept for it (RFC 6761, section 6.3)."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_on_loopback(address: str) -> bool:
    """Whether a homeserver is on this machine and without TLS: then its authorization server may be so too."""
    try:
        parts = urlsplit(address)
        return parts.scheme == "http" and is_loopback(parts.hostname or "")
    except ValueError:
        return False

"""How a user names a peer and a service on the command line.

    build/ssh                        peer "build" on my own homeserver, service "ssh"
    build                            the same peer; its only service
    build@example.org/ssh            a peer on another homeserver
    @rtc_build:example.org/ssh       the full user id

The short forms need the prefix of the bridge's namespace, ``rtc_`` unless the admin chose another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mxrtc_bridge.core.errors import EventError, LocalError
from mxrtc_bridge.core.ids import ServiceName, UserId, parse_service_name, typed_user_id
from mxrtc_bridge.core.text.display import quoted

MAX_NAME_CHARS = 400
_PEER = re.compile(r"([a-z0-9._=+-]{1,200})(?:@([A-Za-z0-9.:\[\]-]{1,230}))?")


class NamingError(LocalError):
    """A peer or service was named in a form that cannot be one."""


@dataclass(frozen=True, slots=True)
class PeerName:
    """What the user asked for; ``service`` is None where the peer's only service is meant."""

    peer: UserId
    service: ServiceName | None


def parse_peer_name(text: str, *, server: str, prefix: str = "rtc_") -> PeerName:
    """Read ``PEER[/SERVICE]``.

    Args:
        text: as typed.
        server: the user's own server, for the short form.
        prefix: the prefix of virtual users, for both short forms.

    Raises:
        NamingError: with the forms that are possible.
    """
    if len(text) > MAX_NAME_CHARS:
        raise NamingError(f"the name of the peer has {len(text)} characters; the limit is {MAX_NAME_CHARS}")
    peer_text, slash, service_text = text.partition("/")
    try:
        service = parse_service_name(service_text) if slash else None
    except EventError:
        raise NamingError(
            f"{quoted(service_text)} is not the name of a service: 1 to 63 characters of a-z, 0-9, '.', '_' and '-'"
        ) from None
    return PeerName(_parse_peer(peer_text, server, prefix), service)


def _parse_peer(text: str, server: str, prefix: str) -> UserId:
    if text.startswith("@"):
        full = text
    elif (match := _PEER.fullmatch(text)) is not None:
        full = f"@{prefix}{match[1]}:{match[2] or server}"
    else:
        full = ""
    try:
        return typed_user_id(full, server)
    except EventError:
        raise NamingError(
            f"{quoted(text)} is not the name of a peer; write build, build@example.org or @{prefix}build:example.org"
        ) from None


def short_name(peer: UserId, *, server: str, prefix: str = "rtc_") -> str:
    """The shortest form of ``peer`` that :func:`parse_peer_name` reads back."""
    localpart, _, home = peer[1:].partition(":")
    short = localpart.removeprefix(prefix)
    if short == localpart or _PEER.fullmatch(short) is None:
        return peer
    return short if home == server else f"{short}@{home}"

"""How a user names files behind a peer on the command line.

    build/share:docs/*.pdf           a path or pattern in the service "share" of the peer "build"
    build:docs                       the same in its only service
    build/share                      everything
    build@example.org/share:docs     a peer on another homeserver

A name with a server in it has colons of its own (``build@example.org:8448``), so there a path needs the service.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mxrtc_bridge.core.access.peer_names import MAX_NAME_CHARS, NamingError, PeerName, parse_peer_name
from mxrtc_bridge.core.files.names import FileNameError
from mxrtc_bridge.core.files.patterns import parse_path_pattern
from mxrtc_bridge.core.text.display import quoted

MAX_REMOTE_PATH_BYTES = 1024
_END_OF_PEER = re.compile(r"[/:]")


@dataclass(frozen=True, slots=True)
class RemotePath:
    """What the user asked for."""

    name: PeerName
    path: str
    """A path or pattern below the root of the service; empty for everything."""


def parse_remote_name(text: str, *, server: str, prefix: str = "rtc_") -> RemotePath:
    """Read ``PEER[/SERVICE][:PATH]``.

    Args:
        text: as typed.
        server: the user's own server, for the short form.
        prefix: the prefix of virtual users, for both short forms.

    Raises:
        NamingError: says what is wrong, or how it can be written.
    """
    if len(text) > MAX_NAME_CHARS + MAX_REMOTE_PATH_BYTES:
        raise NamingError(f"{quoted(text, 40)}... has {len(text)} characters; that is no peer with a path")
    if "@" in _END_OF_PEER.split(text, maxsplit=1)[0]:
        peer, slash, rest = text.partition("/")
        service, _, path = rest.partition(":")
        named = peer + slash + service
        if not slash and peer.count(":") > peer.startswith("@"):
            return RemotePath(_peer_with_port(peer, server, prefix), "")
    else:
        named, _, path = text.partition(":")
    return RemotePath(parse_peer_name(named, server=server, prefix=prefix), _checked_path(path))


def _peer_with_port(text: str, server: str, prefix: str) -> PeerName:
    try:
        return parse_peer_name(text, server=server, prefix=prefix)
    except NamingError:
        raise NamingError(
            f"{quoted(text)} is not the name of a peer; a path behind a name with a server needs the service, "
            "as in build@example.org/share:docs"
        ) from None


def _checked_path(path: str) -> str:
    """Read the path leniently where people are: ``docs/`` and ``./docs`` are ``docs``."""
    if path.startswith("/"):
        raise NamingError(f"the path {quoted(path)} begins with '/'; paths begin at the root of the service")
    path = "/".join(part for part in path.split("/") if part not in {"", "."})
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise NamingError(f"the path {quoted(path)} is not text in UTF-8") from None
    if size > MAX_REMOTE_PATH_BYTES:
        raise NamingError(f"the path {quoted(path, 40)}... has {size} bytes; the limit is {MAX_REMOTE_PATH_BYTES}")
    try:
        parse_path_pattern(path)
    except FileNameError as error:
        raise NamingError(f"the path {quoted(path)} cannot be one: {error}") from None
    return path

"""Identifiers and the names of services: parsed once at the border, then trusted.

Grammars: user ids by the Matrix specification (appendices, "User identifiers"), service names by
docs/reference/protocol.md.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NewType

from mxrtc_bridge.core.errors import EventError, RefusalCode

UserId = NewType("UserId", str)
RoomId = NewType("RoomId", str)
EventId = NewType("EventId", str)
CallId = NewType("CallId", str)
PartyId = NewType("PartyId", str)
ServiceName = NewType("ServiceName", str)

MAX_ID_CHARS = 255
"""Limit for every Matrix identifier (specification, appendices)."""

_LOCAL = "local:"
_SERVER_PATTERN = r"([A-Za-z0-9][A-Za-z0-9.\-]{0,229}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?"
_SERVER = re.compile(_SERVER_PATTERN)
# Historical user ids may hold any printable ASCII but ':'; we meet them from other servers.
_USER_ID = re.compile(rf"@([!-9;-~]{{0,254}}):{_SERVER_PATTERN}")
_ROOM_ALIAS = re.compile(rf"#[^:\s\x00-\x1f\x7f]+:{_SERVER_PATTERN}")
_ROOM_ID = re.compile(r"![!-~]{1,254}")
_EVENT_ID = re.compile(r"\$[!-~]{1,254}")
_OPAQUE_ID = re.compile(r"[!-~]{1,255}")
_SERVICE = re.compile(r"[a-z0-9._-]{1,63}")


@dataclass(frozen=True, slots=True)
class LocalAdmin:
    """Somebody who acts on the bridge's own machine."""

    account: str
    """Name of the account there."""

    def __str__(self) -> str:
        """As people read it, and as it is stored where otherwise a user id stands; no user id begins like it."""
        return f"{_LOCAL}{self.account}"


Actor = UserId | LocalAdmin
"""Who does what only admins may."""


def read_actor(stored: str) -> Actor:
    """Read what ``str`` has written of an actor."""
    return LocalAdmin(stored.removeprefix(_LOCAL)) if stored.startswith(_LOCAL) else UserId(stored)


def _parse(kind: str, pattern: re.Pattern[str], value: object) -> str:
    if not isinstance(value, str):
        raise EventError(RefusalCode.BAD_ID, f"{kind} must be a string, not {type(value).__name__}")
    if len(value) > MAX_ID_CHARS:
        raise EventError(RefusalCode.BAD_ID, f"{kind} has {len(value)} characters; the limit is {MAX_ID_CHARS}")
    if pattern.fullmatch(value) is None:
        raise EventError(RefusalCode.BAD_ID, f"{kind} {value[:80]!a} does not have the form of one")
    return value


def parse_user_id(value: object) -> UserId:
    """Return ``value`` as a user id.

    Raises:
        EventError: it is not of the form ``@localpart:server``, or longer than 255 characters.
    """
    return UserId(_parse("user id", _USER_ID, value))


def typed_user_id(text: str, own_server: str = "") -> UserId:
    """Return what a person has typed as a user id: the server in lower case, as servers write their names.

    Args:
        text: as typed.
        own_server: the server that is known, which is written as it is known.

    Raises:
        EventError: as for :func:`parse_user_id`.
    """
    user = folded(parse_user_id(text))
    if server_of(user) != own_server.lower():
        return user
    return UserId(f"@{localpart_of(user)}:{own_server}")


def parse_room_id(value: object) -> RoomId:
    """Return ``value`` as a room id (room version 12 ids have no server part)."""
    return RoomId(_parse("room id", _ROOM_ID, value))


def parse_event_id(value: object) -> EventId:
    """Return ``value`` as an event id."""
    return EventId(_parse("event id", _EVENT_ID, value))


def parse_call_id(value: object) -> CallId:
    """Return ``value`` as a call id: opaque, 1 to 255 printable ASCII characters."""
    return CallId(_parse("call_id", _OPAQUE_ID, value))


def parse_party_id(value: object) -> PartyId:
    """Return ``value`` as a party id: opaque, 1 to 255 printable ASCII characters."""
    return PartyId(_parse("party_id", _OPAQUE_ID, value))


def parse_service_name(value: object) -> ServiceName:
    """Return ``value`` as the name of a service: ``[a-z0-9._-]{1,63}``, never a host or a port."""
    return ServiceName(_parse("service name", _SERVICE, value))


def is_server_name(text: str) -> bool:
    """Whether ``text`` has the form of the name of a homeserver: a host name or an address, and perhaps a port.

    Specification, appendices, "Server name": letters, digits, hyphens and dots, or an IPv6 address in brackets. The
    first character is a letter or a digit, as in every name of a host (RFC 1123, 2.1), so that no option of a command
    (``--help``) is taken for a name. Labels within it are not judged: real ones end with hyphens.
    """
    return _SERVER.fullmatch(text) is not None


def is_room_alias(text: str) -> bool:
    """Whether ``text`` has the form of an alias of a room, ``#name:server``."""
    return _ROOM_ALIAS.fullmatch(text) is not None


def server_of(user: UserId) -> str:
    """The server part of a user id, in lower case; compared whole, never by suffix."""
    return user.partition(":")[2].lower()


def folded(user: UserId) -> UserId:
    """The id with its server in lower case: two ids that are the same then are the same user, as in grants."""
    localpart, colon, server = user.partition(":")
    return UserId(localpart + colon + server.lower())


def localpart_of(user: UserId) -> str:
    """The part between ``@`` and the first colon."""
    return user[1:].partition(":")[0]


@lru_cache(maxsize=1024)  # of those beyond, the one that was asked for longest ago is found out anew
def host_of(server: str) -> str:
    """The host of a server name, as denials compare it: without what its owner can choose anew at any time.

    In lower case, without port, without dots at the end, and an address in its one form: whoever runs
    ``evil.test`` can as well run ``evil.test:8449`` and ``evil.test.``. Grants must never compare like this.
    """
    host, colon, port = server.lower().rpartition(":")
    if not colon or (port and not (port.isascii() and port.isdigit())):
        host = server.lower()
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return host.rstrip(".") or host
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return f"[{address}]" if address.version == 6 and mapped is None else str(mapped or address)


def is_guest_account(user: UserId) -> bool:
    """Whether this is the id of a guest account: its localpart has digits only.

    Guests register without any proof (client-server API, "Guest access"). Synapse gives them the next free number and
    refuses such names to everybody else (``handlers/register.py``, ``check_username``: "Numeric user IDs are reserved
    for guest users"); Dendrite numbers them as well (``clientapi/routing/register.go``). An account that began as a
    guest's keeps its number. Conduit and its descendants give guests random names like those of others, so with them
    nothing can be told by the name.
    """
    localpart = localpart_of(user)
    return localpart.isascii() and localpart.isdigit()


DeviceId = NewType("DeviceId", str)

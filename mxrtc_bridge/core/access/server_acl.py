"""The access list of a room for servers (``m.room.server_acl``): whose members it shuts out.

Who is shut out can do nothing in the room any more, but stays a member of it until somebody removes them. So a right
that depends on the room has to ask the list as well.

Client-server API, "Server Access Control Lists (ACLs) for rooms": a server that the list denies is shut out, as is one
that it does not allow; ports count nowhere. What cannot be understood of it shuts out: an entry that is no pattern, a
pattern with too many wildcards, and a server that comes near more patterns than can be compared.

Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from mxrtc_bridge.core.ids import host_of
from mxrtc_bridge.core.text.globs import Glob, GlobIndex, TooManyWildcards

ACL_TYPE = "m.room.server_acl"


class ServerAcl:
    """One list.

    Args:
        content: of the state event, of any form.
    """

    def __init__(self, content: Mapping[str, object]) -> None:
        self._addresses = content.get("allow_ip_literals") is not False
        self._allow, _ = _read(content.get("allow"))
        self._deny, self._all_denied = _read(content.get("deny"))

    def shuts_out(self, server: str) -> bool:
        """Whether members of ``server`` (the part of their ids after the colon) can do nothing in the room."""
        host = host_of(server)
        if self._all_denied or (not self._addresses and _is_address(host)):
            return True
        denied, sure = self._deny.find(host)
        return denied is not None or not sure or self._allow.find(host)[0] is None


def _read(patterns: object) -> tuple[GlobIndex[int], bool]:
    """The patterns of one list, and whether some of it could not be read."""
    found, is_odd = GlobIndex[int](), patterns is not None and not isinstance(patterns, list)
    for number, pattern in enumerate(patterns if isinstance(patterns, list) else ()):
        try:
            glob = Glob(pattern.lower()) if isinstance(pattern, str) else None
        except TooManyWildcards:
            glob = None
        if glob is None:
            is_odd = True
        else:
            found.add(number, glob)
    return found, is_odd


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True

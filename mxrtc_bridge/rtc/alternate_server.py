"""To which server a TURN server sends us instead of itself (300 Try Alternate, RFC 8489 section 10).

What it names is taken at its word no further than it needs: by the same transport, in the same family of addresses,
never nearer to us than the server itself (a server on the internet must not have us write to machines of our network),
no server twice, and no more than :data:`MAX_SERVERS` in a row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address

from aioice import stun

from mxrtc_bridge.core.webrtc.address_policy import is_nearer
from mxrtc_bridge.rtc.datagrams import Address
from mxrtc_bridge.rtc.ice_servers import TurnServer

TRY_ALTERNATE = 300
MAX_SERVERS = 4
"""That are asked for one allocation, the first one included."""

_LABEL = rb"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rb"(?=.{1,255}\Z)" + _LABEL + rb"(\." + _LABEL + rb")*", re.IGNORECASE)
"""RFC 8489 section 14.16: a name of the DNS, in ASCII."""

SERVER, DOMAIN = "ALTERNATE-SERVER", "ALTERNATE-DOMAIN"

# aioice 0.13 does not know them, and drops what it does not know before anybody sees it.
for _attribute in (
    (0x8023, SERVER, stun.pack_address, stun.unpack_address),
    (0x8003, DOMAIN, stun.pack_bytes, stun.unpack_bytes),
):
    stun.ATTRIBUTES_BY_TYPE.setdefault(_attribute[0], _attribute)
    stun.ATTRIBUTES_BY_NAME.setdefault(_attribute[1], _attribute)


def alternate_of(
    error: stun.TransactionFailed, server: TurnServer, asked: Sequence[Address]
) -> tuple[TurnServer, Address] | None:
    """Read whom to ask instead.

    Args:
        error: the answer of the server that was asked last.
        server: that server.
        asked: the addresses of all that were asked, in order; the first is of the server that is configured.

    Returns:
        The server, whose name is what its certificate must be for, and its address; None where there is none that may
        be asked.
    """
    named: Address | None = error.response.attributes.get(SERVER)
    if error.response.error_code != TRY_ALTERNATE or named is None or len(asked) >= MAX_SERVERS:
        return None
    first, alternate = ip_address(asked[0][0]), ip_address(named[0])
    known = {(ip_address(host), port) for host, port in asked}
    if not named[1] or (alternate, named[1]) in known or alternate.version != first.version:
        return None
    if is_nearer(alternate, first):
        return None
    # By TLS the one that names it has proved its own name. A server for which the names do not matter has none here.
    domain: bytes | None = error.response.attributes.get(DOMAIN) if server.tls else None
    if domain is None:
        return server, named
    return (replace(server, host=domain.decode()), named) if _DOMAIN.fullmatch(domain) else None

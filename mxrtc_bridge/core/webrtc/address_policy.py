"""Which remote addresses ICE may send packets to.

A candidate is an address that a stranger names and that we then send STUN checks to: without this filter every caller
could make the bridge probe its host and its network. Addresses are judged in their canonical form, so that an IPv4
address wrapped into IPv6 (mapped, NAT64, 6to4) gets the same answer as the bare one.

The tables are written out, from the IANA special-purpose registries (RFC 6890 and its updates), because the properties
of :mod:`ipaddress` change between Python releases. Documentation networks are deliberately not refused: they lead
nowhere, and test networks use them.

This module must never look a name up, and never relax a rule because of what the candidate claims about itself: its
type is as much the stranger's word as its address.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

IpAddress = IPv4Address | IPv6Address

DEFAULT_MIN_PORT = 1024
"""Below it live the services of a host; libwebrtc refuses such candidates as well."""


def _networks(*texts: str) -> tuple[IpNetwork, ...]:
    return tuple(ip_network(text) for text in texts)


# The first match decides, so a narrow network stands before the wide one that holds it.
_ALWAYS_REFUSED: tuple[tuple[str, tuple[IpNetwork, ...]], ...] = (
    # Metadata services of the clouds that are not link-local; 192.0.0.192 and 169.254.169.254 fall into other rows.
    ("metadata", _networks("168.63.129.16/32", "100.100.100.200/32", "fd00:ec2::/32", "fd20:ce::254/128")),
    ("unspecified", _networks("0.0.0.0/8", "::/128")),
    ("link_local", _networks("169.254.0.0/16", "fe80::/10")),
    ("multicast", _networks("224.0.0.0/4", "ff00::/8")),
    ("broadcast", _networks("255.255.255.255/32")),
    # 2001::/23 holds Teredo and ORCHID; 64:ff9b:1::/48 is NAT64 with a layout that only its network knows.
    ("reserved", _networks("192.0.0.0/24", "192.88.99.0/24", "240.0.0.0/4", "2001::/23", "64:ff9b:1::/48")),
)
_LOOPBACK = _networks("127.0.0.0/8", "::1/128")
_PRIVATE = _networks(
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",  # carrier-grade NAT (RFC 6598); many overlay networks live here
    "198.18.0.0/15",  # benchmarking (RFC 2544): laboratories
    "fc00::/7",
    "fec0::/10",  # site-local, deprecated, still routed in old sites
)
_GLOBAL_V6 = _networks("2000::/3")
_NAT64 = IPv6Address("64:ff9b::")


def _lies_in(address: IpAddress, networks: tuple[IpNetwork, ...]) -> bool:
    return any(address in network for network in networks)


def canonical(address: IpAddress) -> IpAddress:
    """Return the IPv4 address inside a v4-mapped, NAT64 (RFC 6052) or 6to4 (RFC 3056) one, else ``address``."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if int(address) >> 32 == int(_NAT64) >> 32:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """What a remote candidate's address must be like. The default lets public unicast addresses through."""

    private: bool = False
    """Let RFC 1918, unique local, carrier-grade NAT and benchmarking addresses through."""
    loopback: bool = False
    """Let loopback addresses through: for tests and demonstrations on one machine."""
    min_port: int = DEFAULT_MIN_PORT
    """The lowest port that may be sent to."""
    allow: tuple[IpNetwork, ...] = ()
    """Networks excepted from the rule about private addresses; they lift no other rule."""
    deny: tuple[IpNetwork, ...] = ()
    """Networks refused in any case; compared with the address as named and with its canonical form."""

    def check(self, address: IpAddress, port: int) -> str | None:
        """Judge one address.

        Returns:
            None if packets may be sent there, else one word that says why not: ``port``, ``denied``, ``metadata``,
            ``unspecified``, ``link_local``, ``multicast``, ``broadcast``, ``reserved``, ``loopback`` or ``private``.
        """
        if not max(self.min_port, 1) <= port <= 65535:
            return "port"
        inner = canonical(address)
        if _lies_in(address, self.deny) or _lies_in(inner, self.deny):
            return "denied"
        return _fixed_reason(inner) or self._optional_reason(address, inner)

    def _optional_reason(self, address: IpAddress, inner: IpAddress) -> str | None:
        if _lies_in(inner, _LOOPBACK):
            return None if self.loopback else "loopback"
        if _lies_in(inner, _PRIVATE):
            allowed = self.private or _lies_in(address, self.allow) or _lies_in(inner, self.allow)
            return None if allowed else "private"
        # What is left of IPv6 outside of global unicast is not assigned, or was abandoned (::a.b.c.d).
        if isinstance(inner, IPv6Address) and not _lies_in(inner, _GLOBAL_V6):
            return "reserved"
        return None


def is_nearer(address: IpAddress, other: IpAddress) -> bool:
    """Whether ``address`` can be reached from less of the world than ``other``: a machine, a site, or the internet."""
    return _reach(address) < _reach(other)


def _reach(address: IpAddress) -> int:
    match AddressPolicy().check(address, DEFAULT_MIN_PORT):
        case None:
            return 2
        case "private":
            return 1
    return 0


def _fixed_reason(address: IpAddress) -> str | None:
    for reason, networks in _ALWAYS_REFUSED:
        if _lies_in(address, networks):
            return reason
    return None


IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

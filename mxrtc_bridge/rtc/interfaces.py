"""Local addresses and UDP sockets for host candidates.

Chooses the addresses that the settings allow, binds one UDP socket to each, and says which address a candidate shows
(RFC 8445 section 5.1.1.1; the external address of a one-to-one NAT in place of the local one).
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import ifaddr

from mxrtc_bridge.core.errors import ConfigError, lack_of
from mxrtc_bridge.core.webrtc.ice import IpAddress
from mxrtc_bridge.rtc.settings import RtcSettings
from mxrtc_bridge.system import PORTABLE

MAX_HOST_SOCKETS = 8
"""A machine full of container bridges would otherwise offer dozens of candidates that lead nowhere. Those by which the
machine reaches the internet come first, then its own network cards and tunnels, and bridges last."""

_FAR_AWAY = {socket.AF_INET: "198.41.0.4", socket.AF_INET6: "2001:503:ba3e::2:30"}
"""Addresses of the internet (a root of the DNS), to ask the routes of this machine about. Nothing is sent there."""

_MAX_ROUTES = 64 * 1024
"""Bytes of a table of routes that are looked at; a router can have millions of lines."""

SOCKET_BUFFER = 4 * 1024 * 1024
"""Asked for in both directions; the system grants what ``net.core.rmem_max`` allows. One busy association needs about
1 MiB so that a pause of the loop does not look like loss."""

MTU_DISCOVER = {socket.AF_INET: (socket.IPPROTO_IP, 10), socket.AF_INET6: (socket.IPPROTO_IPV6, 23)}
PROBE, FRAGMENT = 3, 0
"""``IP_MTU_DISCOVER`` and ``IPV6_MTU_DISCOVER`` of Linux, without names in Python's socket module; the value that never
fragments and leaves the search for the right size to us, and the one that lets the system and routers fragment."""

NAMELESS = "(not told by the system)"
"""In place of the name of an interface."""

LocalAddress = tuple[str, IpAddress]
"""Name of the interface, and an address of it."""


def local_addresses() -> list[LocalAddress]:
    """All addresses of this machine that a socket can be bound to, those first that are most likely of use.

    Link-local IPv6 needs a zone and is left out. Where the system tells nobody its interfaces, as on Android and in a
    sandbox without netlink sockets, those are left by which packets leave it.

    Raises:
        OSError: the system has no more of what is needed to ask.
    """
    found: list[LocalAddress] = []
    try:
        adapters = list(ifaddr.get_adapters())
    except OSError as error:
        if lack_of(error):
            raise
        return [(NAMELESS, address) for address in sorted(default_addresses(), key=lambda each: each.version)]
    for adapter in adapters:
        for ip in adapter.ips:
            if isinstance(ip.ip, str):
                found.append((adapter.nice_name, ipaddress.IPv4Address(ip.ip)))
            elif ip.ip[2] == 0:
                found.append((adapter.nice_name, ipaddress.IPv6Address(ip.ip[0])))
    return in_order_of_use(found)


def default_addresses() -> frozenset[IpAddress]:
    """The addresses that packets to the internet leave this machine with, as its routes are now; one of each family."""
    found: set[IpAddress] = set()
    for family, far_away in _FAR_AWAY.items():
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((far_away, 9))
            found.add(ipaddress.ip_address(sock.getsockname()[0]))
    return frozenset(found)


def default_interfaces(proc: Path = Path("/proc/net")) -> frozenset[str]:
    """The names of the interfaces with a default route in the main table; none where there is no Linux."""
    names: set[str] = set()
    for fields in _routes(proc / "route"):
        if len(fields) == 11 and fields[1] == fields[7] == "0" * 8:  # destination and mask
            names.add(fields[0])
    for fields in _routes(proc / "ipv6_route"):
        if len(fields) == 10 and fields[0] == "0" * 32 and fields[1] == "00":
            names.add(fields[9])
    return frozenset(names - {"lo"})


def _routes(path: Path) -> list[list[str]]:
    try:
        with path.open() as file:
            return [line.split() for line in file.read(_MAX_ROUTES).splitlines()]
    except OSError:
        return []


def is_bridge(name: str, sys: Path = Path("/sys/class/net")) -> bool:
    """Whether an interface joins containers or virtual machines of this machine, or is an end inside of one."""
    return (sys / name / "bridge").exists() or name.startswith(("veth", "vnet"))


def in_order_of_use(available: Iterable[LocalAddress]) -> list[LocalAddress]:
    """Sort the addresses of this machine: see :data:`MAX_HOST_SOCKETS`. Equal ones keep the order of the system."""
    addresses, interfaces = default_addresses(), default_interfaces()

    def rank(each: LocalAddress) -> int:
        name, address = each
        if address in addresses:
            return 0
        return 1 if name in interfaces else 2 + is_bridge(name)

    return sorted(available, key=rank)


def allowed_addresses(available: Iterable[LocalAddress], interfaces: Sequence[str]) -> list[IpAddress]:
    """Return the addresses that ``interfaces`` allows, in the order in which they stand."""
    return [address for name, address in available if _allowed(name, address, interfaces)]


def choose_addresses(available: Sequence[LocalAddress], interfaces: Sequence[str]) -> list[IpAddress]:
    """Return the addresses that ``interfaces`` allows, at most the first ``MAX_HOST_SOCKETS``.

    Raises:
        ConfigError: none is left; the text names the interfaces that exist.
    """
    chosen = allowed_addresses(available, interfaces)
    if not chosen:
        names = ", ".join(sorted({name for name, _ in available})) or "none"
        if not interfaces:
            raise ConfigError(f"no network interface is up but for loopback; this machine has: {names}")
        raise ConfigError(f"no network interface matches ({', '.join(interfaces)}); this machine has: {names}")
    return chosen[:MAX_HOST_SOCKETS]


def _allowed(name: str, address: IpAddress, interfaces: Sequence[str]) -> bool:
    if not interfaces:
        return not address.is_loopback
    return any(entry == name or _in_network(address, entry) for entry in interfaces)


def _in_network(address: IpAddress, entry: str) -> bool:
    try:
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False  # the name of an interface
    return address.version == network.version and address in network


def shown_address(address: IpAddress, settings: RtcSettings) -> IpAddress:
    """Return the address that a host candidate shows to the other side."""
    for entry in settings.advertise:
        if entry.external.version == address.version and entry.local in (None, address):
            return entry.external
    return address


def bind_udp(address: IpAddress, port_range: tuple[int, int] | None) -> socket.socket:
    """Return a bound, non-blocking UDP socket with large buffers whose datagrams may be fragmented.

    Args:
        address: a local address.
        port_range: first and last port; the search starts at a random one, so that concurrent calls rarely collide.

    Raises:
        OSError: no port could be bound.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
        allow_fragments(sock, allowed=True)
        _bind(sock, str(address), port_range)
    except BaseException:
        sock.close()
        raise
    return sock


def allow_fragments(sock: socket.socket, *, allowed: bool) -> bool:
    """Say whether what is too large for the path is fragmented or lost; False if the system cannot be told.

    Data may be fragmented: what was cut for a wide path still arrives when that gets narrow (RFC 9260 section 6.9).
    A probe may not, as its arrival would tell nothing then (RFC 8899).
    """
    option, value = None if PORTABLE else MTU_DISCOVER.get(sock.family), FRAGMENT if allowed else PROBE
    try:
        if option is not None:
            sock.setsockopt(*option, value)
            return sock.getsockopt(*option) == value
    except OSError:
        pass
    return False


def _bind(sock: socket.socket, address: str, port_range: tuple[int, int] | None) -> None:
    if port_range is None:
        sock.bind((address, 0))
        return
    first, last = port_range
    count = last - first + 1
    start = secrets.randbelow(count)
    failure = OSError(f"no free UDP port within {first}-{last}")
    for step in range(count):
        try:
            sock.bind((address, first + (start + step) % count))
        except OSError as error:
            failure = error
        else:
            return
    raise failure

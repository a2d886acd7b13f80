"""Which local addresses are used, which ports, and what is shown of them."""

from __future__ import annotations

import errno
import secrets
import socket
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest
from ifaddr import IP

from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.core.webrtc.ice import parse_advertised
from mxrtc_bridge.rtc import interfaces
from mxrtc_bridge.rtc.interfaces import (
    MAX_HOST_SOCKETS,
    NAMELESS,
    LocalAddress,
    bind_udp,
    choose_addresses,
    default_addresses,
    default_interfaces,
    is_bridge,
    local_addresses,
    shown_address,
)
from mxrtc_bridge.rtc.settings import RtcSettings
from tests.processor import needs_x86_64

MACHINE: list[LocalAddress] = [
    ("lo", ip_address("127.0.0.1")),
    ("lo", ip_address("::1")),
    ("eth0", ip_address("10.0.0.5")),
    ("eth0", ip_address("2001:db8::5")),
    ("docker0", ip_address("172.17.0.1")),
]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ((), ["10.0.0.5", "2001:db8::5", "172.17.0.1"]),
        (("eth0",), ["10.0.0.5", "2001:db8::5"]),
        (("lo",), ["127.0.0.1", "::1"]),
        (("127.0.0.1",), ["127.0.0.1"]),
        (("10.0.0.0/8",), ["10.0.0.5"]),
        (("2001:db8::/32", "docker0"), ["2001:db8::5", "172.17.0.1"]),
        (("0.0.0.0/0",), ["127.0.0.1", "10.0.0.5", "172.17.0.1"]),
    ],
)
def test_interfaces_are_chosen_by_name_address_or_network(chosen: tuple[str, ...], expected: list[str]) -> None:
    assert [str(address) for address in choose_addresses(MACHINE, chosen)] == expected


def test_filter_that_matches_nothing_names_what_exists() -> None:
    with pytest.raises(ConfigError) as caught:
        choose_addresses(MACHINE, ("eth9",))
    assert str(caught.value) == "no network interface matches (eth9); this machine has: docker0, eth0, lo"
    with pytest.raises(ConfigError, match="no network interface is up but for loopback; this machine has: lo"):
        choose_addresses([each for each in MACHINE if each[0] == "lo"], ())


def test_number_of_addresses_is_bounded() -> None:
    many = [(f"veth{number}", ip_address(f"10.1.0.{number}")) for number in range(100)]
    assert len(choose_addresses(many, ())) == MAX_HOST_SOCKETS


class Adapter:
    """One network interface with one IPv4 address, as ifaddr gives it."""

    def __init__(self, name: str, address: str) -> None:
        self.nice_name = name
        self.ips = [IP(address, 24, name)]


BRIDGES = [Adapter(f"br-{number}", f"172.{17 + number}.0.1") for number in range(10)]


def order(monkeypatch: pytest.MonkeyPatch, *others: Adapter) -> list[str]:
    """Names of the interfaces of a machine with ten bridges before the ``others``, as they are used."""
    monkeypatch.setattr(interfaces.ifaddr, "get_adapters", lambda: [*BRIDGES, *others])
    monkeypatch.setattr(interfaces, "is_bridge", lambda name: name.startswith("br-"))
    return [name for name, _ in local_addresses()]


def test_addresses_that_lead_to_the_internet_come_before_any_number_of_bridges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "default_interfaces", lambda: frozenset({"wlan0", "wwan0"}))
    monkeypatch.setattr(interfaces, "default_addresses", lambda: frozenset({ip_address("10.9.0.2")}))
    others = [
        Adapter("eth1", "10.5.0.2"), Adapter("wlan0", "192.168.1.7"), Adapter("wwan0", "10.64.0.3"),
        Adapter("tun0", "10.9.0.2"),
    ]  # fmt: skip
    assert order(monkeypatch, *others)[:5] == ["tun0", "wlan0", "wwan0", "eth1", "br-0"]


def test_order_of_the_system_stays_where_nothing_leads_to_the_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "default_interfaces", frozenset)
    monkeypatch.setattr(interfaces, "default_addresses", frozenset)
    assert order(monkeypatch, Adapter("b", "10.5.0.2"), Adapter("a", "10.6.0.2"))[:3] == ["b", "a", "br-0"]


def test_default_routes_are_read_of_both_families(tmp_path: Path) -> None:
    (tmp_path / "route").write_text(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
        "tun0\t00000000\t010200C0\t0003\t0\t0\t0\t00000080\t0\t0\t0\n"
        "cut off"
    )
    zero = "0" * 32
    (tmp_path / "ipv6_route").write_text(
        f"{zero} 00 {zero} 00 fd{zero[2:]} 00000400 00000003 00000000 00000003     wwan0\n"
        f"{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n"
        f"fd{zero[2:]} 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth1\n"
    )
    assert default_interfaces(tmp_path) == {"eth0", "wwan0"}


def test_no_route_is_known_where_the_system_shows_none(tmp_path: Path) -> None:
    assert default_interfaces(tmp_path) == frozenset()


def test_bridge_is_known_by_what_the_system_says_and_its_ends_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "cni0" / "bridge").mkdir(parents=True)
    (tmp_path / "bridge-office").mkdir()
    names = ["cni0", "bridge-office", "veth12", "vnet3", "wlan0"]
    assert [name for name in names if is_bridge(name, tmp_path)] == ["cni0", "veth12", "vnet3"]


def test_default_addresses_are_of_this_machine() -> None:
    assert default_addresses() <= {address for _, address in local_addresses()}


@needs_x86_64
def test_machine_that_tells_no_interfaces_offers_the_addresses_that_packets_leave_it_with() -> None:
    program = "from tests.confined import without_netlink; without_netlink(); print(interfaces.local_addresses())"
    text = f"from mxrtc_bridge.rtc import interfaces; {program}"
    run = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    expected = sorted(default_addresses(), key=lambda address: address.version)
    assert run.stdout.strip() == str([(NAMELESS, address) for address in expected])


def test_lack_of_files_is_no_machine_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(interfaces.ifaddr, "get_adapters", refuse)
    with pytest.raises(OSError, match="Too many"):
        local_addresses()


def test_this_machine_has_loopback() -> None:
    assert "127.0.0.1" in [str(address) for _, address in local_addresses()]


@pytest.mark.parametrize(
    ("advertise", "local", "shown"),
    [
        ((), "10.0.0.5", "10.0.0.5"),
        (("192.0.2.1",), "10.0.0.5", "192.0.2.1"),
        (("192.0.2.1",), "2001:db8::5", "2001:db8::5"),
        (("192.0.2.1/10.0.0.9", "192.0.2.2/10.0.0.5"), "10.0.0.5", "192.0.2.2"),
        (("192.0.2.1/10.0.0.9",), "10.0.0.5", "10.0.0.5"),
    ],
)
def test_advertised_address_stands_in_for_the_local_one(advertise: tuple[str, ...], local: str, shown: str) -> None:
    assert (
        str(shown_address(ip_address(local), RtcSettings(advertise=tuple(map(parse_advertised, advertise))))) == shown
    )


def test_port_range_is_used_up_to_its_last_port() -> None:
    first = free_range(3)
    sockets: list[socket.socket] = []
    try:
        sockets.extend(bind_udp(ip_address("127.0.0.1"), (first, first + 2)) for _ in range(3))
        assert {sock.getsockname()[1] for sock in sockets} == {first, first + 1, first + 2}
        with pytest.raises(OSError, match="in use"):
            bind_udp(ip_address("127.0.0.1"), (first, first + 2))
    finally:
        for sock in sockets:
            sock.close()


def test_sockets_do_not_block_and_have_large_buffers() -> None:
    with bind_udp(ip_address("127.0.0.1"), None) as sock:
        assert not sock.getblocking()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > 200_000


def free_range(count: int) -> int:
    """Find ``count`` UDP ports in a row that are free at the moment.

    Somewhere in the range, as whoever runs tests beside these begins to look at the same moment.
    """
    begin = secrets.randbelow(18000)
    for first in (41000 + (begin + offset) % 18900 for offset in range(0, 18000, count)):
        sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
        try:
            for offset, sock in enumerate(sockets):
                sock.bind(("127.0.0.1", first + offset))
        except OSError:
            continue
        else:
            return first
        finally:
            for sock in sockets:
                sock.close()
    raise AssertionError("no free ports")

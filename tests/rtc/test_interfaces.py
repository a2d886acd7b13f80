"""Which local addresses are used, which ports, and what is shown of them."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.core.webrtc.ice import parse_advertised
from mxrtc_bridge.rtc.interfaces import (
    MAX_HOST_SOCKETS,
    LocalAddress,
    bind_udp,
    choose_addresses,
    local_addresses,
    shown_address,
)
from mxrtc_bridge.rtc.settings import RtcSettings

MACHINE: list[LocalAddress] = [
    ("lo", ip_address("127.0.0.1")),
    ("lo", ip_address("::1")),
    ("eth0", ip_address("10.0.0.5")),
    ("eth0", ip_address("2001:db8::5")),
    ("docker0", ip_address("172.17.0.1")),
]


@pytest.mark.parametrize(
    ("interfaces", "expected"),
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
def test_interfaces_are_chosen_by_name_address_or_network(interfaces: tuple[str, ...], expected: list[str]) -> None:
    assert [str(address) for address in choose_addresses(MACHINE, interfaces)] == expected


def test_filter_that_matches_nothing_names_what_exists() -> None:
    with pytest.raises(ConfigError) as caught:
        choose_addresses(MACHINE, ("eth9",))
    assert str(caught.value) == "no network interface matches (eth9); this machine has: docker0, eth0, lo"
    with pytest.raises(ConfigError, match="no network interface is up but for loopback; this machine has: lo"):
        choose_addresses([each for each in MACHINE if each[0] == "lo"], ())


def test_number_of_addresses_is_bounded() -> None:
    many = [(f"veth{number}", ip_address(f"10.1.0.{number}")) for number in range(100)]
    assert len(choose_addresses(many, ())) == MAX_HOST_SOCKETS


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
    """Find ``count`` UDP ports in a row that are free at the moment."""
    for first in range(41000, 60000, count):
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

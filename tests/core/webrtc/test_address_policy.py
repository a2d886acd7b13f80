"""The address policy: every address of the table gets the stated answer, however it is wrapped."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.webrtc.address_policy import AddressPolicy, canonical, is_nearer

DEFAULT = AddressPolicy()
OPEN = AddressPolicy(private=True, loopback=True)

ACCEPTED = [
    "8.8.8.8",
    "1.1.1.1",
    "93.184.216.34",
    "11.0.0.0",
    "9.255.255.255",
    "172.15.255.255",
    "172.32.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "223.255.255.255",
    "192.0.1.0",
    "192.0.2.1",
    "198.51.100.7",
    "203.0.113.9",
    "198.17.255.255",
    "198.20.0.0",
    "2001:db8::1",
    "2606:4700:4700::1111",
    "2a00:1450:4001::1",
    "2001:200::1",
    "2002:0808:0808::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
]
PRIVATE = [
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.255.255",
    "100.64.0.1",
    "100.127.255.254",
    "198.18.0.1",
    "198.19.255.255",
    "fc00::1",
    "fd12:3456:789a::1",
    "fec0::1",
    "::ffff:10.0.0.1",
    "::ffff:192.168.1.1",
    "64:ff9b::172.16.0.1",
    "2002:c0a8:0101::1",
    "2002:0a00:0001::",
]
LOOPBACK = ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:0001::1"]
ALWAYS = {
    "0.0.0.0": "unspecified",
    "0.1.2.3": "unspecified",
    "::": "unspecified",
    "::ffff:0.0.0.0": "unspecified",
    "64:ff9b::0.0.0.0": "unspecified",
    "169.254.169.254": "link_local",
    "169.254.0.1": "link_local",
    "::ffff:169.254.169.254": "link_local",
    "64:ff9b::169.254.169.254": "link_local",
    "2002:a9fe:a9fe::1": "link_local",
    "fe80::1": "link_local",
    "febf::1": "link_local",
    "224.0.0.251": "multicast",
    "239.255.255.255": "multicast",
    "::ffff:224.0.0.1": "multicast",
    "ff02::fb": "multicast",
    "255.255.255.255": "broadcast",
    "::ffff:255.255.255.255": "broadcast",
    "240.0.0.1": "reserved",
    "192.0.0.8": "reserved",
    "192.0.0.192": "reserved",
    "192.88.99.1": "reserved",
    "2001::1": "reserved",
    "2001:10::1": "reserved",
    "64:ff9b:1::a00:1": "reserved",
    "::7f00:1": "reserved",
    "100::1": "reserved",
    "4000::1": "reserved",
    "168.63.129.16": "metadata",
    "100.100.100.200": "metadata",
    "fd00:ec2::254": "metadata",
    "fd20:ce::254": "metadata",
    "::ffff:100.100.100.200": "metadata",
}


@pytest.mark.parametrize("text", ACCEPTED)
def test_policy_accepts_public_and_documentation_addresses(text: str) -> None:
    assert DEFAULT.check(ip_address(text), 50000) is None


@pytest.mark.parametrize("text", PRIVATE)
def test_policy_accepts_private_addresses_only_when_told(text: str) -> None:
    assert DEFAULT.check(ip_address(text), 50000) == "private"
    assert AddressPolicy(loopback=True).check(ip_address(text), 50000) == "private"
    assert AddressPolicy(private=True).check(ip_address(text), 50000) is None


@pytest.mark.parametrize("text", LOOPBACK)
def test_policy_accepts_loopback_addresses_only_when_told(text: str) -> None:
    assert DEFAULT.check(ip_address(text), 50000) == "loopback"
    assert AddressPolicy(private=True).check(ip_address(text), 50000) == "loopback"
    assert AddressPolicy(loopback=True).check(ip_address(text), 50000) is None


@pytest.mark.parametrize(("text", "reason"), ALWAYS.items())
def test_policy_refuses_special_addresses_whatever_it_allows(text: str, reason: str) -> None:
    everything = AddressPolicy(private=True, loopback=True, allow=(ip_network("0.0.0.0/0"), ip_network("::/0")))
    assert DEFAULT.check(ip_address(text), 50000) == reason
    assert everything.check(ip_address(text), 50000) == reason


@pytest.mark.parametrize(
    ("port", "reason"), [(0, "port"), (1023, "port"), (1024, None), (65535, None), (65536, "port")]
)
def test_policy_bounds_the_port(port: int, reason: str | None) -> None:
    assert DEFAULT.check(ip_address("8.8.8.8"), port) == reason


def test_policy_never_accepts_port_zero_even_when_the_lowest_port_is_zero() -> None:
    assert AddressPolicy(min_port=0).check(ip_address("8.8.8.8"), 0) == "port"
    assert AddressPolicy(min_port=0).check(ip_address("8.8.8.8"), 1) is None


@pytest.mark.parametrize(
    ("address", "other", "nearer"),
    [
        ("10.0.0.3", "8.8.8.8", True),
        ("127.0.0.1", "8.8.8.8", True),
        ("127.0.0.1", "10.0.0.3", True),
        ("0.0.0.0", "192.168.1.2", True),
        ("fd00::3", "2a00::1", True),
        ("10.0.0.3", "2a00::1", True),
        ("172.17.0.1", "192.168.1.2", False),
        ("100.64.0.1", "10.0.0.3", False),
        ("8.8.8.8", "2a00::1", False),
        ("8.8.8.8", "127.0.0.1", False),
        ("8.8.4.4", "64:ff9b::808:808", False),
    ],
)
def test_address_of_a_machine_or_a_site_is_nearer_than_one_of_the_internet(
    address: str, other: str, nearer: bool
) -> None:
    assert is_nearer(ip_address(address), ip_address(other)) is nearer


def test_allow_excepts_a_network_from_the_private_rule_in_every_form() -> None:
    policy = AddressPolicy(allow=(ip_network("10.1.0.0/16"), ip_network("fd00:1::/32")))
    assert policy.check(ip_address("10.1.2.3"), 50000) is None
    assert policy.check(ip_address("::ffff:10.1.2.3"), 50000) is None
    assert policy.check(ip_address("fd00:1::7"), 50000) is None
    assert policy.check(ip_address("10.2.2.3"), 50000) == "private"


def test_allow_does_not_except_loopback() -> None:
    policy = AddressPolicy(allow=(ip_network("127.0.0.0/8"),))
    assert policy.check(ip_address("127.0.0.1"), 50000) == "loopback"


def test_deny_counts_before_everything_and_for_both_forms() -> None:
    policy = AddressPolicy(
        private=True,
        allow=(ip_network("10.0.0.0/8"),),
        deny=(ip_network("10.9.0.0/16"), ip_network("203.0.113.0/24"), ip_network("2002::/16")),
    )
    assert policy.check(ip_address("10.9.1.1"), 50000) == "denied"
    assert policy.check(ip_address("64:ff9b::10.9.1.1"), 50000) == "denied"
    assert policy.check(ip_address("203.0.113.5"), 50000) == "denied"
    assert policy.check(ip_address("2002:0808:0808::1"), 50000) == "denied"
    assert policy.check(ip_address("10.8.1.1"), 50000) is None


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_a_wrapped_address_gets_the_answer_of_the_bare_one(address: IPv4Address) -> None:
    number = int(address)
    wrapped = [
        IPv6Address((0xFFFF << 32) | number),
        IPv6Address((0x64FF9B << 96) | number),
        IPv6Address((0x2002 << 112) | (number << 80) | 1),
    ]
    assert [canonical(each) for each in wrapped] == [address] * 3
    for policy in (DEFAULT, OPEN):
        assert {policy.check(each, 50000) for each in wrapped} == {policy.check(address, 50000)}


@given(st.integers(0, 2**128 - 1).map(IPv6Address))
def test_an_accepted_ipv6_address_is_global_unicast_by_default(address: IPv6Address) -> None:
    if DEFAULT.check(address, 50000) is None:
        assert canonical(address).version == 4 or address in ip_network("2000::/3")

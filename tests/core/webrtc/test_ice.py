"""Which addresses stand in for local ones."""

from __future__ import annotations

import contextlib
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.webrtc.ice import Advertised, parse_advertised


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("203.0.113.7", Advertised(ip_address("203.0.113.7"))),
        ("203.0.113.7/10.0.0.2", Advertised(ip_address("203.0.113.7"), ip_address("10.0.0.2"))),
        ("2001:db8:0::1", Advertised(ip_address("2001:db8::1"))),
    ],
)
def test_addresses_that_are_advertised(text: str, value: Advertised) -> None:
    assert parse_advertised(text) == value
    assert parse_advertised(str(value)) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.0.0.0", "not an address that callers can reach"),
        ("203.0.113.7/224.0.0.1", "not an address that callers can reach"),
        ("203.0.113.7/::1", "joins an IPv4 address with an IPv6 address"),
        ("1.2.3.4/5.6.7.8/9.9.9.9", "neither an IP address nor EXTERNAL/LOCAL"),
        ("1.2.3.4/", "neither an IP address nor EXTERNAL/LOCAL"),
        ("/1.2.3.4", "neither an IP address nor EXTERNAL/LOCAL"),
        ("example.org", "neither an IP address nor EXTERNAL/LOCAL"),
        ("", "neither an IP address nor EXTERNAL/LOCAL"),
    ],
)
def test_addresses_that_cannot_be_advertised(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_advertised(text)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_advertised(text)

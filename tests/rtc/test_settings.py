"""Settings: mistakes are refused with the name of the setting and its value."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.rtc.settings import Advertised, RtcSettings


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"port_range": (50000, 49999)}, "port_range: 50000-49999"),
        ({"port_range": (80, 90)}, "port_range: 80-90"),
        ({"port_range": (65000, 65536)}, "port_range: 65000-65536"),
        ({"advertise": ("example.org",)}, "advertise: 'example.org'"),
        ({"advertise": ("192.0.2.1/fd00::1",)}, "joins an IPv4 address with an IPv6 address"),
        ({"gather_timeout_s": 0}, "gather_timeout_s: 0"),
        ({"ice_timeout_s": 601}, "ice_timeout_s: 601"),
        ({"max_message": 16383}, "max_message: 16383"),
        ({"max_channels": 0}, "max_channels: 0"),
        ({"receive_window": 131071}, "receive_window: 131071"),
    ],
)
def test_mistake_is_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RtcSettings(**change)
    assert text in str(caught.value)


def test_limits_are_inclusive() -> None:
    RtcSettings(port_range=(1024, 65535), max_message=16384, receive_window=32768, max_channels=1024)
    RtcSettings(port_range=(50000, 50000))


def test_advertised_addresses_become_values() -> None:
    assert RtcSettings(advertise=("192.0.2.1", "192.0.2.2/10.0.0.2", "2001:db8::1")).advertised == (
        Advertised(ip_address("192.0.2.1"), None),
        Advertised(ip_address("192.0.2.2"), ip_address("10.0.0.2")),
        Advertised(ip_address("2001:db8::1"), None),
    )

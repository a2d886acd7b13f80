"""Settings: mistakes are refused with the name of the setting and its value."""

from __future__ import annotations

from typing import Any

import pytest

from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.rtc.settings import RtcSettings


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"port_range": (50000, 49999)}, "port_range: 50000-49999"),
        ({"port_range": (80, 90)}, "port_range: 80-90"),
        ({"port_range": (65000, 65536)}, "port_range: 65000-65536"),
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
    allowed = {"port_range": (1024, 65535), "max_message": 16384, "receive_window": 32768, "max_channels": 1024}
    settings = RtcSettings(**allowed)  # type: ignore[arg-type]
    assert {name: getattr(settings, name) for name in allowed} == allowed
    assert RtcSettings(port_range=(50000, 50000)).port_range == (50000, 50000)

"""What a call goes by is stored as one text, and read again from what earlier versions have stored."""

from __future__ import annotations

import pytest

from mxrtc_bridge.core.call.route import CallRoute, DevicePair, read_call_route
from mxrtc_bridge.core.ids import DeviceId, RoomId, UserId

ALICE, PEER = UserId("@alice:example.org"), UserId("@rtc_build:example.org")


@pytest.mark.parametrize(
    ("route", "stored"),
    [
        (RoomId("!room:example.org"), "!room:example.org"),
        (DevicePair(PEER, ALICE, DeviceId("ALICES")), "devices:@rtc_build:example.org @alice:example.org ALICES"),
        (DevicePair(PEER, ALICE, DeviceId("a b @c:d")), "devices:@rtc_build:example.org @alice:example.org a b @c:d"),
        (DevicePair(PEER, ALICE, DeviceId("")), "devices:@rtc_build:example.org @alice:example.org "),
    ],
)
def test_a_route_is_stored_as_ever_and_read_again(route: CallRoute, stored: str) -> None:
    assert str(route) == stored
    assert read_call_route(stored) == route


@pytest.mark.parametrize("text", ["devices:", "devices:@a:b", "devices:@a:b @c:d"])
def test_what_names_no_pair_of_devices_is_no_route(text: str) -> None:
    with pytest.raises(ValueError, match="not enough values"):
        read_call_route(text)

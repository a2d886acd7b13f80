"""The report of a gathering."""

from __future__ import annotations

import pytest

from mxrtc_bridge.core.webrtc.gathering_report import ServerAttempt, ServerOutcome


@pytest.mark.parametrize(
    ("uri", "relays"),
    [
        ("stun:turn.example.org:3478", False),
        ("turn:turn.example.org:3478?transport=udp", True),
        ("turns:turn.example.org:443?transport=tcp", True),
    ],
)
def test_relay_is_asked_of_turn_servers_alone(uri: str, relays: bool) -> None:
    assert ServerAttempt(uri, ServerOutcome.OK).relays is relays

"""Where STUN and TURN servers are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.webrtc.ice_servers import IceServer, IceUri, parse_ice_uri


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("stun:stun.example.org", IceUri("stun", "stun.example.org", 3478, None)),
        ("TURN:a.example:80?transport=TCP", IceUri("turn", "a.example", 80, "tcp")),
        ("turns:[2001:db8::1]?transport=tcp", IceUri("turns", "2001:db8::1", 5349, "tcp")),
        ("turn:a.example:99999", IceUri("turn", "a.example", 99999, None)),
        ("stun.example.org", None),
        ("stun://stun.example.org", None),
        ("turn:a.example?transport=sctp", None),
        ("turn:a b", None),
        # The long s and the sign of Kelvin, which count as Latin letters where case does not.
        ("turn\u017f:a.example", None),
        ("\u017ftun:a.example", None),
        ("stun:\u017f.example", None),
        ("stun:\u212a.example", None),
        ("", None),
    ],
)
def test_uris_of_servers(text: str, uri: IceUri | None) -> None:
    assert parse_ice_uri(text) == uri


def test_what_relays_is_known_however_its_scheme_is_written() -> None:
    server = IceServer(("stun:a.example", "TURN:a.example", "turns:b.example", "TurnS:c.example", "turn"))
    assert server.turn_urls == ("TURN:a.example", "turns:b.example", "TurnS:c.example")


@given(st.text(max_size=60))
def test_any_text_is_read_or_is_none(text: str) -> None:
    uri = parse_ice_uri(text)
    assert uri is None or uri.host in text

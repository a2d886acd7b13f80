"""Names of peers and services as a user types them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.access.peer_names import NamingError, PeerName, parse_peer_name, short_name
from mxrtc_bridge.core.ids import ServiceName, UserId

HOME = "home.example"


@pytest.mark.parametrize(
    ("text", "peer", "service"),
    [
        ("build/ssh", "@rtc_build:home.example", "ssh"),
        ("build", "@rtc_build:home.example", None),
        ("build@other.example:8448/web", "@rtc_build:other.example:8448", "web"),
        ("@rtc_build:other.example/ssh", "@rtc_build:other.example", "ssh"),
        ("@rtcbot:home.example", "@rtcbot:home.example", None),
        ("build@OTHER.example/web", "@rtc_build:other.example", "web"),
        ("@Rtc_Build:Other.Example/ssh", "@Rtc_Build:other.example", "ssh"),
        ("a.b-c_d=e/x.y-z_1", "@rtc_a.b-c_d=e:home.example", "x.y-z_1"),
    ],
)
def test_name_is_read(text: str, peer: str, service: str | None) -> None:
    expected = PeerName(UserId(peer), None if service is None else ServiceName(service))
    assert parse_peer_name(text, server=HOME) == expected


@pytest.mark.parametrize("text", ["build", "build@home.EXAMPLE", "@rtc_build:HOME.example"])
def test_name_of_the_own_server_is_written_as_that_is_known(text: str) -> None:
    """Of a homeserver whose name has capitals, the ids of all users have them."""
    assert parse_peer_name(text, server="Home.Example").peer == "@rtc_build:Home.Example"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "build/",
        "build/SSH",
        "build/ssh/x",
        "Build",
        "build:22",
        "@build",
        "build/" + "x" * 64,
        "x" * 401,
        "a b",
    ],
)
def test_name_that_cannot_be_one_is_refused(text: str) -> None:
    with pytest.raises(NamingError):
        parse_peer_name(text, server=HOME)


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        name = parse_peer_name(text, server=HOME)
    except NamingError:
        return
    assert name.peer.startswith("@")


@given(st.from_regex(r"[a-z0-9._=+-]{1,20}", fullmatch=True), st.sampled_from([HOME, "other.example"]))
def test_short_name_reads_back(peer: str, server: str) -> None:
    user = UserId(f"@rtc_{peer}:{server}")
    assert parse_peer_name(short_name(user, server=HOME), server=HOME).peer == user


def test_short_name_of_a_user_outside_the_namespace_is_the_full_one() -> None:
    assert short_name(UserId("@rtcbot:home.example"), server=HOME) == "@rtcbot:home.example"

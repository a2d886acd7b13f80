"""STUN and TURN URIs: order, defaults, duplicates, and what cannot be used."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.webrtc.ice_servers import IceServer
from mxrtc_bridge.rtc.ice_servers import MAX_TURN_SERVERS, ServerPlan, StunServer, TurnServer, plan_servers


def plan(*urls: str) -> ServerPlan:
    return plan_servers([IceServer(urls, "user", "secret")])


def relay(host: str, port: int, transport: str, tls: bool = False) -> TurnServer:
    return TurnServer(host, port, transport, tls, "user", "secret")


def test_ways_to_turn_servers_take_turns_and_keep_their_order_within() -> None:
    assert plan(
        "turns:a.example?transport=tcp", "turn:b.example?transport=tcp", "turn:c.example", "turn:d.example:3479"
    ).turn == (
        relay("c.example", 3478, "udp"),
        relay("b.example", 3478, "tcp"),
        relay("a.example", 5349, "tcp", tls=True),
        relay("d.example", 3479, "udp"),
    )


def test_tls_is_among_the_first_and_is_not_cut_off_by_many_servers_over_udp() -> None:
    servers = plan(*(f"turn:{number}.example" for number in range(20)), "turns:b.example").turn
    assert servers[1] == relay("b.example", 5349, "tcp", tls=True)


def test_turn_server_is_asked_for_the_reflexive_address_when_no_stun_server_is_named() -> None:
    assert plan("turn:a.example?transport=udp", "turn:a.example?transport=tcp").stun == (
        StunServer("a.example", 3478, expected=False),
    )
    assert plan("turn:a.example", "stun:b.example").stun == (StunServer("b.example", 3478),)
    assert plan("turns:a.example").stun == ()


def test_ipv6_literals_are_understood() -> None:
    assert plan("stun:[2001:db8::1]:3479", "turn:[2001:db8::2]?transport=udp") == ServerPlan(
        stun=(StunServer("2001:db8::1", 3479),), turn=(relay("2001:db8::2", 3478, "udp"),)
    )


def test_unusable_uris_are_listed_and_the_rest_works() -> None:
    unusable = (
        "stuns:a.example",
        "turns:a.example?transport=udp",
        "stun:a.example?transport=tcp",
        "turn:a.example:0",
        "turn:a.example:65536",
        "turn:a b",
        "http://a.example",
        "turn:",
        "",
        "turn:a.example?transport=sctp",
    )
    assert plan(*unusable, "stun:b.example") == ServerPlan(stun=(StunServer("b.example", 3478),), ignored=unusable)


def test_unusable_uris_are_shown_without_a_password_and_without_what_drives_a_terminal() -> None:
    (first, second, third) = plan("turn:user:secret@a.example:3478", "turn:a\x1b[2J", "turn:" + "x" * 500).ignored
    assert first == "...@a.example:3478"
    assert second == "turn:a\\x1b[2J"
    assert len(third) == 120


def test_duplicates_and_excess_are_dropped() -> None:
    many = plan(*(f"turn:{number}.example" for number in range(20)), *["stun:s.example"] * 5)
    assert len(many.turn) == MAX_TURN_SERVERS
    assert many.stun == (StunServer("s.example", 3478),)


def test_no_server_is_ever_added_by_default() -> None:
    assert plan_servers([]) == ServerPlan()


def test_credentials_do_not_show() -> None:
    assert "secret" not in repr(plan("turn:a.example"))
    assert "user" not in repr(plan("turn:a.example"))


@given(st.text(max_size=60))
def test_any_text_is_planned_or_ignored(text: str) -> None:
    result = plan(text)
    assert len(result.turn) + len(result.stun) + len(result.ignored) >= 1

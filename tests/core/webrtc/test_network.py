"""What the servers of a network tell about it."""

from __future__ import annotations

import pytest

from mxrtc_bridge.core.webrtc.gathering_report import ServerAttempt, ServerOutcome
from mxrtc_bridge.core.webrtc.network import Network, ServerSeen

STUN, UDP, TCP, TLS = (
    "stun:server.test:3478",
    "turn:server.test:3478?transport=udp",
    "turn:server.test:3478?transport=tcp",
    "turns:server.test:443?transport=tcp",
)
OK, SILENT = ServerOutcome.OK, ServerOutcome.TIMED_OUT


@pytest.mark.parametrize(
    ("outcomes", "udp", "relays", "calls", "words"),
    [
        ({}, None, False, True, "only a call shows"),
        ({STUN: OK}, True, False, True, "where a direct path exists"),
        ({STUN: OK, UDP: OK}, True, True, True, "direct or relayed"),
        ({UDP: SILENT, TCP: SILENT, TLS: OK}, False, True, True, "relayed, as no server answers by UDP"),
        ({UDP: SILENT, TLS: ServerOutcome.CERTIFICATE}, False, False, False, "no call works from this network"),
        ({UDP: ServerOutcome.CREDENTIALS}, True, False, True, "where a direct path exists"),
        ({UDP: ServerOutcome.PRIVATE}, True, False, True, "where a direct path exists"),
        ({UDP: ServerOutcome.QUOTA}, True, False, True, "where a direct path exists"),
        ({TCP: SILENT}, None, False, True, "only a call shows"),
    ],
)
def test_verdict_follows_from_what_each_server_did(
    outcomes: dict[str, ServerOutcome], udp: bool | None, relays: bool, calls: bool, words: str
) -> None:
    network = Network(tuple(ServerSeen(ServerAttempt(uri, outcome), 0.01) for uri, outcome in outcomes.items()))
    assert (network.lets_udp_out, network.relays, network.allows_calls) == (udp, relays, calls)
    assert words in network.verdict


def test_a_server_is_shown_with_its_time() -> None:
    assert str(ServerSeen(ServerAttempt(TLS, OK), 0.0344)) == f"{TLS} relays, after 34 ms"
    assert str(ServerSeen(ServerAttempt(STUN, OK), 0.0344)) == f"{STUN} answers, after 34 ms"
    assert str(ServerSeen(ServerAttempt(STUN, SILENT), 6)) == f"{STUN} does not answer, after 6000 ms"

"""The sentence says of each TURN server what it did, and calls for one only where there is none."""

from __future__ import annotations

import pytest

from mxrtc_bridge.core.webrtc.gathering_report import GatheringReport, ServerAttempt, ServerOutcome
from mxrtc_bridge.core.webrtc.gathering_words import MAX_NAMED, NO_TURN, left_out_words, outcome_words, relay_words

TURN = "turn:turn.example.org:3478?transport=udp"
TURNS = "turns:turn.example.org:443?transport=tcp"


def words(*attempts: ServerAttempt, unusable: tuple[str, ...] = ()) -> str:
    return relay_words(GatheringReport(attempts=attempts, unusable=unusable))


def test_a_turn_server_is_called_for_only_where_there_is_none() -> None:
    assert words() == NO_TURN
    assert words(ServerAttempt("stun:stun.example.org:3478", ServerOutcome.OK)) == NO_TURN
    for outcome in ServerOutcome:
        assert "would relay" not in words(ServerAttempt(TURN, outcome))
    assert (
        words(unusable=("turns:x?transport=udp",))
        == "no TURN server relays them (cannot be used: turns:x?transport=udp)"
    )


def test_each_server_is_named_with_what_it_did() -> None:
    said = words(ServerAttempt(TURN, ServerOutcome.TIMED_OUT), ServerAttempt(TURNS, ServerOutcome.CERTIFICATE))
    assert said == f"no TURN server relays them (timed out: {TURN}; certificate not trusted: {TURNS})"


def test_a_certificate_is_told_with_its_fault() -> None:
    attempt = ServerAttempt(TURNS, ServerOutcome.CERTIFICATE, "certificate has expired")
    said = words(attempt)
    assert said == f"no TURN server relays them (certificate not trusted, certificate has expired: {TURNS})"
    assert outcome_words(attempt).endswith("that this machine does not trust: certificate has expired")


def test_servers_with_the_same_fault_are_named_together() -> None:
    others = ("turn:a.example.org:3478?transport=tcp", "turn:b.example.org:3478?transport=tcp")
    refused = [ServerAttempt(uri, ServerOutcome.CREDENTIALS) for uri in others]
    said = words(refused[0], ServerAttempt(TURNS, ServerOutcome.FAILED, "error 403"), refused[1])
    assert said == f"no TURN server relays them (credentials refused: {', '.join(others)}; error 403: {TURNS})"


def test_a_server_that_relays_is_not_blamed() -> None:
    said = words(ServerAttempt(TURN, ServerOutcome.TIMED_OUT), ServerAttempt(TURNS, ServerOutcome.OK))
    assert said.startswith(f"{TURNS} gives this side a relayed address, and nothing")
    assert TURN not in said


def test_a_server_behind_a_nat_that_it_does_not_know_is_told_with_the_remedy() -> None:
    assert words(ServerAttempt(TURN, ServerOutcome.PRIVATE)) == f"no TURN server relays them (private address: {TURN})"
    assert "external-ip" in outcome_words(ServerAttempt(TURN, ServerOutcome.PRIVATE))
    assert "external-ip" not in outcome_words(ServerAttempt("stun:turn.example.org:3478", ServerOutcome.PRIVATE))


def test_the_sentence_has_an_end() -> None:
    said = words(*(ServerAttempt(f"turn:{number}", ServerOutcome.QUOTA) for number in range(MAX_NAMED + 2)))
    assert said.endswith("(full: turn:0, turn:1, turn:2 and 2 more)")
    assert f"turn:{MAX_NAMED}" not in said


@pytest.mark.parametrize("outcome", list(ServerOutcome))
def test_every_outcome_has_words_of_its_own(outcome: ServerOutcome) -> None:
    said = outcome_words(ServerAttempt(TURN, outcome, "error 403"))
    assert (said == "fails: error 403") is (outcome is ServerOutcome.FAILED)


def test_addresses_that_were_left_out_are_told_with_the_remedy() -> None:
    assert left_out_words(GatheringReport()) == ""
    assert left_out_words(GatheringReport(addresses_left_out=4)) == (
        "; 4 more addresses of this machine were not tried: --interface says which to use"
    )

"""Reading and writing of single candidates."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import CandidateError
from mxrtc_bridge.core.webrtc.address_policy import AddressPolicy
from mxrtc_bridge.core.webrtc.candidate import (
    MAX_CANDIDATE_LINES,
    MAX_CANDIDATES,
    MAX_RELAYED,
    Candidate,
    CandidateIntake,
    format_candidate,
    parse_candidate,
)

POLICY = AddressPolicy()
HOST = Candidate("1", 1, 2122260223, ip_address("203.0.113.7"), 50000, "host")

ICE_CHARS = st.sampled_from("abcXYZ019+/")
ADDRESSES = st.sampled_from(["203.0.113.7", "8.8.4.4", "2001:db8::7", "2a00:1450::1"]).map(ip_address)
CANDIDATES = st.builds(
    Candidate,
    foundation=st.text(ICE_CHARS, min_size=1, max_size=32),
    component=st.just(1),
    priority=st.sampled_from([1, 2, 2**31 - 2, 2**31 - 1]),
    address=ADDRESSES,
    port=st.sampled_from([1024, 1025, 50000, 65534, 65535]),
    type=st.sampled_from(["host", "srflx", "prflx", "relay"]),
    related_address=st.none() | st.sampled_from(["0.0.0.0", "192.168.1.2", "::", "fe80::1"]),
    related_port=st.none() | st.sampled_from([0, 9, 65535]),
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "candidate:842163049 1 udp 1677729535 203.0.113.7 46154 typ srflx raddr 10.0.17.1 rport 46154 ufrag EsAw",
            Candidate("842163049", 1, 1677729535, ip_address("203.0.113.7"), 46154, "srflx", "10.0.17.1", 46154),
        ),
        ("candidate:1 1 UDP 2122260223 203.0.113.7 50000 typ host", HOST),
        ("a=candidate:1 1 UDP 2122260223 203.0.113.7 50000 typ host", HOST),
        ("1 1 udp 2122260223 203.0.113.7 50000 typ host", HOST),
        (
            "candidate:1 1 udp 2122260223 203.0.113.7 50000 typ host raddr box.local rport 9",
            replace(HOST, related_port=9),
        ),
        (
            "candidate:6815297761 1 udp 2130706431 2001:db8:0:0::7 1024 typ relay raddr :: rport 0",
            Candidate("6815297761", 1, 2130706431, ip_address("2001:db8::7"), 1024, "relay", "::", 0),
        ),
    ],
)
def test_candidate_is_read_in_the_forms_of_real_clients(line: str, expected: Candidate) -> None:
    assert parse_candidate(line, POLICY) == expected


@pytest.mark.parametrize(
    "line",
    [
        "candidate:1 1 tcp 1518280447 203.0.113.7 9 typ host tcptype active",
        "candidate:1 1 ssltcp 1518280447 203.0.113.7 443 typ host",
        "candidate:1 2 udp 2122260222 203.0.113.7 50000 typ host",
        "candidate:1 1 udp 2122260223 0b9c5a5e-8b1b-4d3c-9c0e-3a7d6a1f2e55.local 50000 typ host",
        "candidate:1 1 udp 2122260223 nas.local 50000 typ host",
        "candidate:1 1 udp 2122260223 relay.example.org 50000 typ host",
        "candidate:1 1 udp 2122260223 127.1 50000 typ host",
        "candidate:1 1 udp 2122260223 203.0.113.7 50000 typ future",
        "candidate:1 1 udp 2122260223 127.0.0.1 50000 typ host",
        "candidate:1 1 udp 2122260223 192.168.1.1 50000 typ host",
        "candidate:1 1 udp 2122260223 ::ffff:169.254.169.254 50000 typ relay",
        "candidate:1 1 udp 2122260223 203.0.113.7 1023 typ prflx",
    ],
)
def test_candidate_is_refused_without_complaint_when_it_is_of_no_use(line: str) -> None:
    assert parse_candidate(line, POLICY) is None


@pytest.mark.parametrize(
    "line",
    [
        "",
        "candidate:",
        "candidate:1 1 udp 1 203.0.113.7 50000 typ",
        "candidate:1 1 udp 1 203.0.113.7 50000 host typ",
        "candidate:1 x udp 1 203.0.113.7 50000 typ host",
        "candidate:1 0 udp 1 203.0.113.7 50000 typ host",
        "candidate:1 257 udp 1 203.0.113.7 50000 typ host",
        "candidate:1 1 u(dp 1 203.0.113.7 50000 typ host",
        "candidate:1 1 udp 0 203.0.113.7 50000 typ host",
        "candidate:1 1 udp 2147483648 203.0.113.7 50000 typ host",
        "candidate:1 1 udp -1 203.0.113.7 50000 typ host",
        "candidate:1 1 udp 1 203.0.113.7 65536 typ host",
        "candidate:1 1 udp 1 203.0.113.7 99999999999 typ host",
        "candidate:1 1 udp 1 203.0.113.7 \u0665\u0660\u0660\u0660 typ host",
        "candidate:1 1 udp 1 fe80::1%eth0 50000 typ host",
        "candidate:1 1 udp 1 [2001:db8::1] 50000 typ host",
        "candidate:1 1 udp 1 a:b:c 50000 typ host",
        "candidate:1 1 udp 1 203.0.113.7 50000 typ host raddr",
        "candidate:1 1 udp 1 203.0.113.7 50000 typ host raddr 0.0.0.0 rport x",
        "candidate:1 1 udp 1 203.0.113.7 50000 typ host rport 65536",
        f"candidate:{'a' * 33} 1 udp 1 203.0.113.7 50000 typ host",
        "candidate:1! 1 udp 1 203.0.113.7 50000 typ host",
        "candidate:1 1 udp 1 203.0.113.7 50000 typ host\r\na=candidate:2 1 udp 1 203.0.113.8 50000 typ host",
        "candidate:1 1 udp 1 203.0.113.7 50000 typ host x \x1b]0;",
    ],
)
def test_candidate_is_an_error_when_it_is_malformed(line: str) -> None:
    with pytest.raises(CandidateError) as caught:
        parse_candidate(line, POLICY)
    assert caught.value.code == "bad_candidate"
    assert "203.0.113" not in str(caught.value)


def test_candidate_may_have_512_characters_but_not_more() -> None:
    line = "candidate:1 1 udp 2122260223 203.0.113.7 50000 typ host x "
    assert parse_candidate(line.ljust(512, "y"), POLICY) == HOST
    with pytest.raises(CandidateError, match="513 characters"):
        parse_candidate(line.ljust(513, "y"), POLICY)


@given(CANDIDATES)
def test_candidate_survives_writing_and_reading(candidate: Candidate) -> None:
    assert parse_candidate(format_candidate(candidate), POLICY) == candidate


@given(st.text(max_size=600) | st.lists(st.sampled_from(format_candidate(HOST).split()), max_size=14).map(" ".join))
def test_candidate_is_read_or_refused_or_an_error_whatever_the_text(line: str) -> None:
    try:
        candidate = parse_candidate(line, POLICY)
    except CandidateError:
        return
    if candidate is not None:
        assert parse_candidate(format_candidate(candidate), POLICY) == candidate
        assert POLICY.check(candidate.address, candidate.port) is None


def test_intake_takes_what_is_new_and_of_use_up_to_the_bound_of_each_family() -> None:
    intake = CandidateIntake(POLICY)
    old = [f"candidate:1 1 udp 1 203.0.113.{i} 50000 typ host" for i in range(MAX_CANDIDATES + 1)]
    new = [f"candidate:1 1 udp 1 2001:db8::{i:x} 50000 typ host" for i in range(1, MAX_CANDIDATES + 2)]
    useless = ["", "junk", old[0].replace("udp", "tcp"), old[0].replace("203.0.113.0", "10.0.0.1")]
    assert len(intake.take([*useless, *old[:9], *old[:9]])) == 9
    assert intake.dropped == 13
    assert len(intake.take(old)) == MAX_CANDIDATES - 9
    assert len(intake.take(new)) == MAX_CANDIDATES
    intake.take([""] * MAX_CANDIDATE_LINES)
    assert intake.dropped == 13 + 10 + 1 + MAX_CANDIDATE_LINES


def test_intake_has_places_for_relayed_candidates_behind_many_hosts() -> None:
    intake = CandidateIntake(POLICY)
    hosts = [f"candidate:1 1 udp 1 203.0.113.{i} 50000 typ host" for i in range(MAX_CANDIDATES)]
    relayed = [f"candidate:1 1 udp 1 203.0.113.{i} 50000 typ relay" for i in range(MAX_RELAYED + 1)]
    assert len(intake.take([*hosts, *relayed])) == MAX_CANDIDATES + MAX_RELAYED
    assert intake.take([hosts[0].replace(" 50000", " 50001")]) == ()


def test_intake_looks_at_no_more_lines_than_the_bound() -> None:
    intake = CandidateIntake(POLICY)
    assert intake.take([""] * (MAX_CANDIDATE_LINES - 1)) == ()
    assert intake.take([format_candidate(HOST), format_candidate(replace(HOST, port=50001))]) == (HOST,)

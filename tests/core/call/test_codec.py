"""Reading and writing of call content: the shapes that clients send, every limit, and anything else JSON can hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.call.codec import content_of, parse_message
from mxrtc_bridge.core.call.events import (
    DEFAULT_LIFETIME_MS,
    EVENT_TYPES,
    MAX_LIFETIME_MS,
    MAX_REASON_CHARS,
    MIN_LIFETIME_MS,
    Answer,
    CallMessage,
    CandidateLine,
    Candidates,
    Hangup,
    Invite,
    Negotiate,
    Reject,
    SelectAnswer,
    Version,
)
from mxrtc_bridge.core.errors import EventError, RefusalCode, StateError
from mxrtc_bridge.core.ids import CallId, PartyId, UserId
from mxrtc_bridge.core.webrtc.candidate import MAX_CANDIDATE_CHARS, MAX_CANDIDATE_LINES
from mxrtc_bridge.core.webrtc.sdp import MAX_SDP_BYTES, DescriptionType
from tests.long import examples

HEAD: dict[str, Any] = {"call_id": "c1", "party_id": "p1", "version": "1"}
OFFER = {"type": "offer", "sdp": "v=0\r\n"}
C1, P1 = CallId("c1"), PartyId("p1")

BODIES: dict[str, dict[str, Any]] = {
    "m.call.invite": {"offer": OFFER, "lifetime": 60_000},
    "m.call.answer": {"answer": {"type": "answer", "sdp": "v=0\r\n"}},
    "m.call.candidates": {"candidates": [{"candidate": "candidate:1", "sdpMid": "0", "sdpMLineIndex": 0}]},
    "m.call.select_answer": {"selected_party_id": "p2"},
    "m.call.reject": {},
    "m.call.hangup": {"reason": "user_hangup"},
    "m.call.negotiate": {"description": OFFER, "lifetime": 60_000},
}


def read(name: str, **changes: Any) -> CallMessage:
    """Read an honest content with some keys changed; ``...`` leaves a key out."""
    content = HEAD | BODIES[f"m.call.{name}"] | changes
    return parse_message(f"m.call.{name}", {key: value for key, value in content.items() if value is not ...})


def refusal(name: str, **changes: Any) -> tuple[str, str]:
    with pytest.raises(EventError) as caught:
        read(name, **changes)
    return caught.value.code, str(caught.value)


# What clients send


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("invite", Invite(C1, P1, Version.V1, "v=0\r\n", 60_000)),
        ("answer", Answer(C1, P1, Version.V1, "v=0\r\n")),
        ("candidates", Candidates(C1, P1, Version.V1, (CandidateLine("candidate:1", "0", 0),))),
        ("select_answer", SelectAnswer(C1, P1, Version.V1, PartyId("p2"))),
        ("reject", Reject(C1, P1, Version.V1)),
        ("hangup", Hangup(C1, P1, Version.V1, "user_hangup")),
        ("negotiate", Negotiate(C1, P1, Version.V1, DescriptionType.OFFER, "v=0\r\n", 60_000)),
    ],
)
def test_each_type_is_read_from_version_1_content(name: str, expected: CallMessage) -> None:
    assert read(name) == expected
    assert read(name, unknown_key={"deep": [1]}) == expected


def test_the_names_of_the_types_are_those_of_the_specification() -> None:
    assert list(EVENT_TYPES) == list(BODIES)


@pytest.mark.parametrize("version", ["1", "0", 1, 2, "2", None, False, 0.0, [], {}, ...])
def test_every_version_but_the_integer_0_counts_as_1(version: object) -> None:
    assert read("hangup", version=version).version is Version.V1


def test_version_0_content_has_no_party_even_if_it_names_one() -> None:
    assert read("invite", version=0) == Invite(C1, None, Version.V0, "v=0\r\n", 60_000)
    assert read("hangup", version=0, party_id=["nonsense"]).party_id is None


@pytest.mark.parametrize("name", ["select_answer", "reject", "negotiate"])
def test_version_0_does_not_have_the_later_types(name: str) -> None:
    assert refusal(name, version=0)[0] == "bad_version"


def test_a_version_1_message_needs_a_party() -> None:
    for event_type in BODIES:
        assert refusal(event_type.removeprefix("m.call."), party_id=...)[0] == "bad_id"


def test_null_counts_as_missing_where_a_key_is_optional() -> None:
    assert read("invite", invitee=None) == read("invite")
    assert read("select_answer", selected_party_id=None) == SelectAnswer(C1, P1, Version.V1, None)
    line = {"candidate": "candidate:1", "sdpMid": None, "sdpMLineIndex": None}
    assert read("candidates", candidates=[line]) == Candidates(C1, P1, Version.V1, (CandidateLine("candidate:1"),))


@pytest.mark.parametrize("mark", [{"candidate": ""}, {"candidate": "", "sdpMid": "0", "sdpMLineIndex": 0}])
def test_the_end_mark_is_a_flag_and_no_candidate(mark: dict[str, object]) -> None:
    assert read("candidates", candidates=[mark]) == Candidates(C1, P1, Version.V1, (), end=True)


# Lifetimes


@pytest.mark.parametrize(
    ("lifetime", "expected"),
    [
        (-1, MIN_LIFETIME_MS),
        (0, MIN_LIFETIME_MS),
        (MIN_LIFETIME_MS - 1, MIN_LIFETIME_MS),
        (MIN_LIFETIME_MS, MIN_LIFETIME_MS),
        (MIN_LIFETIME_MS + 1, MIN_LIFETIME_MS + 1),
        (MAX_LIFETIME_MS - 1, MAX_LIFETIME_MS - 1),
        (MAX_LIFETIME_MS, MAX_LIFETIME_MS),
        (MAX_LIFETIME_MS + 1, MAX_LIFETIME_MS),
        pytest.param(10**6000, MAX_LIFETIME_MS, id="more digits than Python prints"),
    ],
)
def test_a_lifetime_is_moved_into_its_bounds(lifetime: int, expected: int) -> None:
    for message in (read("invite", lifetime=lifetime), read("negotiate", lifetime=lifetime)):
        assert isinstance(message, Invite | Negotiate)
        assert message.lifetime_ms == expected


@pytest.mark.parametrize("lifetime", [True, 60_000.0, "60000", [], ..., None])
def test_a_lifetime_that_is_no_integer_is_a_fault_of_the_invite(lifetime: object) -> None:
    expected = Invite(C1, P1, Version.V1, "", DEFAULT_LIFETIME_MS, fault=RefusalCode.BAD_CONTENT)
    message = read("invite", lifetime=lifetime)
    assert message == expected
    assert isinstance(message, Invite)
    assert message.fault_text.startswith("lifetime must be an integer in milliseconds, not ")


def test_a_version_0_invite_without_lifetime_has_the_default_one() -> None:
    message = read("invite", version=0, lifetime=...)
    assert isinstance(message, Invite)
    assert message.lifetime_ms == DEFAULT_LIFETIME_MS


# Limits


@pytest.mark.parametrize("letter", ["a", "é", "€", "𝄞"])
def test_the_limit_of_a_description_counts_its_bytes(letter: str) -> None:
    fitting = letter * (MAX_SDP_BYTES // len(letter.encode()))
    fitting += "a" * (MAX_SDP_BYTES - len(fitting.encode()))
    read("invite", offer={"type": "offer", "sdp": fitting[:-1]})
    read("invite", offer={"type": "offer", "sdp": fitting})
    too_large = {"type": "offer", "sdp": fitting + "a"}
    expected = Invite(C1, P1, Version.V1, "", DEFAULT_LIFETIME_MS, fault=RefusalCode.SDP_TOO_LARGE)
    assert read("invite", offer=too_large) == expected
    code, sentence = refusal("negotiate", description=too_large)
    assert code == "sdp_too_large"
    assert str(MAX_SDP_BYTES) in sentence
    assert "description.sdp" in sentence


@pytest.mark.parametrize(
    ("name", "key", "kind"), [("answer", "answer", "answer"), ("negotiate", "description", "answer")]
)
def test_other_descriptions_have_the_same_limit(name: str, key: str, kind: str) -> None:
    read(name, **{key: {"type": kind, "sdp": "a" * MAX_SDP_BYTES}})
    assert refusal(name, **{key: {"type": kind, "sdp": "a" * (MAX_SDP_BYTES + 1)}})[0] == "sdp_too_large"


ODD_CANDIDATES: list[object] = [
    None,
    "candidate:1",
    [],
    {},
    {"candidate": None},
    {"candidate": 7},
    {"candidate": "c" * (MAX_CANDIDATE_CHARS + 1)},
    {"candidate": "half a pair \ud800"},
    {"candidate": "c", "sdpMid": 0},
    {"candidate": "c", "sdpMid": "m" * 256},
    {"candidate": "c", "sdpMid": "\ud800"},
    *({"candidate": "c", "sdpMLineIndex": index} for index in (-1, 65536, True, "0", 0.0, 10**6000)),
]


@pytest.mark.parametrize("odd", ODD_CANDIDATES, ids=range(len(ODD_CANDIDATES)))
def test_an_odd_candidate_costs_itself_only(odd: object) -> None:
    entries = [{"candidate": "before"}, odd, {"candidate": "c" * MAX_CANDIDATE_CHARS}, odd]
    kept = (CandidateLine("before"), CandidateLine("c" * MAX_CANDIDATE_CHARS))
    assert read("candidates", candidates=entries) == Candidates(C1, P1, Version.V1, kept)


def test_candidates_that_are_too_many_are_left_out() -> None:
    line = {"candidate": "candidate:1"}
    full = read("candidates", candidates=[*[line] * (MAX_CANDIDATE_LINES - 1), {"candidate": ""}, *[line] * 9])
    assert full == Candidates(C1, P1, Version.V1, (CandidateLine("candidate:1"),) * (MAX_CANDIDATE_LINES - 1), end=True)


@pytest.mark.parametrize("field", ["call_id", "party_id"])
@pytest.mark.parametrize("value", ["", "a" * 256, "a b", "ä", "a\n", 7, None, True, ["a"], {}, ...])
def test_an_id_that_is_no_short_printable_ascii_is_refused(field: str, value: object) -> None:
    assert refusal("hangup", **{field: value})[0] == "bad_id"
    read("hangup", **{field: "a" * 255})


def test_a_reason_is_cut_and_made_printable() -> None:
    assert read("hangup", reason="x" * (MAX_REASON_CHARS + 1)) == Hangup(C1, P1, Version.V1, "x" * MAX_REASON_CHARS)
    assert read("reject", reason="a\x1b]8;;\n\u202e\ud800b c") == Reject(
        C1, P1, Version.V1, "a\ufffd]8;;\ufffd\ufffd\ufffdb c"
    )


@pytest.mark.parametrize("reason", ["", None, ...])
def test_a_hangup_without_reason_is_an_ordinary_one(reason: object) -> None:
    assert read("hangup", reason=reason) == Hangup(C1, P1, Version.V1, "user_hangup")
    assert read("reject", reason=reason) == Reject(C1, P1, Version.V1, None)


@pytest.mark.parametrize("reason", [1, False, [], {"a": 1}])
def test_a_hangup_with_a_senseless_reason_still_hangs_up(reason: object) -> None:
    assert read("hangup", reason=reason) == Hangup(C1, P1, Version.V1, "unknown_error")


@pytest.mark.parametrize("invitee", ["alice", "@alice", "", 1, ["@a:b"], "@a:b\n"])
def test_an_invitee_that_is_no_user_id_is_refused(invitee: object) -> None:
    assert refusal("invite", invitee=invitee)[0] == "bad_id"


@pytest.mark.parametrize(
    "offer",
    [
        *(..., None, "v=0", [], {}, {"type": "offer"}, {"sdp": "v=0"}, {"type": "answer", "sdp": "v=0"}),
        *({"type": "offer", "sdp": ""}, {"type": "offer", "sdp": 1}, {"type": "offer", "sdp": "\ud800"}),
        {"type": ["offer"], "sdp": "v=0"},
    ],
)
def test_a_senseless_offer_is_refused(offer: object) -> None:
    expected = Invite(C1, P1, Version.V1, "", DEFAULT_LIFETIME_MS, fault=RefusalCode.BAD_CONTENT)
    assert read("invite", offer=offer) == expected


@pytest.mark.parametrize("batch", [..., None, {}, "c"])
def test_senseless_candidates_are_refused(batch: object) -> None:
    assert refusal("candidates", candidates=batch)[0] == "bad_content"


@pytest.mark.parametrize("content", [None, [], "x", 1, True])
def test_content_that_is_no_object_is_refused(content: object) -> None:
    with pytest.raises(EventError, match="content must be an object"):
        parse_message("m.call.hangup", content)


def test_another_event_type_is_refused() -> None:
    with pytest.raises(EventError) as caught:
        parse_message("m.call.asserted_identity", HEAD)
    assert caught.value.code == "unknown_type"


# Writing


def test_an_invite_is_written_as_clients_expect_it() -> None:
    message = Invite(C1, P1, Version.V1, "v=0", 90_000, UserId("@a:b"))
    assert content_of(message) == (
        "m.call.invite",
        {
            "call_id": "c1",
            "party_id": "p1",
            "version": "1",
            "offer": {"type": "offer", "sdp": "v=0"},
            "lifetime": 90_000,
            "invitee": "@a:b",
            "sdp_stream_metadata": {},
            "org.matrix.msc3077.sdp_stream_metadata": {},
            "capabilities": {"m.call.transferee": False, "m.call.dtmf": False},
        },
    )


def test_version_0_is_written_as_the_integer_and_without_what_it_does_not_have() -> None:
    assert content_of(Answer(C1, None, Version.V0, "v=0")) == (
        "m.call.answer",
        {"call_id": "c1", "version": 0, "answer": {"type": "answer", "sdp": "v=0"}},
    )
    assert content_of(Hangup(C1, None, Version.V0)) == ("m.call.hangup", {"call_id": "c1", "version": 0})


def test_a_message_that_its_version_does_not_have_cannot_be_written() -> None:
    with pytest.raises(StateError, match=r"m\.call\.reject does not exist in version 0"):
        content_of(Reject(C1, None, Version.V0))
    with pytest.raises(StateError, match="needs a party_id"):
        content_of(Hangup(C1, None, Version.V1))


# Properties

opaque = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255)
text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
reasons = st.text(st.sampled_from("abc_ é€𝄞"), min_size=1, max_size=MAX_REASON_CHARS)
lifetimes = st.one_of(
    st.sampled_from([MIN_LIFETIME_MS, MAX_LIFETIME_MS]), st.integers(MIN_LIFETIME_MS, MAX_LIFETIME_MS)
)
candidate_lines = st.builds(
    CandidateLine, text, st.none() | st.text(max_size=8), st.none() | st.sampled_from([0, 1, 65535])
)


@st.composite
def messages(draw: st.DrawFn) -> CallMessage:
    version = draw(st.sampled_from(Version))
    call, party = CallId(draw(opaque)), PartyId(draw(opaque)) if version is Version.V1 else None
    kinds = [Invite, Answer, Candidates, Hangup]
    if version is Version.V1:
        kinds += [SelectAnswer, Reject, Negotiate]
    kind = draw(st.sampled_from(kinds))
    head = (call, party, version)
    if kind is Invite:
        invitee = draw(st.none() | st.just(UserId("@bob:example.org")))
        return Invite(*head, draw(text), draw(lifetimes), invitee)
    if kind is Answer:
        return Answer(*head, draw(text))
    if kind is Candidates:
        count = draw(st.sampled_from([0, 1, 2, 64]))
        return Candidates(*head, tuple([draw(candidate_lines)] * count), end=draw(st.booleans()))
    if kind is Hangup:
        return Hangup(*head, draw(reasons))
    if kind is SelectAnswer:
        return SelectAnswer(*head, draw(st.none() | opaque.map(PartyId)))
    if kind is Reject:
        return Reject(*head, draw(st.none() | reasons), draw(st.none() | reasons))
    return Negotiate(*head, draw(st.sampled_from(DescriptionType)), draw(text), draw(lifetimes))


@given(messages())
@settings(max_examples=examples(200), deadline=None)
def test_what_is_written_is_read_back_the_same_through_real_json(message: CallMessage) -> None:
    event_type, content = content_of(message)
    assert parse_message(event_type, json.loads(json.dumps(content))) == message


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(["offer", "answer", ""])
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
known_keys = st.sampled_from(
    [
        *("call_id", "party_id", "version", "offer", "answer", "description", "lifetime", "candidates", "reason"),
        *("selected_party_id", "invitee", "type", "sdp", "candidate", "sdpMid", "sdpMLineIndex"),
    ]
)
near_misses = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(known_keys, inner, max_size=6),
    max_leaves=12,
)


@given(
    st.sampled_from([*EVENT_TYPES, "m.room.message", ""]),
    st.one_of(anything, near_misses, st.dictionaries(known_keys, near_misses)),
    st.booleans(),
)
@example("m.call.candidates", {"candidates": [{"candidate": "\ud800"}]}, True)
@settings(max_examples=examples(300), deadline=None)
def test_any_json_value_is_read_or_refused_and_nothing_else(event_type: str, content: Any, honest: bool) -> None:
    if honest and isinstance(content, dict):
        content = HEAD | BODIES.get(event_type, {}) | content
    try:
        message = parse_message(event_type, content)
    except EventError as error:
        sentence = str(error)
    else:
        assert type(message) is EVENT_TYPES[event_type]
        again, rewritten = content_of(message)
        assert parse_message(again, rewritten) == message
        return
    assert 0 < len(sentence) < 400
    assert sentence.isascii()
    assert sentence.isprintable()

"""What takes a right away is read from an event whatever else is in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.access.ban_lists import RULE_TYPES, parse_rule
from mxrtc_bridge.core.access.revocations import (
    AccessListChange,
    EncryptionChange,
    MembershipChange,
    News,
    RedactionChange,
    RuleChange,
    TombstoneChange,
    UnreadableChange,
    read_news,
)
from mxrtc_bridge.core.call.codec import parse_message
from mxrtc_bridge.core.call.events import Hangup, Reject
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.api.room_event import parse_room_event
from mxrtc_bridge.web.transaction_body import read_transaction
from tests import hostile_json
from tests.hostile_json import ALICE, JSON, TEXT
from tests.long import examples

ROOM = RoomId(hostile_json.ROOM)
BAN = {"entity": ALICE, "recommendation": "m.ban"}

ENDS: list[tuple[str, dict[str, Any], News]] = [
    *(
        (
            f"membership {value!r}",
            {"type": "m.room.member", "state_key": ALICE, "content": {"membership": value}},
            MembershipChange(ROOM, UserId(ALICE), False),
        )
        for value in ("leave", "ban", "JOIN", "join ", None, 5, ["join"], {"join": 1}, True)
    ),
    *(
        (
            f"membership {value!r} may say that an end was missed",
            {"type": "m.room.member", "state_key": ALICE, "content": {"membership": value}},
            UnreadableChange(ROOM),
        )
        for value in ("knock", "invite")
    ),
    (
        "no membership",
        {"type": "m.room.member", "state_key": ALICE, "content": {}},
        MembershipChange(ROOM, UserId(ALICE), False),
    ),
    *(
        (
            f"membership of {user!r}",
            {"type": "m.room.member", "state_key": user, "content": {"membership": "ban"}},
            MembershipChange(ROOM, UserId(user), False),
        )
        for user in ("@\u00fc:example.org", "@:example.org", "@Alice:Example.ORG", "@" + "a" * 300 + ":x", "@a\0:x", "")
    ),
    *(
        (
            kind,
            {"type": kind, "state_key": "k\0", "content": BAN},
            RuleChange(ROOM, (kind, "k\0"), parse_rule(kind, BAN)),
        )
        for kind in RULE_TYPES
    ),
    ("encryption", {"type": "m.room.encryption", "state_key": "", "content": {}}, EncryptionChange(ROOM)),
    ("redaction", {"type": "m.room.redaction", "redacts": "$x"}, RedactionChange(ROOM)),
    ("redaction of version 11", {"type": "m.room.redaction", "content": {"redacts": "$x"}}, RedactionChange(ROOM)),
    ("access list", {"type": "m.room.server_acl", "state_key": "", "content": {}}, AccessListChange(ROOM)),
    ("tombstone", {"type": "m.room.tombstone", "state_key": "", "content": {}}, TombstoneChange(ROOM)),
]
"""Every event by whose arrival a right ends, with the fields that say so."""

OTHERS = st.dictionaries(
    st.sampled_from(
        ["event_id", "sender", "origin_server_ts", "unsigned", "prev_content", "depth", "signatures", "user_id", "age"]
    )
    | TEXT.filter(lambda key: key not in ("type", "room_id", "state_key", "content", "redacts")),
    JSON,
    max_size=5,
)


def sent(raw: dict[str, Any]) -> object:
    """The event as it comes out of the body of a transaction."""
    (event,) = read_transaction(json.dumps({"events": [raw]}).encode()).events
    return event


@settings(max_examples=examples(200), deadline=None)
@given(
    others=OTHERS,
    inside=st.dictionaries(TEXT.filter(lambda key: key not in ("membership", "redacts", *BAN)), JSON, max_size=4),
    before=JSON,
)
def test_end_of_a_right_is_read_whatever_stands_beside_in_and_before_it(
    others: dict[str, Any], inside: dict[str, Any], before: object
) -> None:
    """All ends with each of the examples: to make up one takes longer than to read them all."""
    for name, end, news in ENDS:
        content = {**inside, **end.get("content", {})}
        raw = {**others, **end, "room_id": ROOM, "content": content, "unsigned": {"prev_content": before, **others}}
        found = read_news(sent(raw))
        if isinstance(news, RuleChange):
            assert isinstance(found, RuleChange), name
            assert (found.room, found.key, found.rule) == (news.room, news.key, news.rule), name
        else:
            assert found == news, name


@settings(max_examples=examples(300), deadline=None)
@given(raw=st.dictionaries(st.sampled_from(["type", "room_id", "state_key", "content", "x"]), JSON) | JSON)
def test_anything_is_read_without_an_error_and_nothing_of_it_gives(raw: Any) -> None:
    news = read_news(sent(raw) if isinstance(raw, dict) else raw)
    if not isinstance(raw, dict) or not isinstance(raw.get("room_id"), str):
        assert news == UnreadableChange(None)
    elif isinstance(news, MembershipChange) and news.joined:
        assert raw["content"]["membership"] == "join"


@pytest.mark.parametrize("content", [None, [], "leave", 5, [{"membership": "join"}]])
def test_content_that_is_no_object_is_no_membership(content: object) -> None:
    raw = {"type": "m.room.member", "room_id": ROOM, "state_key": ALICE, "content": content}
    assert read_news(sent(raw)) == MembershipChange(ROOM, UserId(ALICE), False)


@pytest.mark.parametrize(
    ("body", "news"),
    [
        (
            b'{"type":"m.room.member","type":"x","room_id":"!r","state_key":"@a:b","content":{}}',
            UnreadableChange(RoomId("!r")),
        ),
        (
            b'{"type":"x","room_id":"!r","state_key":"@a:b","type":"m.room.member","content":{}}',
            UnreadableChange(RoomId("!r")),
        ),
        (
            b'{"type":"m.room.member","room_id":"!r","state_key":"@","content":{"membership":"a","membership":"join"}}',
            UnreadableChange(RoomId("!r")),
        ),
        (b'{"type":"m.room.member","room_id":"!r","content":{"membership":"leave"}}', UnreadableChange(RoomId("!r"))),
        (b'{"type":"m.room.member","room_id":"!r","state_key":5,"content":{}}', UnreadableChange(RoomId("!r"))),
        (b'{"type":"m.policy.rule.user","room_id":"!r","state_key":null,"content":{}}', UnreadableChange(RoomId("!r"))),
        (b'{"type":["m.room.member"],"room_id":"!r","state_key":"@a:b"}', UnreadableChange(RoomId("!r"))),
        (b'{"room_id":"!r"}', UnreadableChange(RoomId("!r"))),
        (b'{"type":"m.room.member","room_id":["!r"],"state_key":"@a:b"}', UnreadableChange(None)),
        (b'"nested too deeply"', UnreadableChange(None)),
        (b"null", UnreadableChange(None)),
        (b'{"type":"m.room.message","room_id":"!r","content":{}}', None),
        (b'{"type":"m.room.encryption","room_id":"!r","state_key":"x","content":{}}', None),
    ],
)
def test_what_is_not_clear_makes_its_room_doubtful(body: bytes, news: News | None) -> None:
    (event,) = read_transaction(b'{"events":[%s]}' % body).events
    assert read_news(event) == news


@settings(max_examples=examples(100), deadline=None)
@given(kind=st.sampled_from(["m.call.hangup", "m.call.reject"]), others=OTHERS, odd=JSON, before=JSON)
def test_end_of_a_call_is_read_whatever_stands_beside_in_and_before_it(
    kind: str, others: dict[str, Any], odd: object, before: object
) -> None:
    content = {"call_id": "c", "party_id": "p", "version": "1", "x": odd}
    common = {"event_id": "$e", "sender": ALICE, "origin_server_ts": odd}
    raw = {**others, **common, "room_id": ROOM, "type": kind, "content": content, "unsigned": before}
    event = parse_room_event(sent(raw))
    message = parse_message(event.type, event.content)
    assert (type(message), message.call_id) == (Hangup if kind == "m.call.hangup" else Reject, "c")
